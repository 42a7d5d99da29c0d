//! Tests of the connection context: every way in which an actor begins, waits and ends.

use std::{cell::RefCell, time::Duration};

use actix::{ActorFutureExt as _, WrapFuture as _};

use super::*;
use crate::{
    actors::{
        link::{Partial, Read},
        memory_socket::{self, MemoryPeer},
        testing::{Bench, on_worker, settle},
        worker::LinkLimits,
    },
    model::{reason::Reason, wire::Outbound},
};

type Log = Rc<RefCell<Vec<String>>>;

/// Notes what happens to it; answers each byte with a pong; `x` panics, `q` stops, `t` terminates.
struct Probe {
    link: Rc<AnyLink>,
    partial: Partial,
    log: Log,
    /// How often `stopping` asks to go on.
    refusals: u8,
}

impl Probe {
    fn note(&self, text: impl Into<String>) {
        self.log.borrow_mut().push(text.into());
    }
}

impl Actor for Probe {
    type Context = ConnectionContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.note(format!("started {:?}", ctx.state()));
    }

    fn stopping(&mut self, ctx: &mut Self::Context) -> Running {
        self.note(format!("stopping {:?}", ctx.state()));
        if self.refusals == 0 {
            return Running::Stop;
        }
        self.refusals -= 1;
        Running::Continue
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.note(format!("stopped {:?}", ctx.state()));
    }
}

impl LeanActor for Probe {
    fn link(&self) -> &Rc<AnyLink> {
        &self.link
    }

    fn poll_socket(&mut self, ctx: &mut Self::Context, cx: &mut Context<'_>) {
        let signals = self.link.take_signals();
        if let Some(reason) = signals.kicked {
            self.note(format!("kicked {reason:?}"));
            ctx.stop();
        }
        if signals.timed_out {
            self.note("timed out");
            ctx.stop();
        }
        while !ctx.waiting() {
            match self.link.poll_read(&mut self.partial, cx) {
                Ok(Read::Bytes(bytes)) => {
                    for byte in bytes {
                        self.link.send(&Outbound::Pong);
                        match byte {
                            b'x' => panic!("asked to"),
                            b'q' => ctx.stop(),
                            b't' => ctx.terminate(),
                            _ => self.note(format!("read {}", char::from(byte))),
                        }
                    }
                }
                Ok(Read::Blocked) => return,
                Ok(Read::End) | Err(_) => {
                    self.note("end");
                    ctx.stop();
                }
            }
        }
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Tell(&'static str);

impl Handler<Tell> for Probe {
    type Result = usize;

    fn handle(&mut self, tell: Tell, ctx: &mut Self::Context) -> usize {
        self.note(format!("told {}", tell.0));
        match tell.0 {
            "panic" => panic!("asked to"),
            "stop" => ctx.stop(),
            "wait" => {
                ctx.wait(pause().into_actor(self).map(|(), probe: &mut Probe, _| {
                    probe.note("waited");
                }));
            }
            "wait for good" => ctx.wait(std::future::pending().into_actor(self)),
            "spawn" => {
                ctx.spawn(pause().into_actor(self).map(|(), probe: &mut Probe, _| {
                    probe.note("spawned done");
                }));
            }
            "cancel" => {
                let handle = ctx.spawn(pause().into_actor(self).map(|(), probe: &mut Probe, _| {
                    probe.note("cancelled one ran");
                }));
                assert!(ctx.cancel_future(handle));
                assert!(!ctx.cancel_future(handle.next()));
            }
            "nested" => {
                ctx.wait(pause().into_actor(self).map(|(), probe: &mut Probe, ctx| {
                    probe.note("outer");
                    let inner = pause().into_actor(probe);
                    ctx.wait(inner.map(|(), probe: &mut Probe, _| probe.note("inner")));
                }));
            }
            _ => {}
        }
        tell.0.len()
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

fn probe(bench: &Bench) -> (Probe, MemoryPeer, Log) {
    let (socket, peer) = memory_socket::pair(1_000);
    let log = Log::default();
    let link = bench.worker.open(socket, 0);
    (Probe { link, partial: Partial::default(), log: Rc::clone(&log), refusals: 0 }, peer, log)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn connections(bench: &Bench) -> u64 {
    bench.worker.counters().connections.get()
}

#[test]
fn actor_without_any_address_lives_with_its_socket() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        ConnectionContext::start(probe);
        peer.send(b"ab");
        settle().await;
        assert_eq!(*log.borrow(), ["started Running", "read a", "read b"]);
        assert_eq!(&peer.take()[..], b"..");
        peer.close();
        settle().await;
        assert_eq!(log.borrow()[3..], ["end", "stopping Stopping", "stopped Stopped"]);
        assert!(peer.is_closed());
        assert_eq!(connections(&bench), 0);
    });
}

#[test]
fn dropping_the_last_address_does_not_stop_the_actor() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        let address = ConnectionContext::start_with_address(probe);
        assert_eq!(address.send(Tell("hello")).await.unwrap(), 5);
        let weak = address.downgrade();
        drop(address);
        peer.send(b"a");
        settle().await;
        assert_eq!(*log.borrow(), ["started Running", "told hello", "read a"]);
        let again = weak.upgrade().unwrap();
        assert_eq!(again.send(Tell("stop")).await.unwrap(), 4);
        settle().await;
        assert!(!again.connected());
        assert!(again.send(Tell("late")).await.is_err());
    });
}

