//! Leads the handshake on a socket, on either side.
//!
//! - Owns: nothing that outlives it. Takes: a fresh connection. Gives: who is on the other side, or why
//!   the connection ends; both sides get to know.
//! - Bound: four messages of `MESSAGE_BYTES_MAX`; the caller limits the time.
//! - Before the other side has proved that it knows the secret it is told ids and versions, and no
//!   reason but those.
//! - Source: own design; `hello.rs` says why each step is there.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    super::ClusterId,
    hello::{self, Digest, Garbled, Message, PREFIX_BYTES, Party, Purpose, Refusal, Secret, Side},
};
use crate::id::NodeId;

/// Who this process is to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) secret: Secret,
    pub(crate) versions: (u16, u16),
    /// See [`Party::instance`].
    pub(crate) instance: [u8; 16],
}

/// What both sides have agreed on.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) peer: Party,
    pub(super) purpose: Purpose,
    pub(super) version: u16,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error("the handshake took too long")]
    TooSlow,
    #[error("the connection was closed in the handshake")]
    Closed,
    #[error(transparent)]
    Garbled(#[from] Garbled),
    #[error("{}", Refusal::NodeTaken(*.0))]
    SameNode(NodeId),
    #[error("{0}")]
    RefusedByPeer(Refusal),
    #[error("{}", .0.told())]
    RefusedByUs(Refusal),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Identity {
    fn party(&self, cluster: Option<ClusterId>) -> Party {
        Party {
            versions: self.versions,
            cluster: cluster.unwrap_or_default(),
            node: self.node,
            incarnation: self.incarnation,
            instance: self.instance,
            nonce: rand::random::<Digest>(),
        }
    }
}

impl GreetError {
    /// Returns whether another try cannot end otherwise, as things are.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::RefusedByPeer(why) | Self::RefusedByUs(why) => match why {
                Refusal::Versions(..)
                | Refusal::Secret
                | Refusal::Cluster
                | Refusal::NodeTaken(_)
                | Refusal::Removed => true,
                Refusal::OtherNode(_)
                | Refusal::NotReady
                | Refusal::Busy
                | Refusal::Itself
                | Refusal::NoCluster
                | Refusal::Unknown(_) => false,
            },
            Self::SameNode(_) => true,
            Self::TooSlow | Self::Closed | Self::Garbled(_) | Self::Io(_) => false,
        }
    }
}

/// Calls: says who we are and what for, and has the other side prove itself.
pub(super) async fn call(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Identity,
    cluster: Option<ClusterId>,
    purpose: Purpose,
    to: Option<NodeId>,
) -> Result<Met, GreetError> {
    let hello = Message::Hello { purpose, to, party: us.party(cluster) }.encode();
    socket.write_all(&hello).await?;
    let (greeting, message) = read(socket).await?;
    let Message::Greeting(peer) = message else { return Err(unexpected(message)) };
    if peer.node == us.node && us.node != NodeId::NONE && peer.instance != us.instance {
        return Err(GreetError::SameNode(us.node));
    }
    let Some(version) = hello::common_version(us.versions, peer.versions) else {
        let (min, max) = peer.versions;
        return Err(GreetError::RefusedByPeer(Refusal::Versions(min, max)));
    };
    let proof = us.secret.proof(Side::Caller, &hello, &greeting);
    socket.write_all(&Message::Proof(proof).encode()).await?;
    let (_, message) = read(socket).await?;
    let Message::Welcome(proof) = message else { return Err(unexpected(message)) };
    if !us.secret.proves(Side::Listener, &hello, &greeting, &proof) {
        return Err(GreetError::RefusedByUs(Refusal::Secret));
    }
    let is_ours = purpose == Purpose::Knock || Some(peer.cluster) == cluster;
    match to {
        _ if !is_ours => Err(GreetError::RefusedByUs(Refusal::Cluster)),
        Some(to) if to != peer.node => {
            Err(GreetError::RefusedByPeer(Refusal::OtherNode(peer.node)))
        }
        _ => Ok(Met { peer, purpose, version }),
    }
}

/// Listens: has the caller prove itself, then asks `admit`, which may refuse it.
pub(super) async fn listen<T>(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Identity,
    cluster: Option<ClusterId>,
    admit: impl FnOnce(&Met) -> Result<T, Refusal>,
) -> Result<(Met, T), GreetError> {
    let (hello, message) = read(socket).await?;
    let Message::Hello { purpose, to, party: peer } = message else {
        return Err(unexpected(message));
    };
    let (min, max) = us.versions;
    let Some(version) = hello::common_version(us.versions, peer.versions) else {
        return refuse(socket, Refusal::Versions(min, max)).await;
    };
    let greeting = Message::Greeting(us.party(cluster)).encode();
    socket.write_all(&greeting).await?;
    let (_, message) = read(socket).await?;
    let Message::Proof(proof) = message else { return Err(unexpected(message)) };
    if !us.secret.proves(Side::Caller, &hello, &greeting, &proof) {
        return refuse(socket, Refusal::Secret).await;
    }
    let met = Met { peer, purpose, version };
    let admitted = match look_at(&met, to, us, cluster) {
        Ok(()) => admit(&met),
        Err(why) => Err(why),
    };
    match admitted {
        Ok(admitted) => {
            let proof = us.secret.proof(Side::Listener, &hello, &greeting);
            socket.write_all(&Message::Welcome(proof).encode()).await?;
            Ok((met, admitted))
        }
        Err(why) => refuse(socket, why).await,
    }
}

/// Decides what ids alone tell about a caller.
fn look_at(
    met: &Met,
    to: Option<NodeId>,
    us: &Identity,
    cluster: Option<ClusterId>,
) -> Result<(), Refusal> {
    match (met.purpose, cluster) {
        _ if met.peer.instance == us.instance => Err(Refusal::Itself),
        _ if met.peer.node == us.node && us.node != NodeId::NONE => {
            Err(Refusal::NodeTaken(us.node))
        }
        _ if to.is_some_and(|to| to != us.node) => Err(Refusal::OtherNode(us.node)),
        (_, None) => Err(Refusal::NoCluster),
        (Purpose::Link(_), Some(cluster)) if cluster != met.peer.cluster => Err(Refusal::Cluster),
        _ => Ok(()),
    }
}

async fn refuse<T>(socket: &mut (impl AsyncWrite + Unpin), why: Refusal) -> Result<T, GreetError> {
    socket.write_all(&Message::Refused(why).encode()).await?;
    socket.shutdown().await?;
    Err(GreetError::RefusedByUs(why))
}

/// Reads one message, also as the bytes that proofs cover.
async fn read(socket: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, Message), GreetError> {
    let mut prefix = [0; PREFIX_BYTES];
    exactly(socket, &mut prefix).await?;
    let mut bytes = prefix.to_vec();
    bytes.resize(PREFIX_BYTES + hello::rest_bytes(&prefix)?, 0);
    exactly(socket, &mut bytes[PREFIX_BYTES..]).await?;
    let message = Message::decode(&bytes[PREFIX_BYTES..])?;
    Ok((bytes, message))
}

async fn exactly(socket: &mut (impl AsyncRead + Unpin), to: &mut [u8]) -> Result<(), GreetError> {
    match socket.read_exact(to).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(GreetError::Closed),
        Err(error) => Err(error.into()),
    }
}

fn unexpected(message: Message) -> GreetError {
    match message {
        Message::Refused(why) => GreetError::RefusedByPeer(why),
        _ => GreetError::Garbled(Garbled::Unreadable),
    }
}
