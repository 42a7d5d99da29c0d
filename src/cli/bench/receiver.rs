//! A task that receives: counts, measures, acknowledges.
//!
//! - Owns: a connection. Takes: messages. Gives: counts per batch, latencies, acknowledgements.
//! - Bound: one clock reading per batch, no allocation per message.

use std::{rc::Rc, sync::Arc};

use super::{
    connection::{Connection, Identity},
    credit::Credit,
    template::read_stamp,
    worker::{Worker, add},
};
use crate::{
    front::mqtt::client::Skimmed,
    model::{message::Qos, wire::AckKind},
};

/// Connects, subscribes, and receives until the run stops.
pub(super) async fn receive(
    worker: Rc<Worker>,
    identity: Identity,
    filter: String,
    qos: Qos,
    credit: Option<Arc<Credit>>,
) -> anyhow::Result<()> {
    let mut connection = {
        let _permit = worker.opening.acquire().await?;
        let mut connection = Connection::open(&worker, &identity, |_, _| {}).await?;
        connection.subscribe(&worker, &filter, qos).await?;
        connection
    };
    add(&worker.shared.counters.ready, 1);
    loop {
        let mut batch = Batch::new(&worker);
        connection.progress(&worker, |skimmed, out| batch.take(skimmed, out)).await?;
        let delivered = batch.finish();
        if let Some(credit) = &credit
            && delivered > 0
        {
            credit.give(delivered);
        }
    }
}

/// What came in one read.
pub(super) struct Batch<'a> {
    worker: &'a Worker,
    measuring: bool,
    now_ns: u64,
    delivered: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(worker: &'a Worker) -> Self {
        Self { worker, measuring: worker.is_measuring(), now_ns: 0, delivered: 0 }
    }

    fn take(&mut self, skimmed: Skimmed<'_>, out: &mut Vec<u8>) {
        acknowledge(skimmed, out);
        let Skimmed::Publish { payload, dup, .. } = skimmed else { return };
        if dup {
            add(&self.worker.shared.counters.doubled, 1);
        }
        self.delivered += 1;
        if !self.measuring {
            return;
        }
        if self.now_ns == 0 {
            self.now_ns = self.worker.now_ns();
        }
        if let Some((stamp_ns, _)) = read_stamp(payload) {
            let waited_ns = self.now_ns.saturating_sub(stamp_ns);
            self.worker.latencies.borrow_mut().delivery.saturating_record(waited_ns);
        }
    }

    fn finish(self) -> u64 {
        add(&self.worker.shared.counters.delivered, self.delivered);
        self.delivered
    }
}

/// Appends what the packet asks for.
pub(super) fn acknowledge(skimmed: Skimmed<'_>, out: &mut Vec<u8>) {
    let (first, packet_id) = match skimmed {
        Skimmed::Publish { qos: 1, packet_id, .. } => (0x40, packet_id),
        Skimmed::Publish { qos: 2, packet_id, .. } => (0x50, packet_id),
        Skimmed::Ack { kind: AckKind::Pubrel, packet_id, .. } => (0x70, packet_id),
        _ => return,
    };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}
