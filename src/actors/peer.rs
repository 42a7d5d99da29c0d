//! What the servers of one cluster ask each other, and who answers on arrival.
//!
//! - Owns: the closed lists [`PeerRequest`] and [`PeerReply`] with their versioned encoding.
//! - Takes: questions of this node's actors ([`Peers`]); bytes of other nodes ([`dispatch`](Desks::dispatch)).
//! - Gives: replies, or why there is none; a request is on its way when the call returns.
//! - Bound: `limits::PEER_MESSAGE_BYTES_MAX` each way; the windows of the links.
//! - Rubbish is an error to the link it came by, which drops it; it never panics.
//! - Source: own design; message traits of garage's `net` crate.
//!
//! ```text
//! actor ─ Peers::ask ─► link ─► Desks::dispatch ─► mailbox of the actor that owns the matter
//!       ◄────────────── reply ◄───────────────────────────┘
//! ```

use std::{fmt, sync::Arc, time::Duration};

use actix::Recipient;
use bincode::Options as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::id::{NodeId, ShardId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    durable_routes::DurableRoutes,
    hub::{Kick, SessionsGrew},
    relay::Arrivals,
};
use crate::{limits, model::connection_id::ConnectionId};

/// The newest encoding that this release writes, and the oldest that it reads.
const VERSION: u8 = 1;

/// Which of the links to a peer. The third one is consensus, which the server never uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Connects, takeovers, administration.
    Control,
    /// Messages to be delivered.
    Delivery,
}

/// What one node asks another. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// End a connection of yours. → [`PeerReply::Done`] once it has released its session
    Kick(Kick),
    /// The logs of these sessions of yours grew. → [`PeerReply::Done`]
    SessionsGrew(Vec<ConnectionId>),
    /// Sent when a durable subscription is committed: answer when every node knows these routes of a shard
    /// that you lead. → [`PeerReply::Done`], or [`PeerReply::NotLed`]
    EnsureRoutes {
        /// Which.
        shard: ShardId,
        /// Keys of filters with subscribers there.
        keys: Vec<Bytes>,
    },
}

/// What a node answers. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerReply {
    /// Taken care of.
    Done,
    /// It is not known where to put it: the asker counts on more workers or shards than there are.
    NoSuchPlace,
    /// Who is to answer is stopping.
    Stopping,
    /// The node does not lead that shard.
    NotLed,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent: there is no link to the node.
    #[error("the node cannot be reached")]
    Unreachable,
    /// Nothing was sent: too much is under way to the node.
    #[error("too much is under way to the node")]
    Full,
    /// It was sent, and may have been served.
    #[error("no answer came")]
    Unknown,
    /// The node refused it, or answered what cannot be read.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// The links to the other nodes, as far as the server uses them; a double in tests.
pub trait Wire: Send + Sync + 'static {
    /// Sends a question; enqueued by the call, not by the first poll.
    fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Sends what has no answer.
    ///
    /// # Errors
    /// Nothing was sent.
    fn cast(&self, to: NodeId, class: Class, body: Bytes) -> Result<(), PeerError>;
}

/// The asking side. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    wire: Arc<dyn Wire>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Peers")
    }
}

impl Peers {
    /// Wraps the links of a node.
    #[must_use]
    pub fn new(wire: Arc<dyn Wire>) -> Self {
        Self { wire }
    }

    /// Returns the peers of a node that has none.
    #[must_use]
    pub fn none() -> Self {
        Self::new(no_wire())
    }

    /// Asks a node; the question is on its way when this returns, in the order of the calls of one class.
    pub fn ask(
        &self,
        to: NodeId,
        class: Class,
        request: &PeerRequest,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let body = match encode(request) {
            Ok(body) => body,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let answer = self.wire.request(to, class, body, time_out);
        Box::pin(async move { decode(&answer.await?).map_err(PeerError::Refused) })
    }

    /// Tells a node; nobody learns whether it arrived.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn tell(&self, to: NodeId, class: Class, request: &PeerRequest) -> Result<(), PeerError> {
        self.wire.cast(to, class, encode(request)?)
    }
}

/// Returns links that lead nowhere.
#[must_use]
pub fn no_wire() -> Arc<dyn Wire> {
    Arc::new(NoWire)
}

/// A node alone.
struct NoWire;

