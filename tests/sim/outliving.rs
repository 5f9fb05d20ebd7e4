//! Owns clients that outlive the broker's power: what they had read before is in their memory, and they go on from there, each
//! as some SDK does it. Called by a plan, in seeded order.

use crate::acts::Act;
use crate::clients::{Parcel, Reader};
use crate::world::World;
use agent::fold::class::Class;
use broker::api::StartPolicy;
use lifecycle::fact::ConsumeModel;

pub(crate) const ACT: Act = Act { name: "client outlives power cuts", run: client_outlives };

/// Until frames are on the disk and heard.
const SETTLE_MS: u64 = 1_000;
/// Long enough to decide; the snapshot that the broker makes after 30 s falls into it, and not into the acts that follow.
const REST_MS: u64 = 31_000;
/// What was passed over is decided after 30 s; the agent hears of that at most so much later.
const DOUBT_MS: u64 = 40_000;

/// How a client goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Where the broker says.
    Asks,
    /// It commits what it had read before, and then reads where the broker's queue ends.
    CommitsAndReadsLater,
    /// Where it was.
    GoesOn,
}

fn client_outlives(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    let reader = Reader::of(&group, name);
    world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
    let count = 1 + world.rng.below(5);
    world.send_many(Parcel::to(name, 0), count);
    world.consume(reader, 1);
    world.pass(SETTLE_MS);
    world.catch_up();
    let position = read_what_will_be_lost(world, reader, count);
    world.power_cut();
    come_back(world, reader);
    let end = end_of(world, name);
    let way = [Way::Asks, Way::CommitsAndReadsLater, Way::GoesOn, Way::GoesOn][world.rng.below(4) as usize];
    let more = position.saturating_sub(end) + 1 + world.rng.below(4);
    let stored_ms = world.elapsed_ms();
    world.send_many(Parcel::to(name, 0), more);
    if way != Way::Asks {
        assert_eq!(world.set_offset(reader, 0, position), Ok(()));
    }
    let mut handed_to = end;
    if world.rng.below(2) == 0 {
        // it is handed some, and a second cut takes what would have told of that
        world.pass(SETTLE_MS);
        let heard_already = world.rng.below(2) == 0;
        world.flushing = false;
        let some = 1 + world.rng.below(more) as u32;
        handed_to = world.pull(reader, 0, end, some).1;
        if heard_already {
            world.catch_up();
        }
        world.power_cut();
        assert_eq!(end_of(world, name), end + more, "they were on the disk");
        come_back(world, reader);
    }
    match way {
        Way::Asks => {
            world.consume(reader, 1);
        }
        Way::CommitsAndReadsLater => {
            world.pass(500);
            let (_, next) = world.pull(reader, 0, handed_to, 32);
            assert_eq!(world.set_offset(reader, 0, next), Ok(()));
        }
        Way::GoesOn => {
            let (_, next) = world.pull(reader, 0, position.max(handed_to), 32);
            assert_eq!(world.set_offset(reader, 0, next), Ok(()));
            expect_reused(world, reader, handed_to..position, stored_ms);
        }
    }
    // half of the time the next power cut comes too late to leave a doubt
    let rest = if world.rng.below(2) == 0 { SETTLE_MS } else { REST_MS };
    world.pass(rest);
}

/// Messages that no disk has yet are consumed; returns where the client is then.
fn read_what_will_be_lost(world: &mut World, reader: Reader<'_>, from: u64) -> u64 {
    world.flushing = false;
    for _ in 0..1 + world.rng.below(if world.is_sync() { 2 } else { 6 }) {
        let id = world.oracle.new_id();
        world.try_send(Parcel::to(reader.topic, 0), &id);
    }
    let (_, position) = world.pull(reader, 0, from, 32);
    if world.rng.below(2) == 0 {
        assert_eq!(world.set_offset(reader, 0, position), Ok(()));
    }
    if world.rng.below(2) == 0 {
        world.catch_up();
    }
    position
}

fn come_back(world: &mut World, reader: Reader<'_>) {
    let passed = world.rng.below(400);
    world.pass(50 + passed);
    world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
}

fn end_of(world: &World, topic: &str) -> u64 {
    world.oracle.present_in(topic).iter().map(|unit| unit.offset + 1).max().unwrap_or(0)
}

/// Nobody was handed these, and the group is beyond them.
fn expect_reused(world: &mut World, reader: Reader<'_>, offsets: std::ops::Range<u64>, stored_ms: u64) {
    let (disk, run) = (world.disk.clone(), world.run);
    world.oracle.scan(&disk, run);
    for offset in offsets {
        let unit = world.oracle.unit(reader.topic, 0, offset).expect("it is in the log");
        world.may_be_read.insert(unit.to_string(), stored_ms..world.elapsed_ms() + DOUBT_MS);
        world.oracle.expect(reader.group, unit, Class::OffsetReused);
    }
}
