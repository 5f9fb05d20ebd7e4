//! Every decoder of bytes or text that come from outside, as a function that must not panic, whatever it is given. One list for
//! the fuzzer, for the replay of the corpus in the ordinary test run, and for the check that every seed is understood.
//!
//! Each returns whether it understood the bytes. Where a decoder has an encoder, what was decoded must survive it.

#[path = "inspected.rs"]
mod inspected;

use std::path::Path;
use std::sync::Arc;

use agent::config::AgentConfig;
use agent::ledger::evidence_log;
use agent::ledger::raw_frames::RawFrames;
use agent::ledger::verdict_log::{Opening, Record, RecordKind, VerdictLog};
use agent::run::Core;
use broker::survivors::Told;
use bytes::{Bytes, BytesMut};
use lifecycle::fact::Fact;
use lifecycle::frame::{FrameDecoder as JournalFrameDecoder, FrameEncoder};
use lifecycle::identity::{Epoch, Incarnation, Lineage, LogPosition};
use store::checkpoint::Checkpoint;
use store::commit_log::CommitLog;
use store::commit_log::survivor::Survivor;
use store::consume_queue::{ConsumeQueueConfig, ConsumeQueues, Unit};
use store::disk::{Disk, OpenMode};
use store::disk_sim::SimDisk;
use store::folder::Folder;
use store::index::{IndexConfig, KeyIndex};
use store::journal::{Journal, JournalConfig, JournalItem};
use wire::body::heartbeat::{CheckClient, Heartbeat};
use wire::command::Command;
use wire::frame::{Frame, FrameDecoder, HeaderType};
use wire::message::{StoredMessage, batch_items, records};
use wire::properties::{Properties, PropertiesBuf};

/// True when the bytes were understood.
pub(crate) type Decoder = fn(&[u8]) -> bool;

/// All of them.
pub(crate) const ALL: [(&str, Decoder); 33] = [
    ("remoting-frames", remoting_frames),
    ("remoting-json-header", remoting_json_header),
    ("remoting-binary-header", remoting_binary_header),
    ("remoting-bodies", remoting_bodies),
    ("message-records", message_records),
    ("message-batch", message_batch),
    ("message-properties", message_properties),
    ("grpc-send", grpc_send),
    ("grpc-consume", grpc_consume),
    ("grpc-settings", grpc_settings),
    ("grpc-compressed-body", grpc_compressed_body),
    ("tag-expression", tag_expression),
    ("receipt-handle", receipt_handle),
    ("ids", ids),
    ("journal-frames", journal_frames),
    ("journal-segment", journal_segment),
    ("commit-log-segment", commit_log_segment),
    ("survivor-file", survivor_file),
    ("kept-frames", kept_frames),
    ("consume-queue-file", consume_queue_file),
    ("key-index-run", key_index_run),
    ("checkpoint-slots", checkpoint_slots),
    ("state-snapshot", state_snapshot),
    ("folder-marker", folder_marker),
    ("evidence-log", evidence_log_entries),
    ("verdict-log", verdict_log_entries),
    ("raw-frames", raw_frames),
    ("ledger-rows", ledger_rows),
    ("sent-report", sent_report),
    ("configuration", configuration),
    ("inspected-log", inspected::log),
    ("inspected-queue", inspected::queue),
    ("inspected-offsets", inspected::offsets),
];

/// The run that seeds are written in.
pub(crate) const RUN: Incarnation = Incarnation([7; 16]);
/// Size of a log segment here.
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024;
/// Larger inputs only make a run slow.
const INPUT_BYTES_MAX: usize = 64 * 1024;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Pieces that begin with their length (u16, big endian): what several decoders take one after the other.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(more.len());
        let (piece, more) = more.split_at(len);
        found.push(piece);
        rest = more;
    }
    found
}

