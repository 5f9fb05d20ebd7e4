//! A deterministic simulation of one broker and its agent: production broker core, fold, judge and ledger logs in one thread, on
//! simulated disks and a virtual clock, with clients that behave like SDKs. Two oracles the agent never sees decide what is true:
//! the clients' history, and a scan of the log for what each injected fault destroyed.
//!
//! `LOSSTRACE_SIM_SEED` replays one seed, `LOSSTRACE_SIM_SEEDS` says how many seeds a run takes (the long edition),
//! `LOSSTRACE_SIM_TRACE` prints everything that happened under a seed.

#![allow(
    clippy::print_stdout,
    reason = "a failed seed is shown with the command that replays it; the matrix is the result"
)]

mod acts;
mod checkers;
mod clients;
mod cluster;
mod controls;
mod feed;
mod matrix;
mod mutants;
mod oracle;
mod outliving;
mod plan;
mod rot;
mod watcher;
mod world;

use acts::Act;
use agent::fold::class::Class;
use matrix::Matrix;
use plan::{Outcome, everything, run, start};
use std::collections::BTreeMap;

const SEEDS: u64 = 80;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The seeds of this run; `usual`: how many, unless somebody wants others.
fn seeds_or(usual: u64) -> Vec<u64> {
    match number("LOSSTRACE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("LOSSTRACE_SIM_SEEDS").unwrap_or(usual)).collect(),
    }
}

fn seeds() -> Vec<u64> {
    seeds_or(SEEDS)
}

/// What the runs of several seeds came to.
#[derive(Default)]
struct Total {
    matrix: Matrix,
    injected: BTreeMap<&'static str, u64>,
}

/// Runs all seeds, shows what they came to, and fails when one of them went wrong.
fn total(seeds: &[u64], test: &str, run: impl Fn(u64) -> Outcome) -> Total {
    let mut total = Total::default();
    let (mut failed, mut messages) = (false, 0);
    for seed in seeds {
        let outcome = run(*seed);
        failed |= show(&outcome, test);
        messages += outcome.messages;
        for (fault, count) in &outcome.injected {
            *total.injected.entry(fault).or_default() += count;
        }
        total.matrix.merge(outcome.matrix);
    }
    let Total { matrix, injected } = &total;
    println!("{} seeds, {messages} messages sent, faults: {injected:?}\n{matrix}", seeds.len());
    assert!(!failed, "see above");
    total
}

/// Each class was injected often enough, and decided often enough: nobody passes by calling everything undecided.
fn check_often(matrix: &Matrix, classes: &[Class]) {
    for class in classes {
        let count = matrix.injected(*class);
        assert!(count >= EACH_AT_LEAST, "only {count} of {} were injected", class.text());
        let told = matrix.told(*class);
        assert!(told >= TOLD_AT_LEAST, "only {told} of {count} {} were decided", class.text());
    }
}

/// Shows what is wrong with a run, and how to see it again.
fn show(outcome: &Outcome, test: &str) -> bool {
    if number("LOSSTRACE_SIM_TRACE") == Some(outcome.seed) {
        println!("{}", outcome.trace);
    }
    for text in &outcome.wrong {
        println!("seed {}: {text}", outcome.seed);
    }
    if !outcome.wrong.is_empty() {
        println!(
            "replay: LOSSTRACE_SIM_SEED={} cargo nextest run --release -p tests --test sim {test} --no-capture",
            outcome.seed
        );
    }
    !outcome.wrong.is_empty()
}

#[test]
fn one_power_cut_is_told_exactly() {
    let acts = [acts::MACHINE[0]];
    let mut failed = false;
    for seed in seeds() {
        failed |= show(&run(start(seed), &acts), "one_power_cut_is_told_exactly");
    }
    assert!(!failed);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in seeds().into_iter().take(3) {
        let acts: Vec<Act> = everything(seed);
        let (first, second) = (run(start(seed), &acts), run(start(seed), &acts));
        assert_eq!(first.trace.len(), second.trace.len());
        assert!(first.trace == second.trace, "seed {seed}: the traces differ");
        assert_eq!(first.verdict_hash, second.verdict_hash);
    }
}

