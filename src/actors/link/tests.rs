//! Tests of reading, writing and ending a link.

use std::{
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Waker},
};

use bytes::Bytes;

use super::*;
use crate::{
    actors::{
        counters::DropCause,
        flusher,
        testing::{Bench, message, on_worker, parse, settle},
    },
    model::{
        message::{Message, Qos},
        wire::{Ack, AckKind, Outbound},
    },
};

const ROOM: usize = 1 << 30;

fn read(link: &AnyLink, partial: &mut Partial) -> Read {
    link.poll_read(partial, &mut Context::from_waker(Waker::noop())).unwrap()
}

fn bytes(read: Read) -> Bytes {
    match read {
        Read::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn poll_output(link: &AnyLink) {
    link.poll_output(&mut Context::from_waker(Waker::noop()));
}

fn ack(kind: AckKind, id: u16) -> Ack {
    Ack { kind, packet_id: NonZeroU16::new(id).unwrap(), reason: Reason::Success }
}

fn terms(qos: Qos) -> Terms<'static> {
    Terms { qos, ..Terms::default() }
}

#[test]
fn read_gives_slices_of_one_buffer_to_all_links() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (one, one_peer) = bench.connect(ROOM, |_| {});
        let (two, two_peer) = bench.connect(ROOM, |_| {});
        one_peer.send(b"first");
        two_peer.send(b"second");
        let mut partial = Partial::default();
        let first = bytes(read(&one, &mut partial));
        let second = bytes(read(&two, &mut partial));
        assert_eq!((&first[..], &second[..]), (&b"first"[..], &b"second"[..]));
        assert_eq!(first.as_ptr().wrapping_add(5), second.as_ptr());
        assert!(matches!(read(&one, &mut partial), Read::Blocked));
        one_peer.close();
        assert!(matches!(read(&one, &mut partial), Read::End));
    });
}

#[test]
fn scratch_is_used_again_once_nobody_holds_it() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            peer.send(&[1; 5_000]);
            places.insert(bytes(read(&link, &mut Partial::default())).as_ptr() as usize >> 17);
        }
        assert!(places.len() <= 4, "{}", places.len());
    });
}

#[test]
fn packet_in_pieces_is_given_whole_and_only_once_it_may_be() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let mut partial = Partial::default();
        peer.send(b"..abc");
        let got = bytes(read(&link, &mut partial));
        partial.keep(got.slice(2..), 3);
        assert_eq!(partial.len(), 3);
        for piece in [b"d", b"e"] {
            peer.send(piece);
            assert!(matches!(read(&link, &mut partial), Read::Blocked));
        }
        peer.send(b"fgh");
        assert_eq!(bytes(read(&link, &mut partial)), &b"abcdefgh"[..]);
        assert!(partial.is_empty());
        partial.keep(Bytes::new(), 1);
        assert!(partial.is_empty());
    });
}

#[test]
fn announced_length_reserves_nothing_before_bytes_arrive() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let mut partial = Partial::default();
        peer.send(&[0x30]);
        let start = bytes(read(&link, &mut partial));
        partial.keep(start, 268_435_455);
        peer.send(&[0; 100]);
        assert!(matches!(read(&link, &mut partial), Read::Blocked));
        assert!(partial.capacity() < 2_000, "{}", partial.capacity());
        for _ in 0..100 {
            peer.send(&[0; 10_000]);
            assert!(matches!(read(&link, &mut partial), Read::Blocked));
        }
        assert!(partial.capacity() < 2_200_000, "{}", partial.capacity());
    });
}

#[test]
fn output_of_one_poll_is_one_write() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        link.send(&Outbound::Pong);
        let text = message("t", "x", Qos::AtMostOnce);
        assert_eq!(link.send_message(&text, &terms(Qos::AtMostOnce), None, 0), Sent::Queued);
        link.send(&Outbound::Pong);
        settle().await;
        assert_eq!(peer.writes(), 1);
        assert_eq!(parse(peer.take()).len(), 1);
        assert_eq!(link.outbox_bytes(), 0);
    });
}

