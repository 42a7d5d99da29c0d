//! Frames in and out of a socket: gathers small ones into one write, reads many with one read.
//!
//! - Owns: one half of a connection. Takes: frames from a queue. Gives: frames of the peer.
//! - Bound: `GATHER_BYTES` per write, `READ_BYTES` and the body of one frame per read.
//! - A side that has nothing to say for a second says that it lives; one that hears nothing for three
//!   gives the connection up. A frame that is on its way counts by its bytes.
//! - Source: own design; measured: a write per frame costs 8 µs on loopback, gathered 0.6 µs.

use std::{
    io::{self, IoSlice},
    pin::Pin,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, Sleep},
};

use super::{
    frame::{Frame, FrameError},
    link::Unasked,
};
use crate::{
    clock,
    limits::{LINK_PING_INTERVAL, LINK_SILENCE_MAX},
};

/// A write takes no further frame beyond this many bytes.
pub(super) const GATHER_BYTES: usize = 256 << 10;

/// Bodies up to this size are copied next to their heads; longer ones are slices of their own.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Slices of one write.
const SLICES_MAX: usize = 64;

/// What is asked of the socket at once, as long as no frame wants more.
const READ_BYTES: usize = 64 << 10;

/// Most room that is made for a frame before its bytes come.
const RESERVE_BYTES_MAX: usize = 1 << 20;

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer closed the connection")]
    Closed,
    #[error("nothing heard for 3 s")]
    Silent,
    #[error("rubbish: {0}")]
    Frame(#[from] FrameError),
    #[error("rubbish: {0}")]
    Unasked(#[from] Unasked),
    #[error("rubbish: {0}")]
    Order(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Ended {
    /// Returns whether the peer sent what no node sends.
    pub(super) fn is_rubbish(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Unasked(_) | Self::Order(_))
    }
}

/// Where a writer gets its frames.
pub(super) trait Outbox: Sync {
    /// Moves frames to `to` until they have `bytes_max` bytes.
    fn take(&self, to: &mut Vec<Frame>, bytes_max: usize);

    /// Returns once there may be frames.
    fn filled(&self) -> impl Future<Output = ()> + Send;
}

/// Writes what comes into `outbox` until the socket fails.
pub(super) async fn write_all(
    mut socket: impl AsyncWrite + Unpin,
    outbox: &impl Outbox,
) -> Result<std::convert::Infallible, Ended> {
    let mut frames = Vec::new();
    let mut heads = BytesMut::new();
    let alive = tokio::time::sleep(LINK_PING_INTERVAL);
    tokio::pin!(alive);
    loop {
        outbox.take(&mut frames, GATHER_BYTES);
        if frames.is_empty() {
            tokio::select! {
                biased;
                () = outbox.filled() => {
                    // Whoever else is about to run may have frames too: one write for all of them.
                    tokio::task::yield_now().await;
                    continue;
                }
                () = &mut alive => frames.push(Frame::alive()),
            }
        }
        write(&mut socket, &mut frames, &mut heads).await?;
        alive.as_mut().reset(Instant::from(clock::now()) + LINK_PING_INTERVAL);
    }
}

/// Writes frames with as few calls as their sizes allow.
async fn write(
    socket: &mut (impl AsyncWrite + Unpin),
    frames: &mut Vec<Frame>,
    heads: &mut BytesMut,
) -> io::Result<()> {
    let mut slices: Vec<Bytes> = Vec::new();
    for frame in frames.drain(..) {
        frame.put_head(heads);
        if frame.body.len() <= COPY_BYTES_MAX {
            heads.extend_from_slice(&frame.body);
        } else {
            slices.push(heads.split().freeze());
            slices.push(frame.body);
        }
    }
    if slices.is_empty() {
        socket.write_all(heads).await?;
        heads.clear();
        return Ok(());
    }
    slices.push(heads.split().freeze());
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let ready: Vec<IoSlice<'_>> =
            rest.iter().take(SLICES_MAX).map(|bytes| IoSlice::new(bytes)).collect();
        let mut written = socket.write_vectored(&ready).await?;
        if written == 0 && ready.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = rest.first_mut() {
            let step = written.min(first.len());
            first.advance(step);
            written -= step;
            if first.has_remaining() {
                break;
            }
            rest = &mut rest[1..];
        }
    }
    Ok(())
}

/// The reading half of a connection.
pub(super) struct Incoming<R> {
    socket: R,
    buffer: BytesMut,
    heard: Instant,
    silence: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(socket: R) -> Self {
        let heard = Instant::from(clock::now());
        let silence = Box::pin(tokio::time::sleep_until(heard + LINK_SILENCE_MAX));
        Self { socket, buffer: BytesMut::new(), heard, silence }
    }

    /// Returns the next frame that is there already.
    ///
    /// # Errors
    /// If the bytes are none.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        Frame::take(&mut self.buffer)
    }

    /// Reads more; afterwards there may be frames. Silence counts from the call if nobody has
    /// listened since it began.
    pub(super) async fn fill(&mut self) -> Result<usize, Ended> {
        let lacks = Frame::lacks_bytes(&self.buffer).min(RESERVE_BYTES_MAX);
        self.buffer.reserve(lacks.max(READ_BYTES));
        loop {
            tokio::select! {
                biased;
                read = self.socket.read_buf(&mut self.buffer) => {
                    let bytes = read?;
                    self.heard = clock::now().into();
                    return if bytes == 0 { Err(Ended::Closed) } else { Ok(bytes) };
                }
                () = &mut self.silence => {
                    let due = self.heard + LINK_SILENCE_MAX;
                    if due <= clock::now().into() {
                        return Err(Ended::Silent);
                    }
                    self.silence.as_mut().reset(due);
                }
            }
        }
    }

    /// Says that nobody has listened for a while: that was not the peer's silence.
    pub(super) fn listen_again(&mut self) {
        self.heard = clock::now().into();
    }
}
