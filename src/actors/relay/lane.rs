//! The way of messages to one other node: in order, in batches, inside a window.
//!
//! - Owns: what waits for that node, and batches that are not answered.
//! - Takes: encoded messages of publishers on any thread. Gives: frames to the link; to publishers the moment at
//!   which the other node's routers have their messages.
//! - Bound: `limits::RELAY_WINDOW_BYTES` for all that waits or is not answered; then QoS 0 is dropped and
//!   publishers of QoS ≥ 1 wait, each for itself. `limits::RELAY_BATCHES_MAX` batches under way.
//! - Order: batches are numbered; the receiver takes them by number. After a loss nothing new is sent until the
//!   first one that is not answered went out again, so nothing overtakes and nothing comes twice.
//! - Source: own design; go-back-N.
//!
//! ```text
//! push ─► queue ─► batch n, n+1 … ─► link ─► answer: Taken ─► publisher
//!                     └─ lost: when all under way came back, again from the first one on
//! ```

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use hongqiao_cluster::id::NodeId;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::frame::{self, Answer, Head};
use crate::{
    actors::{
        appender::SubmitError,
        line::Line,
        peer::{Class, PeerError, Wire},
        publish::Accepted,
        route_tables::RouteTables,
    },
    clock, limits,
    model::reason::Reason,
};

/// Messages of one publisher for one node; told when the last of them is taken.
struct Parcel {
    /// Room in the window, given back with the parcel.
    _room: OwnedSemaphorePermit,
    publisher: Mutex<Option<oneshot::Sender<Accepted>>>,
    given_up: AtomicBool,
    since: Instant,
    line: Option<Line>,
}

impl Parcel {
    /// Is not sent any more, nor is what its publisher sends behind it.
    fn give_up(&self) {
        self.given_up.store(true, Relaxed);
        if let Some(line) = &self.line {
            line.cut(SubmitError::Unavailable);
        }
    }

    /// Tells whether something in front of it has failed.
    fn is_cut(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.failure().is_some())
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let outcome = if *self.given_up.get_mut() { Err(Reason::UnspecifiedError) } else { Ok(()) };
        if let Some(publisher) = self.publisher.get_mut().take() {
            // The publisher may have ended.
            let _ = publisher.send(outcome);
        }
    }
}

/// One message on its way.
struct Item {
    bytes: Bytes,
    parcel: Arc<Parcel>,
}

/// A batch that is not answered.
struct Batch {
    number: u64,
    items: Vec<Item>,
    answered: bool,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Item>,
    /// In order of their numbers.
    batches: VecDeque<Batch>,
    epoch: u64,
    last: u64,
    under_way: usize,
    /// Something was lost: nothing new goes out until it went again.
    broken: bool,
    /// The receiver does not know the stream: it is to begin anew.
    begin_anew: bool,
    /// Tries in a row that came to nothing.
    failures: u32,
}