#[test]
fn blocked_socket_goes_on_where_it_stopped_and_tells_when_there_is_room() {
    let limits = LinkLimits { outbox_bytes_max: 50, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (link, peer) = bench.connect(7, |_| {});
        for _ in 0..60 {
            link.send(&Outbound::Pong);
        }
        flusher::flush_all(&bench.worker);
        assert_eq!((peer.take().len(), link.outbox_bytes()), (7, 53));
        assert!(link.poll_room().is_pending());
        peer.make_room(93);
        poll_output(&link);
        assert_eq!(peer.take().len(), 53);
        assert!(link.poll_room().is_ready());
        assert!(!link.is_broken());
    });
}

#[test]
fn message_under_the_callers_packet_id_carries_every_field() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |terms| terms.durable = true);
        let text = Message { expires_at_ms: Some(5_000), ..message("t", "x", Qos::ExactlyOnce) };
        let ids = [NonZeroU32::new(3).unwrap(), NonZeroU32::new(9).unwrap()];
        let all = Terms { qos: Qos::ExactlyOnce, dup: true, retain: true, subscription_ids: &ids };
        let id = NonZeroU16::new(700);
        assert_eq!(link.send_message(&text, &all, id, 1_000), Sent::Queued);
        assert_eq!(link.send_message(&text, &all, id, 5_000), Sent::Dropped(DropCause::Expired));
        flusher::flush_all(&bench.worker);
        let got = parse(peer.take());
        assert_eq!((got.len(), got[0].packet_id, got[0].qos), (1, 700, 2));
        assert_eq!((got[0].dup, got[0].retain, got[0].expiry), (true, true, Some(4)));
        assert_eq!(got[0].ids, [3, 9]);
    });
}

#[test]
fn live_exactly_once_asks_for_pubrel_and_ends_at_pubcomp() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, _peer) = bench.connect(ROOM, |_| {});
        let text = message("t", "x", Qos::ExactlyOnce);
        assert_eq!(link.send_live(&text, &terms(Qos::ExactlyOnce), 0), Sent::Queued);
        let pubrel = LiveAck::Reply(ack(AckKind::Pubrel, 1));
        assert_eq!(link.on_ack(&ack(AckKind::Pubrec, 1)), pubrel);
        assert_eq!(link.on_ack(&ack(AckKind::Pubrec, 1)), pubrel);
        assert_eq!(
            link.on_ack(&ack(AckKind::Puback, 1)),
            LiveAck::Violation(Reason::ProtocolError)
        );
        assert_eq!(link.on_ack(&ack(AckKind::Pubcomp, 1)), LiveAck::Done);
        assert_eq!(link.on_ack(&ack(AckKind::Pubcomp, 1)), LiveAck::Done);
        let unknown = Ack { reason: Reason::PacketIdNotFound, ..ack(AckKind::Pubrel, 1) };
        assert_eq!(link.on_ack(&ack(AckKind::Pubrec, 1)), LiveAck::Reply(unknown));
        assert_eq!(link.live_deliveries(), (0, 0));
    });
}

#[test]
fn packet_too_large_frees_its_id_and_sets_no_alias() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |terms| {
            terms.packet_bytes_max = 100;
            terms.topic_alias_maximum = 5;
        });
        let large = message("t", vec![0; 200], Qos::AtLeastOnce);
        let too_large = Sent::Dropped(DropCause::TooLarge);
        assert_eq!(link.send_live(&large, &terms(Qos::AtLeastOnce), 0), too_large);
        assert_eq!(link.live_deliveries(), (0, 0));
        let small = message("t", "x", Qos::AtLeastOnce);
        assert_eq!(link.send_live(&small, &terms(Qos::AtLeastOnce), 0), Sent::Queued);
        flusher::flush_all(&bench.worker);
        let got = parse(peer.take());
        assert_eq!((got[0].topic.as_str(), got[0].alias), ("t", 1));
    });
}

#[test]
fn waiting_delivery_never_relies_on_an_alias() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |terms| {
            terms.receive_maximum = NonZeroU16::new(1).unwrap();
            terms.topic_alias_maximum = 5;
        });
        let text = message("t", "x", Qos::AtLeastOnce);
        assert_eq!(link.send_live(&text, &terms(Qos::AtLeastOnce), 0), Sent::Queued);
        assert_eq!(link.send_live(&text, &terms(Qos::AtLeastOnce), 0), Sent::Waiting);
        link.on_ack(&ack(AckKind::Puback, 1));
        flusher::flush_all(&bench.worker);
        let got = parse(peer.take());
        assert_eq!((got[0].alias, got[1].alias, got[1].topic.as_str()), (1, 0, "t"));
        assert_eq!(got[1].packet_id, 2);
    });
}

