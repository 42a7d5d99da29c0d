//! What a connection waits for: replies of its neighbours and short timers.
//!
//! - Owns: futures, only while there are any (one word otherwise). Gives: [`Event`]s as they finish.
//! - Bound: publishes by the receive maximum, one control operation, one page, one report.
//!
//! The context's own futures are polled one by one at each wake; hundreds of publishes may wait for
//! their flush here, so that only those that were woken are polled.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::backend::PageError;
use crate::{
    actors::{appender::SubmitError, home::ClaimError, line::Line, publish::Part},
    auth::Principal,
    model::{reason::Reason, session::intake::Ticket},
    shard::command::{Claimed, Page, Reply},
};

/// What a shard answered.
pub(super) type Submitted = Result<Reply, SubmitError>;

/// Something that a connection waited for.
#[derive(Debug)]
pub(in crate::actors) enum Event {
    /// Who the client is.
    Authenticated(Result<Principal, Reason>),
    /// The session is this connection's.
    Claimed(Result<Box<Claimed>, ClaimError>),
    /// The router knows the subscriptions of a resumed session.
    Installed,
    /// A publish is taken care of.
    Published(Ticket, Result<(), Reason>),
    /// QoS 2 in: the packet id of the publish with this number is written.
    Begun(u64, Submitted),
    /// QoS 2 in: the end of a packet id is written.
    Ended(Ticket, Submitted),
    /// QoS 2 in: the end of the packet id of a publish that is refused is written.
    Refused(Ticket, Reason, Submitted),
    /// SUBSCRIBE or UNSUBSCRIBE is done: what is to be told.
    Controlled(Box<super::subscribe::Controlled>),
    /// A page of the log.
    Page(Result<Page, PageError>),
    /// QoS 2 out: ids of a page are written.
    OutBegun(Submitted),
    /// QoS 2 out: PUBREC of this number is written.
    OutReceived(u64, Submitted),
    /// QoS 2 out: the ends of these ids are written.
    OutEnded(Vec<u16>, Submitted),
    /// The report of the cursor is written.
    Reported(Submitted),
    /// The session is released.
    Released,
    /// A timer.
    Timer(Timer),
}

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::actors) enum Timer {
    /// Time to report the cursor.
    Report,
    /// Time to try the log again.
    Retry,
}

/// One future. Publishes are by far the most, and come boxed already.
enum Work {
    Publish(Ticket, Part),
    Other(Pin<Box<dyn Future<Output = Event>>>),
}

impl Future for Work {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        match self.get_mut() {
            Self::Publish(ticket, part) => {
                part.as_mut().poll(cx).map(|outcome| Event::Published(*ticket, outcome))
            }
            Self::Other(future) => future.as_mut().poll(cx),
        }
    }
}

/// All futures of a connection.
#[derive(Default)]
pub(in crate::actors) struct Works {
    set: Option<Box<Set>>,
}

#[derive(Default)]
struct Set {
    futures: FuturesUnordered<Work>,
    /// Of the publishes among them, and of refusals that the client has not been told.
    line: Option<Line>,
    /// How many they are. When none is left the next publish begins a new line.
    publishes: usize,
    /// Something was added that has not been polled.
    fresh: bool,
}

impl Works {
    /// Adds something to wait for.
    pub(in crate::actors) fn push(&mut self, future: impl Future<Output = Event> + 'static) {
        self.add(Work::Other(Box::pin(future)));
    }

    /// Adds a publish.
    pub(super) fn push_publish(&mut self, ticket: Ticket, part: Part) {
        self.add(Work::Publish(ticket, part));
        self.count_publish();
    }

    /// Adds the writing of a publish's packet id.
    pub(super) fn push_begin(&mut self, begin: impl Future<Output = Event> + 'static) {
        self.push(begin);
        self.count_publish();
    }

    /// Adds the end of the exchange of a publish that is refused. Until it is written the client is not told, and may
    /// never be: then it sends the publish again, and all behind it.
    pub(super) fn push_refusal(&mut self, end: impl Future<Output = Event> + 'static) {
        self.push(end);
        self.count_publish();
    }

    fn count_publish(&mut self) {
        if let Some(set) = &mut self.set {
            set.publishes += 1;
        }
    }

    /// Returns the line of the publishes under way, if there is one.
    pub(super) fn line(&mut self) -> Option<Line> {
        let set = self.set.as_mut()?;
        set.line.take_if(|_| set.publishes == 0);
        set.line.clone()
    }

    /// Keeps the line of publishes that are added next.
    pub(super) fn keep_line(&mut self, line: Option<Line>) {
        if let Some(line) = line {
            self.set.get_or_insert_default().line = Some(line);
        }
    }

    /// Nothing is published behind what is under way: some of it has failed.
    pub(super) fn cut_line(&self) {
        if let Some(line) = self.set.as_ref().and_then(|set| set.line.as_ref()) {
            line.cut(SubmitError::Unavailable);
        }
    }

    /// Tells whether something under way has failed.
    pub(super) fn is_cut(&self) -> bool {
        let line = self.set.as_ref().and_then(|set| set.line.as_ref());
        line.is_some_and(|line| line.failure().is_some())
    }

    /// Adds a timer.
    pub(in crate::actors) fn push_timer(&mut self, after: Duration, timer: Timer) {
        self.push(async move {
            tokio::time::sleep(after).await;
            Event::Timer(timer)
        });
    }

    /// Tells whether something was added that has not been polled yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.set.as_ref().is_some_and(|set| set.fresh)
    }

    fn add(&mut self, work: Work) {
        let set = self.set.get_or_insert_default();
        set.futures.push(work);
        set.fresh = true;
    }

    /// Returns what has finished, one at a time; then `None`, and the task is woken for the rest.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        let set = self.set.as_mut()?;
        set.fresh = false;
        match set.futures.poll_next_unpin(cx) {
            Poll::Ready(Some(event)) => {
                if matches!(event, Event::Published(..) | Event::Begun(..) | Event::Refused(..)) {
                    set.publishes -= 1;
                }
                Some(event)
            }
            Poll::Ready(None) => {
                self.set = None;
                None
            }
            Poll::Pending => None,
        }
    }
}

impl std::fmt::Debug for Works {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Works({})", self.set.as_ref().map_or(0, |set| set.futures.len()))
    }
}
