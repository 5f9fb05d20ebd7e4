//! Owns the negative controls: churn as it happens every day, by which nothing is lost. Each runs on topics and groups of its own
//! and leaves no debt behind; the agent must stay silent. Called by a plan, in seeded order.

use crate::acts::{Act, fill_segment};
use crate::clients::{Parcel, Reader};
use crate::plan::shuffled;
use crate::world::World;
use broker::api::StartPolicy;
use lifecycle::fact::ConsumeModel;
use store::disk_sim::SimRng;

const ALL: [Act; 10] = [
    Act { name: "rolling restart", run: rolling_restart },
    Act { name: "kill under load", run: kill_under_load },
    Act { name: "rebalance storm", run: rebalance_storm },
    Act { name: "tag-filtered group", run: tag_filtered },
    Act { name: "new group on an old topic", run: new_group },
    Act { name: "consumer paused", run: consumer_paused },
    Act { name: "clock step", run: clock_step },
    Act { name: "agent down", run: agent_down },
    Act { name: "agent loses power", run: agent_power },
    Act { name: "feed cut off", run: feed_cut },
];
/// These make the log forget: they come last.
const LAST: [Act; 2] =
    [Act { name: "retention near miss", run: near_miss }, Act { name: "abandoned group", run: abandoned }];

/// Every control, in seeded order.
pub(crate) fn all(seed: u64) -> Vec<Act> {
    let mut acts = shuffled(&ALL, &mut SimRng(seed ^ 0xC0));
    acts.extend(LAST);
    acts
}

fn served(world: &mut World, name: &str) -> String {
    world.create(name, 2, 6);
    let group = format!("g-{name}");
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    group
}

fn traffic(world: &mut World, topic: &str) {
    for _ in 0..2 + world.rng.below(6) {
        let queue = world.rng.below(2) as u32;
        world.send(Parcel::to(topic, queue));
    }
}

fn rolling_restart(world: &mut World, name: &str) {
    let group = served(world, name);
    for _ in 0..3 {
        traffic(world, name);
        world.stop_cleanly();
        world.pass(500);
        world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
        world.consume(Reader::of(&group, name), 2);
    }
    world.leave(&group);
}

/// The process dies, the machine does not: nothing is lost, and nothing may be undecided.
fn kill_under_load(world: &mut World, name: &str) {
    let group = served(world, name);
    traffic(world, name);
    world.pull(Reader::of(&group, name), 0, 0, 2);
    world.kill();
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    world.consume(Reader::of(&group, name), 2);
}

fn rebalance_storm(world: &mut World, name: &str) {
    let group = served(world, name);
    for round in 0..6 {
        traffic(world, name);
        let client = format!("{group}-{round}");
        let reader = Reader { client: &client, ..Reader::of(&group, name) };
        world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
        // hands over half-way: pulled and not committed, then pulled again by the next one
        let queue = world.rng.below(2) as u32;
        let at = world.position(reader, queue).unwrap_or(0);
        world.pull(reader, queue, at, 3);
        match world.rng.below(2) {
            0 => world.die(&client),
            _ => world.leave(&client),
        }
    }
    world.consume(Reader::of(&group, name), 2);
}

fn tag_filtered(world: &mut World, name: &str) {
    world.create(name, 2, 6);
    let group = format!("g-{name}");
    let reader = Reader { expression: "a||b", ..Reader::of(&group, name) };
    world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
    for _ in 0..10 {
        let tag = ["a", "b", "c", ""][world.rng.below(4) as usize];
        let queue = world.rng.below(2) as u32;
        world.send(Parcel { tag, ..Parcel::to(name, queue) });
    }
    world.consume(reader, 2);
}

fn new_group(world: &mut World, name: &str) {
    let group = served(world, name);
    traffic(world, name);
    world.consume(Reader::of(&group, name), 2);
    for (group, policy) in [("late-last", StartPolicy::Last), ("late-first", StartPolicy::First)] {
        let group = format!("{group}-{name}");
        let reader = Reader::of(&group, name);
        world.join(reader, ConsumeModel::Clustering, policy);
        traffic(world, name);
        world.consume(reader, 2);
    }
    world.consume(Reader::of(&group, name), 2);
    world.consume(Reader::of(&format!("late-last-{name}"), name), 2);
}

/// Longer than any client is waited for, shorter than the retention.
fn consumer_paused(world: &mut World, name: &str) {
    let group = served(world, name);
    traffic(world, name);
    world.pass(1_500_000);
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    world.consume(Reader::of(&group, name), 2);
}

fn clock_step(world: &mut World, name: &str) {
    let group = served(world, name);
    for ms in [300_000, -300_000] {
        traffic(world, name);
        world.step_clock(ms);
        traffic(world, name);
        world.pass(2_000);
        world.consume(Reader::of(&group, name), 2);
    }
}

fn agent_down(world: &mut World, name: &str) {
    let group = served(world, name);
    world.agent.kill();
    traffic(world, name);
    world.pass(1_200_000);
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    world.consume(Reader::of(&group, name), 2);
    world.stop_cleanly();
    world.agent.start();
    world.catch_up();
}

fn agent_power(world: &mut World, name: &str) {
    let group = served(world, name);
    traffic(world, name);
    let seed = world.rng.next_u64();
    world.agent.power_cut(seed);
    world.consume(Reader::of(&group, name), 2);
    world.agent.start();
    world.catch_up();
}

fn feed_cut(world: &mut World, name: &str) {
    let group = served(world, name);
    world.agent.cut_off(true);
    traffic(world, name);
    world.pass(60_000);
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    world.consume(Reader::of(&group, name), 2);
    world.agent.cut_off(false);
    world.catch_up();
}

/// Read shortly before retention takes it.
fn near_miss(world: &mut World, name: &str) {
    let group = served(world, name);
    traffic(world, name);
    fill_segment(world);
    world.pass(3_500_000);
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    world.consume(Reader::of(&group, name), 2);
    world.pass(300_000);
    world.oracle.scan(&world.disk.clone(), world.run);
}

/// Nobody has belonged to the group for longer than groups are waited for: what expires then is nobody's loss.
fn abandoned(world: &mut World, name: &str) {
    let group = served(world, name);
    world.consume(Reader::of(&group, name), 2);
    world.leave(&group);
    world.pass(crate::watcher::IDLE_AFTER_MS + 60_000);
    traffic(world, name);
    fill_segment(world);
    world.pass(3_700_000);
    world.oracle.scan(&world.disk.clone(), world.run);
}
