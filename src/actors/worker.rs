//! Everything that the connections of one thread share.
//!
//! - Owns: the link table, the dirty list, the wheel, the read buffer, pooled outboxes, counters.
//! - Takes: calls from the connections and the router of its own thread; nothing from other threads.
//! - Gives: the worker of the current thread ([`Worker::with`]).
//! - Bound: pools and the read buffer are fixed; the table grows with connections.
//!
//! A worker thread is an actix arbiter. `Worker::start` runs on it once, before any connection.

mod config;

use std::{
    cell::{Cell, OnceCell, RefCell, RefMut},
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use actix::Addr;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    counters::Counters,
    flusher,
    groups::Groups,
    interest::Interests,
    link::{AnyLink, Link},
    live_routes::LiveRoutes,
    outbox::Outbox,
    publish::Versions,
    retained::FreshTopics,
    socket::Socket,
    table::Table,
    topic_router::TopicRouter,
    wheel::{Alarm, Wheel},
};
use crate::{
    limits,
    model::{
        connection_id::ConnectionId,
        message::Message,
        trie::FilterId,
        wire::{Dialect, Front},
    },
};

pub use config::{LinkLimits, WorkerConfig};

/// Subscriptions that the router must forget.
#[derive(Debug)]
pub struct Ended {
    /// Whose.
    pub slot: u32,
    /// Which.
    pub filters: SmallVec<[FilterId; 4]>,
}

/// What the connections of one thread share.
pub struct Worker {
    config: WorkerConfig,
    table: RefCell<Table>,
    wheel: RefCell<Wheel>,
    scratch: RefCell<BytesMut>,
    chunk: RefCell<BytesMut>,
    #[expect(clippy::vec_box, reason = "boxes move between the pool and the links")]
    pool: RefCell<Vec<Box<Outbox>>>,
    /// Bytes that the pooled outboxes hold.
    pooled_bytes: Cell<usize>,
    /// Seconds since the start; moved by the wheel's task.
    now: Cell<u32>,
    pub(super) dirty: RefCell<Vec<u32>>,
    pub(super) flusher: Cell<Option<Waker>>,
    ended: RefCell<Vec<Ended>>,
    router: Cell<Option<Waker>>,
    groups: OnceCell<Vec<Addr<Groups>>>,
    elsewhere: RefCell<Vec<String>>,
    /// Topics retained anew while retained messages are being sent to somebody.
    pub(super) fresh_topics: RefCell<FreshTopics>,
}

thread_local! {
    static WORKER: OnceCell<Rc<Worker>> = const { OnceCell::new() };
}

/// This thread has a worker already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this thread has a worker already")]
pub struct AlreadyStarted;

impl Worker {
    /// Makes the current arbiter a worker: installs the shared state, starts flusher, wheel and router.
    ///
    /// # Errors
    /// [`AlreadyStarted`] if it is one.
    pub fn start(config: WorkerConfig) -> Result<(Rc<Self>, Addr<TopicRouter>), AlreadyStarted> {
        let worker = Self::install(config)?;
        flusher::spawn(Rc::clone(&worker));
        flusher::spawn_clock(Rc::clone(&worker));
        let router = TopicRouter::spawn(Rc::clone(&worker));
        Ok((worker, router))
    }

    /// Installs the shared state alone; time stands still and output is written by
    /// [`flusher::flush_all`] only.
    ///
    /// # Errors
    /// [`AlreadyStarted`] if there is one.
    pub fn install(config: WorkerConfig) -> Result<Rc<Self>, AlreadyStarted> {
        let worker = Rc::new(Self {
            table: RefCell::new(Table::new(config.index)),
            wheel: RefCell::default(),
            scratch: RefCell::new(BytesMut::new()),
            chunk: RefCell::new(BytesMut::new()),
            pool: RefCell::default(),
            pooled_bytes: Cell::new(0),
            now: Cell::new(0),
            dirty: RefCell::default(),
            flusher: Cell::new(None),
            ended: RefCell::default(),
            router: Cell::new(None),
            groups: OnceCell::new(),
            elsewhere: RefCell::default(),
            fresh_topics: RefCell::default(),
            config,
        });
        WORKER.with(|cell| cell.set(Rc::clone(&worker))).map_err(|_| AlreadyStarted)?;
        Ok(worker)
    }

    /// Runs `f` with the worker of this thread; `None` on a thread that is no worker, and while the
    /// thread ends.
    pub fn with<T>(f: impl FnOnce(&Rc<Self>) -> T) -> Option<T> {
        WORKER.try_with(|cell| cell.get().map(f)).ok().flatten()
    }

