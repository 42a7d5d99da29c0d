//! The plain model of a shard: what is held, and per session what it reads and has acknowledged.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) position: Position,
    pub(super) message: Message,
    /// For this session alone.
    pub(super) private: Option<u128>,
    /// Logs that do not take it: only its publisher reads them, without his own messages.
    pub(super) left_out: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) filter: StoredSubscription,
    pub(super) from: Position,
    pub(super) to: Position,
    /// When the session first had it, with whatever options.
    pub(super) since: Position,
    /// Of those with QoS 1 or 2: which log it reads.
    pub(super) log: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    pub(super) epoch: Epoch,
    /// Those in force and, with an end, those that only drain.
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) cursor: Position,
    pub(super) beyond: BTreeSet<Position>,
    pub(super) skipped: BTreeSet<Position>,
    pub(super) full_since: Option<Position>,
    /// What came while it was full: the first position that it skips, and the first that it does not.
    pub(super) skips: Vec<(Position, Position)>,
}

pub(super) struct Model {
    pub(super) held: Vec<Held>,
    pub(super) readers: BTreeMap<u128, Reader>,
    pub(super) ids: BTreeMap<u128, Position>,
    pub(super) drop_oldest: bool,
    pub(super) logs: u32,
}

impl Reader {
    /// Returns by how many logs a message waits here, as the quota counts.
    pub(super) fn items(&self, key: u128, held: &Held) -> usize {
        let of_log = |sub: &&Subscription| {
            sub.filter.options.qos > Qos::AtMostOnce
                && sub.from <= held.position
                && held.position < sub.to
                && sub.filter.filter.matches(&held.message.topic)
                && !held.left_out.contains(&sub.log)
        };
        match held.private {
            Some(owner) => usize::from(owner == key),
            None => self.subscriptions.iter().filter(of_log).count(),
        }
    }

    pub(super) fn depth(&self, key: u128, held: &[Held]) -> usize {
        let waits = held
            .iter()
            .filter(|held| held.position > self.cursor && !self.skipped.contains(&held.position));
        waits.map(|held| self.items(key, held)).sum()
    }

    /// Returns position, QoS and ids of every delivery.
    pub(super) fn deliveries(&self, key: u128, held: &[Held]) -> Vec<(Position, Qos, Vec<u32>)> {
        held.iter().filter_map(|held| self.deliver(key, held)).collect()
    }

    pub(super) fn deliver(&self, key: u128, held: &Held) -> Option<(Position, Qos, Vec<u32>)> {
        let position = held.position;
        if position <= self.cursor
            || self.beyond.contains(&position)
            || self.skipped.contains(&position)
            || held.message.is_expired(NOW)
        {
            return None;
        }
        if let Some(owner) = held.private {
            let qos = held.message.qos.min(Qos::AtLeastOnce);
            return (owner == key).then_some((position, qos, vec![77]));
        }
        let own = held.message.publisher == Some(SessionKey(key));
        let matching: Vec<&Subscription> = self
            .subscriptions
            .iter()
            .filter(|sub| {
                sub.from <= position
                    && position < sub.to
                    && sub.filter.filter.matches(&held.message.topic)
                    && !(own && sub.filter.options.no_local)
                    && !held.left_out.contains(&sub.log)
            })
            .collect();
        let qos = matching.iter().map(|sub| sub.filter.options.qos).max()?;
        if qos == Qos::AtMostOnce {
            return None;
        }
        let mut ids: Vec<u32> = matching.iter().map(|sub| sub.filter.subscription_id).collect();
        ids.retain(|id| *id != 0);
        ids.sort_unstable();
        ids.dedup();
        Some((position, qos.min(held.message.qos), ids))
    }

    /// Takes messages again from `here` on, if there is room.
    pub(super) fn reopen(&mut self, key: u128, held: &[Held], here: Position) {
        let depth = self.depth(key, held);
        if depth < QUEUE_MAX {
            self.skips.extend(self.full_since.take().map(|from| (from, here)));
        }
    }

