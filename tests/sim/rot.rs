//! Owns the fault of a disk that rots under a running broker: bits flip below the flushed mark, and nothing restarts. The scrubber
//! comes upon it in its round, or a consumer does first. Never reads the agent. Called by a plan, in seeded order.

use crate::acts::Act;
use crate::clients::{Parcel, Reader};
use crate::oracle::Record;
use crate::world::{SCRUB_INTERVAL_MS, World};
use broker::api::StartPolicy;
use lifecycle::fact::ConsumeModel;
use std::path::PathBuf;
use store::commit_log::HEADER_LEN;

pub(crate) const ACT: Act = Act { name: "bit flip below the flushed mark, no restart", run: rot };

/// A round that has passed the place already, and the next one.
const ROUNDS_MS: u64 = 2 * SCRUB_INTERVAL_MS + 2_000;

fn rot(world: &mut World, name: &str) {
    let count = 4 + world.rng.below(5);
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    let reader = Reader::of(&group, name);
    let leases = world.rng.below(2) == 0;
    world.join(
        reader,
        if leases { ConsumeModel::Lease } else { ConsumeModel::Clustering },
        StartPolicy::First,
    );
    world.send_many(Parcel::to(name, 0), count);
    world.pass(1_500);
    world.catch_up();
    let read_before = world.rng.below(3) == 0;
    if read_before {
        read(world, reader, leases);
    }
    let (disk, run) = (world.disk.clone(), world.run);
    world.oracle.scan(&disk, run);
    let flips = flips(world, name, count);
    world.flip_while_running(&flips);
    let read_first = world.rng.below(2) == 0;
    if read_first && !read_before {
        read(world, reader, leases);
        world.oracle.count("a consumer came upon a rotten record");
    }
    world.pass(ROUNDS_MS);
    let handed = read(world, reader, leases);
    if handed > 0 && (read_before || read_first) {
        world.broken.push(format!("{handed} messages of {name} were handed out again"));
    }
}

fn read(world: &mut World, reader: Reader<'_>, leases: bool) -> u64 {
    match leases {
        true => world.work(reader),
        false => world.consume(reader, 1),
    }
}

/// Bits of a header, of a record, or of the end of one and the beginning of the next.
fn flips(world: &mut World, name: &str, count: u64) -> Vec<(PathBuf, u64, u8)> {
    let record = |world: &World, offset: u64| -> Record {
        world.oracle.records[&(name.to_owned(), 0, offset)].clone()
    };
    let offset = world.rng.below(count - 1);
    let (here, next) = (record(world, offset), record(world, offset + 1));
    let bit = |world: &mut World, from: u64, to: u64| {
        (here.path.clone(), from + world.rng.below(to - from), world.rng.below(8) as u8)
    };
    match world.rng.below(3) {
        0 => vec![bit(world, here.at, here.at + HEADER_LEN as u64)],
        1 => vec![bit(world, here.at + HEADER_LEN as u64, here.end)],
        _ => {
            let mut flips = vec![bit(world, here.end - 20, here.end)];
            if next.path == here.path {
                flips.push(bit(world, next.at, next.at + 20));
            }
            flips
        }
    }
}
