//! Any facts again, this time judged: whatever the order between sources and however the frames are batched, the same is
//! decided in the end.

use super::super::*;
use super::world::new_ids;
use crate::fold::tests::{Stream, any_stream};
use proptest::prelude::*;

fn judge_all(sources: &[(&str, &Stream)], picks: &[usize], batch: usize) -> (Judge, Books) {
    let mut books = Books::default();
    let mut judge = Judge::new(Deadlines::default(), new_ids());
    let heads: Heads =
        sources.iter().map(|(name, stream)| (Name::from(*name), stream.last().map(|(at, _)| *at))).collect();
    let mut next = vec![0usize; sources.len()];
    let total: usize = sources.iter().map(|(_, stream)| stream.len()).sum();
    let now = Now { mono_ms: 9_000_000, wall_ms: 9_000_000 };
    for turn in 0..total {
        let wanted = picks.get(turn).copied().unwrap_or(0) % sources.len();
        let open = |index: &usize| next[*index] < sources[*index].1.len();
        let index = Some(wanted).filter(open).or_else(|| (0..sources.len()).find(|i| open(i))).unwrap();
        let (at, frame) = &sources[index].1[next[index]];
        next[index] += 1;
        books.apply(&sources[index].0.into(), *at, frame);
        books.apply(&sources[index].0.into(), *at, frame);
        if turn % batch == 0 || turn + 1 == total {
            let events = books.take_events();
            judge.step(&books, StepInput { events, now, heads: &heads, answers: Vec::new() });
        }
    }
    (judge, books)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn equal_evidence_gives_equal_verdicts(
        first in any_stream(1), second in any_stream(2), picks in prop::collection::vec(0usize..2, 0..90), batch in 1usize..9
    ) {
        // snapshots told twice may restate; plain frames may not
        let plain = |stream: Stream| -> Stream {
            stream.into_iter().map(|(at, frame)| (at, lifecycle::frame::Frame { snapshot: false, ..frame })).collect()
        };
        let (first, second) = (plain(first), plain(second));
        let sources = [("a", &first), ("b", &second)];
        let (one, books) = judge_all(&sources, &[], 1);
        let (other, shuffled) = judge_all(&sources, &picks, batch);
        prop_assert_eq!(books.all_rows(), shuffled.all_rows());
        let (left, right) = (one.decided(), other.decided());
        let differs = left.iter().zip(&right).find(|(a, b)| a != b);
        prop_assert!(differs.is_none() && left.len() == right.len(), "{differs:#?}");
        prop_assert_eq!(one.verdict_hash(), other.verdict_hash());
    }
}
