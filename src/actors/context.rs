//! A context for connection actors that costs one task and 32 bytes.
//!
//! - Owns: the actor, its mailbox (made when somebody first asks for the address), and its futures
//!   (a box only while there are any).
//! - Takes: messages, finished futures, readiness of the socket. Gives: calls to the actor, in turn.
//! - Bound: `limits::CONNECTION_MAILBOX_MESSAGES`; senders beyond it wait (`send`) or are refused
//!   (`try_send`).
//! - Source: actix 0.13 `Context`, whose order of calls it keeps; see the table for what differs.
//!
//! | what | here |
//! |---|---|
//! | last address dropped | the actor lives on: its socket does |
//! | handler panics | that connection alone ends: `stopped` is called, the link leaves the table |
//! | after `stopped` | the context writes what is queued and waits for the peer, inside the linger time |
//! | `wait` | as in actix: no message, future or socket is polled before it ends; output is written |

use std::{
    cell::{Cell, OnceCell},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix::{
    Actor, ActorContext, ActorFuture, ActorState, Addr, AsyncContext, Handler, Message, Running,
    SpawnHandle,
    dev::{
        Envelope, EnvelopeProxy as _, ToEnvelope,
        channel::{AddressReceiver, channel},
    },
};
use futures_util::Stream as _;
use tokio::sync::oneshot;

use super::{link::AnyLink, worker::Worker};
use crate::limits;

/// An actor that lives on a link.
pub trait LeanActor: Actor<Context = ConnectionContext<Self>> {
    /// Returns its link.
    fn link(&self) -> &Rc<AnyLink>;

    /// Looks at signals and reads what the socket has. Called at each wake after messages and
    /// futures, unless the actor waits or stops. `cx` wakes the actor's task.
    fn poll_socket(&mut self, ctx: &mut Self::Context, cx: &mut Context<'_>);
}

/// Where the actor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Running,
    Stopping,
    /// `terminate` was called; `stopped` was not.
    Terminated,
    Stopped,
}

type ActorTask<A> = Pin<Box<dyn ActorFuture<A, Output = ()>>>;

/// The futures of one actor. A slot is `None` while its future is polled, and once it is done.
struct Tasks<A: LeanActor> {
    spawned: Vec<(SpawnHandle, Option<ActorTask<A>>)>,
    waits: Vec<ActorTask<A>>,
    cancelled: Option<SpawnHandle>,
}

/// The context of a connection actor.
pub struct ConnectionContext<A: LeanActor> {
    mailbox: OnceCell<AddressReceiver<A>>,
    tasks: Option<Box<Tasks<A>>>,
    last_handle: SpawnHandle,
    phase: Phase,
    waiting: bool,
    /// Something was added that has not been polled yet.
    fresh: Cell<bool>,
}

/// The task that runs a connection actor.
struct Run<A: LeanActor> {
    actor: A,
    ctx: ConnectionContext<A>,
}

impl<A: LeanActor> ConnectionContext<A> {
    /// Runs `actor` on the current arbiter.
    pub fn start(actor: A) {
        actix::spawn(Run { actor, ctx: Self::new() });
    }

    /// Runs `actor` on the current arbiter and gives its address, which costs a mailbox.
    pub fn start_with_address(actor: A) -> Addr<A> {
        let run = Run { actor, ctx: Self::new() };
        let address = run.ctx.address();
        actix::spawn(run);
        address
    }

    fn new() -> Self {
        Self {
            mailbox: OnceCell::new(),
            tasks: None,
            last_handle: SpawnHandle::default(),
            phase: Phase::New,
            waiting: false,
            fresh: Cell::new(false),
        }
    }

    fn tasks(&mut self) -> &mut Tasks<A> {
        self.tasks.get_or_insert_with(|| {
            Box::new(Tasks { spawned: Vec::new(), waits: Vec::new(), cancelled: None })
        })
    }

    fn ends(&self) -> bool {
        matches!(self.phase, Phase::Stopping | Phase::Terminated | Phase::Stopped)
    }

    /// Polls what the actor waits for, newest first; `true` if it still waits.
    fn poll_waits(&mut self, actor: &mut A, cx: &mut Context<'_>) -> bool {
        while !self.ends() {
            let Some(mut wait) = self.tasks.as_mut().and_then(|tasks| tasks.waits.pop()) else {
                break;
            };
            let place = self.tasks().waits.len();
            if wait.as_mut().poll(actor, self, cx).is_pending() {
                // It goes back below those that it started itself.
                self.tasks().waits.insert(place, wait);
                if self.tasks().waits.len() == place + 1 {
                    return true;
                }
            }
        }
        self.waiting = false;
        false
    }

    fn poll_mailbox(&mut self, actor: &mut A, cx: &mut Context<'_>) {
        while !self.waiting() {
            let Some(mailbox) = self.mailbox.get_mut() else { return };
            match Pin::new(mailbox).poll_next(cx) {
                Poll::Ready(Some(mut envelope)) => envelope.handle(actor, self),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn poll_spawned(&mut self, actor: &mut A, cx: &mut Context<'_>) {
        let mut index = 0;
        while !self.waiting() {
            let Some((handle, slot)) =
                self.tasks.as_mut().and_then(|tasks| tasks.spawned.get_mut(index))
            else {
                break;
            };
            index += 1;
            let handle = *handle;
            let Some(mut future) = slot.take() else { continue };
            let pending = future.as_mut().poll(actor, self, cx).is_pending();
            let tasks = self.tasks();
            let cancelled = tasks.cancelled.take_if(|other| *other == handle).is_some();
            if pending && !cancelled {
                let place = tasks.spawned.iter_mut().find(|(other, _)| *other == handle);
                if let Some((_, slot)) = place {
                    *slot = Some(future);
                }
            }
        }
        let Some(tasks) = &mut self.tasks else { return };
        tasks.spawned.retain(|(_, future)| future.is_some());
        if tasks.spawned.is_empty() && tasks.waits.is_empty() {
            self.tasks = None;
        }
    }
}

impl<A: LeanActor> ActorContext for ConnectionContext<A> {
    fn stop(&mut self) {
        if matches!(self.phase, Phase::New | Phase::Running) {
            self.phase = Phase::Stopping;
        }
    }

    fn terminate(&mut self) {
        self.phase = Phase::Terminated;
    }

    fn state(&self) -> ActorState {
        match self.phase {
            Phase::New => ActorState::Started,
            Phase::Running => ActorState::Running,
            Phase::Stopping => ActorState::Stopping,
            Phase::Terminated | Phase::Stopped => ActorState::Stopped,
        }
    }
}

impl<A: LeanActor> AsyncContext<A> for ConnectionContext<A> {
    fn address(&self) -> Addr<A> {
        let mut first = None;
        let mailbox = self.mailbox.get_or_init(|| {
            let (tx, rx) = channel(limits::CONNECTION_MAILBOX_MESSAGES);
            first = Some(tx);
            self.fresh.set(true);
            rx
        });
        Addr::new(first.unwrap_or_else(|| mailbox.sender()))
    }

    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.last_handle = self.last_handle.next();
        let handle = self.last_handle;
        self.tasks().spawned.push((handle, Some(Box::pin(future))));
        self.fresh.set(true);
        handle
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.tasks().waits.push(Box::pin(future));
        self.waiting = true;
        self.fresh.set(true);
    }

    fn waiting(&self) -> bool {
        self.waiting || self.ends()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        let Some(tasks) = &mut self.tasks else { return false };
        let place = tasks.spawned.iter_mut().find(|(other, _)| *other == handle);
        match place {
            Some((_, future @ Some(_))) => *future = None,
            // It is being polled now.
            Some((_, None)) => tasks.cancelled = Some(handle),
            None => return false,
        }
        true
    }
}

impl<A, M> ToEnvelope<A, M> for ConnectionContext<A>
where
    A: LeanActor + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, reply: Option<oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, reply)
    }
}

