//! The seeds of the fuzz targets: frames of real clients from the recorded conversations, and one of each thing that our own
//! encoders write. All of it is the same at every run.

use std::path::Path;
use std::sync::Arc;

use agent::fold::Books;
use agent::judge::deadlines::Deadlines;
use agent::judge::{Heads, Judge, StepInput};
use agent::ledger::raw_frames::{RawSource, encode_body};
use broker::grpc::proto;
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::*;
use lifecycle::frame::{Frame, FrameEncoder};
use lifecycle::identity::*;
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use prost::Message as _;
use serde_json::Value;
use store::checkpoint::Checkpoint;
use store::commit_log::CommitLog;
use store::consume_queue::Unit;
use store::disk::{Disk, OpenMode};
use store::disk_sim::SimDisk;
use store::index::{IndexConfig, KeyIndex, key_hash};
use store::journal::{Journal, JournalConfig};
use wire::message::{BatchItem, RecordVersion, StoredMessage, body_crc, records};
use wire::properties::Properties;
use wire::sys_flag::SysFlag;

use crate::decoders::{RUN, SEGMENT_BYTES};

/// Conversations whose client frames are seeds; one frame of each request code is enough.
const CONVERSATIONS: [&str; 8] = [
    "push-consumer-clustering",
    "push-consumer-clustering.rocketmq-header",
    "producer-batch",
    "pull-consumer",
    "push-consumer-reconsume-later",
    "mqadmin-queryMsgByKey",
    "mqadmin-topicList-cluster",
    "consumer-two-members",
];
/// Longer bodies make slow seeds.
const BODY_BYTES_MAX: usize = 2_048;
const NOW: Now = Now { mono_ms: 5_000, wall_ms: 1_800_000_000_000 };

type Seed = (&'static str, String, Vec<u8>);

/// Target, file name, bytes.
pub(crate) fn encoded() -> Vec<Seed> {
    let mut seeds = recorded();
    seeds.extend(grpc());
    seeds.extend(texts());
    seeds.extend(journals());
    seeds.extend(stores());
    seeds.extend(agents());
    seeds.extend(inspected());
    seeds
}

fn seed(target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (target, name.to_owned(), bytes.into())
}

/// With its length before it, as `decoders::pieces` reads them.
fn piece(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).expect("seeds are short").to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("the fixtures are hexadecimal") as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

fn recorded() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |target: &'static str, name: String, bytes: &[u8]| {
        if !bytes.is_empty() && !seeds.iter().any(|(known, called, _)| *known == target && *called == name) {
            seeds.push((target, name, bytes.to_vec()));
        }
    };
    for conversation in CONVERSATIONS {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/remoting/{conversation}.ndjson"));
        let text = std::fs::read_to_string(&path).expect("the fixtures are there");
        for line in text.lines() {
            let json: Value = serde_json::from_str(line).expect("the fixtures are JSON");
            let header = unhex(json["header_hex"].as_str().expect("every line has a header"));
            let body = unhex(json["body_hex"].as_str().unwrap_or_default());
            let whole = json["body_len"].as_u64() == Some(body.len() as u64) && body.len() <= BODY_BYTES_MAX;
            let name = json["name"].as_str().unwrap_or("UNNAMED").to_lowercase().replace('_', "-");
            let is_binary = json["serialize"] == "ROCKETMQ";
            if json["dir"] == "c2s" {
                let target = if is_binary { "remoting-binary-header" } else { "remoting-json-header" };
                add(target, name.clone(), &header);
            }
            if whole {
                let kind = u32::from(is_binary) << 24 | header.len() as u32;
                let mut frame = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
                frame.extend_from_slice(&kind.to_be_bytes());
                frame.extend_from_slice(&header);
                frame.extend_from_slice(&body);
                add("remoting-frames", name.clone(), &frame);
                match name.as_str() {
                    "heart-beat" | "lock-batch-mq" | "unlock-batch-mq" => add("remoting-bodies", name, &body),
                    "send-batch-message" => add("message-batch", name, &body),
                    _ if json["dir"] == "s2c" && records(&body).flatten().next().is_some() => {
                        add("message-records", name, &body);
                    }
                    _ => {}
                }
            }
        }
    }
    let mut batch = Vec::new();
    for (body, properties) in [(&b"one"[..], "KEYS\u{1}k1\u{2}TAGS\u{1}a\u{2}"), (b"two", "")] {
        let item = BatchItem { flag: 7, body, properties: Properties(properties) };
        item.encode(&mut batch).expect("a short message");
    }
    seeds.push(seed("message-batch", "two", batch));
    seeds.push(seed(
        "message-properties",
        "plain",
        "UNIQ_KEY\u{1}AB\u{2}TAGS\u{1}a\u{2}KEYS\u{1}k1 k2\u{2}WAIT\u{1}true",
    ));
    seeds.push(seed(
        "message-properties",
        "odd",
        "\u{1}\u{2}\u{2}name\u{1}\u{2}TAGS\u{1}a\u{1}b\u{2}no separator",
    ));
    seeds
}