/// See the head of the file.
pub(super) struct Lane {
    peer: NodeId,
    boot: u64,
    wire: Arc<dyn Wire>,
    tables: Arc<RouteTables>,
    inner: Mutex<Inner>,
    window: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

impl Lane {
    pub(super) fn new(
        peer: NodeId,
        boot: u64,
        wire: Arc<dyn Wire>,
        tables: Arc<RouteTables>,
        dropped: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            boot,
            wire,
            tables,
            inner: Mutex::default(),
            window: Arc::new(Semaphore::new(limits::RELAY_WINDOW_BYTES)),
            dropped,
        })
    }

    /// Sends messages that may be lost: without room, or without a link, they are.
    pub(super) fn offer(self: &Arc<Self>, items: Vec<Bytes>) {
        let messages = items.len() as u64;
        let room = Arc::clone(&self.window).try_acquire_many_owned(room_of(&items));
        match room {
            Ok(room) if !self.inner.lock().broken => self.enqueue(items, room, None, None),
            _ => {
                self.dropped.fetch_add(messages, Relaxed);
            }
        }
    }

    /// Sends messages of which the node is only to know: without room they are not sent.
    pub(super) fn tell(self: &Arc<Self>, items: Vec<Bytes>) {
        if let Ok(room) = Arc::clone(&self.window).try_acquire_many_owned(room_of(&items)) {
            self.enqueue(items, room, None, None);
        }
    }

    /// Sends messages that must arrive: on their way when this returns, if there is room; else the answer
    /// is a future that waits for it, and the publisher sends nothing more until then.
    pub(super) fn send(self: &Arc<Self>, items: Vec<Bytes>, line: Line) -> Sent {
        let (told, outcome) = oneshot::channel();
        let size = room_of(&items);
        let room = match Arc::clone(&self.window).try_acquire_many_owned(size) {
            Ok(room) => {
                self.enqueue(items, room, Some(told), Some(line));
                None
            }
            Err(_) => Some(Arc::clone(self).wait_for_room(items, size, told, line)),
        };
        Sent { outcome, room: room.map(|room| Box::pin(room) as _) }
    }

    async fn wait_for_room(
        self: Arc<Self>,
        items: Vec<Bytes>,
        size: u32,
        told: oneshot::Sender<Accepted>,
        line: Line,
    ) {
        let room = Arc::clone(&self.window).acquire_many_owned(size);
        match tokio::time::timeout(limits::RELAY_WAIT, room).await {
            Ok(Ok(room)) => self.enqueue(items, room, Some(told), Some(line)),
            _ => {
                line.cut(SubmitError::Overloaded);
                let _ = told.send(Err(Reason::QuotaExceeded));
            }
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        items: Vec<Bytes>,
        room: OwnedSemaphorePermit,
        publisher: Option<oneshot::Sender<Accepted>>,
        line: Option<Line>,
    ) {
        let parcel = Arc::new(Parcel {
            _room: room,
            publisher: Mutex::new(publisher),
            given_up: AtomicBool::new(false),
            since: clock::timer_now(),
            line,
        });
        let mut inner = self.inner.lock();
        let items = items.into_iter().map(|bytes| Item { bytes, parcel: Arc::clone(&parcel) });
        inner.queue.extend(items);
        self.pump(&mut inner);
    }

    /// Sends what may be sent. Under the lock, so that frames go out in the order of their numbers.
    fn pump(self: &Arc<Self>, inner: &mut Inner) {
        while !inner.broken
            && inner.under_way < limits::RELAY_BATCHES_MAX
            && !inner.queue.is_empty()
        {
            let mut bytes = 0;
            let fits = |item: &&Item| {
                bytes += item.bytes.len();
                bytes <= limits::RELAY_BATCH_BYTES
            };
            let count = inner.queue.iter().take_while(fits).count().max(1);
            let items = inner.queue.drain(..count).collect();
            inner.last += 1;
            let batch = Batch { number: inner.last, items, answered: false };
            self.post(inner, &batch);
            inner.batches.push_back(batch);
        }
    }

    fn post(self: &Arc<Self>, inner: &mut Inner, batch: &Batch) {
        let incarnation = self.tables.load().incarnation(self.peer).unwrap_or(0);
        let (epoch, number) = (inner.epoch, batch.number);
        let head = Head { boot: self.boot, epoch, number, receiver: incarnation };
        let frame = frame::write_batch(head, batch.items.iter().map(|item| &item.bytes));
        let answer = self.wire.request(self.peer, Class::Delivery, frame, limits::RELAY_WAIT);
        inner.under_way += 1;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let answer = answer.await;
            this.answered(number, answer);
        });
    }

    fn answered(self: &Arc<Self>, number: u64, answer: Result<Bytes, PeerError>) {
        let answer = answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| Answer::read(&bytes).map_err(|error| error.to_string()));
        let mut done = Vec::new();
        let mut inner = self.inner.lock();
        inner.under_way -= 1;
        match answer {
            Ok(Answer::Taken | Answer::Gone) => {
                inner.failures = 0;
                let batch = inner.batches.iter_mut().find(|batch| batch.number == number);
                if let Some(batch) = batch {
                    batch.answered = true;
                    done = std::mem::take(&mut batch.items);
                }
                while inner.batches.front().is_some_and(|batch| batch.answered) {
                    inner.batches.pop_front();
                }
            }
            Ok(Answer::Wanted(wanted)) => {
                inner.broken = true;
                // It has no memory of the stream, as after a start.
                inner.begin_anew |= !inner.batches.iter().any(|batch| batch.number == wanted);
            }
            Err(error) => {
                if !std::mem::replace(&mut inner.broken, true) {
                    tracing::debug!(peer = self.peer.0, %error, "messages to a node are held up");
                }
            }
        }
        if inner.broken && inner.under_way == 0 {
            inner.failures += 1;
            let pause = limits::RELAY_RETRY * inner.failures.min(10);
            let this = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                this.try_again();
            });
        }
        self.pump(&mut inner);
        drop(inner);
        // Publishers are told outside the lock.
        drop(done);
    }

    /// Everything that was under way has come back: sends again what is not answered, from the first on.
    fn try_again(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        let unanswered = inner.batches.drain(..).filter(|batch| !batch.answered).collect();
        let (unanswered, gone) = self.sort_out(&mut inner, unanswered);
        let begin_anew = std::mem::take(&mut inner.begin_anew);
        if gone.is_empty() && !begin_anew {
            inner.batches = unanswered;
        } else {
            // Numbers must not have holes: what is left goes as a new stream, which ends the old one.
            inner.epoch += 1;
            inner.last = 0;
            for batch in unanswered {
                inner.last += 1;
                let number = inner.last;
                inner.batches.push_back(Batch { number, ..batch });
            }
        }
        inner.broken = false;
        let again = std::mem::take(&mut inner.batches);
        for batch in &again {
            self.post(&mut inner, batch);
        }
        inner.batches = again;
        self.pump(&mut inner);
        drop(inner);
        drop(gone);
    }

    /// Takes out what nobody waits for any more: all of it if the node is down (its live receivers are
    /// gone), else what is too old, and what its publisher has sent behind something that failed.
    fn sort_out(
        &self,
        inner: &mut Inner,
        batches: VecDeque<Batch>,
    ) -> (VecDeque<Batch>, Vec<Item>) {
        let is_down = self.tables.load().incarnation(self.peer).is_none();
        let is_gone = |item: &Item| {
            let late = item.parcel.since.elapsed() >= limits::RELAY_WAIT || item.parcel.is_cut();
            if late && !is_down {
                item.parcel.give_up();
            }
            is_down || late
        };
        let mut gone = Vec::new();
        let mut left = VecDeque::new();
        for mut batch in batches {
            let items = std::mem::take(&mut batch.items);
            let (old, new): (Vec<_>, Vec<_>) = items.into_iter().partition(&is_gone);
            gone.extend(old);
            if !new.is_empty() {
                left.push_back(Batch { items: new, ..batch });
            }
        }
        let queued = std::mem::take(&mut inner.queue);
        let (old, new): (Vec<_>, Vec<_>) = queued.into_iter().partition(&is_gone);
        gone.extend(old);
        inner.queue = new.into();
        (left, gone)
    }

    /// Returns the bytes that wait or are not answered.
    pub(super) fn waiting_bytes(&self) -> usize {
        limits::RELAY_WINDOW_BYTES - self.window.available_permits()
    }
}

/// What became of messages that must arrive.
pub(super) struct Sent {
    /// When the other node's routers have them.
    pub(super) outcome: oneshot::Receiver<Accepted>,
    /// The publisher's next batch may come after this.
    pub(super) room: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// The share of the window that messages take: their bytes and what holding them costs.
fn room_of(items: &[Bytes]) -> u32 {
    let bytes: usize =
        items.iter().map(|item| item.len() + limits::RELAY_ITEM_OVERHEAD_BYTES).sum();
    u32::try_from(bytes.min(limits::RELAY_WINDOW_BYTES)).unwrap_or(u32::MAX)
}