#[test]
fn stop_writes_what_is_queued_then_closes_and_waits_for_the_peer() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        ConnectionContext::start(probe);
        peer.send(b"q");
        settle().await;
        assert_eq!(log.borrow()[1..], ["stopping Stopping", "stopped Stopped"]);
        assert_eq!(&peer.take()[..], b".");
        assert!(peer.is_closed());
        assert_eq!(connections(&bench), 1);
        peer.send(&[b'z'; 100_000]);
        peer.close();
        settle().await;
        assert_eq!(connections(&bench), 0);
    });
}

#[test]
fn peer_that_never_closes_lingers_only_for_its_time() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, _log) = probe(&bench);
        ConnectionContext::start(probe);
        peer.send(b"q");
        settle().await;
        bench.worker.tick(bench.worker.now() + 4);
        settle().await;
        assert_eq!(connections(&bench), 1);
        bench.worker.tick(bench.worker.now() + 2);
        settle().await;
        assert_eq!(connections(&bench), 0);
    });
}

#[test]
fn terminate_throws_output_away_and_waits_for_nothing() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        ConnectionContext::start(probe);
        peer.send(b"t");
        settle().await;
        assert_eq!(log.borrow()[1..], ["stopped Stopped"]);
        assert_eq!((peer.take().len(), connections(&bench)), (0, 0));
    });
}

#[test]
fn stopping_may_continue_until_the_work_is_done() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (mut probe, peer, log) = probe(&bench);
        probe.refusals = 1;
        ConnectionContext::start(probe);
        peer.send(b"q");
        settle().await;
        peer.send(b"aq");
        settle().await;
        let want = ["stopping Stopping", "read a", "stopping Stopping", "stopped Stopped"];
        assert_eq!(log.borrow()[1..], want);
    });
}

#[test]
fn panic_of_a_handler_ends_that_connection_alone_and_cleans_up() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (first, first_peer, first_log) = probe(&bench);
        let (second, second_peer, second_log) = probe(&bench);
        let (third, third_peer, _) = probe(&bench);
        let released = first.link.watch_release();
        ConnectionContext::start(first);
        let address = ConnectionContext::start_with_address(second);
        ConnectionContext::start(third);
        first_peer.send(b"x");
        assert!(address.send(Tell("panic")).await.is_err());
        settle().await;
        assert_eq!(*first_log.borrow(), ["started Running", "stopped Stopped"]);
        assert_eq!(*second_log.borrow(), ["started Running", "told panic", "stopped Stopped"]);
        assert!(first_peer.is_closed() && second_peer.is_closed());
        assert_eq!(released.await, Ok(()));
        third_peer.send(b"a");
        settle().await;
        assert_eq!(&third_peer.take()[..], b".");
        assert_eq!((connections(&bench), bench.worker.counters().panics.get()), (1, 2));
    });
}

#[test]
fn wait_holds_messages_and_socket_back_and_ends_in_order() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        let address = ConnectionContext::start_with_address(probe);
        address.send(Tell("wait")).await.unwrap();
        peer.send(b"a");
        address.send(Tell("next")).await.unwrap();
        settle().await;
        assert_eq!(log.borrow()[1..], ["told wait", "waited", "told next", "read a"]);
        address.send(Tell("nested")).await.unwrap();
        address.send(Tell("next")).await.unwrap();
        assert_eq!(log.borrow()[5..], ["told nested", "outer", "inner", "told next"]);
    });
}