    /// Notes messages to be retained that are handed to live subscribers; see [`FreshTopics`].
    pub(super) fn note_fresh(&self, messages: &[Arc<Message>], versions: &Versions) {
        let mut fresh = self.fresh_topics.borrow_mut();
        for (at, message) in messages.iter().enumerate() {
            fresh.note(message, versions.of(at));
        }
    }

    /// Says where clients may go that have to leave.
    pub fn set_elsewhere(&self, addresses: Vec<String>) {
        *self.elsewhere.borrow_mut() = addresses;
    }

    /// Returns where the client of a slot may go: one of the addresses, another for the next slot.
    #[must_use]
    pub fn elsewhere(&self, slot: u32) -> Option<String> {
        let addresses = self.elsewhere.borrow();
        addresses.get(slot as usize % addresses.len().max(1)).cloned()
    }

    /// Tells where the shared groups are; set once, when all workers run.
    pub fn set_groups(&self, groups: Vec<Addr<Groups>>) {
        let _ = self.groups.set(groups);
    }

    /// Returns the shared groups of all workers, by worker; none before all of them run.
    #[must_use]
    pub fn groups(&self) -> &[Addr<Groups>] {
        self.groups.get().map_or(&[], Vec::as_slice)
    }

    /// Returns which worker this is.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.config.index
    }

    /// Returns the limits of the links of a listener.
    #[must_use]
    pub fn limits(&self, listener: u8) -> &LinkLimits {
        self.config.limits.get(usize::from(listener)).unwrap_or(&LinkLimits::DEFAULT)
    }

    /// Returns which workers have subscribers of what.
    #[must_use]
    pub fn interests(&self) -> &Interests {
        &self.config.interests
    }

    /// Returns what other nodes must know of the node's subscribers.
    #[must_use]
    pub fn live_routes(&self) -> &Arc<LiveRoutes> {
        &self.config.live_routes
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.config.counters
    }

    /// Returns an encoding.
    #[must_use]
    pub fn front(&self, dialect: Dialect) -> &'static dyn Front {
        self.config.fronts[dialect as usize]
    }

    /// Returns the seconds since the start, as of the last tick.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now.get()
    }

    /// Gives a new connection of listener `listener` its link; its time to CONNECT begins.
    pub fn open<S: Socket>(self: &Rc<Self>, socket: S, listener: u8) -> Rc<AnyLink> {
        let slot = self.table.borrow_mut().reserve();
        let link: Rc<AnyLink> = Rc::new(Link::new(slot, listener, self.now(), socket));
        self.table.borrow_mut().fill(slot, Rc::clone(&link));
        self.counters().connections.add(1);
        self.counters().connections_opened.add(1);
        self.plan(&link);
        link
    }

    /// Returns the link of a connection, unless it is gone.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Rc<AnyLink>> {
        self.table.borrow().find(id).map(Rc::clone)
    }

    /// Runs `f` on every link; used to drain.
    pub fn for_each(&self, mut f: impl FnMut(&Rc<AnyLink>)) {
        let links: Vec<_> = self.table.borrow().links().map(Rc::clone).collect();
        links.iter().for_each(&mut f);
    }

    /// Runs `f` on the links of `count` slots from `slot`; returns where the next ones begin.
    pub fn walk(
        &self,
        slot: u32,
        count: u32,
        mut f: impl FnMut(ConnectionId, &AnyLink),
    ) -> Option<u32> {
        let table = self.table.borrow();
        let end = slot.saturating_add(count);
        for slot in slot..end.min(table.slots()) {
            if let Some(link) = table.get(slot) {
                f(table.id(slot), link);
            }
        }
        (end < table.slots()).then_some(end)
    }

    /// Returns the table for look-ups by slot; the caller must not open or close links meanwhile.
    pub(super) fn table(&self) -> std::cell::Ref<'_, Table> {
        self.table.borrow()
    }

    /// Returns the name of the connection in `slot`.
    #[must_use]
    pub fn id_of(&self, slot: u32) -> ConnectionId {
        self.table.borrow().id(slot)
    }

    /// Takes a link out of the table: its socket closes when its task ends.
    pub(super) fn forget(&self, link: &AnyLink) {
        self.forget_subscriptions(link);
        let removed = self.table.borrow_mut().remove(link.slot());
        if removed.is_some() {
            self.counters().connections.subtract(1);
        }
    }

    /// Has the router forget every subscription of `link`.
    pub(super) fn forget_subscriptions(&self, link: &AnyLink) {
        let filters = link.take_filters();
        if filters.is_empty() {
            return;
        }
        self.ended.borrow_mut().push(Ended { slot: link.slot(), filters });
        self.wake_router();
    }

    /// The router knows `slot` from now on.
    pub(super) fn hold_slot(&self, slot: u32) {
        self.table.borrow_mut().hold_for_router(slot);
    }

    /// The router has forgotten `slot`.
    pub(super) fn release_slot(&self, slot: u32) {
        self.table.borrow_mut().release_by_router(slot);
    }

    /// Hands the router what it must forget.
    pub(super) fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.ended.borrow_mut())
    }

    /// Remembers whom to wake when there is something to forget.
    pub(super) fn set_router_waker(&self, waker: &Waker) {
        self.router.set(Some(waker.clone()));
    }

    fn wake_router(&self) {
        if let Some(waker) = self.router.take() {
            waker.wake();
        }
    }

    /// Returns the read buffer of this thread, with room for a whole read.
    pub(super) fn scratch(&self) -> RefMut<'_, BytesMut> {
        let mut scratch = self.scratch.borrow_mut();
        if scratch.capacity() - scratch.len() < limits::READ_BYTES_MIN {
            scratch.reserve(limits::READ_BYTES);
        }
        scratch
    }

    /// Cuts what was read off the read buffer; it stays valid while anyone holds a slice of it.
    pub(super) fn take_scratch(&self) -> Bytes {
        self.scratch.borrow_mut().split().freeze()
    }

    /// Returns the buffer in which frames for many receivers are encoded; its owner splits off what it
    /// filled.
    pub(super) fn chunk(&self) -> RefMut<'_, BytesMut> {
        let mut chunk = self.chunk.borrow_mut();
        if chunk.capacity() < limits::READ_BYTES_MIN {
            chunk.reserve(limits::READ_BYTES);
        }
        chunk
    }

    /// Takes an empty outbox from the pool.
    pub(super) fn new_outbox(&self) -> Box<Outbox> {
        let Some(outbox) = self.pool.borrow_mut().pop() else { return Box::default() };
        self.pooled_bytes.set(self.pooled_bytes.get() - outbox.held_bytes());
        outbox
    }

    /// Puts an outbox back.
    pub(super) fn recycle(&self, mut outbox: Box<Outbox>) {
        outbox.reset();
        let bytes = self.pooled_bytes.get() + outbox.held_bytes();
        if bytes <= limits::POOLED_OUTBOX_BYTES_MAX {
            self.pooled_bytes.set(bytes);
            self.pool.borrow_mut().push(outbox);
        }
    }

    /// Has the flusher write what `slot` holds, after everything else that is ready now.
    pub(super) fn mark_dirty(&self, slot: u32) {
        self.dirty.borrow_mut().push(slot);
        if let Some(waker) = self.flusher.take() {
            waker.wake();
        }
    }

    /// Plans the link's deadline anew; needed only when it moved closer.
    pub(super) fn plan(&self, link: &AnyLink) {
        let Some(at) = link.deadline(self.now(), self.limits(link.listener())) else { return };
        let generation = self.id_of(link.slot()).generation();
        let alarm = Alarm::new(link.slot(), generation, link.next_ticket());
        self.wheel.borrow_mut().schedule(at, alarm);
    }

    /// Wakes the connection in `secs` seconds.
    pub(super) fn look_after(&self, link: &AnyLink, secs: u8) {
        let generation = self.id_of(link.slot()).generation();
        let alarm = Alarm::new(link.slot(), generation, Alarm::LOOK);
        self.wheel.borrow_mut().schedule(self.now().saturating_add(secs.into()), alarm);
    }

    /// Moves time to `now`, never back, and tells the links whose deadline has come.
    pub fn tick(&self, now: u32) {
        if now < self.now.get() {
            return;
        }
        self.now.set(now);
        let mut due = Vec::new();
        self.wheel.borrow_mut().advance(now, &mut due);
        for alarm in due {
            let id = ConnectionId::new(self.index(), alarm.generation(), alarm.slot());
            let Some(link) = self.find(id) else { continue };
            if alarm.ticket() == Alarm::LOOK {
                link.wake();
            }
            if link.ticket() != alarm.ticket() {
                continue;
            }
            match link.deadline(now, self.limits(link.listener())) {
                Some(at) if at <= now => link.time_out(),
                Some(at) => self.wheel.borrow_mut().schedule(at, alarm),
                None => {}
            }
        }
    }
}
