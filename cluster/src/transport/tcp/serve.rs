//! Serves one connection of a peer: requests in the order they come, answers as they get ready.
//!
//! ```text
//! socket ─▶ room for one more? ─▶ Service ─ ready ──────────────▶ answers ─▶ socket
//!             no: reads nothing      └──── a task, time-limited ─────┘
//! ```
//!
//! - Owns: what the peer has asked and not got back. Takes: frames. Gives: calls of the service.
//! - Bound: the window that the peer keeps too; a peer that does not keep it is not read. Answers that
//!   the peer does not take stop reading as well.
//! - Source: own design.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{io::AsyncRead, net::TcpStream, sync::Notify};

use super::{
    super::{Class, Desk, Served, Service},
    frame::{Frame, HEAD_BYTES, Kind},
    pipe::{self, Ended, Incoming, Outbox},
};
use crate::{
    id::NodeId,
    limits::{FRAME_BYTES_MAX, LINK_BYTES_MAX, LINK_REQUESTS_MAX},
};

/// What a cast starts ends within this time.
const CAST_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time that a request may ask for.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(600);

/// Frames that are handled before others of the runtime get their turn.
const FRAMES_PER_TURN: usize = 64;

/// Longest text of a refusal.
const REFUSAL_BYTES_MAX: usize = 1_024;

/// Who asks, and what it may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) node: NodeId,
    pub(super) class: Class,
    /// It need not be a member: only the desk of members answers.
    pub(super) is_stranger: bool,
}

/// What has been asked on one connection and not been given back.
#[derive(Default)]
struct Open {
    count: usize,
    bytes: usize,
    answers: VecDeque<Frame>,
    answer_bytes: usize,
}

#[derive(Default)]
struct Counter {
    open: Mutex<Open>,
    /// Something was given back.
    room: Notify,
    /// There are answers.
    filled: Notify,
}

impl Counter {
    fn try_open(&self, bytes: usize) -> bool {
        let mut open = self.open.lock();
        let fits = open.count < LINK_REQUESTS_MAX
            && open.answer_bytes < LINK_BYTES_MAX
            && (open.bytes + bytes <= LINK_BYTES_MAX || open.count == 0);
        if fits {
            open.count += 1;
            open.bytes += bytes;
        }
        fits
    }

    fn close(&self, bytes: usize, answer: Option<Frame>) {
        let mut open = self.open.lock();
        open.count -= 1;
        open.bytes -= bytes;
        let was_empty = open.answers.is_empty();
        let has_answer = answer.is_some();
        if let Some(answer) = answer {
            open.answer_bytes += answer.body.len();
            open.answers.push_back(answer);
        }
        drop(open);
        self.room.notify_one();
        if was_empty && has_answer {
            self.filled.notify_one();
        }
    }
}

impl Outbox for Counter {
    fn take(&self, to: &mut Vec<Frame>, bytes_max: usize) {
        let mut open = self.open.lock();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(frame) = open.answers.pop_front()
        {
            bytes += HEAD_BYTES + frame.body.len();
            open.answer_bytes -= frame.body.len();
            to.push(frame);
        }
        if bytes > 0 {
            self.room.notify_one();
        }
    }

    async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// Serves until the connection ends.
pub(super) async fn serve(mut socket: TcpStream, asker: Asker, service: Arc<dyn Service>) -> Ended {
    let counter = Arc::new(Counter::default());
    let (reading, writing) = socket.split();
    let read = read_all(Incoming::new(reading), asker, service, counter.clone());
    let ended: Result<Infallible, Ended> = tokio::select! {
        ended = read => ended,
        ended = pipe::write_all(writing, &*counter) => ended,
    };
    match ended {
        Err(ended) => ended,
    }
}

async fn read_all(
    mut incoming: Incoming<impl AsyncRead + Unpin>,
    asker: Asker,
    service: Arc<dyn Service>,
    counter: Arc<Counter>,
) -> Result<Infallible, Ended> {
    let mut last_id = 0;
    let mut handled = 0_usize;
    loop {
        while let Some(frame) = incoming.next()? {
            match frame.kind {
                Kind::Alive => continue,
                Kind::Request if frame.id <= last_id => {
                    return Err(Ended::Order("the ids of requests do not grow"));
                }
                Kind::Request => last_id = frame.id,
                Kind::Cast if asker.is_stranger => return Err(Ended::Order("a stranger's cast")),
                Kind::Cast => {}
                Kind::Answer | Kind::Refusal => {
                    return Err(Ended::Order("an answer where questions come"));
                }
            }
            if !counter.try_open(frame.body.len()) {
                while !counter.try_open(frame.body.len()) {
                    counter.room.notified().await;
                }
                incoming.listen_again();
            }
            handle(frame, asker, &*service, &counter);
            handled += 1;
            if handled.is_multiple_of(FRAMES_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        incoming.fill().await?;
    }
}

/// Calls the service; what is not ready at once goes on in a task.
fn handle(frame: Frame, asker: Asker, service: &dyn Service, counter: &Arc<Counter>) {
    let Frame { kind, desk, time_out_ms, id, body } = frame;
    let id = (kind == Kind::Request).then_some(id);
    let bytes = body.len();
    let Some(desk) = desk_of(desk).filter(|desk| !asker.is_stranger || *desk == Desk::Member)
    else {
        let refused = Err(format!("desk {desk} is not open here"));
        return counter.close(bytes, id.map(|id| answer(id, refused)));
    };
    let mut future = service.serve(asker.node, asker.class, desk, body);
    match (&mut future).now_or_never() {
        Some(result) => counter.close(bytes, id.map(|id| answer(id, result))),
        None => {
            let time = match id {
                Some(_) => Duration::from_millis(time_out_ms.into()).min(REQUEST_TIME_MAX),
                None => CAST_TIME_MAX,
            };
            tokio::spawn(finish(future, time, id, bytes, counter.clone()));
        }
    }
}

async fn finish(
    future: Served,
    time: Duration,
    id: Option<u64>,
    bytes: usize,
    counter: Arc<Counter>,
) {
    // Also when the future panics: the window must not shrink by it.
    let mut given_back = GivenBack { counter, bytes, id, result: None };
    let result = tokio::time::timeout(time, future).await;
    given_back.result = Some(result.unwrap_or_else(|_| Err("not served in time".to_owned())));
}

struct GivenBack {
    counter: Arc<Counter>,
    bytes: usize,
    id: Option<u64>,
    result: Option<Result<Bytes, String>>,
}

impl Drop for GivenBack {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err("serving it failed".to_owned()));
        self.counter.close(self.bytes, self.id.map(|id| answer(id, result)));
    }
}

fn answer(id: u64, result: Result<Bytes, String>) -> Frame {
    let (kind, body) = match result {
        Ok(body) if body.len() <= FRAME_BYTES_MAX => (Kind::Answer, body),
        Ok(_) => (Kind::Refusal, Bytes::from_static(b"the answer is longer than a frame may be")),
        Err(mut text) => {
            text.truncate(text.floor_char_boundary(REFUSAL_BYTES_MAX));
            (Kind::Refusal, Bytes::from(text))
        }
    };
    Frame { kind, desk: 0, time_out_ms: 0, id, body }
}

fn desk_of(number: u8) -> Option<Desk> {
    const DESKS: [Desk; 6] =
        [Desk::Raft, Desk::Propose, Desk::Query, Desk::Member, Desk::Server, Desk::Snapshot];
    DESKS.into_iter().find(|desk| *desk as u8 == number)
}
