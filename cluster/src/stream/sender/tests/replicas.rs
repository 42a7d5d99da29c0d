//! The other end of the model: replicas with logs, doors and an idea who leads.
//!
//! - Takes: letters that have come through. Gives: answers, and the state that a majority has.
//! - Bound: tests only.

use std::collections::BTreeMap;

use super::{Outcome, Refusal, Sending, Verdict, World, id_of, reply_to};
use crate::{
    error::ProposeError,
    stream::{door::Door, table::Admission},
};

#[derive(Clone)]
struct Entry {
    /// What the log is told apart by.
    serial: u64,
    sending: Sending,
    life: u64,
}

#[derive(Default)]
pub(super) struct Replica {
    log: Vec<Entry>,
    /// The term in which it leads, as far as it knows.
    pub(super) leads: Option<u64>,
    door: Door,
    /// Entries that it proposed itself, whose sender waits.
    asked: BTreeMap<u64, u64>,
}

#[derive(Clone)]
pub(super) struct Letter {
    pub(super) to: usize,
    pub(super) life: u64,
    pub(super) sending: Sending,
}

impl World {
    /// A letter reaches its replica's desk.
    pub(super) fn arrive(&mut self) {
        let at = if self.faults { self.dice.roll(4) } else { 0 };
        let at = usize::try_from(at).unwrap();
        if at >= self.letters.len() {
            return;
        }
        let letter = self.letters.remove(at);
        if self.faults && self.dice.one_in(8) {
            self.held.push(letter);
            return;
        }
        let refuses = self.faults && self.dice.one_in(10);
        let replica = &mut self.replicas[letter.to];
        let run = letter.sending.run;
        let term = replica.leads.unwrap_or(self.term);
        if let Some(why) = replica.door.check(letter.sending.request, term, &run) {
            return self.answer(&letter, why);
        }
        if replica.leads.is_none() {
            replica.door.refuse(&run);
            return self.answer(&letter, Verdict::Refused(Refusal::NotLeader(None)));
        }
        if refuses {
            replica.door.refuse(&run);
            let why = Refusal::Told(ProposeError::Overloaded);
            return self.answer(&letter, Verdict::Refused(why));
        }
        replica.door.enter(&run);
        self.serial += 1;
        let (serial, life) = (self.serial, letter.life);
        replica.asked.insert(serial, letter.sending.request);
        replica.log.push(Entry { serial, sending: letter.sending, life });
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.leads == Some(self.term))
    }

    /// Somebody whose log has all that is committed becomes leader; others may not know yet.
    pub(super) fn elect(&mut self) {
        let at = usize::try_from(self.dice.roll(3)).unwrap();
        let serials = |replica: &Replica| {
            replica.log.iter().take(self.committed).map(|entry| entry.serial).collect::<Vec<_>>()
        };
        let committed =
            self.leader().map_or_else(Vec::new, |leader| serials(&self.replicas[leader]));
        if serials(&self.replicas[at]) != committed {
            return;
        }
        self.term += 1;
        if let Some(old) = self.leader_before()
            && self.dice.one_in(2)
        {
            self.replicas[old].leads = None;
        }
        self.replicas[at].leads = Some(self.term);
        // Nobody waits for what it proposed in an earlier term any more.
        self.replicas[at].asked.clear();
    }

    fn leader_before(&self) -> Option<usize> {
        let term = self.replicas.iter().filter_map(|replica| replica.leads).max()?;
        self.replicas.iter().position(|replica| replica.leads == Some(term))
    }

    pub(super) fn replicate(&mut self) {
        let Some(leader) = self.leader() else { return };
        let to = usize::try_from(self.dice.roll(3)).unwrap();
        if to != leader {
            self.replicas[to].log = self.replicas[leader].log.clone();
            self.replicas[to].leads = None;
        }
    }

    /// Commits and applies what a majority has.
    pub(super) fn commit(&mut self) {
        let Some(leader) = self.leader() else { return };
        let has = |replica: &Replica, at: usize, serial: u64| {
            replica.log.get(at).is_some_and(|entry| entry.serial == serial)
        };
        while let Some(entry) = self.replicas[leader].log.get(self.committed).cloned() {
            let holders =
                self.replicas.iter().filter(|replica| has(replica, self.committed, entry.serial));
            if holders.count() < 2 {
                break;
            }
            self.committed += 1;
            let outcome = self.apply(&entry);
            let request = self.replicas[leader].asked.remove(&entry.serial);
            if request.is_some() {
                let letter = Letter { to: leader, life: entry.life, sending: entry.sending };
                self.answer(&letter, Verdict::Done(outcome));
            }
        }
        if self.faults && self.dice.one_in(60) {
            self.kept.clear();
            self.forgets = true;
        }
    }

    fn apply(&mut self, entry: &Entry) -> Outcome {
        let run = entry.sending.run;
        let index = u64::try_from(self.committed).unwrap();
        match self.table.admit(&run, index) {
            Admission::Apply { known } => {
                let skip = usize::try_from(known).unwrap();
                let new = entry.sending.commands.iter().skip(skip).map(id_of);
                let replies: Vec<_> =
                    new.inspect(|id| self.state.push(*id)).map(reply_to).collect();
                let known_replies = (0..known).map(|_| None);
                let all = known_replies.chain(replies.iter().cloned().map(Some)).collect();
                self.kept.keep(&run, known, replies);
                Outcome::Applied(all)
            }
            Admission::Opened { last } => {
                let before = run.epoch - 1;
                let replies = self.kept.find(run.origin, before, run.first, last);
                Outcome::Opened { last, replies }
            }
            Admission::Gap => Outcome::Gap,
            Admission::Superseded { incarnation, epoch } => {
                Outcome::Superseded { incarnation, epoch }
            }
        }
    }
}
