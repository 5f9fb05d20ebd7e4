use super::*;
use lifecycle::clock::Now;
use lifecycle::fact::{Recovered, Stored, StoredRun};
use lifecycle::frame::FrameEncoder;
use lifecycle::identity::TopicIncarnation;
use lifecycle::position::Position;
use std::sync::Arc;
use store::disk::OpenMode;
use store::disk_sim::SimDisk;
use store::journal::{Journal, JournalConfig};

const QUEUE: QueueKey = QueueKey { topic: TopicIncarnation(1), queue_id: 0 };
const RUN: Incarnation = Incarnation([1; 16]);

/// Offsets of the queue were stored.
fn stored(from: u64, to: u64) -> Fact {
    let run = StoredRun { queue: QUEUE, queue_offset: from, count: to - from };
    let kinds = vec![(to - from, StoredKind::Produced)];
    Fact::Stored(Stored { first_ordinal: from, runs: vec![run], kinds, ..Stored::default() })
}

fn delivered(from: u64, to: u64) -> Fact {
    Fact::Delivered {
        group: "g".into(),
        queue: QUEUE,
        ranges: Ranges::of(from, to),
        member: "m".into(),
        attempt: 1,
        lease_until_ms: 0,
    }
}

fn moved(from: u64, to: u64, reason: MoveReason) -> Fact {
    Fact::OffsetMoved { group: "g".into(), queue: QUEUE, from, to, reason, actor: "m".into() }
}

fn acked(from: u64, to: u64) -> Fact {
    Fact::Acked { group: "h".into(), queue: QUEUE, ranges: Ranges::of(from, to), member: "m".into() }
}

/// A journal of one run with these frames, every one a reset point when `resets`; all but the first `common` are cut.
fn kept(disk: &SimDisk, frames: &[Vec<Fact>], common: u64, resets: bool) -> PathBuf {
    let config = JournalConfig::new("/journal".into());
    let mut journal = Journal::open(Arc::new(disk.clone()), config, RUN, 0).unwrap().0;
    let mut encoder = FrameEncoder::new();
    for facts in frames {
        let reset = resets || journal.needs_reset();
        let mut payload = Vec::new();
        encoder.encode(Now::default(), reset, facts, &mut payload);
        journal.append(&payload, reset).unwrap();
    }
    journal.write().unwrap();
    let keep = Position { incarnation: RUN, sequence: common };
    journal.view().keep_behind(keep, disk, Path::new("/kept")).unwrap().unwrap()
}

fn consumed(told: &Told, offset: u64) -> Consumed {
    told.consumed(RUN, QUEUE, offset)
}

#[test]
fn consumed_is_what_was_handed_out_and_committed_or_acknowledged() {
    let frames = [
        vec![stored(0, 4), delivered(0, 4), moved(0, 4, MoveReason::Commit)],
        vec![stored(4, 12), delivered(4, 8)],
        vec![moved(4, 6, MoveReason::Commit)],
        // nobody was given 8 and 9, and a reset is no consumption
        vec![moved(6, 10, MoveReason::Reset), acked(6, 7)],
        vec![moved(10, 12, MoveReason::Commit)],
    ];
    let by = |group: &str| Consumed::By(vec![group.into()]);
    let disk = SimDisk::new();
    let told = Told::read(&disk, &[kept(&disk, &frames, 1, false)]).unwrap();
    let expected =
        [(4, by("g")), (5, by("g")), (6, by("h")), (7, Consumed::No), (8, Consumed::No), (10, Consumed::No)];
    for (offset, expected) in expected {
        assert_eq!(consumed(&told, offset), expected, "offset {offset}");
    }
    // stored in a frame that was not cut: what came of it may be told there
    assert_eq!(consumed(&told, 2), Consumed::NotKnown);
    assert_eq!(consumed(&told, 12), Consumed::NotKnown, "never stored");
    let other = Incarnation([9; 16]);
    assert_eq!(told.consumed(other, QUEUE, 4), Consumed::NotKnown, "no frames of that run");
    assert_eq!(Told::default().consumed(RUN, QUEUE, 4), Consumed::NotKnown);
}

#[test]
fn where_frames_are_missing_only_what_is_seen_is_said() {
    let disk = SimDisk::new();
    let frames: Vec<_> = (0..6)
        .map(|n| 2 * n)
        .map(|n| vec![stored(n, n + 2), delivered(n, n + 1), moved(n, n + 1, MoveReason::Commit)])
        .collect();
    // a frame was spoilt before the journal was cut
    let config = JournalConfig::new("/journal".into());
    kept(&disk, &frames, 1, true);
    let journal = store::disk::Disk::list(&disk, &config.dir).unwrap();
    let path = config.dir.join(&journal[0].name);
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let middle = file.len().unwrap() / 2;
    file.write_all_at(&[0xff; 3], middle).unwrap();
    let later = Journal::open(Arc::new(disk.clone()), config, Incarnation([2; 16]), 0).unwrap().0;
    let keep = Position { incarnation: RUN, sequence: 1 };
    let path = later.view().keep_behind(keep, &disk, Path::new("/spoilt")).unwrap().unwrap();
    let told = Told::read(&disk, &[path]).unwrap();
    assert_eq!(consumed(&told, 2), Consumed::By(vec!["g".into()]), "before the hole");
    assert_eq!(consumed(&told, 3), Consumed::NotKnown, "it may be told in the hole");
}

#[test]
fn offsets_that_a_power_cut_freed_are_judged_by_what_stands_there_since() {
    let recovered = Recovered { queues: vec![(QUEUE, 0, 6)], ..Recovered::default() };
    let frames = [
        vec![],
        vec![stored(0, 10), delivered(0, 10), moved(0, 10, MoveReason::Commit)],
        vec![Fact::Recovered(recovered), stored(10, 14)],
    ];
    let disk = SimDisk::new();
    let told = Told::read(&disk, &[kept(&disk, &frames, 1, false)]).unwrap();
    assert_eq!(consumed(&told, 5), Consumed::By(vec!["g".into()]), "it survived");
    assert_eq!(consumed(&told, 7), Consumed::NotKnown, "it did not");
    assert_eq!(consumed(&told, 11), Consumed::No);
}
