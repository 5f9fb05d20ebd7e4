//! How fast frames are folded. Prints the rates; in release builds it also holds them against loose bounds.

use crate::fold::Books;
use lifecycle::clock::Now;
use lifecycle::fact::*;
use lifecycle::frame::Frame;
use lifecycle::identity::*;
use lifecycle::ids::IdColumn;
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use std::time::Duration;

const QUEUES: u32 = 16;

fn queue(n: u64) -> QueueKey {
    QueueKey { topic: TopicIncarnation(1), queue_id: (n % u64::from(QUEUES)) as u32 }
}

/// Turns of `batch` messages each: stored, answered, flushed, delivered, settled. Six stages per message, received included.
fn frames(turns: u64, batch: u64, leases: bool) -> Vec<(Position, Frame)> {
    let group: Name = "g".into();
    let member: Name = "m".into();
    let mut out = Vec::new();
    let start = (0..QUEUES).map(|n| Fact::GroupStarted {
        group: group.clone(),
        queue: queue(u64::from(n)),
        offset: 0,
        reason: StartReason::First,
    });
    let mut push = |facts: Vec<Fact>, wall_ms: u64| {
        let sequence = out.len() as u64 + 1;
        let frame =
            Frame { reset: sequence == 1, snapshot: false, now: Now { mono_ms: wall_ms, wall_ms }, facts };
        out.push((Position { incarnation: Incarnation([1; 16]), sequence }, frame));
    };
    push(start.collect(), 0);
    let mut ends = vec![0u64; QUEUES as usize];
    for turn in 0..turns {
        let key = queue(turn);
        let from = ends[key.queue_id as usize];
        ends[key.queue_id as usize] += batch;
        let ids: Vec<String> =
            (0..batch).map(|n| format!("01AABBCCDDEEFF00170B1F3C2A{:08X}", turn * batch + n)).collect();
        let ids: IdColumn = ids.iter().map(|id| id.as_bytes()).collect();
        let log_end = LogPosition((turn + 1) * batch * 100);
        let stored = Stored {
            first_ordinal: turn * batch,
            log_end,
            store_wall_ms: turn,
            runs: vec![StoredRun { queue: key, queue_offset: from, count: batch }],
            kinds: vec![(batch, StoredKind::Produced)],
            ids,
        };
        let ranges = Ranges::of(from, from + batch);
        let (attempt, lease_until_ms) = if leases { (1, turn + 30_000) } else { (0, 0) };
        let mut facts = vec![
            Fact::Stored(stored),
            Fact::Flushed { log_position: log_end },
            Fact::Answered { from_ordinal: turn * batch, count: batch, class: AnswerClass::Flushed },
            Fact::Delivered {
                group: group.clone(),
                queue: key,
                ranges,
                member: member.clone(),
                attempt,
                lease_until_ms,
            },
        ];
        if leases {
            // every second offset first: the marks become irregular
            for n in (0..batch).step_by(2).chain((1..batch).step_by(2)) {
                let ranges = Ranges::of(from + n, from + n + 1);
                facts.push(Fact::Acked { group: group.clone(), queue: key, ranges, member: member.clone() });
            }
        } else {
            facts.push(Fact::OffsetMoved {
                group: group.clone(),
                queue: key,
                from,
                to: from + batch,
                reason: MoveReason::Commit,
                actor: member.clone(),
            });
        }
        push(facts, turn);
    }
    out
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn measure(frames: &[(Position, Frame)], messages: u64) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut books = Books::default();
        let start = std::time::Instant::now();
        for (position, frame) in frames {
            books.apply(&"b".into(), *position, frame);
        }
        best = best.min(start.elapsed());
        assert_eq!(books.imbalance(), None);
        assert_eq!(books.totals().produced, messages);
        let open: u64 =
            books.brokers["b"].groups["g"].queues.values().map(|q| q.marks.run_count() as u64).sum();
        assert_eq!(open, 0, "settled history costs nothing");
    }
    messages as f64 * 6.0 / best.as_secs_f64()
}

#[test]
fn stages_per_second() {
    let (turns, batch) = if cfg!(debug_assertions) { (200, 64) } else { (8_000, 64) };
    let ranged = measure(&frames(turns, batch, false), turns * batch);
    let irregular = measure(&frames(turns, batch, true), turns * batch);
    let single = measure(&frames(turns * batch / 4, 1, true), turns * batch / 4);
    eprintln!(
        "ranged {:.1} M/s, irregular acks {:.1} M/s, single messages {:.1} M/s",
        ranged / 1e6,
        irregular / 1e6,
        single / 1e6
    );
    if !cfg!(debug_assertions) {
        assert!(ranged > 5e6 && irregular > 1e6 && single > 5e5, "far below what it was");
    }
}
