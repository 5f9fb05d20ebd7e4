//! Frames as a busy broker writes them: the send side and the group's side of some turns.

use lifecycle::clock::Now;
use lifecycle::fact::{AnswerClass, Fact, MoveReason, StartReason, Stored, StoredKind, StoredRun};
use lifecycle::frame::Frame;
use lifecycle::identity::{Incarnation, LogPosition, Name, QueueKey, TopicIncarnation};
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;

const QUEUES: u64 = 16;
/// Messages of a turn.
pub(crate) const BATCH: u64 = 64;

/// How messages come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A turn's messages are neighbours of one queue; ids counted up.
    Ranged,
    /// One queue after the other, random ids, acknowledgements one by one in no order.
    Irregular,
}

fn queue(number: u64) -> QueueKey {
    QueueKey { topic: TopicIncarnation(1), queue_id: (number % QUEUES) as u32 }
}

/// What the send side states in each of so many turns.
pub(crate) fn sends(turns: u64, shape: Shape) -> Vec<(Now, Vec<Fact>)> {
    let mut ends = [0u64; QUEUES as usize];
    (0..turns)
        .map(|turn| {
            let runs = runs(turn, shape, &mut ends);
            let ids: Vec<String> = (0..BATCH).map(|n| id(turn * BATCH + n, shape)).collect();
            let log_end = LogPosition((turn + 1) * BATCH * 1229);
            let now = Now { mono_ms: turn, wall_ms: 1_800_000_000_000 + turn };
            let stored = Stored {
                first_ordinal: turn * BATCH,
                log_end,
                store_wall_ms: now.wall_ms,
                runs,
                kinds: vec![(BATCH, StoredKind::Produced)],
                ids: ids.iter().map(String::as_bytes).collect(),
            };
            let class = AnswerClass::Flushed;
            let answered = Fact::Answered { from_ordinal: turn * BATCH, count: BATCH, class };
            (now, vec![Fact::Stored(stored), Fact::Flushed { log_position: log_end }, answered])
        })
        .collect()
}

fn runs(turn: u64, shape: Shape, ends: &mut [u64]) -> Vec<StoredRun> {
    let (pieces, count) = if shape == Shape::Ranged { (1, BATCH) } else { (BATCH, 1) };
    let mut take = |n: u64| {
        let queue = queue(turn + n);
        let queue_offset = ends[queue.queue_id as usize];
        ends[queue.queue_id as usize] += count;
        StoredRun { queue, queue_offset, count }
    };
    (0..pieces).map(&mut take).collect()
}

fn id(number: u64, shape: Shape) -> String {
    match shape {
        Shape::Ranged => format!("01AABBCCDDEEFF00170B1F3C2A{number:08X}"),
        Shape::Irregular => {
            let scatter = |salt: u64| (number ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
            format!("{:016X}{:016X}", scatter(1), scatter(0x5555))
        }
    }
}

/// The same with a group that takes and settles everything, as frames for the fold.
pub(crate) fn lives(turns: u64, shape: Shape) -> Vec<(Position, Frame)> {
    let (group, member): (Name, Name) = ("g".into(), "m".into());
    let started = |n| Fact::GroupStarted {
        group: group.clone(),
        queue: queue(n),
        offset: 0,
        reason: StartReason::First,
    };
    let mut all = vec![(Now::default(), (0..QUEUES).map(started).collect())];
    for (now, mut facts) in sends(turns, shape) {
        let Some(Fact::Stored(stored)) = facts.first() else { unreachable!("a turn stores first") };
        let runs = stored.runs.clone();
        for run in &runs {
            facts.push(Fact::Delivered {
                group: group.clone(),
                queue: run.queue,
                ranges: Ranges::of(run.queue_offset, run.queue_offset + run.count),
                member: member.clone(),
                attempt: u32::from(shape == Shape::Irregular),
                lease_until_ms: if shape == Shape::Irregular { now.wall_ms + 30_000 } else { 0 },
            });
        }
        // the last first, so that floors wait
        for run in runs.iter().rev() {
            let (from, to) = (run.queue_offset, run.queue_offset + run.count);
            let (group, queue, actor) = (group.clone(), run.queue, member.clone());
            facts.push(match shape {
                Shape::Ranged => {
                    Fact::OffsetMoved { group, queue, from, to, reason: MoveReason::Commit, actor }
                }
                Shape::Irregular => Fact::Acked { group, queue, ranges: Ranges::of(from, to), member: actor },
            });
        }
        all.push((now, facts));
    }
    let number = |(index, (now, facts)): (usize, (Now, Vec<Fact>))| {
        let position = Position { incarnation: Incarnation([1; 16]), sequence: index as u64 + 1 };
        (position, Frame { reset: index == 0, snapshot: false, now, facts })
    };
    all.into_iter().enumerate().map(number).collect()
}
