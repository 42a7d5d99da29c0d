//! Tables for single rules; then a random client, log and connection against the promises.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::wire::AckKind;

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn at(entry: u64) -> Position {
    Position { entry, offset: 0 }
}

fn reader(window: u16, unfinished: Vec<Flight>) -> Reader {
    Reader::new(id(window), Position::START, unfinished)
}

/// Plans a page of (entry, QoS) that ends at its last message.
fn page(reader: &mut Reader, messages: &[(u64, u8)], caught_up: bool) -> Plan {
    let end = messages.last().map_or(Position::START, |(entry, _)| at(*entry));
    let messages = messages.iter().map(|(e, q)| (at(*e), Qos::from_bits(*q).unwrap()));
    reader.plan(messages, end, caught_up)
}

fn publish(index: usize, packet_id: u16, dup: bool) -> Step {
    Step::Publish { index, packet_id: NonZeroU16::new(packet_id), dup }
}

#[test]
fn want_when_window_is_full_then_nothing_until_an_ack() {
    let mut reader = reader(2, vec![]);
    assert_eq!(reader.want(), Some(Want { after: Position::START, messages: 2 }));
    assert_eq!(reader.want(), None, "one page at a time");
    let plan = page(&mut reader, &[(1, 1), (2, 1)], false);
    assert_eq!(plan.steps, [publish(0, 1, false), publish(1, 2, false)]);
    assert_eq!(reader.want(), None);
    assert_eq!(reader.acked(AckKind::Puback, id(2), true), Acked::Done);
    assert_eq!(reader.want(), Some(Want { after: at(2), messages: 1 }));
}

#[test]
fn want_when_caught_up_then_nothing_until_the_log_grew() {
    let mut reader = reader(2, vec![]);
    reader.want().unwrap();
    page(&mut reader, &[], true);
    assert_eq!(reader.want(), None);
    reader.grew();
    assert!(reader.want().is_some());
    reader.grew();
    page(&mut reader, &[], true);
    assert!(reader.want().is_some(), "it grew while the page was under way");
}

#[test]
fn page_when_asked_for_before_a_hold_then_outdated_even_if_it_comes_after() {
    let mut reader = reader(4, vec![]);
    reader.want().unwrap();
    page(&mut reader, &[(1, 1), (2, 1)], false);
    reader.want().unwrap();
    assert_eq!(reader.hold(), at(2));
    reader.go_on();
    assert!(reader.is_outdated());
    reader.failed();
    assert_eq!(reader.want(), Some(Want { after: at(2), messages: 2 }));
    assert!(!reader.is_outdated());
    page(&mut reader, &[(4, 2)], false);
    // What is being committed will be sent: it is no page.
    assert_eq!(reader.hold(), at(4));
    assert!(!reader.is_outdated());
    reader.committed();
    assert_eq!(reader.want(), None, "held");
    reader.go_on();
    assert!(reader.want().is_some());
}

#[test]
fn span_when_the_oldest_is_never_acknowledged_then_reading_stops_over_reconnects_too() {
    let mut window = reader(u16::MAX, vec![]);
    let (mut next, mut told) = (1_u64, Vec::new());
    for _ in 0..4 {
        // All but the first are acknowledged, as far as anything comes.
        while let Some(want) = window.want() {
            let messages: Vec<_> = (next..next + want.messages.min(1_000) as u64).collect();
            let page: Vec<_> =
                messages.iter().map(|entry| (at(*entry), Qos::AtLeastOnce)).collect();
            let end = at(next + page.len() as u64 - 1);
            for step in window.plan(page, end, false).steps {
                let Step::Publish { packet_id: Some(packet_id), dup, .. } = step else { panic!() };
                next += u64::from(!dup);
                if packet_id != id(1) {
                    window.acked(AckKind::Puback, packet_id, true);
                }
            }
            told.extend(window.acknowledge().map(|(_, beyond)| beyond).unwrap_or_default());
        }
        assert_eq!((told.len(), window.cursor()), (SPAN_MAX - 1, Position::START));
        // The next connection reads its first message again, then goes on behind the others.
        let first = Flight::unfinished(id(1), at(1), Qos::AtLeastOnce, false);
        window = Reader::new(id(u16::MAX), Position::START, vec![first]).with_beyond(&told);
        assert_eq!(window.want().unwrap().after, Position::START);
        window.plan([(at(1), Qos::AtLeastOnce)], at(next - 1), false);
    }
    assert_eq!(window.want(), None);
    window.acked(AckKind::Puback, id(1), true);
    assert!(window.cursor() >= *told.last().unwrap());
    assert!(window.want().is_some());
}

