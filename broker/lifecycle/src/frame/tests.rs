use super::*;
use crate::fact::*;
use crate::identity::*;
use crate::ids::IdColumn;
use crate::ranges::Ranges;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.into()
}

fn queue(topic: u64, queue_id: u32) -> QueueKey {
    QueueKey { topic: TopicIncarnation(topic), queue_id }
}

fn identity(n: u64) -> MessageIdentity {
    MessageIdentity { queue: queue(n, 1), queue_offset: n * 3, epoch_number: n }
}

/// One of each kind; a new kind without an encoding fails here.
fn one_of_each() -> Vec<Fact> {
    let q = queue(7, 2);
    let g = name("orders-group");
    let ranges: Ranges = [(5, 9), (12, 13)].into_iter().collect();
    let ids: IdColumn =
        [b"0123456789ABCDEF0123456789ABCDEF".as_slice(), b"", b"weird id"].into_iter().collect();
    let lineage = Lineage { parent: identity(4), root: identity(2), reason: CopyReason::Retry };
    vec![
        Fact::Recovered(Recovered {
            clean: false,
            log_end: LogPosition(1 << 33),
            flushed: LogPosition(99),
            queues: vec![(q, 3, 8), (queue(7, 3), 0, 0)],
            bad: vec![(q, ranges.clone())],
            closed: vec![(Incarnation([9; 16]), 77)],
            unnamed_max: 256,
        }),
        Fact::EpochStarted(EpochStarted {
            epoch: Epoch { number: 3, incarnation: Incarnation([1; 16]) },
            broker_name: name("broker-a"),
            log_start: LogPosition(1 << 33),
            roster: vec![name("broker-a"), name("b")],
            settings: vec![(name("flushDiskType"), name("ASYNC_FLUSH"))],
        }),
        Fact::TopicConfigured(TopicConfigured {
            topic: q.topic,
            name: name("orders"),
            read_queues: 8,
            write_queues: 9,
            perm: 6,
            message_type: name("MIXED"),
        }),
        Fact::TopicDeleted { topic: q.topic, actor: name("admin") },
        Fact::GroupConfigured { group: g.clone(), retry_max: 16, consume_enabled: true },
        Fact::GroupDeleted { group: g.clone(), actor: name("") },
        Fact::Stored(Stored {
            first_ordinal: 0,
            log_end: LogPosition((1 << 33) + 500),
            store_wall_ms: 1_000_007,
            runs: vec![
                StoredRun { queue: q, queue_offset: 8, count: 2 },
                StoredRun { queue: queue(8, 0), queue_offset: 0, count: 1 },
            ],
            kinds: vec![
                (1, StoredKind::ProducedOneWay),
                (1, StoredKind::Delayed { due_wall_ms: 5, destination: name("orders") }),
                (1, StoredKind::Copy { group: g.clone(), lineage, due_wall_ms: 0 }),
            ],
            ids: ids.clone(),
        }),
        Fact::Stored(Stored {
            first_ordinal: 3,
            log_end: LogPosition((1 << 33) + 700),
            store_wall_ms: 1_000_000,
            runs: vec![StoredRun { queue: q, queue_offset: 10, count: 1 }],
            kinds: vec![(1, StoredKind::Half)],
            ids: IdColumn::new(),
        }),
        Fact::Refused { topic: name("t"), code: 13, reason: name("too large"), one_way: true, ids },
        Fact::Flushed { log_position: LogPosition(1 << 34) },
        Fact::JournalFlushed { sequence: 41 },
        Fact::Reserved { messages: 256, bytes: 1 << 20 },
        Fact::Answered { from_ordinal: 0, count: 2, class: AnswerClass::Buffered },
        Fact::Answered { from_ordinal: 3, count: 1, class: AnswerClass::OneWay },
        Fact::BrokenOff { ordinal: 1 },
        Fact::CopyFailed {
            group: g.clone(),
            parent: identity(6),
            reason: CopyReason::DeadLetter,
            error: name("disk full"),
        },
        Fact::GroupStarted { group: g.clone(), queue: q, offset: 5, reason: StartReason::Last },
        Fact::MemberJoined { group: g.clone(), member: name("c@1"), model: ConsumeModel::Lease },
        Fact::MemberLeft { group: g.clone(), member: name("c@1"), reason: LeaveReason::Disconnected },
        Fact::Subscribed {
            group: g.clone(),
            member: name("c@1"),
            topic: name("orders"),
            expression: name("A || B"),
            version: 1_700_000_000_000,
        },
        Fact::Delivered {
            group: g.clone(),
            queue: q,
            ranges: ranges.clone(),
            member: name("c@1"),
            attempt: 2,
            lease_until_ms: 77,
        },
        Fact::Filtered { group: g.clone(), queue: q, ranges: ranges.clone(), expression: name("A") },
        Fact::Acked { group: g.clone(), queue: q, ranges: ranges.clone(), member: name("c@1") },
        Fact::LateAck { group: g.clone(), queue: q, offset: 9, member: name("c@1") },
        Fact::Nacked { group: g.clone(), queue: q, offset: 9, attempt: 3, visible_at_ms: 1234 },
        Fact::LeaseExpired { group: g.clone(), queue: q, ranges: Ranges::of(1, 2) },
        Fact::OffsetMoved {
            group: g.clone(),
            queue: q,
            from: 9,
            to: 4,
            reason: MoveReason::Reset,
            actor: name("admin"),
        },
        Fact::Expired { queue: q, from: 0, to: 5, reason: ExpiryReason::Disk },
        Fact::ClockStepped { delta_ms: -3_600_000 },
        Fact::QueueState { queue: q, min_offset: 5, max_offset: 11 },
        Fact::Unreadable { group: g.clone(), queue: q, ranges: ranges.clone() },
        Fact::GroupState {
            group: g,
            queue: q,
            position: 5,
            delivered: ranges.clone(),
            settled: ranges.clone(),
        },
        Fact::Scrubbed(Scrubbed {
            member: name("b"),
            from: LogPosition(7),
            to: LogPosition(1 << 34),
            round_wall_ms: 1_000_003,
            ends_round: true,
            damaged: Ranges::of(100, 300),
            bad: vec![(q, ranges.clone()), (queue(9, 0), Ranges::of(0, 1))],
            unnamed_max: 2,
        }),
        Fact::ReDriven { queue: q, epoch_number: 3, ranges },
        Fact::SentReported(SentReported {
            id: name("id-1"),
            topic: name("orders"),
            outcome: SendOutcome::Unknown,
            broker: name("broker-a"),
            queue_id: Some(0),
            queue_offset: None,
            sent_wall_ms: 5,
            reported_wall_ms: 6,
        }),
        Fact::OperatorActed {
            incident: Incarnation([5; 16]),
            action: OperatorAction::Accept,
            actor: name("ada"),
            note: name("known outage"),
            wall_ms: 9,
        },
        Fact::Replicated { replica: name("b"), log_position: LogPosition(8), durable: true },
    ]
}