impl<A: LeanActor> Run<A> {
    /// One turn; ready once the actor has stopped.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { actor, ctx } = self;
        if ctx.phase == Phase::New {
            ctx.phase = Phase::Running;
            actor.started(ctx);
        }
        actor.link().remember_waker(cx);
        actor.link().poll_output(cx);
        loop {
            ctx.fresh.set(false);
            if ctx.poll_waits(actor, cx) {
                return Poll::Pending;
            }
            ctx.poll_mailbox(actor, cx);
            ctx.poll_spawned(actor, cx);
            if !ctx.waiting() {
                actor.poll_socket(ctx, cx);
            }
            if ctx.phase == Phase::Stopping && actor.stopping(ctx) == Running::Continue {
                ctx.phase = Phase::Running;
                ctx.fresh.set(true);
            }
            if ctx.ends() {
                self.stop();
                return Poll::Ready(());
            }
            if !ctx.fresh.get() {
                return Poll::Pending;
            }
        }
    }

    /// Tells the actor that it is over; the link is written and closed after it.
    fn stop(&mut self) {
        let terminated = self.ctx.phase == Phase::Terminated;
        self.ctx.phase = Phase::Stopped;
        self.ctx.tasks = None;
        self.actor.stopped(&mut self.ctx);
        self.ctx.tasks = None;
        self.ctx.mailbox.take();
        let link = self.actor.link();
        link.released();
        if terminated {
            link.abort();
        }
        link.close();
        Worker::with(|worker| worker.forget_subscriptions(link));
    }

    /// Ends the connection of an actor that panicked.
    fn panicked(&mut self) {
        tracing::error!(connection = ?self.actor.link().id(), "a handler panicked; its connection ends");
        Worker::with(|worker| worker.counters().panics.add(1));
        if self.ctx.phase != Phase::Stopped
            && catch_unwind(AssertUnwindSafe(|| self.stop())).is_err()
        {
            tracing::error!("the actor panicked again while it stopped");
        }
        self.actor.link().abort();
    }
}

impl<A: LeanActor> Future for Run<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let run = &mut *self;
        if run.ctx.phase != Phase::Stopped {
            match catch_unwind(AssertUnwindSafe(|| run.poll_actor(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => {}
                Err(_) => {
                    run.panicked();
                    return Poll::Ready(());
                }
            }
        }
        run.actor.link().poll_linger(cx)
    }
}

impl<A: LeanActor> Drop for Run<A> {
    fn drop(&mut self) {
        if self.ctx.phase != Phase::Stopped
            && catch_unwind(AssertUnwindSafe(|| self.stop())).is_err()
        {
            tracing::error!("an actor panicked while its thread ended");
        }
        let link = self.actor.link();
        link.end();
        Worker::with(|worker| worker.forget(link));
    }
}

#[cfg(test)]
mod tests;