#[test]
fn acks_out_of_order_then_cursor_stays_and_the_rest_is_told_beyond() {
    let mut reader = reader(8, vec![]);
    reader.want().unwrap();
    page(&mut reader, &[(1, 1), (2, 1), (3, 1)], true);
    assert_eq!(reader.acknowledge(), None);
    reader.acked(AckKind::Puback, id(3), true);
    assert_eq!(reader.acknowledge(), Some((Position::START, vec![at(3)])));
    assert_eq!(reader.acknowledge(), None, "told once");
    reader.not_acknowledged();
    assert_eq!(reader.acknowledge(), Some((Position::START, vec![at(3)])));
    reader.acked(AckKind::Puback, id(1), true);
    assert_eq!(reader.acknowledge(), Some((at(1), vec![])));
    reader.acked(AckKind::Puback, id(2), true);
    assert_eq!(reader.acknowledge(), Some((at(3), vec![])));
}

#[test]
fn resume_then_original_ids_in_original_order_before_anything_new() {
    let unfinished = vec![
        Flight::unfinished(id(9), at(4), Qos::ExactlyOnce, true),
        Flight::unfinished(id(7), at(2), Qos::AtLeastOnce, false),
        Flight::unfinished(id(8), at(3), Qos::ExactlyOnce, false),
    ];
    let mut reader = reader(8, unfinished);
    reader.want().unwrap();
    let plan = page(&mut reader, &[(2, 1), (3, 2), (4, 2), (5, 1)], true);
    let expected = [
        publish(0, 7, true),
        publish(1, 8, true),
        Step::Release { packet_id: id(9) },
        publish(3, 10, false),
    ];
    assert_eq!(plan.steps, expected);
    assert!(plan.commit.is_empty(), "known ids are committed already");
}

#[test]
fn resume_when_the_log_lost_a_message_then_qos1_is_done_and_qos2_released() {
    let unfinished = vec![
        Flight::unfinished(id(1), at(1), Qos::AtLeastOnce, false),
        Flight::unfinished(id(2), at(2), Qos::ExactlyOnce, false),
    ];
    let mut reader = reader(8, unfinished);
    reader.want().unwrap();
    let plan = page(&mut reader, &[(3, 1)], true);
    assert_eq!(plan.steps, [Step::Release { packet_id: id(2) }, publish(0, 3, false)]);
    assert_eq!(reader.cursor(), at(1));
    assert_eq!(reader.acked(AckKind::Pubcomp, id(2), true), Acked::Done);
    assert_eq!(reader.cursor(), at(2));
}

#[test]
fn late_ack_when_the_resend_was_not_reached_then_it_is_not_sent_again() {
    let unfinished = vec![
        Flight::unfinished(id(1), at(1), Qos::AtLeastOnce, false),
        Flight::unfinished(id(2), at(2), Qos::ExactlyOnce, false),
    ];
    let mut reader = reader(8, unfinished);
    assert_eq!(reader.acked(AckKind::Puback, id(1), true), Acked::Done);
    assert_eq!(reader.acked(AckKind::Pubrec, id(2), true), Acked::Commit);
    assert!(reader.received(id(2)));
    reader.want().unwrap();
    let plan = page(&mut reader, &[(1, 1), (2, 2)], true);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert_eq!(reader.acked(AckKind::Pubcomp, id(2), true), Acked::Done);
    assert_eq!(reader.acknowledge(), Some((at(2), vec![])));
    assert_eq!(reader.leftovers().count(), 0);
}