/// A disk with one file.
fn disk_with(path: &str, bytes: &[u8]) -> SimDisk {
    let (disk, path) = (SimDisk::new(), Path::new(path));
    disk.create_dir_all(path.parent().expect("seeds lie in folders")).expect("an empty disk takes a folder");
    let file = disk.open(path, OpenMode::CreateNew).expect("an empty disk takes a file");
    file.write_all_at(bytes, 0).expect("an empty disk takes bytes");
    disk
}

fn remoting_frames(bytes: &[u8]) -> bool {
    let mut buffer = BytesMut::from(bytes);
    let mut understood = false;
    loop {
        let before = buffer.len();
        match FrameDecoder::default().decode(&mut buffer) {
            Ok(Some(frame)) => understood |= remoting_command(frame),
            Ok(None) => return understood,
            Err(error) if error.in_sync() => {}
            Err(_) => return understood,
        }
        assert!(buffer.len() < before, "a frame was cut off, and the buffer is as long as before");
    }
}

fn remoting_json_header(bytes: &[u8]) -> bool {
    let header = Bytes::copy_from_slice(bytes);
    remoting_command(Frame { header_type: HeaderType::Json, header, body: Bytes::new() })
}

fn remoting_binary_header(bytes: &[u8]) -> bool {
    let header = Bytes::copy_from_slice(bytes);
    remoting_command(Frame { header_type: HeaderType::Rocketmq, header, body: Bytes::new() })
}

/// Decodes a command and every header it might carry.
fn remoting_command(frame: Frame) -> bool {
    let header_type = frame.header_type;
    let Ok(command) = Command::decode(frame) else { return false };
    let again = Frame { header_type, header: command.encode_header(), body: command.body.clone() };
    assert_eq!(
        Command::decode(again).as_ref(),
        Ok(&command),
        "a command changes when it is written and read again"
    );
    use wire::header::{admin, client, offset, pull, query, route, send, transaction};
    drop(admin::CreateTopic::decode(&command));
    drop(admin::ConsumeStatsQuery::decode(&command));
    drop(admin::DeleteGroup::decode(&command));
    drop(admin::ResetOffset::decode(&command));
    drop(admin::ConsumerRunningInfo::decode(&command));
    drop(client::UnregisterClient::decode(&command));
    drop(client::GroupQuery::decode(&command));
    drop(offset::QueryConsumerOffset::decode(&command));
    drop(offset::UpdateConsumerOffset::decode(&command));
    drop(offset::QueueQuery::decode(&command));
    drop(offset::SearchOffset::decode(&command));
    drop(pull::PullMessage::decode(&command));
    drop(query::QueryMessage::decode(&command));
    drop(query::ViewMessage::decode(&command));
    drop(route::TopicQuery::decode(&command));
    drop(send::SendMessage::decode(&command));
    drop(send::SendBack::decode(&command));
    drop(transaction::EndTransaction::decode(&command));
    true
}

fn remoting_bodies(bytes: &[u8]) -> bool {
    let heartbeat = Heartbeat::decode(bytes);
    if let Ok(heartbeat) = &heartbeat {
        assert_eq!(Heartbeat::decode(&heartbeat.encode()).as_ref(), Ok(heartbeat), "a heartbeat changes");
    }
    let lock = wire::body::lock::LockBatch::decode(bytes).is_ok();
    let group = wire::body::admin::GroupConfig::decode(bytes).is_ok();
    heartbeat.is_ok() | CheckClient::decode(bytes).is_ok() | lock | group
}

fn message_records(bytes: &[u8]) -> bool {
    let mut understood = false;
    for record in records(bytes).flatten() {
        understood = true;
        record.body_is_intact();
        message_properties(record.properties.0.as_bytes());
        let mut again = Vec::new();
        if record.encode(&mut again).is_ok() {
            let (read, len) = StoredMessage::decode(&again).expect("what was encoded can be decoded");
            assert_eq!(
                (read.queue_offset, read.topic, len),
                (record.queue_offset, record.topic, again.len())
            );
        }
    }
    understood
}

fn message_batch(bytes: &[u8]) -> bool {
    let mut items = batch_items(bytes).flatten().peekable();
    let understood = items.peek().is_some();
    for item in items {
        message_properties(item.properties.0.as_bytes());
    }
    understood
}