fn resource(name: &str) -> Option<proto::Resource> {
    Some(proto::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn grpc() -> Vec<Seed> {
    let system = proto::SystemProperties {
        message_id: "01AABBCCDDEEFF00170B1F3C2A00000001".to_owned(),
        tag: Some("paid".to_owned()),
        keys: vec!["k1".to_owned(), "k2".to_owned()],
        ..Default::default()
    };
    let message = proto::Message {
        topic: resource("orders"),
        user_properties: [("colour".to_owned(), "red".to_owned())].into(),
        system_properties: Some(system.clone()),
        body: b"hello".to_vec().into(),
    };
    let later = Some(prost_types::Timestamp { seconds: 1_800_000_060, nanos: 5 });
    let delayed = proto::SystemProperties { delivery_timestamp: later, ..system };
    let delayed = proto::Message { system_properties: Some(delayed), ..message.clone() };
    let send = |messages| proto::SendMessageRequest { messages }.encode_to_vec();
    let receive = proto::ReceiveMessageRequest {
        group: resource("billing"),
        batch_size: 16,
        invisible_duration: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 1 }),
        ..Default::default()
    };
    let entry = proto::AckMessageEntry {
        message_id: "01AABB".to_owned(),
        receipt_handle: "1 100000001 3 42 1 0".to_owned(),
        ..Default::default()
    };
    let (group, topic) = (resource("billing"), resource("orders"));
    let ack = proto::AckMessageRequest { group, topic, entries: vec![entry] };
    let subscription = proto::SubscriptionEntry {
        topic: resource("orders"),
        expression: Some(proto::FilterExpression { expression: "paid || due".to_owned(), r#type: 1 }),
    };
    let subscriptions = proto::Subscription {
        group: resource("billing"),
        subscriptions: vec![subscription],
        ..Default::default()
    };
    let consumer = proto::Settings {
        client_type: Some(3),
        pub_sub: Some(proto::settings::PubSub::Subscription(subscriptions)),
        ..Default::default()
    };
    let publishing =
        proto::Publishing { topics: vec![resource("orders").expect("a name")], ..Default::default() };
    let producer = proto::Settings {
        client_type: Some(1),
        pub_sub: Some(proto::settings::PubSub::Publishing(publishing)),
        ..Default::default()
    };
    // "hello" as gzip writes it without a time
    let gzip = unhex("1f8b0800000000000203cb48cdc9c9070086a6103605000000");
    vec![
        seed("grpc-send", "one", send(vec![message.clone()])),
        seed("grpc-send", "two", send(vec![message.clone(), message])),
        seed("grpc-send", "delayed", send(vec![delayed])),
        seed("grpc-consume", "receive", receive.encode_to_vec()),
        seed("grpc-consume", "ack", ack.encode_to_vec()),
        seed("grpc-settings", "consumer", consumer.encode_to_vec()),
        seed("grpc-settings", "producer", producer.encode_to_vec()),
        seed("grpc-compressed-body", "hello", gzip),
    ]
}

fn texts() -> Vec<Seed> {
    let sent = r#"{"sent": [{"id": "A1", "topic": "orders", "outcome": "ok", "broker": "losstrace", "queue_id": 1,
        "queue_offset": 7, "sent_at": "2026-11-22T10:00:00.5Z"}, {"id": "A2", "topic": "orders", "outcome": "unknown"}]}"#;
    let broker = "[broker]\nflush_disk_type = 'SYNC_FLUSH'\nretry_max = 3\ndelay_levels_ms = [1000, 5000]\n";
    let agent = "[agent]\nreader = 'second'\nfeeds = [{name = 'b', urls = ['http://127.0.0.1:9466']}]\n\
                 [agent.checkpoint]\nfacts = 5\ninterval_ms = 100\n";
    vec![
        seed("tag-expression", "all", "*"),
        seed("tag-expression", "three", "paid || due||  late "),
        seed("tag-expression", "sql", "SQL92\na > 1"),
        seed("receipt-handle", "plain", "1 100000001 3 42 1 19f8a2c4d10"),
        seed("ids", "offset-id", "7F00000100002A9F0000000000001234"),
        seed("ids", "client-id", "7F0000010BB818B4AAC208F8D3E40000"),
        seed("ids", "client-id-v5", "01AABBCCDDEEFF00170B1F3C2A00000001"),
        seed("ids", "run", RUN.to_string()),
        seed("ids", "lineage", lineage().encode()),
        seed("folder-marker", "broker", "losstrace data folder, kind broker, format 1\n"),
        seed("sent-report", "two", sent),
        seed("configuration", "broker", broker),
        seed("configuration", "agent", agent),
    ]
}

