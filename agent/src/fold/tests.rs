//! Any facts, in any order: no panic, the books balance after every frame, duplicates and re-reading change nothing, and the
//! rows give the same books back.

mod rate;

use super::*;
use crate::fold::rows::ROW_LEN_MAX;
use lifecycle::clock::Now;
use lifecycle::fact::*;
use lifecycle::identity::*;
use lifecycle::ids::IdColumn;
use lifecycle::ranges::Ranges;
use proptest::prelude::*;

pub(crate) fn queue(topic: u64, queue_id: u32) -> QueueKey {
    QueueKey { topic: TopicIncarnation(topic), queue_id }
}

fn any_queue() -> impl Strategy<Value = QueueKey> {
    (1u64..4, 0u32..2).prop_map(|(topic, queue_id)| queue(topic, queue_id))
}

fn any_group() -> impl Strategy<Value = Name> {
    prop_oneof![Just("g"), Just("h")].prop_map(Name::from)
}

fn any_ranges() -> impl Strategy<Value = Ranges> {
    prop::collection::vec((0u64..40, 1u64..6), 1..4)
        .prop_map(|runs| runs.into_iter().map(|(from, len)| (from, from + len)).collect())
}

fn any_identity() -> impl Strategy<Value = MessageIdentity> {
    (any_queue(), 0u64..40, 0u64..3).prop_map(|(queue, queue_offset, epoch_number)| MessageIdentity {
        queue,
        queue_offset,
        epoch_number,
    })
}

fn any_reason() -> impl Strategy<Value = CopyReason> {
    prop_oneof![
        Just(CopyReason::Retry),
        Just(CopyReason::DeadLetter),
        Just(CopyReason::Due),
        Just(CopyReason::ReDrive)
    ]
}

fn any_kind() -> impl Strategy<Value = StoredKind> {
    prop_oneof![
        4 => Just(StoredKind::Produced),
        1 => Just(StoredKind::ProducedOneWay),
        1 => (0u64..100_000).prop_map(|due_wall_ms| StoredKind::Delayed { due_wall_ms, destination: "t".into() }),
        2 => (any_group(), any_identity(), any_identity(), any_reason(), 0u64..50_000).prop_map(
            |(group, parent, root, reason, due_wall_ms)| StoredKind::Copy {
                group,
                lineage: Lineage { parent, root, reason },
                due_wall_ms
            }
        ),
    ]
}

fn any_stored() -> impl Strategy<Value = Fact> {
    let runs = prop::collection::vec((any_queue(), 0u64..30, 1u64..5, any_kind()), 1..3);
    (runs, 0u64..100, 0u64..2_000).prop_map(|(parts, first_ordinal, log_end)| {
        let runs: Vec<StoredRun> = parts
            .iter()
            .map(|(queue, queue_offset, count, _)| StoredRun {
                queue: *queue,
                queue_offset: *queue_offset,
                count: *count,
            })
            .collect();
        let kinds = parts.iter().map(|(_, _, count, kind)| (*count, kind.clone())).collect();
        let total: u64 = runs.iter().map(|run| run.count).sum();
        let ids: IdColumn = (0..total)
            .map(|n| [b'a' + (n % 9) as u8])
            .collect::<Vec<_>>()
            .iter()
            .map(|id| id.as_slice())
            .collect();
        Fact::Stored(Stored {
            first_ordinal,
            log_end: LogPosition(log_end),
            store_wall_ms: 5,
            runs,
            kinds,
            ids,
        })
    })
}

fn any_move() -> impl Strategy<Value = Fact> {
    let reason = prop_oneof![
        4 => Just(MoveReason::Commit),
        2 => Just(MoveReason::Reset),
        1 => Just(MoveReason::Correction),
        1 => Just(MoveReason::Retention),
        2 => Just(MoveReason::AckFloor),
        1 => Just(MoveReason::Recovery)
    ];
    (any_group(), any_queue(), 0u64..40, 0u64..40, reason).prop_map(|(group, queue, from, to, reason)| {
        Fact::OffsetMoved { group, queue, from, to, reason, actor: "a".into() }
    })
}