#[test]
fn qos2_out_then_each_step_waits_for_its_commit() {
    let mut reader = reader(8, vec![]);
    reader.want().unwrap();
    let plan = page(&mut reader, &[(1, 2)], true);
    assert_eq!(plan.commit, [(1, at(1))]);
    assert_eq!(reader.leftovers().count(), 0, "not sent, so not left over");
    reader.grew();
    assert_eq!(reader.want(), None, "steps wait for the commit");
    reader.committed();
    assert!(reader.want().is_some());
    assert_eq!(reader.acked(AckKind::Puback, id(1), true), Acked::Violation);
    assert_eq!(reader.acked(AckKind::Pubcomp, id(1), true), Acked::Violation);
    assert_eq!(reader.acked(AckKind::Pubrec, id(1), true), Acked::Commit);
    assert_eq!(reader.acked(AckKind::Pubrec, id(1), true), Acked::Waiting);
    assert!(reader.received(id(1)));
    assert_eq!(reader.acked(AckKind::Pubrec, id(1), true), Acked::Repeat);
    assert_eq!(reader.acked(AckKind::Pubcomp, id(1), true), Acked::Done);
    assert_eq!(reader.take_completed(), [1]);
    assert_eq!(reader.cursor(), at(1));
}

#[test]
fn pubrec_with_error_then_flow_ends_and_id_is_freed() {
    let mut reader = reader(8, vec![]);
    reader.want().unwrap();
    page(&mut reader, &[(1, 2)], true);
    reader.committed();
    assert_eq!(reader.acked(AckKind::Pubrec, id(1), false), Acked::Done);
    assert_eq!(reader.take_completed(), [1]);
    assert_eq!(reader.acked(AckKind::Pubcomp, id(1), true), Acked::Unknown);
    assert_eq!(reader.unfinished(), 0);
}

#[test]
fn packet_id_when_its_end_is_not_written_then_not_used_again() {
    let mut reader = reader(1, vec![]);
    reader.last_id = u16::MAX - 1;
    reader.want().unwrap();
    page(&mut reader, &[(1, 2)], true);
    reader.committed();
    reader.acked(AckKind::Pubrec, id(u16::MAX), false);
    let ended = reader.take_completed();
    reader.last_id = u16::MAX - 1;
    reader.grew();
    reader.want().unwrap();
    let plan = page(&mut reader, &[(2, 1)], true);
    assert_eq!(plan.steps, [publish(0, 1, false)], "65,535 is taken, 0 is no id");
    reader.ended(&ended, true);
    reader.acked(AckKind::Puback, id(1), true);
    reader.last_id = u16::MAX - 1;
    reader.grew();
    reader.want().unwrap();
    assert_eq!(page(&mut reader, &[(3, 1)], true).steps, [publish(0, u16::MAX, false)]);
}

#[test]
fn page_when_every_id_is_taken_then_nothing_is_skipped() {
    let mut reader = reader(u16::MAX, vec![]);
    reader.ids = (1..=u16::MAX).map(|id| (id, AHEAD - 1)).collect();
    reader.want().unwrap();
    assert!(page(&mut reader, &[(1, 1)], true).steps.is_empty());
    assert_eq!(reader.want().map(|want| want.after), Some(Position::START));
}

/// What the shard would keep of the session, and what the client remembers.
#[derive(Default)]
struct World {
    log: Vec<u8>,
    cursor: Position,
    beyond: Vec<Position>,
    stored: Vec<Flight>,
    got: BTreeMap<u64, u32>,
    first_seen: Vec<u64>,
    /// Client: QoS 2 ids received and not released; acks it owes.
    half: Vec<u16>,
    owes: VecDeque<(AckKind, u16)>,
}

impl World {
    fn page(&self, want: Want) -> (Vec<(Position, Qos)>, Position, bool) {
        let all = self.log.iter().enumerate().map(|(n, q)| (at(n as u64 + 1), *q));
        let mut rest = all.filter(|(p, _)| *p > want.after && !self.beyond.contains(p));
        let page: Vec<_> = rest
            .by_ref()
            .take(want.messages)
            .map(|(p, q)| (p, Qos::from_bits(q).unwrap()))
            .collect();
        let caught_up = rest.next().is_none();
        let end = if caught_up { at(self.log.len() as u64) } else { page.last().unwrap().0 };
        (page, end.max(want.after), caught_up)
    }

    fn perform(&mut self, page: &[(Position, Qos)], plan: &Plan) {
        for step in &plan.steps {
            match *step {
                Step::Publish { index, packet_id: Some(packet_id), .. } => {
                    self.receive(page[index].0.entry, page[index].1, packet_id.get());
                }
                Step::Publish { .. } => {}
                Step::Release { packet_id } => self.release(packet_id.get()),
            }
        }
    }