fn queue(queue_id: u32) -> QueueKey {
    QueueKey { topic: TopicIncarnation::new(1, 1), queue_id }
}

fn lineage() -> Lineage {
    let identity = |queue_offset| MessageIdentity { queue: queue(0), queue_offset, epoch_number: 1 };
    Lineage { parent: identity(3), root: identity(1), reason: CopyReason::Retry }
}

fn stored(first_ordinal: u64, count: u64, kind: StoredKind) -> Fact {
    let ids: Vec<String> =
        (0..count).map(|n| format!("01AABBCCDDEEFF00170B1F3C2A{:08X}", first_ordinal + n)).collect();
    Fact::Stored(Stored {
        first_ordinal,
        log_end: LogPosition((first_ordinal + count) * 300),
        store_wall_ms: NOW.wall_ms,
        runs: vec![StoredRun { queue: queue(0), queue_offset: first_ordinal, count }],
        kinds: vec![(count, kind)],
        ids: ids.iter().map(String::as_bytes).collect(),
    })
}

const GROUP: &str = "billing";
const MEMBER: &str = "member-1";

/// One of nearly every fact, in an order that makes a life.
fn life() -> Vec<Vec<Fact>> {
    vec![beginning(), members(), sends(), first_deliveries(), jumps(), troubles(), end()]
}

fn beginning() -> Vec<Fact> {
    let topic = |serial, name: &str| {
        Fact::TopicConfigured(TopicConfigured {
            topic: TopicIncarnation::new(1, serial),
            name: name.into(),
            read_queues: 4,
            write_queues: 4,
            perm: 6,
            message_type: "NORMAL".into(),
        })
    };
    let epoch = EpochStarted {
        epoch: Epoch { number: 1, incarnation: RUN },
        broker_name: "b".into(),
        log_start: LogPosition(0),
        roster: vec!["b".into()],
        settings: vec![("flushDiskType".into(), "ASYNC_FLUSH".into())],
    };
    let recovered = Recovered { clean: true, ..Default::default() };
    vec![Fact::Recovered(recovered), Fact::EpochStarted(epoch), topic(1, "orders"), topic(2, "%DLQ%billing")]
}

fn members() -> Vec<Fact> {
    let (group, member): (Name, Name) = (GROUP.into(), MEMBER.into());
    let (topic, expression) = ("orders".into(), "*".into());
    vec![
        Fact::GroupConfigured { group: group.clone(), retry_max: 3, consume_enabled: true },
        Fact::MemberJoined { group: group.clone(), member: member.clone(), model: ConsumeModel::Clustering },
        Fact::Subscribed { group: group.clone(), member, topic, expression, version: 1 },
        Fact::GroupStarted { group, queue: queue(0), offset: 0, reason: StartReason::First },
        Fact::Reserved { messages: 256, bytes: 1 << 20 },
    ]
}

fn sends() -> Vec<Fact> {
    let class = AnswerClass::Buffered;
    vec![stored(0, 12, StoredKind::Produced), Fact::Answered { from_ordinal: 0, count: 12, class }]
}

fn delivered(from: u64, to: u64, attempt: u32) -> Fact {
    Fact::Delivered {
        group: GROUP.into(),
        queue: queue(0),
        ranges: Ranges::of(from, to),
        member: MEMBER.into(),
        attempt,
        lease_until_ms: u64::from(attempt) * (NOW.wall_ms + 30_000),
    }
}

