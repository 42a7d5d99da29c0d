//! All devices of a world, and the homes that speak for the leaders of their shards.
//!
//! - Owns: devices, what homes have said. Takes: turns of the world. Gives: commands; what the oracle has found.
//! - Bound: three to five devices.
//! - Source: own design; `actors/upkeep` for what a new leader says.

use std::{collections::BTreeMap, sync::Arc};

use hongqiao_cluster::{
    id::ShardId,
    sim::{Guest, MakeMachine, Stage},
};

use super::{connection::NOW_MS, device::Device, oracle::Oracle, watched::Watched};
use crate::shard::command::{Command, encode_batch};

/// The client of the world that speaks for homes.
const HOMES: usize = 0;

pub(super) struct Devices {
    devices: Vec<Device>,
    /// The term in which a node has said last that it leads a shard.
    led: BTreeMap<(usize, ShardId), u64>,
    oracle: Arc<Oracle>,
    told: bool,
}

impl Devices {
    pub(super) fn new(seed: u64) -> Self {
        let names = 0..3 + usize::try_from(seed % 3).unwrap_or(0);
        let devices = names.map(|name| Device::new(name, [1 + 2 * name, 2 + 2 * name])).collect();
        Self { devices, led: BTreeMap::new(), oracle: Arc::new(Oracle::new()), told: false }
    }

    /// A new leader says that it leads; background work is done now and then.
    fn lead(&mut self, stage: &mut Stage<'_>) {
        for node in 0..stage.nodes() {
            for shard in (0..stage.shards()).map(ShardId) {
                let Some(term) = stage.leads(node, shard) else { continue };
                let last = self.led.get(&(node, shard)).copied();
                let command = if last != Some(term) && stage.below(20) == 0 {
                    self.led.insert((node, shard), term);
                    Command::Lead { term }
                } else if stage.below(400) == 0 {
                    Command::Tick { now_ms: NOW_MS, limit: 64 }
                } else {
                    continue;
                };
                let _ = stage.propose(HOMES, node, shard, &encode_batch(&[command]));
            }
        }
        drop(stage.outcomes(HOMES));
    }
}

impl Guest for Devices {
    fn clients(&self) -> usize {
        1 + 2 * self.devices.len()
    }

    fn machines(&self) -> MakeMachine {
        let oracle = self.oracle.clone();
        Arc::new(move |_, shard| Box::new(Watched::new(shard, oracle.clone())))
    }

    fn act(&mut self, stage: &mut Stage<'_>, ending: bool) {
        if !ending {
            self.lead(stage);
        }
        let publishing = self.devices.iter().any(Device::publishes);
        for device in &mut self.devices {
            if publishing {
                device.read_again();
            }
            device.act(stage, &self.oracle, ending);
        }
        if let Some((invariant, what)) = self.oracle.take_wrong() {
            stage.complain(invariant, what);
        }
        if ending && !self.told && self.missing().is_none() {
            self.told = true;
            let claims: Vec<_> = self.devices.iter().map(|device| device.claims).collect();
            stage.note(&format!("claims of each session: {claims:?}"));
        }
    }

    fn missing(&self) -> Option<String> {
        let waits = self.devices.iter().find(|device| !device.drained)?;
        Some(format!("{:?} has not read all: {:?}", waits.key, waits.phase()))
    }
}