    fn receive(&mut self, entry: u64, qos: Qos, packet_id: u16) {
        let known = qos == Qos::ExactlyOnce && self.half.contains(&packet_id);
        if !known {
            *self.got.entry(entry).or_default() += 1;
            if self.got[&entry] == 1 {
                self.first_seen.push(entry);
            }
        }
        if qos == Qos::ExactlyOnce {
            if !known {
                self.half.push(packet_id);
            }
            self.owes.push_back((AckKind::Pubrec, packet_id));
        } else {
            self.owes.push_back((AckKind::Puback, packet_id));
        }
    }

    fn release(&mut self, packet_id: u16) {
        self.half.retain(|id| *id != packet_id);
        self.owes.push_back((AckKind::Pubcomp, packet_id));
    }

    fn pump(&mut self, reader: &mut Reader) {
        while let Some(want) = reader.want() {
            let (page, end, caught_up) = self.page(want);
            let plan = reader.plan(page.iter().copied(), end, caught_up);
            for (packet_id, position) in &plan.commit {
                let flight = Flight::unfinished(id(*packet_id), *position, Qos::ExactlyOnce, false);
                self.stored.push(flight);
            }
            if !plan.commit.is_empty() {
                reader.committed();
            }
            self.perform(&page, &plan);
        }
    }

    fn ack(&mut self, reader: &mut Reader, which: usize) {
        let Some((kind, packet_id)) = self.owes.remove(which % self.owes.len().max(1)) else {
            return;
        };
        match reader.acked(kind, id(packet_id), true) {
            Acked::Commit => {
                for stored in self.stored.iter_mut().filter(|f| f.packet_id.get() == packet_id) {
                    stored.progress = Progress::Released;
                }
                assert!(reader.received(id(packet_id)));
                self.release(packet_id);
            }
            Acked::Repeat => self.release(packet_id),
            Acked::Done | Acked::Waiting | Acked::Unknown => {}
            Acked::Violation => panic!("the client of this test keeps to the protocol"),
        }
        let completed = reader.take_completed();
        self.stored.retain(|flight| !completed.contains(&flight.packet_id.get()));
        reader.ended(&completed, true);
        if let Some((cursor, beyond)) = reader.acknowledge() {
            self.cursor = cursor;
            self.beyond.extend(beyond);
        }
    }

    /// The connection ends; `crash`: only what was committed on the way is left.
    fn reconnect(&mut self, reader: &Reader, window: u16, crash: bool) -> Reader {
        if !crash {
            self.stored = reader
                .leftovers()
                .map(|f| {
                    let released = matches!(f.progress, Progress::Released | Progress::Receiving);
                    Flight::unfinished(f.packet_id, f.position, f.qos, released)
                })
                .collect();
        }
        self.owes.clear();
        Reader::new(id(window), self.cursor, self.stored.clone())
    }
}

proptest! {
    /// Every message arrives, QoS 2 exactly once, in order at first sight, inside the window, over
    /// reconnects with and without a crash of the home.
    #[test]
    fn random_session_then_nothing_lost_doubled_or_reordered(
        log in prop::collection::vec(1_u8..=2, 0..30),
        steps in prop::collection::vec((0_u8..12, any::<u16>()), 0..200),
        window in 1_u16..6,
    ) {
        let mut world = World { log, ..World::default() };
        let mut reader = Reader::new(id(window), Position::START, vec![]);
        for (what, number) in steps {
            match what {
                0 => {
                    let window = number % 5 + 1;
                    reader = world.reconnect(&reader, window, number % 3 == 0);
                }
                1 => { world.log.push(u8::try_from(number % 2).unwrap() + 1); reader.grew(); }
                2..=4 => world.pump(&mut reader),
                _ => world.ack(&mut reader, usize::from(number)),
            }
        }
        for _ in 0..1_000 {
            world.pump(&mut reader);
            if world.owes.is_empty() { break; }
            world.ack(&mut reader, 0);
        }
        prop_assert_eq!(reader.unfinished(), 0);
        prop_assert_eq!(reader.cursor(), at(world.log.len() as u64).max(Position::START));
        prop_assert_eq!(world.got.len(), world.log.len());
        for (entry, times) in &world.got {
            let qos = world.log[usize::try_from(*entry - 1).unwrap()];
            prop_assert!(qos == 1 || *times == 1, "message {} arrived {} times", entry, times);
        }
        prop_assert!(world.first_seen.is_sorted(), "{:?}", world.first_seen);
        prop_assert!(world.stored.is_empty() || world.half.is_empty());
    }
}