fn moved(from: u64, to: u64, reason: MoveReason) -> Fact {
    let (group, actor) = (GROUP.into(), MEMBER.into());
    Fact::OffsetMoved { group, queue: queue(0), from, to, reason, actor }
}

fn first_deliveries() -> Vec<Fact> {
    let ids = [&b"R1"[..]].into_iter().collect();
    let (topic, reason) = ("orders".into(), "read only".into());
    vec![
        Fact::Flushed { log_position: LogPosition(12 * 300) },
        Fact::Refused { topic, code: 16, reason, one_way: true, ids },
        Fact::BrokenOff { ordinal: 2 },
        delivered(0, 4, 0),
        moved(0, 4, MoveReason::Commit),
    ]
}

fn jumps() -> Vec<Fact> {
    vec![moved(4, 6, MoveReason::Commit), moved(6, 9, MoveReason::Reset), delivered(9, 12, 1)]
}

fn troubles() -> Vec<Fact> {
    let (group, member): (Name, Name) = (GROUP.into(), MEMBER.into());
    let queue = queue(0);
    let copy =
        StoredKind::Copy { group: group.clone(), lineage: lineage(), due_wall_ms: NOW.wall_ms + 1_000 };
    let delayed = StoredKind::Delayed { due_wall_ms: NOW.wall_ms + 5, destination: "orders".into() };
    let (parent, reason, error) = (lineage().parent, CopyReason::DeadLetter, "disk".into());
    vec![
        Fact::Acked { group: group.clone(), queue, ranges: Ranges::of(9, 10), member: member.clone() },
        Fact::Nacked { group: group.clone(), queue, offset: 10, attempt: 1, visible_at_ms: NOW.wall_ms },
        Fact::LeaseExpired { group: group.clone(), queue, ranges: Ranges::of(11, 12) },
        Fact::LateAck { group: group.clone(), queue, offset: 11, member },
        Fact::Filtered { group: group.clone(), queue, ranges: Ranges::of(10, 11), expression: "a".into() },
        stored(12, 2, copy),
        stored(14, 1, delayed),
        Fact::Unreadable { group: group.clone(), queue, ranges: Ranges::of(12, 13) },
        Fact::Scrubbed(Scrubbed {
            to: LogPosition(4096),
            round_wall_ms: NOW.wall_ms,
            damaged: Ranges::of(300, 600),
            bad: vec![(queue, Ranges::of(1, 2))],
            unnamed_max: 1,
            ..Scrubbed::default()
        }),
        Fact::CopyFailed { group, parent, reason, error },
    ]
}

fn end() -> Vec<Fact> {
    vec![
        Fact::Expired { queue: queue(0), from: 0, to: 11, reason: ExpiryReason::Age },
        Fact::ClockStepped { delta_ms: -90_000 },
        Fact::JournalFlushed { sequence: 6 },
        Fact::MemberLeft { group: GROUP.into(), member: MEMBER.into(), reason: LeaveReason::Disconnected },
    ]
}

/// The life as frames of one run, the first a reset point.
fn frames() -> Vec<Vec<u8>> {
    let mut encoder = FrameEncoder::new();
    let encode = |(index, facts): (usize, Vec<Fact>)| {
        let mut out = Vec::new();
        let now = Now { mono_ms: NOW.mono_ms + index as u64, wall_ms: NOW.wall_ms + index as u64 };
        encoder.encode(now, index == 0, &facts, &mut out);
        out
    };
    life().into_iter().enumerate().map(encode).collect()
}

fn file(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), OpenMode::Existing).expect("it was written");
    let mut bytes = vec![0; usize::try_from(file.len().expect("a length")).expect("short")];
    file.read_at(&mut bytes, 0).expect("it can be read");
    bytes
}

