//! A sender against a model of leaders, logs and links that go wrong in every way they may.
//!
//! - Owns: links that lose, repeat, delay, reorder; the three `replicas` behind them.
//! - Takes: a seed. Gives: a failure that names the promise it breaks; the seed tells the whole run.
//! - Promises: ORDER and at most once; an outcome is true; nothing stays open once the faults end.
//! - Bound: tests only.

mod replicas;

use std::collections::BTreeMap;

use proptest::prelude::*;

use self::replicas::{Letter, Replica};
use super::*;
use crate::stream::{replies::Kept, table::StreamTable};

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        let len = u64::try_from(from.len()).unwrap();
        (len > 0).then(|| from.remove(usize::try_from(self.roll(len)).unwrap()))
    }
}

struct Answer {
    life: u64,
    request: u64,
    verdict: Verdict,
}

struct World {
    dice: Dice,
    now: Moment,
    faults: bool,
    replicas: [Replica; 3],
    term: u64,
    serial: u64,
    committed: usize,
    table: StreamTable,
    kept: Kept,
    /// Ids of the commands in the state, in order.
    state: Vec<u64>,
    sender: Sender<u64>,
    life: u64,
    letters: Vec<Letter>,
    /// Held up on their way for long.
    held: Vec<Letter>,
    answers: Vec<Answer>,
    deadlines: Vec<(Moment, u64, u64)>,
    pushed: Vec<Moment>,
    outcomes: BTreeMap<u64, (Moment, Result<Bytes, ProposeError>)>,
    /// Of each caller: what it proposed without having seen one of it fail, last; and the last one's order.
    chains: [Vec<Vec<u64>>; 2],
    orders: [Option<u64>; 2],
    forgets: bool,
    /// How rarely leaders change and time flies.
    calm: u64,
}

const fn origin(life: u64) -> Origin {
    Origin { node: 9, incarnation: life }
}

fn reply_to(id: u64) -> Bytes {
    Bytes::copy_from_slice(&(id * 7 + 1).to_be_bytes())
}