/// Classes this simulation injects.
const IN_SCOPE: [Class; 18] = [
    Class::NeverStored,
    Class::SendRefused,
    Class::StoredThoughUnacked,
    Class::AnsweredNotDurable,
    Class::StoredNotFlushedLost,
    Class::FlushLied,
    Class::CorruptedAtRest,
    Class::ExpiredBeforeConsumption,
    Class::SkippedByOffsetReset,
    Class::AckedWithoutDelivery,
    Class::SendBackFailedThenPassed,
    Class::StuckInRetry,
    Class::DeadLettered,
    Class::DlqWriteFailed,
    Class::DlqExpired,
    Class::FilterConflict,
    Class::Duplicate,
    Class::OffsetReused,
];
/// Fewest of each class over the seeds of a whole run.
const EACH_AT_LEAST: u64 = 30;
/// Of these decided.
const TOLD_AT_LEAST: u64 = 10;

#[test]
fn every_fault_is_told_with_its_class_and_nothing_else() {
    let seeds = seeds();
    let test = "every_fault_is_told_with_its_class_and_nothing_else";
    let Total { matrix, injected } = total(&seeds, test, |seed| run(start(seed), &everything(seed)));
    if seeds.len() > 1 {
        check_often(&matrix, &IN_SCOPE);
        for act in
            acts::LOCAL.iter().chain([&outliving::ACT, &rot::ACT]).chain(&acts::MACHINE).chain(&acts::ENDS)
        {
            assert!(injected.contains_key(act.name), "{} never happened", act.name);
        }
    }
}

/// What a client does with offsets it had read before the power failed, once or twice.
#[test]
fn a_client_that_outlives_power_cuts_is_told_exactly() {
    let mut failed = false;
    for seed in seeds() {
        let acts = [outliving::ACT; 4];
        failed |= show(&run(start(seed), &acts), "a_client_that_outlives_power_cuts_is_told_exactly");
    }
    assert!(!failed);
}

#[test]
fn a_send_long_after_a_power_cut_was_not_taken_by_it() {
    let acts = [acts::MACHINE[0], acts::NEVER_ARRIVED];
    assert!(!show(&run(start(2), &acts), "a_send_long_after_a_power_cut_was_not_taken_by_it"));
}

#[test]
fn the_first_message_of_a_queue_is_in_a_window_when_it_is_lost_unheard() {
    let acts = [Act { name: "power cut, new queue", run: acts::power_cut_of_a_new_queue }];
    assert!(!show(
        &run(start(2), &acts),
        "the_first_message_of_a_queue_is_in_a_window_when_it_is_lost_unheard"
    ));
}

#[test]
fn the_first_record_of_a_queue_is_missed_when_it_is_spoilt() {
    let acts = [Act { name: "bit flip of a first record", run: acts::bit_flip_of_the_first }];
    assert!(!show(&run(start(2), &acts), "the_first_record_of_a_queue_is_missed_when_it_is_spoilt"));
}

/// Rot alone, often: most of it is found by the scrubber, some by whoever reads first.
#[test]
fn rot_under_a_running_broker_is_told_exactly() {
    let mut failed = false;
    let mut total = Matrix::default();
    for seed in seeds() {
        let outcome = run(start(seed), &[rot::ACT; 3]);
        failed |= show(&outcome, "rot_under_a_running_broker_is_told_exactly");
        total.merge(outcome.matrix);
    }
    println!("{total}");
    assert!(!failed);
    if seeds().len() > 1 {
        assert_eq!(total.told(Class::CorruptedAtRest), total.injected(Class::CorruptedAtRest));
        assert!(total.injected(Class::CorruptedAtRest) >= EACH_AT_LEAST);
    }
}

/// Evidence is destroyed: the agent says so, and makes nothing up.
#[test]
fn a_lost_journal_segment_is_a_gap_and_no_loss() {
    let mut failed = false;
    for seed in seeds() {
        failed |=
            show(&run(start(seed), &[acts::JOURNAL_LOST]), "a_lost_journal_segment_is_a_gap_and_no_loss");
    }
    assert!(!failed);
}

/// Nothing is lost, whatever else happens: nothing may be said.
#[test]
fn healthy_churn_is_silent() {
    let mut failed = false;
    for seed in seeds() {
        let outcome = run(start(seed), &controls::all(seed));
        failed |= show(&outcome, "healthy_churn_is_silent");
        if outcome.said > 0 {
            println!("seed {seed}: {} verdicts about healthy traffic", outcome.said);
            failed = true;
        }
    }
    assert!(!failed);
}
