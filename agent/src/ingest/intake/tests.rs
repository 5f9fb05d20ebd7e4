use super::*;
use crate::ingest::RunEnd;
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::frame::FrameEncoder;
use proptest::prelude::*;
use std::collections::BTreeSet;

const RUN: Incarnation = Incarnation([1; 16]);
const NEXT: Incarnation = Incarnation([2; 16]);

/// Frame n states `JournalFlushed { n }`; every `reset_every`-th is a reset point.
fn frames(count: u64, reset_every: u64) -> Vec<Bytes> {
    let mut encoder = FrameEncoder::new();
    (1..=count)
        .map(|n| {
            let mut out = Vec::new();
            let facts = [
                Fact::JournalFlushed { sequence: n },
                Fact::GroupDeleted { group: "a-group".into(), actor: "x".into() },
            ];
            let now = Now { mono_ms: n, wall_ms: 1_000 + n };
            encoder.encode(now, (n - 1).is_multiple_of(reset_every), &facts, &mut out);
            out.into()
        })
        .collect()
}

fn batch(run: Incarnation, first: u64, frames: &[Bytes], head: u64) -> Batch {
    Batch {
        incarnation: run,
        first_sequence: first,
        frames: frames.to_vec(),
        head_sequence: head,
        ..Default::default()
    }
}

fn after(sequence: u64) -> Intake {
    Intake::new(Position { incarnation: RUN, sequence }, Held::new(1 << 20))
}

fn number(frame: &Frame) -> u64 {
    match frame.facts[0] {
        Fact::JournalFlushed { sequence } => sequence,
        _ => panic!("not one of ours"),
    }
}

/// What came out: frame numbers, and gaps.
fn outcome(steps: &[Step]) -> (Vec<u64>, Vec<(u64, u64)>) {
    let mut numbers = Vec::new();
    let mut gaps = Vec::new();
    for step in steps {
        match step {
            Step::Frame { position, frame, .. } => {
                assert_eq!(position.sequence, number(frame));
                numbers.push(position.sequence);
            }
            Step::Gap(gap) => gaps.push((gap.from, gap.to)),
            Step::RunEnded { .. } => {}
        }
    }
    (numbers, gaps)
}

#[test]
fn resuming_decodes_from_the_reset_point_and_applies_only_what_is_new() {
    let all = frames(20, 10);
    let mut intake = after(14);
    let mut out = Vec::new();
    assert!(!intake.caught_up(), "nothing was heard yet");
    assert_eq!(intake.take(batch(RUN, 11, &all[10..], 20), 0, &mut out), Want::More);
    assert_eq!(outcome(&out), ((15..=20).collect(), vec![]));
    assert!(!intake.caught_up() && intake.head().is_none(), "the run may be over, and another one there");
    intake.take(batch(RUN, 21, &[], 20), 0, &mut out);
    assert!(intake.caught_up() && intake.replayed());
    assert_eq!(intake.head(), Some(Position { incarnation: RUN, sequence: 20 }));
}

#[test]
fn a_position_that_is_gone_is_asked_for_again_and_then_a_gap() {
    let all = frames(30, 10);
    let mut intake = after(4);
    let mut out = Vec::new();
    for _ in 0..ASKS_MAX {
        assert_eq!(intake.take(batch(RUN, 21, &all[20..], 30), 0, &mut out), Want::Again);
        assert_eq!(out, vec![]);
        intake.restart();
    }
    assert_eq!(intake.take(batch(RUN, 21, &all[20..], 30), 0, &mut out), Want::More);
    assert_eq!(outcome(&out), ((21..=30).collect(), vec![(5, 20)]));
}

#[test]
fn a_run_ends_only_when_all_of_it_was_folded() {
    let all = frames(6, 3);
    let mut intake = after(0);
    let mut out = Vec::new();
    intake.take(batch(RUN, 1, &all[..2], 6), 0, &mut out);
    let mut end = batch(RUN, 5, &all[4..], 6);
    end.run_end = Some(RunEnd { last_sequence: 6, next: NEXT });
    assert_eq!(intake.take(end, 0, &mut out), Want::More);
    assert_eq!(outcome(&out).0, [1, 2], "3 and 4 are awaited");
    assert_eq!(intake.take(batch(RUN, 3, &all[2..4], 6), 0, &mut out), Want::More);
    assert_eq!(outcome(&out), ((1..=6).collect(), vec![]));
    assert_eq!(out.last(), Some(&Step::RunEnded { ended: RUN, next: NEXT }));
    assert_eq!(intake.position(), Position { incarnation: NEXT, sequence: 0 });
    assert_eq!(
        intake.take(batch(RUN, 3, &all[2..4], 6), 0, &mut out),
        Want::More,
        "late duplicates are nothing"
    );
    intake.take(batch(NEXT, 1, &frames(2, 9), 2), 0, &mut out);
    assert_eq!(intake.position(), Position { incarnation: NEXT, sequence: 2 });
    assert!(!intake.replayed());
    let more = frames(4, 9);
    intake.take(batch(NEXT, 3, &more[2..], 4), 0, &mut out);
    assert!(intake.caught_up() && intake.replayed(), "a run that grows is not over");
}

