//! What each app has left of its quota, over all shards: an app is full when all its data together is,
//! wherever it lies.
//!
//! - Owns: per app and shard, what the shard last reported and what commands under way may still add.
//! - Takes: usage as shards tell it after each change; batches on their way to a shard, whose commands carry the
//!   whole quota. Gives: the same commands with the *slice* of their shard: what it holds and what nobody else
//!   has taken. The pure state machine compares with its slice, so replicas agree.
//! - Bound: one account per app with data. The sum stays within the quota but for what is under way when space
//!   returns, or had no known outcome: at most `limits::APPEND_PROPOSALS_MAX` batches of
//!   `limits::APPEND_BATCH_BYTES_MAX` per worker and shard.
//! - With several nodes each leader reports its shards' usage and every node grants for itself; the slice
//!   then bounds what one shard takes, whoever publishes to it.

use ahash::AHashMap;
use hongqiao_cluster::id::ShardId;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    model::id::AppId,
    shard::command::{AppUsage, Command, counted_bytes},
};

/// The accounts of a node; shared by its workers and its shards.
#[derive(Debug, Default)]
pub struct QuotaLedger(Mutex<AHashMap<AppId, Account>>);

/// What a batch may add, until its outcome is known; to be handed back with [`QuotaLedger::settle`].
#[derive(Debug, Default)]
#[must_use = "what is granted is taken until it is settled"]
pub struct Granted(SmallVec<[(AppId, AppUsage); 2]>);

#[derive(Debug, Default)]
struct Account {
    /// By shard.
    shares: Vec<Share>,
    /// Of all shares together.
    total: AppUsage,
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    used: AppUsage,
    granted: AppUsage,
}

impl QuotaLedger {
    /// Takes note of what an app holds in a shard.
    pub fn report(&self, shard: ShardId, app: AppId, used: AppUsage) {
        let mut accounts = self.0.lock();
        let account = accounts.entry(app).or_default();
        let share = account.share(shard);
        let before = std::mem::replace(&mut share.used, used);
        account.total = account.total.minus(before).plus(used);
    }

    /// Turns the quotas in a batch into slices of `shard`.
    pub fn grant(&self, shard: ShardId, commands: &mut [Command]) -> Granted {
        let mut granted = Granted::default();
        let mut accounts = None;
        for command in commands {
            let Some((app, need)) = need_of(command) else { continue };
            let accounts = accounts.get_or_insert_with(|| self.0.lock());
            let account = accounts.entry(app).or_default();
            let quota = quota_of(command);
            let (slice, fits) = account.grant(shard, need, quota);
            set_quota(command, slice);
            if fits {
                granted.add(app, need);
            }
        }
        granted
    }

    /// Takes back what was granted: the outcome is known, and what was stored has been reported.
    pub fn settle(&self, shard: ShardId, granted: Granted) {
        if granted.0.is_empty() {
            return;
        }
        let mut accounts = self.0.lock();
        for (app, amount) in granted.0 {
            let account = accounts.entry(app).or_default();
            let share = account.share(shard);
            share.granted = share.granted.minus(amount);
            account.total = account.total.minus(amount);
        }
    }
}

impl Account {
    fn share(&mut self, shard: ShardId) -> &mut Share {
        let at = usize::from(shard.0);
        if self.shares.len() <= at {
            self.shares.resize(at + 1, Share::default());
        }
        &mut self.shares[at]
    }

    /// Returns the slice of `shard`, and whether `need` is set aside. What does not fit may still replace
    /// what is there, so its slice is what the shard has.
    fn grant(&mut self, shard: ShardId, need: AppUsage, quota: AppUsage) -> (AppUsage, bool) {
        let after = self.total.plus(need);
        let left = quota.minus(after);
        let fits = after.is_within(quota);
        let share = self.share(shard);
        if !fits {
            return (share.used, false);
        }
        share.granted = share.granted.plus(need);
        let slice = share.used.plus(share.granted).plus(left);
        self.total = after;
        (slice, true)
    }
}