    /// Moves a cursor that stands before something skipped behind it.
    pub(super) fn pass_skips(&mut self) {
        for (from, to) in &self.skips {
            // It took messages again at the beginning of an entry.
            let last = Position { entry: to.entry - 1, offset: u32::MAX };
            if self.cursor.next() >= *from && self.cursor < last {
                self.cursor = last;
            }
        }
    }

    /// Forgets subscriptions that take nothing new and have nothing left.
    pub(super) fn forget_drained(&mut self, held: &[Held]) {
        let cursor = self.cursor;
        let waits = |sub: &Subscription| {
            held.iter().any(|held| {
                held.private.is_none()
                    && held.position > cursor
                    && sub.from <= held.position
                    && held.position < sub.to
                    && sub.filter.filter.matches(&held.message.topic)
                    && !held.left_out.contains(&sub.log)
            })
        };
        self.subscriptions.retain(|sub| sub.to == END || waits(sub));
    }
}

impl Model {
    pub(super) fn append(&mut self, position: Position, message: Message) {
        if let Some(MessageId(id)) = message.id {
            if self.ids.contains_key(&id) {
                return;
            }
            let held = self.to_hold(position, message.clone(), None);
            if self.readers.iter().any(|(key, reader)| reader.items(*key, &held) > 0) {
                self.ids.insert(id, position);
            }
        }
        let held = self.to_hold(position, message, None);
        self.hold(held);
    }

    pub(super) fn to_hold(
        &self,
        position: Position,
        message: Message,
        private: Option<u128>,
    ) -> Held {
        let mut logs: BTreeMap<u32, Vec<(u128, bool)>> = BTreeMap::new();
        for (key, reader) in &self.readers {
            for sub in &reader.subscriptions {
                // QoS 0 reads none.
                if sub.filter.options.qos > Qos::AtMostOnce {
                    logs.entry(sub.log).or_default().push((*key, sub.filter.options.no_local));
                }
            }
        }
        let own = message.publisher.map(|key| (key.0, true));
        logs.retain(|_, members| members.len() == 1 && own == members.first().copied());
        Held { position, message, private, left_out: logs.into_keys().collect() }
    }

    /// Returns the log that a new reader of `filter` joins.
    pub(super) fn log_of(&mut self, filter: &StoredSubscription) -> u32 {
        let mut all = self.readers.values().flat_map(|reader| &reader.subscriptions);
        let found = all.find(|sub| {
            sub.to == END
                && sub.filter.options.qos > Qos::AtMostOnce
                && sub.filter.filter == filter.filter
        });
        found.map(|sub| sub.log).unwrap_or_else(|| {
            self.logs += 1;
            self.logs
        })
    }

    pub(super) fn hold(&mut self, held: Held) {
        for (key, reader) in &mut self.readers {
            let items = reader.items(*key, &held);
            if items == 0 || self.drop_oldest {
                continue;
            }
            let full = reader.depth(*key, &self.held) + items > QUEUE_MAX;
            if reader.full_since.is_some() || full {
                reader.full_since.get_or_insert(held.position);
                reader.skipped.insert(held.position);
            }
        }
        self.held.push(held);
    }

    /// Drops the oldest of every session that is too full, at the end of an entry.
    pub(super) fn settle(&mut self) {
        for (key, reader) in &mut self.readers {
            let behind: Vec<Position> = self
                .held
                .iter()
                .filter(|held| reader.items(*key, held) > 0)
                .map(|held| held.position)
                .filter(|position| *position > reader.cursor)
                .collect();
            for position in behind {
                if !self.drop_oldest || reader.depth(*key, &self.held) <= QUEUE_MAX {
                    break;
                }
                reader.cursor = position;
            }
            let cursor = reader.cursor;
            reader.beyond.retain(|position| *position > cursor);
            reader.forget_drained(&self.held);
        }
    }
}