impl Wire for NoWire {
    fn request(
        &self,
        _to: NodeId,
        _class: Class,
        _body: Bytes,
        _time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable) })
    }

    fn cast(&self, _to: NodeId, _class: Class, _body: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

/// Who answers on this node.
pub struct Desks {
    /// Hubs, by worker.
    pub kick: Vec<Recipient<Kick>>,
    /// Hubs, by worker.
    pub grew: Vec<Recipient<SessionsGrew>>,
    /// Routes of the shards that are led here.
    pub durable_routes: Arc<DurableRoutes>,
    /// Takes what comes by the link for delivery.
    pub arrivals: Arc<Arrivals>,
}

impl Desks {
    /// Serves what came from a peer. What is asked goes into its mailbox before this returns, so that
    /// requests of one peer and class are taken in the order of sending.
    ///
    /// # Errors
    /// The bytes are no request of a version that is known; the link is to be dropped.
    pub fn dispatch(
        &self,
        from: NodeId,
        class: Class,
        body: &Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        if class == Class::Delivery {
            return self.arrivals.arrive(from, body.clone());
        }
        let request = match decode::<PeerRequest>(body) {
            Ok(request) => request,
            Err(problem) => {
                return Box::pin(async move { Err(format!("node {}: {problem}", from.0)) });
            }
        };
        let reply = self.serve(from, request);
        Box::pin(async move { encode(&reply.await).map_err(|error| error.to_string()) })
    }

    fn serve(&self, _from: NodeId, request: PeerRequest) -> BoxFuture<'static, PeerReply> {
        match request {
            PeerRequest::Kick(kick) => post(self.kick.get(kick.connection.worker()), kick),
            PeerRequest::SessionsGrew(connections) => self.serve_grew(connections),
            PeerRequest::EnsureRoutes { shard, keys } => {
                let routes = Arc::clone(&self.durable_routes);
                Box::pin(async move {
                    let ensured = routes.ensure(shard, &keys).await;
                    ensured.map_or(PeerReply::NotLed, |()| PeerReply::Done)
                })
            }
        }
    }

    fn serve_grew(&self, connections: Vec<ConnectionId>) -> BoxFuture<'static, PeerReply> {
        let mut by_worker = vec![Vec::new(); self.grew.len()];
        for connection in connections {
            if let Some(list) = by_worker.get_mut(connection.worker()) {
                list.push(connection);
            }
        }
        let lists = by_worker.into_iter().zip(&self.grew).filter(|(list, _)| !list.is_empty());
        let told: Vec<_> =
            lists.map(|(connections, hub)| hub.send(SessionsGrew { connections })).collect();
        Box::pin(async move {
            for told in told {
                if told.await.is_err() {
                    return PeerReply::Stopping;
                }
            }
            PeerReply::Done
        })
    }
}

/// Puts a message without a result into a mailbox.
fn post<M>(desk: Option<&Recipient<M>>, message: M) -> BoxFuture<'static, PeerReply>
where
    M: actix::Message<Result = ()> + Send + 'static,
{
    let Some(desk) = desk else { return Box::pin(async { PeerReply::NoSuchPlace }) };
    let done = desk.send(message);
    Box::pin(async move { done.await.map_or(PeerReply::Stopping, |()| PeerReply::Done) })
}

fn codec() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limits::PEER_MESSAGE_BYTES_MAX)
}

/// Encodes what goes to a peer.
fn encode<T: Serialize>(value: &T) -> Result<Bytes, PeerError> {
    let mut out = vec![VERSION];
    let written = codec().serialize_into(&mut out, value);
    written.map_err(|error| PeerError::Refused(format!("too large to be sent: {error}")))?;
    Ok(Bytes::from(out))
}

/// Decodes what came from a peer; all of it must be used.
fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            codec().deserialize(rest).map_err(|error| format!("malformed: {error}"))
        }
        Some((version, _)) => Err(format!("has version {version}, newest known is {VERSION}")),
        None => Err("is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{actors::interest::Interests, model::reason::Reason};

    #[test]
    fn request_reads_the_same_after_being_written() {
        let connection = ConnectionId::new(3, 7, 9);
        for request in [
            PeerRequest::Kick(Kick { connection, reason: Reason::SessionTakenOver }),
            PeerRequest::SessionsGrew(vec![connection; 3]),
        ] {
            assert_eq!(decode(&encode(&request).unwrap()), Ok(request));
        }
    }

    fn desks() -> Desks {
        let tables = crate::actors::route_tables::RouteTables::new(NodeId(1));
        let spawn = Box::new(|task| drop(tokio::spawn(task)));
        Desks {
            kick: Vec::new(),
            grew: Vec::new(),
            durable_routes: Arc::new(DurableRoutes::new(1)),
            arrivals: Arrivals::new(Vec::new(), Interests::new(1), tables, spawn),
        }
    }

    #[tokio::test]
    async fn rubbish_is_refused_and_nothing_panics() {
        let desks = desks();
        let whole = encode(&PeerRequest::SessionsGrew(vec![ConnectionId::new(0, 0, 1)])).unwrap();
        let mut longer = whole.to_vec();
        longer.push(0);
        let mut newer = whole.to_vec();
        newer[0] = VERSION + 1;
        // A list that says to be longer than the message can be.
        let huge = [&[VERSION, 1, 0, 0, 0][..], &u64::MAX.to_le_bytes()].concat();
        for body in [Vec::new(), vec![VERSION], longer, newer, huge, vec![0xff; 64]] {
            let served = desks.dispatch(NodeId(2), Class::Control, &Bytes::from(body)).await;
            assert!(served.is_err());
        }
        assert!(desks.dispatch(NodeId(2), Class::Control, &whole).await.is_ok());
    }

    #[tokio::test]
    async fn node_without_peers_reaches_nobody() {
        let peers = Peers::none();
        let request = PeerRequest::SessionsGrew(Vec::new());
        let asked = peers.ask(NodeId(2), Class::Control, &request, Duration::from_secs(1)).await;
        assert_eq!(asked, Err(PeerError::Unreachable));
        assert_eq!(peers.tell(NodeId(2), Class::Delivery, &request), Err(PeerError::Unreachable));
    }
}
