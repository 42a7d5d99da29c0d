//! Listens for peers and lets those in that prove that they belong here.
//!
//! - Owns: the listening socket, and a task per connection; all end with it.
//! - Takes: connections of anybody. Gives: served connections, or one log line why not.
//! - Bound: `GREETINGS_MAX` handshakes of `LINK_GREETING_TIME` at a time, `STRANGERS_MAX` questions of
//!   nodes that are no members; one connection per peer and class after that.
//! - Source: own design.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{
    super::Class,
    Inner,
    greet::{self, GreetError, Met},
    hello::{Purpose, Refusal},
    pipe::Ended,
    registry::Seat,
    serve::{self, Asker},
};
use crate::limits::LINK_GREETING_TIME;

/// Handshakes at a time; more wait in the kernel.
const GREETINGS_MAX: usize = 64;

/// Connections of nodes that are no members.
const STRANGERS_MAX: usize = 16;

/// A stranger's connection lasts no longer.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(60);

/// Rest after an error of accepting, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an admitted connection holds.
enum Admitted {
    Peer(Seat),
    Stranger(OwnedSemaphorePermit),
}

/// Accepts until it is dropped.
pub(super) async fn accept_all(listener: TcpListener, inner: Arc<Inner>) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(turn) = greetings.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, from)) => {
                let (inner, strangers) = (inner.clone(), strangers.clone());
                connections.spawn(receive(socket, from, inner, strangers, turn));
            }
            Err(error) => {
                if let Some(unsaid) = inner.quiet.accept.pass() {
                    tracing::warn!(%error, unsaid, "cannot accept connections of nodes");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Greets one connection and serves it.
async fn receive(
    mut socket: TcpStream,
    from: SocketAddr,
    inner: Arc<Inner>,
    strangers: Arc<Semaphore>,
    turn: OwnedSemaphorePermit,
) {
    let _ = socket.set_nodelay(true);
    let cluster = inner.cluster();
    let admit = |met: &Met| admit(&inner, met, &strangers);
    let identity = inner.identity.load_full();
    let greeting = greet::listen(&mut socket, &identity, cluster, admit);
    let greeted = tokio::time::timeout(LINK_GREETING_TIME, greeting).await;
    drop(turn);
    let (met, admitted) = match greeted.unwrap_or(Err(GreetError::TooSlow)) {
        Ok(greeted) => greeted,
        Err(why) => return refused(&inner, from, &why),
    };
    let Some(service) = inner.service() else { return };
    let node = met.peer.node;
    let ended = match admitted {
        Admitted::Stranger(_permit) => {
            let asker = Asker { node, class: Class::Control, is_stranger: true };
            let served = serve::serve(socket, asker, service);
            tokio::time::timeout(STRANGER_TIME_MAX, served).await.unwrap_or(Ended::Silent)
        }
        Admitted::Peer(seat) => {
            let Purpose::Link(class) = met.purpose else { return };
            let asker = Asker { node, class, is_stranger: false };
            tracing::debug!(peer = node.0, %class, %from, version = met.version, "peer has come");
            let serve = async {
                let _turn = seat.turn().await;
                serve::serve(socket, asker, service).await
            };
            tokio::select! {
                biased;
                () = seat.replaced.notified() => Ended::Closed,
                ended = serve => ended,
            }
        }
    };
    if ended.is_rubbish()
        && let Some(unsaid) = inner.quiet.rubbish.pass()
    {
        tracing::warn!(peer = node.0, %from, %ended, unsaid, "dropped the connection of a node");
    } else {
        tracing::debug!(peer = node.0, %from, %ended, "connection of a node has ended");
    }
}

fn admit(inner: &Arc<Inner>, met: &Met, strangers: &Arc<Semaphore>) -> Result<Admitted, Refusal> {
    if inner.service().is_none() {
        return Err(Refusal::NotReady);
    }
    let (node, instance) = (met.peer.node, met.peer.instance);
    match met.purpose {
        Purpose::Link(class) => {
            let seat = inner.registry.sit(node, instance, class)?;
            // After the seat is taken: who is removed from now on loses it.
            let is_out = inner.removed.read().contains(&node);
            if is_out { Err(Refusal::Removed) } else { Ok(Admitted::Peer(seat)) }
        }
        Purpose::Knock => {
            inner.registry.check(node, instance)?;
            let permit = strangers.clone().try_acquire_owned();
            permit.map(Admitted::Stranger).map_err(|_| Refusal::Busy)
        }
    }
}

fn refused(inner: &Inner, from: SocketAddr, why: &GreetError) {
    // A port that is looked at and left, as health checks do, is nothing to talk about.
    if matches!(why, GreetError::Closed) {
        return;
    }
    if let Some(unsaid) = inner.quiet.refused.pass() {
        tracing::warn!(%from, %why, unsaid, "refused a connection to the port of nodes");
    }
}