fn any_epoch() -> impl Strategy<Value = Fact> {
    // one number, one epoch
    (1u64..9).prop_map(|number| {
        let role = if number % 2 == 0 { "SYNC_MASTER" } else { "ASYNC_MASTER" };
        let (in_sync, member) = ((number % 3 + 1).to_string(), ["x", "y", ""][number as usize % 3]);
        let setting = |name: &str, value: &str| (Name::from(name), Name::from(value));
        Fact::EpochStarted(EpochStarted {
            epoch: Epoch { number, incarnation: Incarnation([number as u8; 16]) },
            broker_name: "b".into(),
            log_start: LogPosition(0),
            roster: vec![],
            settings: vec![
                setting("brokerRole", role),
                setting("inSyncReplicas", &in_sync),
                setting(EpochStarted::MEMBER, member),
            ],
        })
    })
}

fn any_recovered() -> impl Strategy<Value = Fact> {
    (
        any::<bool>(),
        prop::collection::vec((any_queue(), 0u64..5, 0u64..30), 0..5),
        0u64..3,
        any_queue(),
        any_ranges(),
        0u64..2_000,
    )
        .prop_map(|(clean, queues, unnamed_max, bad_queue, bad, log_end)| {
            let queues = queues.into_iter().map(|(queue, min, len)| (queue, min, min + len)).collect();
            Fact::Recovered(Recovered {
                clean,
                queues,
                unnamed_max,
                log_end: LogPosition(log_end),
                bad: vec![(bad_queue, bad)],
                ..Default::default()
            })
        })
}

pub(crate) fn any_fact() -> impl Strategy<Value = Fact> {
    let g = any_group;
    let q = any_queue;
    prop_oneof![
        6 => any_stored(),
        2 => (0u64..2_000).prop_map(|at| Fact::Flushed { log_position: LogPosition(at) }),
        2 => (0u64..60, 1u64..9, 1u8..8).prop_map(|(from_ordinal, count, class)| Fact::Answered {
            from_ordinal, count, class: AnswerClass::from_u8(class).unwrap() }),
        3 => (g(), q(), 0u64..20).prop_map(|(group, queue, offset)| Fact::GroupStarted { group, queue, offset, reason: StartReason::First }),
        5 => (g(), q(), any_ranges(), 0u32..4, 0u64..90).prop_map(|(group, queue, ranges, attempt, lease_until_ms)| Fact::Delivered {
            group, queue, ranges, member: "m".into(), attempt, lease_until_ms }),
        3 => (g(), q(), any_ranges()).prop_map(|(group, queue, ranges)| Fact::Acked { group, queue, ranges, member: "m".into() }),
        2 => (g(), q(), any_ranges()).prop_map(|(group, queue, ranges)| Fact::Filtered { group, queue, ranges, expression: "a".into() }),
        1 => (g(), q(), any_ranges()).prop_map(|(group, queue, ranges)| Fact::LeaseExpired { group, queue, ranges }),
        1 => (g(), q(), 0u64..40).prop_map(|(group, queue, offset)| Fact::Nacked { group, queue, offset, attempt: 1, visible_at_ms: 0 }),
        5 => any_move(),
        2 => (q(), 0u64..40).prop_map(|(queue, to)| Fact::Expired { queue, from: 0, to, reason: ExpiryReason::Age }),
        1 => any_recovered(),
        1 => (g(), any_identity(), any_reason()).prop_map(|(group, parent, reason)| Fact::CopyFailed { group, parent, reason, error: "full".into() }),
        1 => (1u64..4, "[a-b%DLQ]{1,6}").prop_map(|(topic, name)| Fact::TopicConfigured(TopicConfigured {
            topic: TopicIncarnation(topic), name: name.as_str().into(), read_queues: 2, write_queues: 2, perm: 6, message_type: "".into() })),
        1 => (g(), "[mn]", "[xy]").prop_map(|(group, member, expression)| Fact::Subscribed {
            group, member: member.as_str().into(), topic: "a".into(), expression: expression.as_str().into(), version: 1 }),
        1 => (g(), "[mn]").prop_map(|(group, member)| Fact::MemberJoined { group, member: member.as_str().into(), model: ConsumeModel::Clustering }),
        1 => any_epoch(),
        2 => ("[xy]", 0u64..2_000, any::<bool>()).prop_map(|(replica, at, durable)| Fact::Replicated {
            replica: replica.as_str().into(), log_position: LogPosition(at), durable }),
        1 => (1u64..4).prop_map(|topic| Fact::TopicDeleted { topic: TopicIncarnation(topic), actor: "".into() }),
        1 => g().prop_map(|group| Fact::GroupDeleted { group, actor: "".into() }),
        1 => (0u64..60).prop_map(|sequence| Fact::JournalFlushed { sequence }),
        1 => (q(), 0u64..9, 0u64..40).prop_map(|(queue, min_offset, len)| Fact::QueueState { queue, min_offset, max_offset: min_offset + len }),
        1 => (g(), q(), 0u64..30, any_ranges(), any_ranges()).prop_map(|(group, queue, position, delivered, settled)| Fact::GroupState {
            group, queue, position, delivered, settled }),
        1 => (q(), 0u64..4, any_ranges()).prop_map(|(queue, epoch_number, ranges)| Fact::ReDriven { queue, epoch_number, ranges }),
    ]
}