fn journals() -> Vec<Seed> {
    let frames = frames();
    let disk = SimDisk::new();
    let opened =
        Journal::open(Arc::new(disk.clone()), JournalConfig::new("/journal".into()), RUN, NOW.wall_ms);
    let (mut journal, _) = opened.expect("an empty disk takes a journal");
    for (index, frame) in frames.iter().enumerate() {
        journal.append(frame, index == 0).expect("frames are short");
    }
    journal.write().expect("an empty disk takes bytes");
    let mut snapshot = vec![1, 1];
    snapshot.extend_from_slice(&RUN.0);
    snapshot.extend_from_slice(&7_u64.to_be_bytes());
    snapshot.extend_from_slice(&4_500_u64.to_be_bytes());
    let state = [
        beginning().split_off(1),
        vec![
            Fact::QueueState { queue: queue(0), min_offset: 11, max_offset: 15 },
            Fact::GroupState {
                group: "billing".into(),
                queue: queue(0),
                position: 11,
                delivered: Ranges::of(11, 12),
                settled: Ranges::of(13, 14),
            },
            Fact::ReDriven { queue: queue(0), epoch_number: 2, ranges: Ranges::of(15, 17) },
        ],
    ];
    FrameEncoder::new().encode_snapshot(NOW, true, &state.concat(), &mut snapshot);
    let first = Position { incarnation: RUN, sequence: 1 };
    let kept = journal.view().keep_behind(first, &disk, Path::new("/kept")).expect("an empty disk");
    let kept = file(&disk, kept.expect("a life has frames").to_str().expect("our own name"));
    let kept = kept.get(..kept.len() - 4).expect("it ends with its checksum").to_vec();
    vec![
        seed("journal-frames", "life", frames.iter().flat_map(|frame| piece(frame)).collect::<Vec<u8>>()),
        seed("journal-segment", "life", file(&disk, "/journal/00000000000000000000")),
        seed("kept-frames", "life", kept),
        seed("state-snapshot", "two-topics", snapshot),
    ]
}

/// Any record will do; this one was written by Apache's broker.
fn record() -> Vec<u8> {
    let (_, _, body) =
        recorded().into_iter().find(|(target, ..)| *target == "message-records").expect("there is one");
    let (_, len) = wire::message::StoredMessage::decode(&body).expect("it is whole");
    body.get(..len).expect("it is whole").to_vec()
}

fn stores() -> Vec<Seed> {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut log =
        CommitLog::open(shared.clone(), Path::new("/log"), SEGMENT_BYTES, Vec::new()).expect("an empty disk");
    log.begin_epoch(Epoch { number: 1, incarnation: RUN });
    let record = record();
    for with_lineage in [None, Some(lineage()), None] {
        log.place(record.len(), with_lineage.is_some()).expect("it fits");
        log.push(TopicIncarnation::new(1, 1), with_lineage.as_ref(), |out| out.extend_from_slice(&record));
    }
    log.write().expect("an empty disk takes bytes");
    let segment = [vec![128], file(&disk, "/log/00000000000000000000")].concat();

    let start = log.start();
    let kept = log.cut_with_survivor(&disk, Path::new("/survivors"), start).expect("an empty disk");
    let kept = file(&disk, kept.expect("three records").to_str().expect("our own name"));
    let kept = kept.get(..kept.len() - 4).expect("it ends with its checksum").to_vec();

    let units = (0..5_u64).map(|n| Unit { commitlog_offset: 100 * n + 40, size: 60, tag_hash: n as i64 - 2 });
    let units: Vec<u8> = units.flat_map(|unit| unit.encode()).collect();

    let config = IndexConfig::new("/index".into());
    let (mut index, _) = KeyIndex::open(shared, config, 0..10_000).expect("an empty disk");
    index.start_at(0);
    for n in 0..40_u8 {
        index.insert(key_hash(&[n % 8]), u64::from(n) * 100);
    }
    index.advance(10_000);
    let run = index.seal_job(10_000, true).expect("there is something to seal").run().expect("an empty disk");
    index.install(run).expect("it was just made");
    let run = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .find(|path| path.extension().is_some_and(|e| e == "run"));
    let run = file(&disk, run.expect("a sealed run is a file").to_str().expect("our own name"));

    let (mut checkpoint, ..) = Checkpoint::open(&disk, Path::new("/store"), "state").expect("an empty disk");
    for payload in [&b"first"[..], b"second, longer"] {
        checkpoint.save(payload).expect("an empty disk takes bytes");
    }
    let slots = ["/store/state.0", "/store/state.1"].map(|slot| piece(&file(&disk, slot))).concat();
    vec![
        seed("commit-log-segment", "three-records", segment),
        seed("survivor-file", "three-records", kept),
        seed("consume-queue-file", "five-units", units),
        seed("key-index-run", "forty-entries", run),
        seed("checkpoint-slots", "two-generations", slots),
    ]
}