#[test]
fn output_of_others_is_written_while_the_actor_waits() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        let link = Rc::clone(&probe.link);
        let address = ConnectionContext::start_with_address(probe);
        address.try_send(Tell("wait for good")).unwrap();
        settle().await;
        for _ in 0..1_500 {
            link.send(&Outbound::Pong);
        }
        settle().await;
        assert_eq!(peer.take().len(), 1_000);
        settle().await;
        assert_eq!(peer.take().len(), 500);
        assert_eq!(log.borrow()[1..], ["told wait for good"]);
    });
}

#[test]
fn spawned_future_runs_beside_messages_and_cancelled_one_never() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, _peer, log) = probe(&bench);
        let address = ConnectionContext::start_with_address(probe);
        for text in ["cancel", "spawn", "next"] {
            address.send(Tell(text)).await.unwrap();
        }
        until(|| log.borrow().len() == 5).await;
        pause().await;
        pause().await;
        let want = ["told cancel", "told spawn", "told next", "spawned done"];
        assert_eq!(log.borrow()[1..], want);
    });
}

#[test]
fn stop_drops_futures_that_are_not_done() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, _peer, log) = probe(&bench);
        let address = ConnectionContext::start_with_address(probe);
        for text in ["spawn", "stop"] {
            address.send(Tell(text)).await.unwrap();
        }
        pause().await;
        pause().await;
        assert!(!log.borrow().iter().any(|entry| entry == "spawned done"));
    });
}

#[test]
fn mailbox_refuses_beyond_its_bound() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, _peer, _log) = probe(&bench);
        let address = ConnectionContext::start_with_address(probe);
        let taken = (0..100).take_while(|_| address.try_send(Tell("more")).is_ok()).count();
        assert_eq!(taken, limits::CONNECTION_MAILBOX_MESSAGES);
        settle().await;
        assert!(address.try_send(Tell("more")).is_ok());
    });
}

#[test]
fn kick_and_time_out_reach_the_actor_once() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (probe, peer, log) = probe(&bench);
        let link = Rc::clone(&probe.link);
        let released = link.watch_release();
        ConnectionContext::start(probe);
        settle().await;
        link.kick(Reason::SessionTakenOver);
        link.kick(Reason::ServerShuttingDown);
        settle().await;
        assert_eq!(log.borrow()[1], "kicked SessionTakenOver");
        assert_eq!(released.await, Ok(()));
        drop(peer);
    });
}

#[test]
fn connection_without_connect_times_out_and_keep_alive_counts_received_packets() {
    on_worker(LinkLimits::default(), async |bench: Bench| {
        let (silent, _peer, silent_log) = probe(&bench);
        ConnectionContext::start(silent);
        let (connected, peer) = bench.connect(1_000, |terms| terms.keep_alive_secs = 10);
        let log = Log::default();
        let probe = Probe {
            link: Rc::clone(&connected),
            partial: Partial::default(),
            log: Rc::clone(&log),
            refusals: 0,
        };
        ConnectionContext::start(probe);
        settle().await;
        let timed_out = |log: &Log| log.borrow().iter().any(|entry| entry == "timed out");
        for second in 1..=14 {
            bench.worker.tick(second);
            settle().await;
            assert_eq!(timed_out(&silent_log), second >= 10, "{second}");
        }
        connected.packet_received();
        for second in 15..=29 {
            bench.worker.tick(second);
        }
        settle().await;
        assert!(!timed_out(&log));
        connected.pause_keep_alive(true);
        bench.worker.tick(30);
        bench.worker.tick(500);
        settle().await;
        assert!(!timed_out(&log));
        connected.pause_keep_alive(false);
        bench.worker.tick(515);
        settle().await;
        assert!(!timed_out(&log));
        bench.worker.tick(532);
        settle().await;
        assert!(timed_out(&log));
        drop(peer);
    });
}

#[test]
fn actor_and_context_fit_the_size_class_of_their_task() {
    assert!(size_of::<ConnectionContext<Probe>>() <= 32);
}
