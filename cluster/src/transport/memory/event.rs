//! Lets the events of a hub happen: frames arrive, silence breaks connections, services answer.
//!
//! - Owns: nothing that outlives a step. Takes: the earliest event. Gives: calls of services.
//! - Bound: one event at a time; a service's future runs as a task of its node, within the time-out
//!   of its request.
//! - Source: own design.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use super::{
    super::{Class, Desk, Served, Service},
    Event, Shared, State,
    link::{Frame, Key, Lane, Way},
};
use crate::clock;

/// A request on its way to a service; called without the hub's lock.
struct Call {
    service: Arc<dyn Service>,
    home: Handle,
    key: Key,
    generation: u64,
    desk: Desk,
    body: Bytes,
    /// Its id and how long the peer waits; `None` for a cast.
    ask: Option<(u64, Duration)>,
}

/// Runs events at their times until the hub is gone.
pub(super) async fn drive(hub: Weak<Shared>) {
    loop {
        let Some(shared) = hub.upgrade() else { return };
        match next_time(&shared) {
            Some(at) if at <= clock::now() => {
                step(&shared);
                // Others of the same instant get their turn.
                drop(shared);
                tokio::task::yield_now().await;
            }
            Some(at) => {
                tokio::select! {
                    biased;
                    () = shared.added.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                }
            }
            None => shared.added.notified().await,
        }
    }
}

fn next_time(shared: &Shared) -> Option<Instant> {
    shared.state.lock().events.first_key_value().map(|((at, _), _)| *at)
}

fn step(shared: &Arc<Shared>) {
    let call = {
        let mut state = shared.state.lock();
        let Some((_, event)) = state.events.pop_first() else { return };
        happen(&mut state, event)
    };
    if let Some(call) = call {
        serve(shared, call);
    }
}

fn happen(state: &mut State, event: Event) -> Option<Call> {
    match event {
        Event::Arrive { key, generation, way } => {
            let is_cut = state.is_cut(key, way);
            let link = state.links.get_mut(&key).filter(|link| link.generation == generation)?;
            if is_cut {
                link.hold(way);
                return None;
            }
            let frame = link.take(way)?;
            arrive(state, key, generation, frame)
        }
        Event::Silent { key, generation, cut_since } => {
            let link = state.links.get(&key)?;
            if link.generation == generation && link.cut_since == Some(cut_since) {
                state.break_links(|other| *other == key, "nothing heard for 3 s");
            }
            None
        }
    }
}

fn arrive(state: &mut State, key: Key, generation: u64, frame: Frame) -> Option<Call> {
    let link = state.links.get_mut(&key)?;
    let (desk, body, ask) = match frame {
        Frame::Answer { id, result } => {
            link.answered(id, result);
            return None;
        }
        Frame::Cast { desk, body } => {
            link.cast_arrived(body.len());
            (desk, body, None)
        }
        Frame::Request { id, desk, body, time_out } => (desk, body, Some((id, time_out))),
    };
    let member = state.members.get(&key.to)?;
    let (service, home) = (member.service.clone()?, member.home.clone());
    Some(Call { service, home, key, generation, desk, body, ask })
}

/// Calls the service; an answer that is ready goes back at once.
fn serve(shared: &Arc<Shared>, call: Call) {
    let Call { service, home, key, generation, desk, body, ask } = call;
    let class = match key.lane {
        Lane::Of(class) => class,
        Lane::Knock => Class::Control,
    };
    let (answer, ready) = {
        let _there = home.enter();
        let mut answer = service.serve(key.from, class, desk, body);
        let ready = (&mut answer).now_or_never();
        (answer, ready)
    };
    match ready {
        Some(result) => {
            if let Some((id, _)) = ask {
                give_back(shared, key, generation, Frame::Answer { id, result });
            }
        }
        None => wait(shared, key, generation, ask, answer),
    }
}

fn wait(
    shared: &Arc<Shared>,
    key: Key,
    generation: u64,
    ask: Option<(u64, Duration)>,
    answer: Served,
) {
    let hub = Arc::downgrade(shared);
    let task = async move {
        let Some((id, time_out)) = ask else {
            let _ = answer.await;
            return;
        };
        let result = tokio::time::timeout(time_out, answer).await;
        let result = result.unwrap_or_else(|_| Err("not served in time".to_owned()));
        if let Some(shared) = hub.upgrade() {
            give_back(&shared, key, generation, Frame::Answer { id, result });
        }
    };
    let mut state = shared.state.lock();
    let Some(member) = state.members.get_mut(&key.to) else { return };
    while member.serving.try_join_next().is_some() {}
    let home = member.home.clone();
    member.serving.spawn_on(task, &home);
}

fn give_back(shared: &Shared, key: Key, generation: u64, frame: Frame) {
    let mut state = shared.state.lock();
    if state.links.get(&key).is_some_and(|link| link.generation == generation) {
        state.send(key, Way::Back, frame);
        drop(state);
        shared.added.notify_one();
    }
}