#[test]
fn what_the_agent_holds_beyond_a_closed_run_stays() {
    let mut intake = after(9);
    let mut out = Vec::new();
    let mut end = batch(RUN, 8, &[], 7);
    end.run_end = Some(RunEnd { last_sequence: 7, next: NEXT });
    intake.take(end, 0, &mut out);
    assert_eq!(out, vec![Step::RunEnded { ended: RUN, next: NEXT }]);
}

#[test]
fn what_was_held_over_a_restart_and_lost_by_the_broker_is_folded_before_the_next_run() {
    let all = frames(9, 4);
    let mut held = Held::new(1 << 20);
    let position = |sequence| Position { incarnation: RUN, sequence };
    held.load((1..=9).map(|n| (position(n), all[n as usize - 1].clone())).collect());
    // the ledger knows frames up to 3, the broker lost all after 6
    let mut intake = Intake::new(position(3), held);
    let mut out = Vec::new();
    let mut end = batch(RUN, 1, &all[..6], 6);
    end.run_end = Some(RunEnd { last_sequence: 6, next: NEXT });
    intake.take(end, 0, &mut out);
    assert_eq!(outcome(&out), ((4..=9).collect(), vec![]));
    assert_eq!(out.last(), Some(&Step::RunEnded { ended: RUN, next: NEXT }));
    assert_eq!(intake.held.to_keep().last().unwrap().0, position(9), "held until it is judged");
}

#[test]
fn an_unannounced_run_leaves_a_gap_of_unknown_length() {
    let all = frames(4, 2);
    let mut intake = after(9);
    let mut out = Vec::new();
    for _ in 0..ASKS_MAX {
        assert_eq!(intake.take(batch(NEXT, 1, &all, 4), 0, &mut out), Want::Again);
        intake.restart();
    }
    assert_eq!(intake.take(batch(NEXT, 1, &all, 4), 0, &mut out), Want::More);
    assert_eq!(outcome(&out), (vec![1, 2, 3, 4], vec![(10, UNKNOWN_END)]));
}

#[test]
fn a_heartbeat_behind_lost_frames_shows_the_hole() {
    let all = frames(10, 5);
    let mut intake = after(0);
    let mut out = Vec::new();
    intake.take(batch(RUN, 1, &all[..5], 10), 0, &mut out);
    assert_eq!(intake.take(batch(RUN, 11, &[], 10), 100, &mut out), Want::More);
    assert!(intake.has_hole() && !intake.caught_up());
    assert_eq!(intake.tick(100 + HOLE_PATIENCE_MS - 1, &mut out), Want::More);
    assert_eq!(intake.tick(100 + HOLE_PATIENCE_MS, &mut out), Want::Again);
    intake.restart();
    intake.take(batch(RUN, 6, &all[5..], 10), 2_000, &mut out);
    assert_eq!(outcome(&out), ((1..=10).collect(), vec![]));
}

#[test]
fn a_frame_that_cannot_be_decoded_costs_the_frames_up_to_the_next_reset_point() {
    let mut all = frames(20, 10);
    all[3] = Bytes::from_static(&[0, 0, 0, 99, 0]);
    let mut intake = after(0);
    let mut out = Vec::new();
    for _ in 0..ASKS_MAX {
        assert_eq!(intake.take(batch(RUN, 1, &all, 20), 0, &mut out), Want::Again);
        intake.restart();
    }
    assert_eq!(intake.take(batch(RUN, 1, &all, 20), 0, &mut out), Want::More);
    assert_eq!(outcome(&out), ([1, 2, 3].into_iter().chain(11..=20).collect(), vec![(4, 10)]));
}

#[test]
fn numbers_out_of_range_are_not_believed() {
    let mut intake = after(3);
    let mut out = Vec::new();
    intake.take(batch(RUN, u64::MAX, &frames(2, 1), 9), 0, &mut out);
    let mut end = batch(RUN, 4, &[], 9);
    end.run_end = Some(RunEnd { last_sequence: u64::MAX, next: NEXT });
    intake.take(end, 0, &mut out);
    assert_eq!((out, intake.position().sequence), (vec![], 3));
}