const NOW: Now = Now { mono_ms: 50, wall_ms: 1_000_000 };

#[test]
fn every_kind_of_fact_survives_its_bytes() {
    let facts = one_of_each();
    let kinds: std::collections::HashSet<_> = facts.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 35, "one of each kind, one tag each");
    let mut encoder = FrameEncoder::new();
    let mut decoder = FrameDecoder::new();
    let mut first = Vec::new();
    encoder.encode(NOW, false, &facts, &mut first);
    let frame = decoder.decode(&first).unwrap();
    assert_eq!(frame, Frame { reset: true, snapshot: false, now: NOW, facts });
    // the second time names, queues and ids come from the dictionaries
    let rest: Vec<Fact> = one_of_each().into_iter().filter(|f| !matches!(f, Fact::Stored(_))).collect();
    let later = Now { mono_ms: 57, wall_ms: 999_000 };
    let mut second = Vec::new();
    encoder.encode(later, false, &rest, &mut second);
    assert_eq!(
        decoder.decode(&second).unwrap(),
        Frame { reset: false, snapshot: false, now: later, facts: rest }
    );
    assert!(second.len() * 3 < first.len() * 2, "{} then {}", first.len(), second.len());
}

#[test]
fn reading_starts_only_at_a_reset_point() {
    let mut encoder = FrameEncoder::new();
    let mut frames = [Vec::new(), Vec::new(), Vec::new()];
    for (i, frame) in frames.iter_mut().enumerate() {
        encoder.encode(NOW, i == 2, &[Fact::Flushed { log_position: LogPosition(i as u64) }], frame);
    }
    let mut decoder = FrameDecoder::new();
    assert_eq!(decoder.decode(&frames[1]), Err(DecodeError::NoResetPoint));
    assert!(decoder.decode(&frames[2]).is_ok());
    assert_eq!(decoder.decode(&[0, 1]), Err(DecodeError::Truncated));
    assert_eq!(
        decoder.decode(&frames[1]),
        Err(DecodeError::NoResetPoint),
        "an error forgets the dictionaries"
    );
}

/// The budget of the journal's send side, before its 5 bytes of frame overhead.
#[test]
fn counted_ids_of_sixteen_producers_stay_within_eight_bytes_a_message() {
    let mut encoder = FrameEncoder::new();
    let mut total = 0;
    let mut out = Vec::new();
    let turns = 2000u64;
    for turn in 0..turns {
        let ids: IdColumn = (0..16u64)
            .map(|p| {
                format!("01AABBCCDDEE{p:02X}{:04X}0B1F3C{:02X}{:08X}", p * 7, turn / 500, turn).into_bytes()
            })
            .collect::<Vec<_>>()
            .iter()
            .map(Vec::as_slice)
            .collect();
        let stored = Stored {
            first_ordinal: turn * 16,
            log_end: LogPosition(turn * 16 * 1200),
            store_wall_ms: 1_000_000 + turn,
            runs: (0..16).map(|q| StoredRun { queue: queue(1, q), queue_offset: turn, count: 1 }).collect(),
            kinds: vec![(16, StoredKind::Produced)],
            ids,
        };
        let facts = [
            Fact::Flushed { log_position: LogPosition(turn * 16 * 1200) },
            Fact::Answered {
                from_ordinal: turn.saturating_sub(1) * 16,
                count: 16,
                class: AnswerClass::Flushed,
            },
            Fact::Stored(stored),
        ];
        out.clear();
        encoder.encode(Now { mono_ms: turn, wall_ms: 1_000_000 + turn }, false, &facts, &mut out);
        total += out.len() + 6;
    }
    let per_message = total as f64 / (turns * 16) as f64;
    assert!(per_message <= 8.0, "{per_message:.2} bytes per message");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = FrameDecoder::new();
        let mut reset = vec![FLAG_RESET, CODEC_VERSION, 0, 0, 0, 0, 0];
        reset.extend_from_slice(&bytes);
        prop_assert!(decoder.decode(&bytes).is_ok() || decoder.state.is_none());
        prop_assert!(decoder.decode(&reset).is_ok() || decoder.state.is_none());
    }

    #[test]
    fn damaged_frames_never_panic(at in 0usize..2000, bit in 0u8..8) {
        let mut bytes = Vec::new();
        FrameEncoder::new().encode(NOW, false, &one_of_each(), &mut bytes);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let mut decoder = FrameDecoder::new();
        prop_assert!(decoder.decode(&bytes).is_ok() || decoder.state.is_none());
    }
}