fn message_properties(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let pairs: Vec<(&str, &str)> = Properties(text).iter().collect();
    let mut owned = PropertiesBuf::new(text);
    for (name, _) in &pairs {
        owned.remove(name);
        assert_eq!(owned.view().get(name), None, "a property is still there after it was removed");
    }
    drop(owned.set("KEYS", "k"));
    !pairs.is_empty()
}

fn grpc_send(bytes: &[u8]) -> bool {
    broker::grpc::untrusted::send(bytes, 1_800_000_000_000)
}

fn grpc_consume(bytes: &[u8]) -> bool {
    broker::grpc::untrusted::consume(bytes)
}

fn grpc_settings(bytes: &[u8]) -> bool {
    broker::grpc::untrusted::settings(bytes)
}

fn grpc_compressed_body(bytes: &[u8]) -> bool {
    broker::grpc::untrusted::compressed(bytes)
}

fn tag_expression(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(broker::core::untrusted::tag_expression)
}

fn receipt_handle(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(broker::core::untrusted::receipt_handle)
}

fn ids(bytes: &[u8]) -> bool {
    use wire::ids::{ClientMessageId, OffsetMessageId, UniqKey};
    let Some(text) = text(bytes) else { return false };
    let offset = OffsetMessageId::parse(text);
    if let Ok(id) = &offset {
        assert_eq!(OffsetMessageId::parse(&id.to_string()).as_ref(), Ok(id), "an id changes");
    }
    let run = text.parse::<Incarnation>();
    if let Ok(run) = &run {
        assert_eq!(run.to_string().parse().as_ref(), Ok(run), "a run's name changes");
    }
    let client = UniqKey::parse(text).is_ok() | ClientMessageId::parse(text).is_ok();
    let lineage = Lineage::decode(bytes);
    if let Some(lineage) = &lineage {
        assert_eq!(Lineage::decode(&lineage.encode()).as_ref(), Some(lineage), "a lineage changes");
    }
    offset.is_ok() | client | run.is_ok() | lineage.is_some()
}

fn journal_frames(bytes: &[u8]) -> bool {
    let mut decoder = JournalFrameDecoder::new();
    let mut understood = false;
    for piece in pieces(bytes) {
        let Ok(frame) = decoder.decode(piece) else { continue };
        understood = true;
        // what was stored is numbered through a whole run, so one frame of it cannot be written alone
        let facts: Vec<Fact> =
            frame.facts.into_iter().filter(|fact| !matches!(fact, Fact::Stored(_))).collect();
        let mut again = Vec::new();
        FrameEncoder::new().encode(frame.now, true, &facts, &mut again);
        let read = JournalFrameDecoder::new().decode(&again).expect("what was encoded can be decoded");
        assert_eq!(read.facts, facts, "facts change when they are written and read again");
    }
    understood
}

fn journal_segment(bytes: &[u8]) -> bool {
    let disk = disk_with("/journal/00000000000000000000", bytes);
    let config = JournalConfig::new("/journal".into());
    let opened = Journal::open(Arc::new(disk), config, Incarnation([9; 16]), 0);
    let Ok((journal, _)) = opened else { return false };
    let mut reader = journal.view().read_all().expect("the simulated disk reads");
    let mut understood = false;
    while let Ok(Some(item)) = reader.next() {
        understood |= matches!(item, JournalItem::Frame { .. });
    }
    understood
}

/// The first byte says how much of the rest was flushed, in 256ths.
fn commit_log_segment(bytes: &[u8]) -> bool {
    let Some((share, segment)) = bytes.split_first() else { return false };
    let segment = segment.get(..INPUT_BYTES_MAX.min(segment.len())).unwrap_or_default();
    let disk = disk_with("/log/00000000000000000000", segment);
    let epochs = vec![(Epoch { number: 1, incarnation: RUN }, LogPosition(0))];
    let log = CommitLog::open(Arc::new(disk), Path::new("/log"), SEGMENT_BYTES, epochs);
    let Ok(mut log) = log else { return false };
    let flushed = segment.len() as u64 * u64::from(*share) / 256;
    let mut found = 0;
    let scanned = log.scan(LogPosition(0), LogPosition(flushed), |record| {
        found += 1;
        message_records(&record.record);
    });
    if let Ok(report) = scanned {
        assert_eq!(log.end(), report.end, "the log ends elsewhere than its scan");
    }
    found > 0
}