/// A stream that loses, repeats and swaps batches, each loss only once; what is asked for again comes. Its last batch always comes:
/// the source says again and again how far it is.
#[derive(Debug, Clone)]
enum Fault {
    Drop(usize),
    Repeat(usize),
    Swap(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0usize..30).prop_map(Fault::Drop),
        (0usize..30).prop_map(Fault::Repeat),
        (0usize..30).prop_map(Fault::Swap),
    ]
}

fn stream(all: &[Bytes], missing: &BTreeSet<u64>, after: u64, chunk: usize, reset_every: u64) -> Vec<Batch> {
    let from = after / reset_every * reset_every;
    let mut batches: Vec<Batch> = Vec::new();
    for index in from..all.len() as u64 {
        if missing.contains(&(index + 1)) {
            continue;
        }
        let payload = all[index as usize].clone();
        match batches.last_mut() {
            Some(last)
                if last.first_sequence + last.frames.len() as u64 == index + 1
                    && last.frames.len() < chunk =>
            {
                last.frames.push(payload)
            }
            _ => batches.push(batch(RUN, index + 1, &[payload], all.len() as u64)),
        }
    }
    batches.push(batch(RUN, all.len() as u64 + 1, &[], all.len() as u64));
    batches
}

fn run(
    all: &[Bytes],
    missing: &BTreeSet<u64>,
    chunk: usize,
    reset_every: u64,
    mut faults: Vec<Fault>,
) -> Vec<Step> {
    let mut intake = after(0);
    let mut out = Vec::new();
    let mut now = 0;
    for _ in 0..200 {
        let mut batches = stream(all, missing, intake.position().sequence, chunk, reset_every);
        let count = batches.len();
        match faults.pop() {
            Some(Fault::Drop(at)) if at + 1 < count => drop(batches.remove(at)),
            Some(Fault::Repeat(at)) if at < count => batches.insert(at, batches[at].clone()),
            Some(Fault::Swap(at)) if at + 1 < count => batches.swap(at, at + 1),
            _ => {}
        }
        let mut want = Want::More;
        for batch in batches {
            want = intake.take(batch, now, &mut out);
            if want == Want::Again {
                break;
            }
        }
        while want == Want::More && intake.has_hole() {
            now += 500;
            want = intake.tick(now, &mut out);
        }
        if want == Want::More {
            return out;
        }
        intake.restart();
    }
    panic!("never came to rest");
}

proptest! {
    #[test]
    fn whatever_a_stream_does_every_frame_comes_once_and_in_order(
        count in 1u64..60, chunk in 1usize..9, reset_every in 1u64..20, faults in prop::collection::vec(fault(), 0..=3))
    {
        let out = run(&frames(count, reset_every), &BTreeSet::new(), chunk, reset_every, faults);
        prop_assert_eq!(outcome(&out), ((1..=count).collect::<Vec<_>>(), vec![]));
    }

    #[test]
    fn frames_that_are_gone_are_named_with_what_leaned_on_them(
        count in 1u64..60, chunk in 1usize..9, reset_every in 1u64..20,
        missing in prop::collection::btree_set(1u64..60, 0..4), faults in prop::collection::vec(fault(), 0..=3))
    {
        let missing: BTreeSet<u64> = missing.into_iter().filter(|n| *n <= count).collect();
        let out = run(&frames(count, reset_every), &missing, chunk, reset_every, faults);
        let (numbers, gaps) = outcome(&out);
        let gone: BTreeSet<u64> = gaps.iter().flat_map(|(from, to)| *from..=*to).collect();
        let seen: BTreeSet<u64> = numbers.iter().copied().collect();
        prop_assert_eq!(seen.len(), numbers.len(), "once");
        prop_assert!(numbers.is_sorted());
        prop_assert!(seen.is_disjoint(&gone));
        prop_assert_eq!(seen.union(&gone).copied().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>(), "nothing is silent");
        // no more is given up than what is missing or leans on it
        for n in gone {
            let reset = (n - 1) / reset_every * reset_every + 1;
            prop_assert!((reset..=n).any(|m| missing.contains(&m)), "{} was there to be read", n);
        }
    }
}

#[test]
fn how_far_an_old_run_was_says_nothing_about_the_run_of_a_snapshot() {
    let mut intake = after(0);
    let mut out = Vec::new();
    intake.take(batch(RUN, 1, &frames(6, 3), 500), 0, &mut out);
    // the rest is gone; the source goes on elsewhere
    intake.advance(Position { incarnation: NEXT, sequence: 2 });
    intake.restart();
    intake.take(batch(NEXT, 3, &[], 2), 0, &mut out);
    assert_eq!(intake.head(), Some(Position { incarnation: NEXT, sequence: 2 }));
    assert!(intake.caught_up());
}