fn id_of(command: &Bytes) -> u64 {
    u64::from_be_bytes(command[..8].try_into().unwrap())
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: Moment::from_secs(1),
            faults: true,
            replicas: Default::default(),
            term: 0,
            serial: 0,
            committed: 0,
            table: StreamTable::default(),
            kept: Kept::default(),
            state: Vec::new(),
            sender: Sender::new(origin(1)),
            life: 1,
            letters: Vec::new(),
            held: Vec::new(),
            answers: Vec::new(),
            deadlines: Vec::new(),
            pushed: Vec::new(),
            outcomes: BTreeMap::new(),
            chains: Default::default(),
            orders: [None; 2],
            forgets: false,
            calm: 1 + seed % 4,
        }
    }

    fn tell(&mut self, told: Told<u64>) {
        for (id, outcome) in told {
            assert!(self.outcomes.insert(id, (self.now, outcome)).is_none(), "{id} is told twice");
        }
    }

    fn push(&mut self) {
        let id = u64::try_from(self.pushed.len()).unwrap();
        self.pushed.push(self.now);
        let padding = usize::try_from(self.dice.roll(40)).unwrap();
        let command = [&id.to_be_bytes()[..], &vec![0; padding]].concat();
        let caller = usize::try_from(self.dice.roll(2)).unwrap();
        let behind = self.behind(caller);
        match self.sender.push(command.into(), id, behind, self.now) {
            Ok(order) => self.orders[caller] = Some(order),
            Err((id, why)) => self.tell(vec![(id, Err(why))]),
        }
        self.chains[caller].last_mut().unwrap().push(id);
    }

    /// Returns the order of the last command of a caller that has no outcome yet; a failure that it has
    /// seen begins another chain.
    fn behind(&mut self, caller: usize) -> Option<u64> {
        let failed = |id: &u64| self.outcomes.get(id).is_some_and(|(_, told)| told.is_err());
        let chains = &mut self.chains[caller];
        if chains.last().is_none_or(|chain| chain.iter().any(failed)) {
            chains.push(Vec::new());
            return None;
        }
        let last = chains.last()?.last()?;
        if self.outcomes.contains_key(last) { None } else { self.orders[caller] }
    }

    /// ORDER: what was proposed before a failure could be seen is not there without all that came before.
    fn check_chains(&self) {
        for chain in self.chains.iter().flatten() {
            let there = chain.iter().map(|id| self.state.contains(id));
            assert!(there.is_sorted_by(|one, other| one >= other), "a gap in {chain:?}");
        }
    }

    fn send(&mut self) {
        let room = Room {
            bytes: 60,
            commands: 5,
            requests: 3,
            grows: self.dice.one_in(2),
            any_size: self.dice.one_in(2) || !self.faults,
        };
        let Some(leader) = self.sender.leader() else { return };
        let Some(sending) = self.sender.next(self.now, room) else { return };
        let to = usize::try_from(leader.node).unwrap();
        let time_out = self.now + PROPOSE_TIMEOUT;
        self.deadlines.push((time_out, self.life, sending.request));
        let letter = Letter { to, life: self.life, sending };
        if self.faults && self.dice.one_in(12) {
            self.answer(&letter, Verdict::Refused(Refusal::Unsent));
            return;
        }
        if self.faults && self.dice.one_in(15) {
            self.letters.push(letter.clone());
        }
        if !self.faults || !self.dice.one_in(12) {
            self.letters.push(letter);
        } else {
            self.lose(&letter);
        }
    }

    /// A link breaks with a letter or its answer on it; mostly the sender hears of that.
    fn lose(&mut self, letter: &Letter) {
        if !self.dice.one_in(4) {
            let (life, request) = (letter.life, letter.sending.request);
            self.answers.push(Answer { life, request, verdict: Verdict::Doubtful });
        }
    }

    fn answer(&mut self, letter: &Letter, verdict: Verdict) {
        if self.faults && self.dice.one_in(12) && verdict != Verdict::Refused(Refusal::Unsent) {
            return self.lose(letter);
        }
        let request = letter.sending.request;
        self.answers.push(Answer { life: letter.life, request, verdict });
    }

    fn settle(&mut self) {
        let answer = if self.faults {
            self.dice.pick(&mut self.answers)
        } else {
            (!self.answers.is_empty()).then(|| self.answers.remove(0))
        };
        if let Some(answer) = answer {
            self.settle_one(answer);
        }
    }

    fn settle_one(&mut self, answer: Answer) {
        if answer.life == self.life {
            let mut told = Told::new();
            self.sender.settle(answer.request, answer.verdict, self.now, &mut told);
            self.tell(told);
        }
    }

    fn pass_time(&mut self, ms: u64) {
        self.now += Moment::from_millis(ms);
        let due = |(at, _, _): &mut (Moment, u64, u64)| *at <= self.now;
        let due: Vec<_> = self.deadlines.extract_if(.., due).collect();
        for (_, life, request) in due {
            self.settle_one(Answer { life, request, verdict: Verdict::Doubtful });
        }
        let mut told = Told::new();
        self.sender.expire(self.now, &mut told);
        self.tell(told);
    }

    /// The sender hears who leads: the truth, an old truth, or nothing.
    fn hear(&mut self) {
        let at = usize::try_from(self.dice.roll(3)).unwrap();
        let truth = !self.faults || !self.dice.one_in(4);
        let at = if truth { self.leader() } else { Some(at) };
        let leader = at.and_then(|at| {
            Some(Leader { node: at.try_into().unwrap(), term: self.replicas[at].leads? })
        });
        let mut told = Told::new();
        self.sender.lead(leader, self.now, &mut told);
        self.tell(told);
    }

    /// The sender's node starts again, without a memory.
    fn restart(&mut self) {
        let (now, all) = (self.now, 0..self.pushed.len() as u64);
        for id in all {
            self.outcomes.entry(id).or_insert((now + PROPOSE_TIMEOUT, Err(ProposeError::Unknown)));
        }
        self.life += 1;
        self.sender = Sender::new(origin(self.life));
        self.hear();
    }

    fn step(&mut self) {
        match self.dice.roll(48) {
            0..8 => self.push(),
            8..18 => self.send(),
            18..26 => self.arrive(),
            26..32 => self.replicate(),
            32..37 => self.commit(),
            37..43 => self.settle(),
            43 if self.dice.one_in(self.calm) => self.elect(),
            43 => {
                let late = self.dice.pick(&mut self.held);
                self.letters.extend(late);
            }
            44 => self.hear(),
            45 if self.dice.one_in(12) => self.restart(),
            45 | 46 => {
                let ms = self.dice.roll(40);
                self.pass_time(ms);
            }
            _ => {
                let ms = if self.dice.one_in(8 * self.calm) { 2_500 } else { 10 };
                self.pass_time(ms);
            }
        }
    }

    /// No more faults: whatever is open must come to an end, and new commands must pass.
    fn heal(&mut self) {
        self.faults = false;
        self.letters.append(&mut self.held);
        while self.leader().is_none() {
            self.elect();
        }
        for round in 0..400 {
            if round == 350 {
                self.push();
            }
            self.hear();
            self.pass_time(30);
            (0..8).for_each(|_| self.send());
            (0..8).for_each(|_| self.arrive());
            (0..6).for_each(|_| self.replicate());
            self.commit();
            (0..16).for_each(|_| self.settle());
        }
        assert!(self.sender.is_idle(), "something stays open");
        self.check_chains();
        let last = self.pushed.len() as u64 - 1;
        assert_eq!(self.outcomes[&last].1, Ok(reply_to(last)), "a healthy group takes commands");
    }

    fn check(&self) {
        assert!(
            self.state.is_sorted_by(|one, next| one < next),
            "twice or not in order: {:?}",
            self.state
        );
        for (id, pushed) in (0..).zip(&self.pushed) {
            let (at, outcome) = self.outcomes.get(&id).expect("everybody is told");
            let applied = self.state.binary_search(&id).is_ok();
            match outcome {
                Ok(reply) => {
                    assert!(applied, "{id} was acknowledged, and is not there");
                    assert_eq!(*reply, reply_to(id), "another command's reply");
                }
                Err(ProposeError::Unknown) => {
                    let forgotten = applied && self.forgets;
                    assert!(
                        forgotten || *at >= *pushed + PROPOSE_TIMEOUT,
                        "{id} given up too early: applied {applied}"
                    );
                }
                Err(why) => assert!(!applied, "{id} was refused ({why}), and is there"),
            }
        }
    }
}

fn live(seed: u64, steps: u32) {
    let mut world = World::new(seed);
    world.elect();
    world.hear();
    for _ in 0..steps {
        world.step();
    }
    world.heal();
    world.check();
}

proptest! {
    #[test]
    fn stream_when_leaders_links_and_answers_fail_then_each_command_is_applied_once_in_order(
        seed in any::<u64>(),
        steps in 50..1_500_u32,
    ) {
        live(seed, steps);
    }
}

/// Seeds that once broke a promise.
#[test]
fn stream_of_seeds_that_failed_once_keeps_its_promises() {
    for (seed, steps) in [(593_280_074_717_998_870, 449), (7_786_528_878_782_414_473, 922)] {
        live(seed, steps);
    }
}
