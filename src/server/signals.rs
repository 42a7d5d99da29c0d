//! What an operator says to the process: SIGTERM and SIGINT, from the first moment of a start on.
//!
//! - Owns: the task that hears them. Takes: signals; each later one says the same again.
//! - Gives: [`Told`], which anybody may look at or wait for.
//! - Bound: one bit.

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether the node was told to stop.
pub(super) type Told = watch::Receiver<bool>;

/// Begins to listen. From here on no signal ends the process where it stands.
///
/// # Errors
/// The operator cannot be heard.
pub(super) fn listen() -> anyhow::Result<Told> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let (tell, told) = watch::channel(false);
    actix_rt::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = tell.send(true);
        }
    });
    Ok(told)
}

/// Waits until the node is told to stop.
pub(super) async fn heard(told: &Told) {
    if told.clone().wait_for(|told| *told).await.is_err() {
        // The runtime ends; so does whoever waits.
        std::future::pending::<()>().await;
    }
}
