//! Owns the order of a run: healthy company that must stay silent, and faults between, all chosen by the seed. Never looks at
//! verdicts; returns the finished world's outcome. Called by the tests.

use crate::acts::{Act, ENDS, LOCAL, MACHINE, OUT_OF_ATTEMPTS};
use crate::checkers::check;
use crate::clients::{Parcel, Reader};
use crate::matrix::Matrix;
use crate::outliving;
use crate::rot;
use crate::watcher::Manner;
use crate::world::{Start, World};
use broker::api::StartPolicy;
use broker::config::FlushDiskType;
use lifecycle::fact::ConsumeModel;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::disk_sim::SimRng;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) trace: String,
    pub(crate) wrong: Vec<String>,
    pub(crate) matrix: Matrix,
    pub(crate) injected: BTreeMap<&'static str, u64>,
    pub(crate) messages: u64,
    pub(crate) verdict_hash: [u8; 32],
    /// Verdicts about anything, suspicions that were taken back included.
    pub(crate) said: usize,
}

/// How a seed begins.
pub(crate) fn start(seed: u64) -> Start {
    let mut rng = SimRng(seed ^ 0x57A2);
    let rough = rng.below(2) == 1;
    let manner = Manner {
        delay_max_ms: if rough { rng.below(400) } else { 0 },
        break_permille: if rough { rng.below(12) } else { 0 },
        twice_permille: if rough { rng.below(100) } else { 0 },
        chunk_max: 8 + rng.below(64),
        tamper: None,
    };
    let flush = if rng.below(3) == 0 { FlushDiskType::Sync } else { FlushDiskType::Async };
    Start { seed, flush, manner, around_disk: |disk| Arc::new(disk) }
}

const READERS: Reader<'static> =
    Reader { group: "readers", client: "reader", topic: "load", expression: "*" };
const PICKY: Reader<'static> =
    Reader { group: "picky", client: "picky", topic: "load", expression: "wanted" };
const WORKERS: Reader<'static> =
    Reader { group: "workers", client: "worker", topic: "jobs", expression: "*" };
const LOAD_QUEUES: u32 = 2;

/// Healthy clients say that they are there.
fn company_joins(world: &mut World) {
    for reader in [READERS, PICKY] {
        world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
    }
    world.join(WORKERS, ConsumeModel::Lease, StartPolicy::First);
}

/// Healthy traffic, all of it consumed.
pub(crate) fn company(world: &mut World) {
    company_joins(world);
    for _ in 0..1 + world.rng.below(6) {
        let tag = if world.rng.below(2) == 0 { "wanted" } else { "other" };
        let queue = world.rng.below(u64::from(LOAD_QUEUES)) as u32;
        world.send(Parcel { tag, ..Parcel::to("load", queue) });
        world.send(Parcel::to("jobs", 0));
    }
    world.consume(READERS, LOAD_QUEUES);
    world.consume(PICKY, LOAD_QUEUES);
    world.work(WORKERS);
}

pub(crate) fn shuffled(acts: &[Act], rng: &mut SimRng) -> Vec<Act> {
    let mut acts = acts.to_vec();
    for index in (1..acts.len()).rev() {
        acts.swap(index, rng.below(index as u64 + 1) as usize);
    }
    acts
}

/// Everything in seeded order: local faults and machine faults mixed, then what ends a plan.
pub(crate) fn everything(seed: u64) -> Vec<Act> {
    let mut rng = SimRng(seed ^ 0xAC75);
    let mut mixed = LOCAL.to_vec();
    mixed.extend(MACHINE);
    mixed.extend(MACHINE.iter().take(2));
    mixed.extend([outliving::ACT; 2]);
    mixed.push(rot::ACT);
    let mut acts = shuffled(&mixed, &mut rng);
    acts.extend(ENDS);
    // what retention made of the earlier ones has another class
    acts.push(OUT_OF_ATTEMPTS);
    acts
}

/// Runs acts one after the other, with company.
pub(crate) fn run(start: Start, acts: &[Act]) -> Outcome {
    let mut world = World::new(start);
    play(&mut world, acts);
    finish(world, start.seed)
}

/// Begins, and then one act after the other.
pub(crate) fn play(world: &mut World, acts: &[Act]) {
    world.create("load", LOAD_QUEUES, 6);
    world.create("jobs", 1, 6);
    company(world);
    for (number, act) in acts.iter().enumerate() {
        world.note(format_args!("act: {}", act.name));
        world.oracle.count(act.name);
        (act.run)(world, &format!("t{number}"));
        company(world);
    }
}

pub(crate) fn finish(mut world: World, seed: u64) -> Outcome {
    company(&mut world);
    world.pass(60_000);
    world.catch_up();
    world.pass(2_000);
    unseen_by(&mut world);
    let mut matrix = Matrix::default();
    let wrong = check(&mut world, &mut matrix);
    Outcome {
        seed,
        wrong,
        matrix,
        injected: world.oracle.injected.clone(),
        messages: world.oracle.sent.len() as u64,
        said: world.agent.verdicts().len(),
        verdict_hash: world.agent.core().judge.verdict_hash(),
        trace: world.trace,
    }
}

/// Every message in the log that healthy groups want was handed to them.
fn unseen_by(world: &mut World) {
    let (disk, run) = (world.disk.clone(), world.run);
    world.oracle.scan(&disk, run);
    for reader in [READERS, WORKERS] {
        let handed = world.oracle.handed.get(reader.group).cloned().unwrap_or_default();
        for unit in world.oracle.present_in(reader.topic) {
            let key = crate::oracle::Unit { epoch: 0, ..unit.clone() };
            if !handed.contains(&key) {
                world.broken.push(format!("unseen: {} never got {unit}", reader.group));
            }
        }
    }
}