/// With its checksum at the end: what is behind it is to be tried.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.get(..INPUT_BYTES_MAX.min(bytes.len())).unwrap_or_default().to_vec();
    whole.extend_from_slice(&crc32fast::hash(&whole).to_be_bytes());
    whole
}

/// Without its checksum. What a master is sent and what the old one keeps are the same bytes.
fn survivor_file(bytes: &[u8]) -> bool {
    let whole = summed(bytes);
    let disk = disk_with("/survivors/one.log", &whole);
    let kept = Survivor::open(&disk, Path::new("/survivors/one.log"));
    let sent = Survivor::of_bytes(&whole.into());
    assert_eq!(kept.is_ok(), sent.is_ok(), "what is kept can be sent");
    let (Ok(kept), Ok(sent)) = (kept, sent) else { return false };
    let mut records = Vec::new();
    let unreadable = kept.records(|record| {
        records.push(record);
        Ok(())
    });
    let unreadable = unreadable.expect("the simulated disk reads");
    let read: usize = records.iter().map(|record| record.bytes.len()).sum();
    let all = usize::try_from(kept.end().0 - kept.from().0).expect("it was in memory");
    assert!(
        read as u64 + unreadable <= all as u64,
        "{read} bytes of records and {unreadable} of none in {all}"
    );
    let mut count = 0;
    let again = sent.records(|_| {
        count += 1;
        Ok(())
    });
    assert_eq!((again.expect("memory reads"), count), (unreadable, records.len()));
    !records.is_empty()
}

/// Without its checksum.
fn kept_frames(bytes: &[u8]) -> bool {
    let disk = disk_with("/survivors/one.frames", &summed(bytes));
    Told::read(&disk, &["/survivors/one.frames".into()]).is_ok()
}

fn consume_queue_file(bytes: &[u8]) -> bool {
    let disk = disk_with("/queues/topic/0-00000000000000000000", bytes);
    let config = ConsumeQueueConfig { units_per_file: 64, ..ConsumeQueueConfig::new("/queues".into()) };
    let Ok((mut queues, _)) = ConsumeQueues::open(Arc::new(disk), config, u64::MAX) else { return false };
    let Some(index) = queues.find("topic", 0) else { return false };
    let (min, max) = (queues.min_offset(index), queues.max_offset(index));
    let mut units: Vec<Unit> = Vec::new();
    // a unit in the middle may be lost: then reading says so
    let read = queues.read(index, min, max - min, &mut units);
    drop(queues.first_at_or_above(index, 1_000));
    read.is_ok() && !units.is_empty()
}

fn key_index_run(bytes: &[u8]) -> bool {
    let disk = disk_with("/index/00000000000000000000-00000000000000010000.run", bytes);
    let Ok((index, missing)) = KeyIndex::open(Arc::new(disk), IndexConfig::new("/index".into()), 0..10_000)
    else {
        return false;
    };
    let found = (0..4_u8).filter_map(|n| index.lookup(store::index::key_hash(&[n]), 16).ok());
    let places: usize = found.map(|lookup| lookup.offsets.len()).sum();
    places > 0 || missing.len() < 2
}

/// Two files, each with its length before it.
fn checkpoint_slots(bytes: &[u8]) -> bool {
    let found = pieces(bytes);
    let disk = disk_with("/store/state.0", found.first().copied().unwrap_or_default());
    let second = disk.open(Path::new("/store/state.1"), OpenMode::CreateNew).expect("the disk takes a file");
    second.write_all_at(found.get(1).copied().unwrap_or_default(), 0).expect("the disk takes bytes");
    let opened = Checkpoint::open(&disk, Path::new("/store"), "state");
    opened.is_ok_and(|(_, saved, _)| saved.is_some())
}

