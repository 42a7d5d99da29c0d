//! The way to other members of a group.
//!
//! - Owns: nothing but who is meant. Takes: requests of openraft. Gives: the member's answer.
//! - Bound: the time that openraft gives; the reader of the log bounds the entries (`APPEND_BYTES_TARGET`).
//! - An error backs off: openraft tries others again at once, and would do nothing else.
//! - Source: openraft 0.9 `RaftNetworkFactory`, `RaftNetwork`.

use std::{future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    EmptyNode, OptionalSend, Snapshot,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::de::DeserializeOwned;

use super::{
    snapshot::{send::Follower, spool::Snapshots},
    types::{Types, Vote},
    wire,
};
use crate::{
    id::NodeId,
    storage::checkpoint::ShardStore,
    transport::{Class, Desk, LinkError, Network},
};

/// First wait after a member could not be asked; doubled up to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(400);

/// Makes links to the members of one group.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) node: NodeId,
    pub(crate) group: u16,
    pub(crate) store: Arc<ShardStore>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// `None`: this node is alone, and stays so.
    pub(crate) network: Option<Arc<dyn Network>>,
}

/// The way to one member.
pub(crate) struct Link {
    links: Links,
    to: NodeId,
}

type Failed = RPCError<u64, EmptyNode, RaftError<u64>>;

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { links: self.clone(), to: NodeId(target) }
    }
}

fn unreachable(why: impl std::error::Error + 'static) -> Unreachable {
    Unreachable::new(&why)
}

impl Link {
    async fn ask<R: DeserializeOwned>(
        &self,
        action: RPCTypes,
        body: Bytes,
        time_out: Duration,
    ) -> Result<R, Failed> {
        let Some(network) = &self.links.network else {
            return Err(unreachable(io::Error::from(io::ErrorKind::NotConnected)).into());
        };
        let asked = network.request(self.to, Class::Consensus, Desk::Raft, body, time_out);
        match asked.await {
            Ok(answer) => wire::read_answer(&answer)
                .ok_or_else(|| unreachable(io::Error::from(io::ErrorKind::InvalidData)).into()),
            Err(LinkError::TimedOut) => {
                let (id, target) = (self.links.node.0, self.to.0);
                Err(Timeout { action, id, target, timeout: time_out }.into())
            }
            Err(why) => Err(unreachable(why).into()),
        }
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        let body = wire::append(self.links.group, &request);
        drop(request);
        self.ask(RPCTypes::AppendEntries, body, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let Links { group, network, store, snapshots, .. } = &self.links;
        let Some(network) = network else {
            return Err(unreachable(io::Error::from(io::ErrorKind::NotConnected)).into());
        };
        let to = Follower { network, node: self.to, group: *group };
        let sent = snapshots.send(&to, store, vote, snapshot.meta.last_log_id);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse { vote }),
                Err(why) => Err(unreachable(why).into()),
            },
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        let body = wire::vote(self.links.group, &request);
        self.ask(RPCTypes::Vote, body, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        let next = |wait: &Duration| Some((*wait * 2).min(BACKOFF_MAX));
        Backoff::new(std::iter::successors(Some(BACKOFF_MIN), next))
    }
}
