//! The real shard machine on a store in memory, behind the real appender; may be told to fail.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use hongqiao_cluster::{Order, id::ShardId, machine::Machine as _};

use super::super::{backend::PageError, node::ReadPage};
use crate::{
    actors::{
        appender::{Propose, SubmitError},
        facts::Facts,
    },
    clock,
    model::id::SessionKey,
    shard::{
        command::{Command, Reply, decode_batch, decode_replies, encode_batch},
        machine::ShardMachine,
        memory_store::MemoryStore,
        query::{self, PageLimits},
    },
};

struct Inner {
    machine: ShardMachine,
    store: MemoryStore,
    index: u64,
    refusal: Option<SubmitError>,
    commands: Vec<&'static str>,
    hangs: bool,
    hangs_on: Option<&'static str>,
}

/// One shard.
#[derive(Clone)]
pub(super) struct Storage(Rc<RefCell<Inner>>);

impl Storage {
    pub(super) fn new(facts: &Arc<Facts>) -> Self {
        let facts = Arc::clone(facts);
        let mut machine = ShardMachine::new(Arc::new(move |fact| facts.take(ShardId(0), fact)));
        let store = MemoryStore::default();
        machine.load(&store);
        let inner = Inner {
            machine,
            store,
            index: 0,
            refusal: None,
            commands: Vec::new(),
            hangs: false,
            hangs_on: None,
        };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// From now on every command is refused, or none.
    pub(super) fn refuse(&self, refusal: Option<SubmitError>) {
        self.0.borrow_mut().refusal = refusal;
    }

    /// From now on no command is answered, or all are again.
    pub(super) fn hang(&self, hangs: bool) {
        self.0.borrow_mut().hangs = hangs;
    }

    /// From now on no batch with this command is answered, or each is again.
    pub(super) fn hang_on(&self, hangs_on: Option<&'static str>) {
        self.0.borrow_mut().hangs_on = hangs_on;
    }

    /// Names of the session commands that were applied since the last call, without background work.
    pub(super) fn commands(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.borrow_mut().commands)
    }

    /// Applies one command behind the back of everybody.
    pub(super) fn apply(&self, command: Command) -> Reply {
        let mut inner = self.0.borrow_mut();
        inner.apply(&[command]).remove(0)
    }

    pub(super) fn depth(&self, key: SessionKey) -> Option<u64> {
        query::queue_depth(&self.0.borrow().machine, key).map(|depth| depth.messages)
    }

    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let inner = self.0.borrow();
        query::is_due(&inner.machine, &inner.store, now_ms)
    }

    pub(super) fn propose(&self) -> Propose {
        let storage = self.clone();
        Rc::new(move |_, batch, _| {
            let storage = storage.clone();
            let proposed = Box::pin(async move {
                // A commit takes a while, so that what must wait for it can be seen to wait.
                tokio::task::yield_now().await;
                let commands = decode_batch(&batch).unwrap();
                while storage.0.borrow().hangs_at(&commands) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let mut inner = storage.0.borrow_mut();
                if let Some(refusal) = inner.refusal {
                    return Err(refusal);
                }
                let names = commands.iter().filter_map(name);
                inner.commands.extend(names);
                inner.index += 1;
                let Inner { machine, store, index, .. } = &mut *inner;
                Ok(machine.apply(*index, &batch, store))
            });
            (Some(Order::default()), proposed as _)
        })
    }

    pub(super) fn read_page(&self) -> ReadPage {
        let storage = self.clone();
        Box::new(move |key, epoch, after, messages, bytes| {
            let storage = storage.clone();
            Box::pin(async move {
                tokio::task::yield_now().await;
                let inner = storage.0.borrow();
                if inner.refusal.is_some() {
                    return Err(PageError::Unavailable);
                }
                let limits = PageLimits { messages, bytes };
                let (machine, now_ms) = (&inner.machine, clock::wall_ms());
                query::page(machine, &inner.store, (key, epoch), after, limits, now_ms)
                    .map_err(|query::Fenced| PageError::Fenced)
            })
        })
    }
}

impl Inner {
    fn hangs_at(&self, batch: &[Command]) -> bool {
        self.hangs
            || (self.hangs_on.is_some() && batch.iter().any(|one| name(one) == self.hangs_on))
    }

    fn apply(&mut self, commands: &[Command]) -> Vec<Reply> {
        self.index += 1;
        let replies = self.machine.apply(self.index, &encode_batch(commands), &mut self.store);
        decode_replies(&replies).unwrap()
    }
}

fn name(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::Claim(_) | Command::ClaimIn { .. } => "claim",
        Command::Release { .. } => "release",
        Command::Subscribe { .. } => "subscribe",
        Command::Unsubscribe { .. } => "unsubscribe",
        Command::Append { .. } => "append",
        Command::Acknowledge { .. } => "acknowledge",
        Command::OutPublish { .. } => "out publish",
        Command::OutReceived { .. } => "out received",
        Command::OutCompleted { .. } => "out completed",
        Command::InBegin { .. } => "in begin",
        Command::InEnd { .. } => "in end",
        _ => return None,
    })
}
