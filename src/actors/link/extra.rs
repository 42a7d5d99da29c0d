//! What few links need at a time: unfinished live deliveries, aliases, who waits for the release.
//!
//! - Owns: window and waiting frames of a session without storage; topic aliases towards the client.
//! - Bound: receive maximum; pending limits; aliases of the configured number.
//! - Source: MQTT 5.0 sections 3.3.2.3.4 (alias) and 4.9 (flow control).

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU64},
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::live::Share;
use crate::model::{
    message::Qos,
    window::{Pending, Window},
};

/// One encoded PUBLISH that waits for a place in the window; its bytes are its own.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Box<[u8]>,
    pub(super) packet_id_at: u32,
    /// Where the seconds until expiry stand, 0 = they are not told.
    pub(super) expiry_at: u32,
    pub(super) expires_at_ms: Option<NonZeroU64>,
    pub(super) qos: Qos,
    /// Number of its share, 0 = none.
    pub(super) share: u32,
}

impl Frame {
    /// Tells whether the message is past its expiry (MQTT-3.3.2-5).
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms.get() <= now_ms)
    }

    /// Writes the seconds that are left, less what the message has waited (MQTT-3.3.2-6).
    pub(super) fn count_down(&mut self, now_ms: u64) {
        let at = self.expiry_at as usize;
        if let (Some(at_ms), Some(place)) = (self.expires_at_ms, self.bytes.get_mut(at..at + 4))
            && at > 0
        {
            let left = at_ms.get().saturating_sub(now_ms).div_ceil(1_000);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            place.copy_from_slice(&left.to_be_bytes());
        }
    }
}

/// Unfinished deliveries of a session without storage.
#[derive(Debug)]
pub(super) struct Live {
    /// With the numbers of shares.
    pub(super) window: Window<u32>,
    pub(super) pending: Pending<Frame>,
    /// What goes back to shared groups if the connection ends first, in the order of sending.
    pub(super) shares: BTreeMap<u32, Share>,
    pub(super) last_share: u32,
}

/// The rarely needed part of a link.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) live: Option<Live>,
    pub(super) watchers: SmallVec<[oneshot::Sender<()>; 1]>,
    aliases: Aliases,
}

/// Aliases of the server towards one client: the first topics get them, and keep them.
#[derive(Debug, Default)]
struct Aliases {
    max: u16,
    topics: Vec<Bytes>,
}

/// What stands for the topic of one PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alias {
    /// Send the name alone.
    None,
    /// Send name and alias; if the packet is really queued, call [`Extra::set_alias`].
    Set(NonZeroU16),
    /// Send the alias alone.
    Known(NonZeroU16),
}

impl Extra {
    /// Tells whether the box can go.
    pub(super) fn is_idle(&self) -> bool {
        let live = self.live.as_ref();
        live.is_none_or(|live| live.window.is_empty() && live.pending.is_empty())
            && self.watchers.is_empty()
            && self.aliases.max == 0
    }

    /// Allows aliases up to `max`.
    pub(super) fn allow_aliases(&mut self, max: u16) {
        self.aliases.max = max;
    }

    /// Returns what stands for `topic`.
    pub(super) fn alias(&self, topic: &[u8]) -> Alias {
        let topics = &self.aliases.topics;
        let known = topics.iter().position(|known| known == topic);
        let number = |index: usize| u16::try_from(index + 1).ok().and_then(NonZeroU16::new);
        match known.and_then(number) {
            Some(alias) => Alias::Known(alias),
            None if topics.len() < usize::from(self.aliases.max) => {
                number(topics.len()).map_or(Alias::None, Alias::Set)
            }
            None => Alias::None,
        }
    }

    /// Notes that the packet that sets the next alias is queued.
    pub(super) fn set_alias(&mut self, topic: &[u8]) {
        debug_assert!(self.aliases.topics.len() < usize::from(self.aliases.max));
        self.aliases.topics.push(Bytes::copy_from_slice(topic));
    }
}