pub(crate) type Stream = Vec<(Position, Frame)>;

/// Frames of one source: two runs, with holes and a snapshot here and there.
pub(crate) fn any_stream(source: u8) -> impl Strategy<Value = Stream> {
    let frame = (prop::collection::vec(any_fact(), 1..6), 0u8..30, 0u8..30);
    prop::collection::vec(frame, 1..40).prop_map(move |frames| {
        let mut at = Position { incarnation: Incarnation([source; 16]), sequence: 0 };
        let mut out = Vec::new();
        for (index, (facts, odd, gap)) in frames.into_iter().enumerate() {
            if odd == 0 {
                at = Position {
                    incarnation: Incarnation([at.incarnation.0[0].wrapping_add(100); 16]),
                    sequence: 0,
                };
            }
            at.sequence += if gap == 0 { 3 } else { 1 };
            let now = Now { mono_ms: index as u64 * 10, wall_ms: 1_000 + index as u64 * 10 };
            out.push((at, Frame { reset: odd == 0, snapshot: odd == 1, now, facts }));
        }
        out
    })
}

fn fold(sources: &[(&str, &Stream)], order: impl Iterator<Item = usize>) -> Books {
    let mut books = Books::default();
    let mut next = vec![0usize; sources.len()];
    for pick in order {
        let index = pick % sources.len();
        let (name, stream) = sources[index];
        if let Some((at, frame)) = stream.get(next[index]) {
            books.apply(&(*name).into(), *at, frame);
            next[index] += 1;
        }
    }
    for (index, (name, stream)) in sources.iter().enumerate() {
        for (at, frame) in &stream[next[index]..] {
            books.apply(&(*name).into(), *at, frame);
        }
    }
    books
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn any_facts_keep_the_books_balanced(stream in any_stream(1)) {
        let mut books = Books::default();
        for (at, frame) in &stream {
            let before = books.clone();
            books.apply(&"b".into(), *at, frame);
            let wrong = books.imbalance();
            prop_assert!(wrong.is_none(), "{}\nafter {frame:?}\nbefore: {:?}", wrong.unwrap(),
                before.brokers.get("b").map(|b| (&b.queues, &b.groups)));
            for event in books.take_events() {
                if let event::What::Lost { span, .. } = event.what { prop_assert!(span.from < span.to); }
            }
        }
    }

    #[test]
    fn order_between_sources_and_repeats_change_nothing(
        first in any_stream(1), second in any_stream(2), order in prop::collection::vec(0usize..2, 0..80)
    ) {
        let sources = [("a", &first), ("b", &second)];
        let one = fold(&sources, (0..first.len()).map(|_| 0));
        let other = fold(&sources, order.into_iter());
        prop_assert_eq!(one.positions(), other.positions());
        prop_assert_eq!(one.all_rows(), other.all_rows());
        // told again from anywhere: dropped by number, or refused because the run is over
        let mut again = other.clone();
        for (at, frame) in &first {
            if !frame.snapshot { prop_assert_ne!(again.apply(&"a".into(), *at, frame), broker::Applied::New); }
        }
        again.take_events();
        let mut other = other;
        other.take_events();
        prop_assert_eq!(again.all_rows(), other.all_rows());
    }

    #[test]
    fn rows_give_the_books_back_and_changes_add_up(stream in any_stream(1), every in 1usize..9, restart in 0usize..40) {
        let mut books = Books::default();
        let mut ledger: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let save = |books: &mut Books, ledger: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
            books.take_events();
            for (key, value) in books.rows_changed_since_last() {
                match value {
                    Some(value) => { assert!(value.len() <= ROW_LEN_MAX); ledger.insert(key, value); }
                    None => { assert!(ledger.remove(&key).is_some(), "deleted a row that was never written"); }
                }
            }
        };
        for (index, (at, frame)) in stream.iter().enumerate() {
            books.apply(&"b".into(), *at, frame);
            if index % every == 0 {
                save(&mut books, &mut ledger);
            }
            if index == restart {
                save(&mut books, &mut ledger);
                books = read_rows(&ledger).unwrap();
            }
        }
        save(&mut books, &mut ledger);
        let full = books.all_rows();
        let differs: Vec<_> =
            ledger.keys().chain(full.keys()).filter(|key| ledger.get(*key) != full.get(*key)).collect();
        prop_assert!(differs.is_empty(), "changes add up to a full export, except {:?}: {:?} {:?}", differs,
            differs.first().map(|k| ledger.get(*k)), differs.first().map(|k| full.get(*k)));
        prop_assert!(books.rows_changed_since_last().iter().all(|(_, v)| v.is_some()), "nothing left to delete");
        let read = read_rows(&ledger).unwrap();
        prop_assert_eq!(read.all_rows(), ledger);
        prop_assert_eq!(read.positions(), books.positions());
        prop_assert_eq!(read.totals(), books.totals());
    }

    #[test]
    fn damaged_rows_never_panic(stream in any_stream(1), at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), value: u8) {
        let books = fold(&[("b", &stream)], std::iter::empty());
        let mut rows = books.all_rows();
        let index = at.index(rows.len());
        if let Some((_, bytes)) = rows.iter_mut().nth(index) {
            let index = byte.index(bytes.len());
            bytes[index] = value;
        }
        if let Ok(books) = read_rows(&rows) {
            drop(books.positions());
            let queues = books.brokers.values().flat_map(|b| b.groups.values().map(move |group| (b, group)));
            for (broker, group) in queues {
                for (key, owed) in &group.queues {
                    let max = broker.queues.get(key).map_or(0, |queue| queue.max);
                    prop_assert!(owed.undelivered(max) <= max && owed.in_flight_by_marks(max) <= max);
                }
            }
        }
    }
}

