//! Moves the shares that a member of a shared group left to the others, chunk by chunk.
//!
//! - Owns: nothing; what is left, and who gets the next chunk of it, is state of the shard.
//! - Takes: orphans of one shard. Gives: `Redispatch` to that shard; chunks to the shard of a durable
//!   member, or to the link of a live one as far as that has room.
//! - NO-LOSS, ONCE: see `shard/state/shares.rs`. For a durable member: owner written down, chunk stored
//!   under its id, move written down. For a live one: handed over, move written down; a crash in between
//!   ends its session, so another may get that chunk.
//! - Bound: one chunk at a time, `limits::ORPHAN_CHUNK_*`; each orphan has its turn.
//! - Choice: a group without any member has nobody to keep its shares for; they are dropped.
//! - Source: MQTT 5.0 section 4.8.2.

mod far;

use std::{pin::Pin, rc::Rc, sync::Arc};

use actix::Recipient;
use hongqiao_cluster::id::{NodeId, ShardId};

pub use far::FarMover;
use far::To;

use super::{
    appender::{Submit, SubmitError},
    groups::{Choice, Choose, GroupKey, Member, NotAMember, Offer, anew},
    publish::AppQuotas,
};
use crate::{
    model::id::{HashKey, SessionKey},
    shard::{
        command::{Command, Reply},
        query::{OrphanChunk, OrphanKey},
    },
};

/// A future of this thread.
type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// Reads the first chunk of the next orphan; `None`: there is none, or it cannot be read now.
pub type ReadOrphan = Rc<dyn Fn(Option<OrphanKey>) -> Local<Option<OrphanChunk>>>;

/// What moving needs of the node.
#[derive(Clone)]
pub struct Mover {
    /// Where the orphans are.
    pub shard: ShardId,
    /// How many shards there are.
    pub shards: u16,
    /// Names groups.
    pub hash_key: HashKey,
    /// Reads.
    pub read: ReadOrphan,
    /// Of this worker.
    pub submit: Recipient<Submit>,
    /// Groups, by worker.
    pub choose: Vec<Recipient<Choose>>,
    /// Groups, by worker.
    pub not_a_member: Vec<Recipient<NotAMember>>,
    /// Routers, by worker.
    pub offer: Vec<Recipient<Offer>>,
    /// For `Share`.
    pub quotas: Arc<AppQuotas>,
    /// Knows members on other nodes.
    pub far: FarMover,
}

/// How a round came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Nothing is left.
    All,
    /// Some; go on at once.
    Some,
    /// Nothing could be moved now: no room, no writes.
    Nothing,
}

/// Why a chunk stays where it is for now.
struct Stuck;

impl Mover {
    /// Gives every orphan of the shard one turn.
    pub async fn round(&self) -> Moved {
        let (mut after, mut any, mut moved) = (None, false, false);
        while let Some(chunk) = (self.read)(after).await {
            after = Some(chunk.key);
            any = true;
            moved |= self.move_chunk(chunk).await.is_ok();
        }
        match (any, moved) {
            (false, _) => Moved::All,
            (true, true) => Moved::Some,
            (true, false) => Moved::Nothing,
        }
    }

    async fn move_chunk(&self, mut chunk: OrphanChunk) -> Result<(), Stuck> {
        if chunk.messages.is_empty() {
            return self.note(&chunk, true, None).await;
        }
        let group = GroupKey::new(&self.hash_key, chunk.app, &chunk.share, &chunk.filter);
        if let Some(owner) = chunk.owner {
            return self.store(&chunk, group, owner, None).await;
        }
        let home = group.home(self.choose.len());
        let choice = if self.far.is_on() {
            match self.far.choose(&chunk, group).await? {
                To::Here(choice) => choice,
                To::Node(node) => return self.offer_far(chunk, group, node).await,
            }
        } else {
            let choose = self.choose.get(home).ok_or(Stuck)?;
            choose.send(Choose(group)).await.map_err(|_| Stuck)?
        };
        match choice {
            Choice::Nobody => self.drop_all(&chunk).await,
            Choice::Stored(member, key) => {
                self.note(&chunk, false, Some(key)).await?;
                chunk.owner = Some(key);
                self.store(&chunk, group, key, Some(member)).await
            }
            Choice::Live(member) => self.offer(chunk, group, member).await,
        }
    }

