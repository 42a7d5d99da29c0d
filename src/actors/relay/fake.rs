//! A link to one other node in the same process, which loses what the test wants it to lose.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::id::NodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Arrivals;
use crate::actors::peer::{Class, PeerError, Wire};

/// What the link does with the next frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Arrives, and so does the answer.
    Good,
    /// Never arrives.
    Lost,
    /// Arrives; the answer does not.
    AnswerLost,
    /// Arrives; the answer comes late, after those of later frames.
    Late,
    /// Not even sent.
    Unreachable,
}

/// See the head of the file.
pub(crate) struct FakeWire {
    /// Who sends.
    from: NodeId,
    pub(crate) arrivals: Mutex<Option<Arc<Arrivals>>>,
    fates: Mutex<VecDeque<Fate>>,
    otherwise: Mutex<Fate>,
    pub(crate) frames: AtomicUsize,
    /// Answers wait for it.
    gate: Notify,
    gated: AtomicBool,
}

impl FakeWire {
    pub(crate) fn new(from: NodeId) -> Arc<Self> {
        Arc::new(Self {
            from,
            arrivals: Mutex::default(),
            fates: Mutex::default(),
            otherwise: Mutex::new(Fate::Good),
            frames: AtomicUsize::new(0),
            gate: Notify::new(),
            gated: false.into(),
        })
    }

    pub(crate) fn next(&self, fates: &[Fate]) {
        self.fates.lock().extend(fates);
    }

    pub(crate) fn always(&self, fate: Fate) {
        *self.otherwise.lock() = fate;
    }

    /// From now on answers wait, or all go.
    pub(crate) fn hold_answers(&self, hold: bool) {
        self.gated.store(hold, SeqCst);
        self.gate.notify_waiters();
    }
}

impl Wire for Arc<FakeWire> {
    fn request(
        &self,
        _to: NodeId,
        class: Class,
        body: Bytes,
        _time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        assert_eq!(class, Class::Delivery);
        let fate = self.fates.lock().pop_front().unwrap_or(*self.otherwise.lock());
        self.frames.fetch_add(1, SeqCst);
        let arrives = !matches!(fate, Fate::Lost | Fate::Unreachable);
        let arrivals = self.arrivals.lock().clone();
        // Served by the call, as links do: in the order of sending.
        let this = Arc::clone(self);
        let answer = arrivals.filter(|_| arrives).map(|arrivals| arrivals.arrive(this.from, body));
        Box::pin(async move {
            let Some(answer) = answer else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let unsent = fate == Fate::Unreachable;
                return Err(if unsent { PeerError::Unreachable } else { PeerError::Unknown });
            };
            let answer = answer.await;
            while this.gated.load(SeqCst) {
                this.gate.notified().await;
            }
            match fate {
                Fate::AnswerLost => return Err(PeerError::Unknown),
                Fate::Late => tokio::time::sleep(Duration::from_millis(20)).await,
                Fate::Good | Fate::Lost | Fate::Unreachable => {}
            }
            answer.map_err(PeerError::Refused)
        })
    }

    fn cast(&self, _to: NodeId, _class: Class, _body: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}