fn state_snapshot(bytes: &[u8]) -> bool {
    broker::core::untrusted::snapshot(bytes)
}

fn folder_marker(bytes: &[u8]) -> bool {
    Folder::open(&disk_with("/data/LOSSTRACE", bytes), Path::new("/data"), "broker").is_ok()
}

/// A journal with these entries, each whole: damage is the journal's business.
fn journal_of(dir: &str, bytes: &[u8]) -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let opened = Journal::open(disk.clone(), JournalConfig::new(dir.into()), RUN, 0);
    let (mut journal, _) = opened.expect("an empty disk takes a journal");
    for piece in pieces(bytes).into_iter().filter(|piece| !piece.is_empty()) {
        journal.append(piece, true).expect("pieces are short");
    }
    journal.write().expect("an empty disk takes bytes");
    disk
}

fn evidence_log_entries(bytes: &[u8]) -> bool {
    let disk = journal_of("/evidence", bytes);
    let log = evidence_log::EvidenceLog::open(disk, "/evidence".into(), Incarnation([9; 16]), 1 << 20);
    let log = log.expect("entries cannot hurt a log");
    let mut core = Core::new(&AgentConfig::default());
    let mut understood = false;
    let replayed = evidence_log::replay(&log.view(), None, |step| {
        if let agent::ingest::intake::Step::Frame { position, frame } = step {
            understood = true;
            core.apply(&evidence_log::SOURCE_NAME.into(), position, &frame);
        }
    });
    replayed.expect("the simulated disk reads");
    understood
}

fn verdict_log_entries(bytes: &[u8]) -> bool {
    let disk = journal_of("/verdicts", bytes);
    let mut core = Core::new(&AgentConfig::default());
    let mut understood = false;
    let opening = Opening { disk, dir: "/verdicts".into(), incarnation: Incarnation([9; 16]), witness: None };
    let opened = VerdictLog::open(opening, |record: Record| {
        understood |= core.restore(&record).is_ok() && record.kind == RecordKind::Verdict;
    });
    opened.map(drop).expect("entries cannot hurt a log");
    understood
}

fn raw_frames(bytes: &[u8]) -> bool {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (mut raw, _) = RawFrames::open(disk.clone(), "/raw".into()).expect("an empty disk takes a folder");
    raw.write(bytes).expect("an empty disk takes bytes");
    let (_, sources) = RawFrames::open(disk, "/raw".into()).expect("the simulated disk reads");
    let mut understood = false;
    for source in sources {
        let mut held = agent::ingest::held::Held::new(1 << 20);
        held.load(source.frames);
        for run in held.runs() {
            understood |= !held.decode(run).is_empty();
        }
    }
    understood
}

/// Keys and values in turn, each with its length before it. That rows fit together is not their codec's business: the ledger's
/// digest sees to it that they are all there and as they were written.
fn ledger_rows(bytes: &[u8]) -> bool {
    let found = pieces(bytes);
    let rows: Vec<(Vec<u8>, Vec<u8>)> = found
        .chunks_exact(2)
        .map(|row| {
            (
                row.first().map_or(Vec::new(), |key| key.to_vec()),
                row.last().map_or(Vec::new(), |v| v.to_vec()),
            )
        })
        .collect();
    Core::import(&rows, &AgentConfig::default()).is_ok() && !rows.is_empty()
}

fn sent_report(bytes: &[u8]) -> bool {
    agent::http::writes::read_reports(bytes, 1).is_some()
}

fn configuration(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct File {
        broker: Option<broker::config::Config>,
        agent: Option<AgentConfig>,
    }
    let Some(Ok(file)) = text(bytes).map(toml::from_str::<File>) else { return false };
    let broker = file.broker.is_none_or(|broker| broker.problems().is_empty());
    let agent = file.agent.is_none_or(|agent| agent.validate().is_empty());
    broker && agent
}