    /// Stores a chunk for the member that is its owner by now.
    async fn store(
        &self,
        chunk: &OrphanChunk,
        group: GroupKey,
        key: SessionKey,
        member: Option<Member>,
    ) -> Result<(), Stuck> {
        let quota = self.quotas.of(chunk.app).quota;
        let command = Command::Share {
            key,
            share: chunk.share.clone(),
            filter: chunk.filter.clone(),
            id: Some(chunk.id(self.shard.0)),
            messages: chunk.messages.iter().map(|(_, message)| Arc::clone(message)).collect(),
            quota,
        };
        match self.submit(key.bucket().shard(self.shards), command).await? {
            Reply::Appended { refused: false, .. } => self.note(chunk, true, None).await,
            Reply::Fenced => {
                if let Some(member) = member
                    && let Some(home) = self.not_a_member.get(group.home(self.not_a_member.len()))
                {
                    let _ = home.send(NotAMember { group, member }).await;
                }
                self.note(chunk, false, None).await
            }
            _ => Err(Stuck),
        }
    }

    /// Hands a live member as much as it has room for.
    async fn offer(
        &self,
        chunk: OrphanChunk,
        group: GroupKey,
        member: Member,
    ) -> Result<(), Stuck> {
        let connection = member.connection.ok_or(Stuck)?;
        let router = self.offer.get(connection.worker()).ok_or(Stuck)?;
        let messages = chunk.messages.iter().map(|(_, message)| anew(message)).collect();
        let taken = router.send(Offer { group, member, connection, messages });
        let taken = taken.await.map_err(|_| Stuck)?;
        self.note_taken(chunk, taken).await
    }

    /// Hands a live member of another node as much as it has room for.
    async fn offer_far(
        &self,
        chunk: OrphanChunk,
        group: GroupKey,
        node: NodeId,
    ) -> Result<(), Stuck> {
        let messages = chunk.messages.iter().map(|(_, message)| anew(message)).collect();
        let taken = self.far.offer(node, group, chunk.id(self.shard.0), messages).await?;
        self.note_taken(chunk, taken).await
    }

    async fn note_taken(&self, mut chunk: OrphanChunk, taken: usize) -> Result<(), Stuck> {
        let Some(last) = taken.checked_sub(1) else { return Err(Stuck) };
        if taken < chunk.messages.len() {
            chunk.to = chunk.messages.get(last).ok_or(Stuck)?.0;
        }
        self.note(&chunk, true, None).await
    }

    async fn drop_all(&self, chunk: &OrphanChunk) -> Result<(), Stuck> {
        let (share, filter) = (&chunk.share, chunk.filter.as_str());
        tracing::info!(?share, filter, "shared group has no member left, its shares are dropped");
        self.note(&OrphanChunk { to: chunk.end, ..chunk.clone() }, true, None).await
    }

    /// Writes down that the chunk is moved, or who is to get it.
    async fn note(
        &self,
        chunk: &OrphanChunk,
        moved: bool,
        owner: Option<SessionKey>,
    ) -> Result<(), Stuck> {
        let (log, start) = chunk.key;
        let moved = moved.then_some(chunk.to);
        let owner = owner.map(|owner| (chunk.to, owner));
        let command = Command::Redispatch { log, start, moved, owner };
        self.submit(self.shard, command).await.map(|_| ())
    }

    async fn submit(&self, shard: ShardId, command: Command) -> Result<Reply, Stuck> {
        let reply = self.submit.send(Submit { shard, command }).await;
        reply.unwrap_or(Err(SubmitError::Unavailable)).map_err(|_| Stuck)
    }
}
