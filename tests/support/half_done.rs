//! A session with messages that wait and exchanges that are half done, and how each of them goes on.
//!
//! - Takes: clients of the sessions `to` (manual, subscribed to `a`) and `from`, before and after a break.
//! - Gives: a panic where SESSION-TRUE or ONCE does not hold.

use super::{
    mqtt_client::{Client, message},
    packet::{AckKind, Publish},
};

/// What was under way when the connections broke.
pub(crate) struct HalfDone {
    /// `one` (PUBREL was received, PUBCOMP not sent), `two` and `three`, of which nothing was said.
    came: Vec<Publish>,
    /// PUBREC was given, PUBREL is still to come.
    half: Publish,
}

impl HalfDone {
    pub(crate) fn begin(to: &mut Client, from: &mut Client) -> Self {
        for (text, qos) in [("one", 2), ("two", 2), ("three", 1)] {
            from.publish("a", text, qos);
        }
        let came: Vec<Publish> = (0..3).map(|_| to.expect_publish()).collect();
        to.ack(AckKind::Pubrec, came[0].id);
        to.expect_ack(AckKind::Pubrel, came[0].id);
        let half = Publish { id: 900, ..message("a", "half", 2) };
        from.send_publish(half.clone());
        assert_eq!(from.expect_ack(AckKind::Pubrec, 900), 0);
        Self { came, half }
    }

    /// The receiver is there again: `one` is ended, `two` comes again and is ended.
    pub(crate) fn end_one_and_two(&self, to: &mut Client) {
        assert!(to.connack.present);
        to.expect_ack(AckKind::Pubrel, self.came[0].id);
        to.ack(AckKind::Pubcomp, self.came[0].id);
        let two = to.expect_publish();
        assert_eq!((two.text().as_str(), two.id, two.dup), ("two", self.came[1].id, true));
        end(to, &two);
    }

    /// The receiver gets `three`, and takes it.
    pub(crate) fn end_three(to: &mut Client) {
        let three = to.expect_publish();
        assert_eq!(three.text(), "three");
        to.ack(AckKind::Puback, three.id);
    }

    /// The sender is there again, and sends `half` once more.
    pub(crate) fn send_again(&self, from: &mut Client) {
        assert!(from.connack.present);
        from.send_publish(Publish { dup: true, ..self.half.clone() });
        assert!(from.expect_ack(AckKind::Pubrec, 900) < 0x80);
        from.ack(AckKind::Pubrel, 900);
        assert_eq!(from.expect_ack(AckKind::Pubcomp, 900), 0);
    }

    /// The receiver gets `half`, once.
    pub(crate) fn end_half(to: &mut Client) {
        let half = to.expect_publish();
        assert_eq!(half.text(), "half");
        end(to, &half);
        to.expect_silence();
    }
}

/// The rest of an exchange of QoS 2.
fn end(to: &mut Client, publish: &Publish) {
    to.ack(AckKind::Pubrec, publish.id);
    to.expect_ack(AckKind::Pubrel, publish.id);
    to.ack(AckKind::Pubcomp, publish.id);
}
