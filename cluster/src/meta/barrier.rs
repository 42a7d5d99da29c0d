//! Barriers that this node asks for: all that wait while one is under way are the next one.
//!
//! - Owns: the index up to which barriers have passed. Takes: indexes of replies. Gives: when they have passed.
//! - Bound: one question under way; a caller waits `LEASE_SPAN` at most.
//! - Source: own design; the rules are in `lease.rs`.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};

use super::leases::{Answer, Ask, Leases};
use crate::{clock, limits::LEASE_SPAN};

/// How long to wait before a leader is asked once more.
const RETRY: Duration = Duration::from_millis(50);

/// See the head of the file.
pub(super) struct Barriers {
    leases: Arc<Leases>,
    runtime: Handle,
    state: Mutex<State>,
    passed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    wanted: u64,
    under_way: bool,
}

impl Barriers {
    pub(super) fn new(leases: Arc<Leases>, runtime: Handle) -> Arc<Self> {
        let (state, passed) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { leases, runtime, state, passed })
    }

    /// Returns when whoever may rely on his directory has applied `index`, which was acknowledged.
    pub(super) async fn pass(self: &Arc<Self>, index: u64) {
        let mut announced = self.leases.published.announced();
        let here = announced.wait_for(|known| *known >= index);
        if self.leases.is_alone() {
            let _ = here.await;
            return;
        }
        let until = clock::now() + LEASE_SPAN;
        self.want(index);
        let mut passed = self.passed.subscribe();
        let everywhere = async {
            let _ = passed.wait_for(|passed| *passed >= index).await;
            let _ = here.await;
        };
        // Nobody to ask: by then all leases that are older than this call are over, and those that
        // are younger carry the index. See `lease.rs`.
        let _ = tokio::time::timeout_at(until.into(), everywhere).await;
    }

    fn want(self: &Arc<Self>, index: u64) {
        let mut state = self.state.lock();
        if *self.passed.borrow() >= index {
            return;
        }
        state.wanted = state.wanted.max(index);
        if !std::mem::replace(&mut state.under_way, true) {
            let barriers = self.clone();
            self.runtime.spawn(async move { barriers.run().await });
        }
    }

    /// Asks until all that is wanted has passed, or nobody waits for it any more.
    async fn run(&self) {
        let mut lead = self.leases.port.lead();
        let mut asked = (0, clock::now());
        loop {
            let wanted = self.state.lock().wanted;
            if asked.0 < wanted {
                asked = (wanted, clock::now());
            }
            let leader = lead.borrow_and_update().leader;
            let answer = tokio::select! {
                answer = self.leases.ask(Ask::Barrier { index: wanted }) => answer,
                // Whom this was sent to will not answer.
                _ = lead.wait_for(|lead| lead.leader != leader) => None,
            };
            let has_passed = answer == Some(Answer::Passed);
            if has_passed {
                self.passed.send_if_modified(|passed| {
                    let is_new = *passed < wanted;
                    *passed = wanted.max(*passed);
                    is_new
                });
            }
            // Whoever wanted it has waited as long as he does.
            let is_over = has_passed || clock::now() >= asked.1 + LEASE_SPAN;
            {
                let mut state = self.state.lock();
                if is_over && state.wanted == wanted {
                    state.under_way = false;
                    return;
                }
            }
            if !has_passed {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