/// Stores of another broker, as `inspect` meets them: two records and half a third, a queue, offsets with bare numbers as names.
fn inspected() -> Vec<Seed> {
    let mut log = Vec::new();
    for (n, body) in [&b"one"[..], b"two", b"three"].into_iter().enumerate() {
        let host = std::net::SocketAddr::from(([127, 0, 0, 1], 10911));
        let message = StoredMessage {
            version: RecordVersion::V1,
            body_crc: body_crc(body),
            queue_id: 0,
            flag: 0,
            queue_offset: n as u64,
            commitlog_offset: log.len() as u64,
            sys_flag: SysFlag(0),
            born_timestamp_ms: 1_800_000_000_000,
            born_host: host,
            store_timestamp_ms: 1_800_000_000_001,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            topic: "Orders",
            properties: Properties("UNIQ_KEY\u{1}7F00000148AD4E0E2F2A70A6952F00DE\u{2}TAGS\u{1}TagA"),
        };
        message.encode(&mut log).expect("a small record");
    }
    log.truncate(log.len() - 40);
    log.resize(log.len() + 100, 0);
    let unit =
        |n: u64| [(n * 160).to_be_bytes().as_slice(), &160_u32.to_be_bytes(), &n.to_be_bytes()].concat();
    let queue: Vec<u8> = (0..3).flat_map(unit).chain([0; 40]).collect();
    let offsets =
        "{\n\t\"offsetTable\":{\n\t\t\"Orders@g\":{0:57,1:55\n\t\t},\"%RETRY%g@g\":{0:0\n\t\t}\n\t}\n}";
    vec![
        seed("inspected-log", "torn-third", log),
        seed("inspected-queue", "three-units", queue),
        seed("inspected-offsets", "bare-numbers", offsets),
    ]
}

fn agents() -> Vec<Seed> {
    let broker: Name = "b".into();
    let mut books = Books::new(7 * 24 * 3_600_000);
    for (index, facts) in life().into_iter().enumerate() {
        let position = Position { incarnation: RUN, sequence: index as u64 + 1 };
        let frame = Frame { reset: index == 0, snapshot: false, now: NOW, facts };
        books.apply(&broker, position, &frame);
    }
    let mut numbers = 0_u128;
    let count = move || {
        numbers += 1;
        uuid::Uuid::from_u128(numbers)
    };
    let mut judge = Judge::new(Deadlines::default(), Box::new(count));
    let events = books.take_events();
    let heads = Heads::new();
    let now = Now { mono_ms: NOW.mono_ms + 60_000, wall_ms: NOW.wall_ms + 60_000 };
    let told = judge.step(&books, StepInput { events, now, heads: &heads, answers: Vec::new() });
    assert!(!told.is_empty(), "this life has losses");
    let verdicts = told.iter().map(|event| {
        let mut record = [vec![1], vec![0; 32]].concat();
        record.extend(serde_json::to_vec(event).expect("plain values"));
        piece(&record)
    });
    let rows = books.rows_changed_since_last().into_iter().chain(judge.rows_changed_since_last());
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = rows.filter_map(|(key, value)| Some((key, value?))).collect();
    rows.sort();
    let rows = rows
        .into_iter()
        .flat_map(|(key, value)| [piece(&[b"b".to_vec(), key].concat()), piece(&value)].concat());

    let report = SentReported {
        id: "A1".into(),
        topic: "orders".into(),
        outcome: SendOutcome::Ok,
        broker: "b".into(),
        queue_id: Some(1),
        queue_offset: Some(7),
        sent_wall_ms: NOW.wall_ms,
        reported_wall_ms: NOW.wall_ms + 1,
    };
    let act = Fact::OperatorActed {
        incident: RUN,
        action: OperatorAction::Accept,
        actor: "anna".into(),
        note: "known".into(),
        wall_ms: NOW.wall_ms,
    };
    let mut evidence = Vec::new();
    FrameEncoder::new().encode(NOW, true, &[Fact::SentReported(report), act], &mut evidence);

    let at = |index: usize| Position { incarnation: RUN, sequence: index as u64 + 1 };
    let held = frames().into_iter().enumerate().map(|(index, frame)| (at(index), Bytes::from(frame)));
    let raw = encode_body(&[RawSource { name: broker, frames: held.collect() }]);
    vec![
        seed("evidence-log", "report-and-act", piece(&evidence)),
        seed("verdict-log", "life", verdicts.collect::<Vec<_>>().concat()),
        seed("raw-frames", "life", raw),
        seed("ledger-rows", "life", rows.collect::<Vec<u8>>()),
    ]
}
