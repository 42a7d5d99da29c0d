//! Tables and properties of the inbound side.

use proptest::prelude::*;

use super::*;

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn name(text: &str) -> Option<TopicName> {
    Some(TopicName::parse(text).unwrap())
}

#[test]
fn acks_when_finished_out_of_order_then_sent_in_order_of_receipt() {
    let mut intake = Intake::default();
    let first = intake.owe(Some((AckKind::Puback, id(7))), 10);
    let second = intake.owe(Some((AckKind::Pubrec, id(3))), 10);
    let silent = intake.owe(None, 10);
    let third = intake.owe(Some((AckKind::Puback, id(9))), 10);
    intake.settle(third, Reason::Success);
    intake.settle(silent, Reason::Success);
    intake.settle(second, Reason::Success);
    assert_eq!(intake.pop_ready(), None);
    intake.settle(first, Reason::QuotaExceeded);
    let order: Vec<_> = std::iter::from_fn(|| intake.pop_ready())
        .map(|ack| (ack.packet_id.get(), ack.reason))
        .collect();
    let expected = [(7, Reason::QuotaExceeded), (3, Reason::Success), (9, Reason::Success)];
    assert_eq!(order, expected);
    assert!(!intake.owes());
}

#[test]
fn receive_maximum_when_used_up_then_refused_until_an_ack_was_sent() {
    let mut intake = Intake::default();
    assert!(intake.count(2).is_ok());
    assert!(intake.count(2).is_ok());
    assert_eq!(intake.count(2), Err(Reason::ReceiveMaximumExceeded));
    intake.sent(AckKind::Pubrec, id(1), Reason::Success);
    assert_eq!(intake.count(2), Err(Reason::ReceiveMaximumExceeded), "QoS 2 counts until PUBCOMP");
    intake.sent(AckKind::Pubcomp, id(1), Reason::Success);
    assert!(intake.count(2).is_ok());
}

#[test]
fn pubrec_with_error_when_sent_then_id_is_free_again() {
    let mut intake = Intake::default();
    intake.count(1).unwrap();
    assert_eq!(intake.open(id(5)), Second::New);
    let ticket = intake.owe(Some((AckKind::Pubrec, id(5))), 0);
    assert_eq!(intake.open(id(5)), Second::Waiting);
    intake.settle(ticket, Reason::QuotaExceeded);
    assert!(intake.pop_ready().is_some());
    assert_eq!(intake.used(), 0);
    assert_eq!(intake.open(id(5)), Second::New);
}

#[test]
fn qos2_id_when_sent_twice_then_published_once_until_pubrel() {
    let mut intake = Intake::default();
    assert_eq!(intake.open(id(5)), Second::New);
    assert_eq!(intake.open(id(5)), Second::Again);
    assert!(intake.is_incoming(id(5)));
    assert!(intake.close(id(5)));
    assert!(!intake.close(id(5)), "a second PUBREL finds nothing");
    assert_eq!(intake.open(id(5)), Second::New);
}

#[test]
fn resumed_ids_when_nothing_was_sent_yet_then_the_receive_maximum_is_whole() {
    let mut intake = Intake::resume(vec![9, 4]);
    assert_eq!(intake.open(id(4)), Second::Again);
    assert!(intake.count(1).is_ok());
    intake.sent(AckKind::Pubcomp, id(4), Reason::Success);
    intake.sent(AckKind::Pubcomp, id(9), Reason::Success);
    assert_eq!(intake.used(), 0);
}

#[test]
fn alias_table_then_set_used_replaced_or_refused() {
    let mut intake = Intake::default();
    assert_eq!(intake.topic(None, id(1), 2), Err(Reason::ProtocolError));
    assert_eq!(intake.topic(name("a"), id(3), 2), Err(Reason::TopicAliasInvalid));
    assert_eq!(intake.topic(name("a"), id(1), 0), Err(Reason::TopicAliasInvalid));
    assert_eq!(intake.topic(name("b"), id(2), 2).ok(), name("b"));
    assert_eq!(intake.topic(None, id(1), 2), Err(Reason::ProtocolError));
    assert_eq!(intake.topic(None, id(2), 2).ok(), name("b"));
    assert_eq!(intake.topic(name("c"), id(2), 2).ok(), name("c"));
    assert_eq!(intake.topic(None, id(2), 2).ok(), name("c"));
}

#[test]
fn bytes_when_settled_then_given_back() {
    let mut intake = Intake::default();
    let ticket = intake.owe(Some((AckKind::Puback, id(1))), 100);
    assert!(intake.is_full(64, 100));
    assert!(!intake.is_full(64, 101));
    assert!(intake.is_full(1, 1_000));
    intake.settle(ticket, Reason::Success);
    assert!(!intake.is_full(64, 100));
    assert!(intake.pop_ready().is_some());
}

proptest! {
    /// However outcomes arrive, acks leave in order of receipt, each once, and the books come out even.
    #[test]
    fn acks_in_any_order_of_outcomes_then_prefix_order(
        count in 1_usize..40,
        order in prop::collection::vec(any::<prop::sample::Index>(), 40),
        start in any::<u32>(),
    ) {
        let mut intake = Intake { first: start, ..Intake::default() };
        let mut waiting: Vec<(Ticket, usize)> = (0..count)
            .map(|n| {
                intake.count(u16::MAX).unwrap();
                let packet_id = id(u16::try_from(n + 1).unwrap());
                (intake.owe(Some((AckKind::Puback, packet_id)), n), n)
            })
            .collect();
        let mut sent = Vec::new();
        for index in order {
            if waiting.is_empty() { break; }
            let (ticket, _) = waiting.swap_remove(index.index(waiting.len()));
            intake.settle(ticket, Reason::Success);
            while let Some(ack) = intake.pop_ready() { sent.push(usize::from(ack.packet_id.get())); }
            let oldest = waiting.iter().map(|(_, n)| *n).min().unwrap_or(count);
            prop_assert_eq!(sent.len(), oldest);
        }
        prop_assert_eq!(sent, (1..=count).collect::<Vec<_>>());
        prop_assert!(intake.is_idle());
        prop_assert_eq!(intake.bytes, 0);
    }
}