impl Granted {
    fn add(&mut self, app: AppId, need: AppUsage) {
        match self.0.iter_mut().find(|(of, _)| *of == app) {
            Some((_, amount)) => *amount = amount.plus(need),
            None => self.0.push((app, need)),
        }
    }
}

impl AppUsage {
    fn each(self, other: Self, change: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            log_bytes: change(self.log_bytes, other.log_bytes),
            retained_messages: change(self.retained_messages, other.retained_messages),
            retained_bytes: change(self.retained_bytes, other.retained_bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    fn is_within(self, quota: Self) -> bool {
        self.log_bytes <= quota.log_bytes
            && self.retained_messages <= quota.retained_messages
            && self.retained_bytes <= quota.retained_bytes
    }
}

/// Returns whose quota a command needs and what it adds at most; `None` if it stores no message.
fn need_of(command: &Command) -> Option<(AppId, AppUsage)> {
    let log = |log_bytes| AppUsage { log_bytes, ..AppUsage::default() };
    match command {
        Command::Append { message, .. } => {
            Some((message.app, log(u64::from(counted_bytes(message)))))
        }
        Command::Enqueue { messages, .. }
        | Command::EnqueueRetained { messages, .. }
        | Command::Share { messages, .. } => {
            let bytes = messages.iter().map(|message| u64::from(counted_bytes(message))).sum();
            Some((messages.first()?.app, log(bytes)))
        }
        Command::Retain { message, .. } if !message.payload.is_empty() => {
            let retained_bytes = u64::from(counted_bytes(message));
            let need = AppUsage { retained_messages: 1, retained_bytes, ..AppUsage::default() };
            Some((message.app, need))
        }
        _ => None,
    }
}

/// Returns the quota that a command carries; what it does not concern has no limit.
fn quota_of(command: &Command) -> AppUsage {
    let mut quota =
        AppUsage { log_bytes: u64::MAX, retained_messages: u64::MAX, retained_bytes: u64::MAX };
    match command {
        Command::Append { quota: of, .. }
        | Command::Enqueue { quota: of, .. }
        | Command::EnqueueRetained { quota: of, .. }
        | Command::Share { quota: of, .. } => {
            quota.log_bytes = of.app_bytes_max;
        }
        Command::Retain { messages_max, bytes_max, .. } => {
            quota.retained_messages = *messages_max;
            quota.retained_bytes = *bytes_max;
        }
        _ => {}
    }
    quota
}

fn set_quota(command: &mut Command, slice: AppUsage) {
    match command {
        Command::Append { quota, .. }
        | Command::Enqueue { quota, .. }
        | Command::EnqueueRetained { quota, .. }
        | Command::Share { quota, .. } => {
            quota.app_bytes_max = slice.log_bytes;
        }
        Command::Retain { messages_max, bytes_max, .. } => {
            *messages_max = slice.retained_messages;
            *bytes_max = slice.retained_bytes;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        actors::testing,
        model::message::{Message, Qos},
        shard::command::Quota,
    };

    const APP: AppId = AppId(1);
    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(9);

    /// As long as `bytes` says with its topic.
    fn message(bytes: usize) -> Arc<Message> {
        Arc::new(testing::message("t", vec![0; bytes - 1], Qos::AtLeastOnce))
    }

    fn append(bytes: usize, quota: u64) -> Command {
        let quota = Quota {
            session_messages_max: 1,
            session_bytes_max: 1,
            app_bytes_max: quota,
            drop_oldest: true,
        };
        Command::Append { message: message(bytes), quota }
    }

    fn retain(bytes: usize, messages_max: u64, bytes_max: u64) -> Command {
        Command::Retain { message: message(bytes), messages_max, bytes_max }
    }

    fn stored(log_bytes: u64) -> AppUsage {
        AppUsage { log_bytes, ..AppUsage::default() }
    }

    /// The slices that a batch to `shard` is sent with.
    fn slices(
        ledger: &QuotaLedger,
        shard: ShardId,
        mut batch: Vec<Command>,
    ) -> (Vec<u64>, Granted) {
        let granted = ledger.grant(shard, &mut batch);
        (batch.iter().map(|command| quota_of(command).log_bytes).collect(), granted)
    }

    #[test]
    fn app_with_one_shard_may_use_its_whole_quota_there() {
        let ledger = QuotaLedger::default();
        let batch = (0..10).map(|_| append(100, 1_000)).collect();
        let (slices, granted) = slices(&ledger, A, batch);
        assert_eq!(slices, [1_000; 10]);
        ledger.report(A, APP, stored(1_000));
        ledger.settle(A, granted);
        let (slices, _granted) = self::slices(&ledger, A, vec![append(1, 1_000)]);
        assert_eq!(slices, [1_000], "the shard holds that already, so it refuses");
    }

    #[test]
    fn space_taken_in_one_shard_is_missing_in_the_other() {
        let ledger = QuotaLedger::default();
        let (_, first) = slices(&ledger, A, vec![append(700, 1_000)]);
        // Under way or stored: both count.
        let fill_b = || slices(&ledger, B, vec![append(300, 1_000), append(1, 1_000)]);
        let (slices_b, granted) = fill_b();
        assert_eq!(slices_b, [300, 0]);
        ledger.settle(B, granted);
        ledger.report(A, APP, stored(700));
        ledger.settle(A, first);
        let (slices_b, granted) = fill_b();
        assert_eq!(slices_b, [300, 0]);
        ledger.report(B, APP, stored(300));
        ledger.settle(B, granted);
        assert_eq!(slices(&ledger, B, vec![append(1, 1_000)]).0, [300]);
        // Another app has a quota of its own.
        ledger.report(A, AppId(2), stored(5_000));
        ledger.report(A, APP, stored(0));
        assert_eq!(slices(&ledger, B, vec![append(1, 1_000)]).0, [1_000]);
    }

    #[test]
    fn retained_topic_that_is_full_can_still_be_replaced() {
        let ledger = QuotaLedger::default();
        let used = AppUsage { retained_messages: 2, retained_bytes: 20, ..AppUsage::default() };
        ledger.report(A, APP, used);
        let mut batch = [retain(10, 2, 1_000)];
        let granted = ledger.grant(A, &mut batch);
        assert_eq!(batch, [retain(10, 2, 20)], "what the shard has, and no more");
        assert!(granted.0.is_empty());
        let mut batch = [retain(10, 2, 1_000)];
        assert!(ledger.grant(B, &mut batch).0.is_empty());
        assert_eq!(batch, [retain(10, 0, 0)]);
    }

    /// Shards that take what their slice allows, batches in flight in any order: never over the quota.
    #[test]
    fn sum_over_shards_when_filled_in_any_order_stays_within_the_quota() {
        for seed in 0..200_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let ledger = QuotaLedger::default();
            let mut used = [0_u64; 4];
            let mut under_way: Vec<(ShardId, u64, u64, Granted)> = Vec::new();
            for _ in 0..300 {
                if next(2) == 0 {
                    let shard = ShardId(u16::try_from(next(4)).unwrap());
                    let bytes = 1 + next(50);
                    let mut batch = [append(usize::try_from(bytes).unwrap(), 1_000)];
                    let granted = ledger.grant(shard, &mut batch);
                    under_way.push((shard, bytes, quota_of(&batch[0]).log_bytes, granted));
                } else if !under_way.is_empty() {
                    let at = usize::try_from(next(under_way.len() as u64)).unwrap();
                    let (shard, bytes, slice, granted) = under_way.swap_remove(at);
                    let held = &mut used[usize::from(shard.0)];
                    if *held + bytes <= slice {
                        *held += bytes;
                        ledger.report(shard, APP, stored(*held));
                    }
                    ledger.settle(shard, granted);
                }
                assert!(used.iter().sum::<u64>() <= 1_000, "seed {seed}: {used:?}");
            }
            assert!(used.iter().sum::<u64>() > 900, "seed {seed}: {used:?}");
        }
    }
}
