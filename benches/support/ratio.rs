//! Runs a subject and its baselines in turn in one process and prints a ratio: a number of one machine
//! stays there, a ratio travels.
//!
//! - Takes: closures that each do `operations` of the same work. Gives: a table on standard output.
//! - Bound: `ROUNDS` rounds, in each of which everybody runs once, so that a slow moment of the
//!   machine falls on all.

#[path = "machine.rs"]
mod machine;

use std::{hint::black_box, sync::Once};

use hongqiao::clock;

const ROUNDS: usize = 15;

/// The machine is named once, before the first table.
static NAMED: Once = Once::new();

/// One of those who run: its name, and its work.
pub(crate) type Runner<'a> = (&'a str, Box<dyn FnMut() -> u64 + 'a>);

/// Prints nanoseconds per operation (median, spread from the first to the third quarter) of each runner,
/// and how many times those of the first the others take.
#[expect(clippy::print_stdout, reason = "a bench talks to a person")]
pub(crate) fn compare(title: &str, operations: u32, mut runners: Vec<Runner<'_>>) {
    NAMED.call_once(|| println!("{}", machine::line()));
    let mut times = vec![Vec::with_capacity(ROUNDS); runners.len()];
    for round in 0..=ROUNDS {
        for (runner, times) in runners.iter_mut().zip(&mut times) {
            let start = clock::now();
            black_box((runner.1)());
            let elapsed = start.elapsed();
            // The first round warms caches and allocators up.
            if round > 0 {
                times.push(elapsed.as_secs_f64() * 1e9 / f64::from(operations));
            }
        }
    }
    println!("{title}");
    let mut subject = None;
    for (runner, times) in runners.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times[times.len() * part / 4];
        let median = at(2);
        let ratio = median / *subject.get_or_insert(median);
        let name = runner.0;
        println!("  {name:<24} {median:>9.1} ns  [{:.1}, {:.1}]  {ratio:>6.2} x", at(1), at(3));
    }
}
