//! Owns the order of a group's run: company that must stay silent, and faults between, chosen by the seed. Called by the tests.

use super::faults::{ALL, NOT_REPLICATED, SKELETON, rest};
use super::{GroupStart, Mutant};
use crate::acts::Act;
use crate::matrix::Matrix;
use crate::plan::{Outcome, finish, play, shuffled, start};
use crate::world::World;
use crate::{Total, check_often, total};
use broker::config::{BrokerRole, ReplicaAck};
use std::panic::{AssertUnwindSafe, catch_unwind};
use store::disk_sim::SimRng;

/// Seeds of a run in CI.
const SEEDS: u64 = 24;

/// How a seed's group is set.
fn group(seed: u64) -> GroupStart {
    let mut rng = SimRng(seed ^ 0x6709);
    let members = 2 + rng.below(2) as usize;
    let role = if rng.below(3) == 0 { BrokerRole::AsyncMaster } else { BrokerRole::SyncMaster };
    let in_sync = 2 + rng.below(members as u64 - 1) as u32;
    let ack = if rng.below(2) == 0 { ReplicaAck::Received } else { ReplicaAck::Flushed };
    GroupStart { members, role, in_sync, ack, delay_max_ms: rng.below(30), mutant: None }
}

/// Every act in seeded order, and the first one again.
fn acts(seed: u64) -> Vec<Act> {
    let mut rng = SimRng(seed ^ 0x6AC7);
    let mut acts = shuffled(&ALL, &mut rng);
    acts.push(acts[0]);
    acts
}

fn run(seed: u64, group: GroupStart, acts: &[Act]) -> Outcome {
    let mut world = World::with_members(start(seed), group);
    world.note(format_args!("{group:?} sync flush {}", world.is_sync()));
    let whole = catch_unwind(AssertUnwindSafe(|| {
        play(&mut world, acts);
        rest(&mut world);
    }));
    match whole {
        Ok(()) => finish(world, seed),
        // the story up to there is shown, and the seed with it
        Err(_) => Outcome {
            seed,
            wrong: vec!["something panicked: see above".to_owned()],
            matrix: Matrix::default(),
            injected: world.oracle.injected.clone(),
            messages: world.oracle.sent.len() as u64,
            said: 0,
            verdict_hash: [0; 32],
            trace: world.trace,
        },
    }
}

fn seeds() -> Vec<u64> {
    crate::seeds_or(SEEDS)
}

/// Two members; the master is killed, the other one promoted, the old master comes back as its replica.
#[test]
fn a_killed_master_is_replaced_and_returns() {
    let mut failed = false;
    for seed in seeds() {
        let group = GroupStart { members: 2, in_sync: 2, ..group(seed) };
        let outcome = run(seed, group, &[SKELETON]);
        failed |= crate::show(&outcome, "a_killed_master_is_replaced_and_returns");
    }
    assert!(!failed);
}

#[test]
fn one_seed_is_one_group_story() {
    for seed in seeds().into_iter().take(2) {
        let [first, second] = [(); 2].map(|()| run(seed, group(seed), &acts(seed)));
        assert!(first.trace == second.trace, "seed {seed}: the traces differ");
        assert_eq!(first.verdict_hash, second.verdict_hash);
    }
}

#[test]
fn every_fault_of_a_group_is_told_exactly() {
    let seeds = seeds();
    let test = "every_fault_of_a_group_is_told_exactly";
    let Total { matrix, injected } = total(&seeds, test, |seed| run(seed, group(seed), &acts(seed)));
    if seeds.len() > 1 {
        check_often(&matrix, &[NOT_REPLICATED]);
        let more =
            ["link cut one way", "link cut both ways", "survivor file", "something was not replicated"];
        for name in ALL.iter().map(|act| act.name).chain(more) {
            assert!(injected.contains_key(name), "{name} never happened");
        }
    }
}

/// Seeds a planted bug may survive before it counts as unseen.
const MUTANT_SEEDS: u64 = 12;

#[test]
fn every_bug_planted_in_a_group_is_caught() {
    for mutant in [Mutant::ElectsItself, Mutant::ConfirmsEarly] {
        let caught = (1..=MUTANT_SEEDS).find_map(|seed| {
            let group = GroupStart { mutant: Some(mutant), role: BrokerRole::SyncMaster, ..group(seed) };
            let whole = catch_unwind(AssertUnwindSafe(|| run(seed, group, &acts(seed)).wrong));
            match whole {
                Ok(wrong) => wrong.into_iter().next().map(|why| (seed, why)),
                Err(_) => Some((seed, "a check of the world itself ended the run".to_owned())),
            }
        });
        println!("{mutant:?}: {caught:?}");
        assert!(caught.is_some(), "nobody noticed: {mutant:?}");
    }
}

/// What a seed of the long edition came to, as it stands.
fn passes(seed: u64) -> bool {
    !crate::show(&run(seed, group(seed), &acts(seed)), "every_fault_of_a_group_is_told_exactly")
}

/// A replica whose disk failed while it made way for a new epoch went on with half of it: without its journal, or with a table of
/// epochs that later did not fit its master's.
#[test]
fn a_replica_whose_disk_failed_in_a_cut_starts_anew() {
    assert!([48, 88, 99, 122, 137].into_iter().all(passes));
}

/// A cut made the index anew up to where the log went on, before the frames that speak of it had come.
#[test]
fn a_replica_dispatches_what_it_has_in_order() {
    assert!(passes(84) && passes(145));
}