#[test]
fn waiting_deliveries_go_out_when_a_blocked_socket_has_room_again() {
    let limits = LinkLimits { outbox_bytes_max: 60, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (link, peer) = bench.connect(0, |_| {});
        let text = message("t", vec![1; 10], Qos::AtLeastOnce);
        let sent: Vec<_> =
            (0..4).map(|_| link.send_live(&text, &terms(Qos::AtLeastOnce), 0)).collect();
        assert_eq!(sent, [Sent::Queued, Sent::Waiting, Sent::Waiting, Sent::Waiting]);
        flusher::flush_all(&bench.worker);
        peer.make_room(ROOM);
        poll_output(&link);
        flusher::flush_all(&bench.worker);
        let ids: Vec<_> = parse(peer.take()).iter().map(|got| got.packet_id).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
    });
}

#[test]
fn close_writes_the_rest_and_takes_nothing_more() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        link.send(&Outbound::Pong);
        link.close();
        link.send(&Outbound::Pong);
        let text = message("t", "x", Qos::AtMostOnce);
        assert_eq!(link.send_live(&text, &terms(Qos::AtMostOnce), 0), Sent::Closing);
        flusher::flush_all(&bench.worker);
        assert_eq!(peer.take().len(), 1);
        assert!(peer.is_closed() && link.is_closing());
    });
}

#[test]
fn subscriptions_are_noted_and_taken_once() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, _peer) = bench.connect(ROOM, |_| {});
        for filter in 0..5 {
            link.add_filter(FilterId(filter));
        }
        link.remove_filter(FilterId(0));
        link.remove_filter(FilterId(3));
        link.remove_filter(FilterId(9));
        assert_eq!(link.filters(), 3);
        let mut filters = link.take_filters();
        filters.sort();
        assert_eq!(filters[..], [FilterId(1), FilterId(2), FilterId(4)]);
        assert!(link.take_filters().is_empty());
    });
}

#[test]
fn idle_link_holds_nothing_beside_its_own_bytes() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (link, peer) = bench.connect(ROOM, |_| {});
        let text = message("t", "x", Qos::AtLeastOnce);
        link.send_live(&text, &terms(Qos::AtLeastOnce), 0);
        flusher::flush_all(&bench.worker);
        link.on_ack(&ack(AckKind::Puback, 1));
        drop(peer);
        assert!(link.outbox.take().is_none());
        assert!(link.extra.take().is_none());
        assert!(link.more_filters.take().is_none());
        assert_eq!(Rc::strong_count(&link), 2);
    });
}

#[test]
fn room_is_told_at_half_of_the_limit_although_the_outbox_is_never_empty() {
    let limits = LinkLimits { outbox_bytes_max: 100, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (link, peer) = bench.connect(0, |_| {});
        for _ in 0..100 {
            link.send(&Outbound::Pong);
        }
        flusher::flush_all(&bench.worker);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        link.remember_waker(&Context::from_waker(&waker));
        assert!(link.poll_room().is_pending());
        woken.0.store(false, Relaxed);
        peer.make_room(60);
        poll_output(&link);
        assert_eq!(link.outbox_bytes(), 40);
        assert!(woken.0.load(Relaxed));
        assert!(link.poll_room().is_ready());
    });
}

#[test]
fn waiting_delivery_goes_out_before_the_outbox_is_empty() {
    let limits = LinkLimits { outbox_bytes_max: 100, ..LinkLimits::default() };
    on_worker(limits, async |bench: Bench| {
        let (link, peer) = bench.connect(0, |_| {});
        let flood = message("t", vec![0; 1], Qos::AtMostOnce);
        while link.send_message(&flood, &terms(Qos::AtMostOnce), None, 0) == Sent::Queued {}
        flusher::flush_all(&bench.worker);
        let text = message("t", "x", Qos::AtLeastOnce);
        assert_eq!(link.send_live(&text, &terms(Qos::AtLeastOnce), 0), Sent::Waiting);
        peer.make_room(60);
        poll_output(&link);
        assert_eq!(link.live_deliveries(), (1, 0));
        assert!(link.outbox_bytes() > 0);
    });
}

#[derive(Default)]
struct Woken(AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}
