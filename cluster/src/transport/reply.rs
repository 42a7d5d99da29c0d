//! The waiting half of a request: an answer, the end of the link, or the time-out.
//!
//! - Owns: one slot. Takes: the result from the link. Gives: a future.
//! - Bound: the time-out; the window of the link is held until the result, not until the time-out,
//!   because the peer still holds the request.
//! - Source: own design.

use std::{future::ready, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, sync::oneshot};

use super::LinkError;

/// Where a link puts the result of a request.
pub(super) type Sender = oneshot::Sender<Result<Bytes, LinkError>>;

/// Where the caller finds it.
pub(super) type Receiver = oneshot::Receiver<Result<Bytes, LinkError>>;

/// Returns a future of what comes out of `told` within `time_out`. May be polled outside a runtime.
pub(super) fn within(
    told: Receiver,
    time_out: Duration,
    runtime: &Handle,
) -> BoxFuture<'static, Result<Bytes, LinkError>> {
    let _timers = runtime.enter();
    let limited = tokio::time::timeout(time_out, told);
    Box::pin(async move {
        match limited.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(LinkError::Lost),
            Err(_) => Err(LinkError::TimedOut),
        }
    })
}

/// Returns a future of a refusal that is known already.
pub(super) fn refused(why: LinkError) -> BoxFuture<'static, Result<Bytes, LinkError>> {
    Box::pin(ready(Err(why)))
}