fn read_rows(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Books, rows::RowError> {
    Books::from_rows(rows.iter().map(|(key, value)| (&key[..], &value[..])))
}

#[test]
fn long_lists_are_cut_into_rows() {
    let mut books = Books::default();
    let name: Name = "b".into();
    let q = queue(1, 0);
    let stored = Fact::Stored(Stored {
        runs: vec![StoredRun { queue: q, queue_offset: 0, count: 20_000 }],
        kinds: vec![(20_000, StoredKind::Produced)],
        log_end: LogPosition(1),
        ids: (0..20_000u32)
            .map(|n| format!("{n:032X}").into_bytes())
            .collect::<Vec<_>>()
            .iter()
            .map(Vec::as_slice)
            .collect(),
        ..Default::default()
    });
    let ranges: Ranges = (0..5_000u64).map(|n| (n * 4, n * 4 + 2)).collect();
    let facts = vec![
        Fact::GroupStarted { group: "g".into(), queue: q, offset: 0, reason: StartReason::First },
        stored,
        Fact::Delivered {
            group: "g".into(),
            queue: q,
            ranges,
            member: "m".into(),
            attempt: 1,
            lease_until_ms: 1 << 40,
        },
    ];
    let at = |sequence| Position { incarnation: Incarnation([1; 16]), sequence };
    let frame = |facts| Frame { reset: true, snapshot: false, now: Now::default(), facts };
    books.apply(&name, at(1), &frame(facts));
    let rows: BTreeMap<_, _> =
        books.rows_changed_since_last().into_iter().map(|(k, v)| (k, v.unwrap())).collect();
    assert!(rows.len() > 200, "{}", rows.len());
    assert!(rows.values().all(|value| value.len() <= ROW_LEN_MAX));
    assert_eq!(read_rows(&rows).unwrap().all_rows(), rows);
    // one more ack rewrites its window, the heads, and nothing else
    let acked =
        Fact::Acked { group: "g".into(), queue: q, ranges: Ranges::of(9_000, 9_002), member: "m".into() };
    books.apply(&name, at(2), &frame(vec![acked]));
    let changed = books.rows_changed_since_last();
    assert!((1..=4).contains(&changed.len()), "{} rows", changed.len());
    let mut missing = rows.clone();
    let first_chunk = missing.keys().find(|key| key[0] == 7).cloned().unwrap();
    missing.remove(&first_chunk);
    assert_eq!(read_rows(&missing).err(), Some(rows::RowError::Missing));
}
