//! What the hot paths cost, part by part; every figure is per message. The whole is measured by `losstrace bench`, and what must
//! hold on every machine is asserted in `budgets.rs`.
//!
//! `cargo bench -p tests --bench costs`

mod facts;

use agent::fold::Books;
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use facts::{BATCH, Shape, lives, sends};
use lifecycle::frame::{FrameDecoder, FrameEncoder};
use lifecycle::identity::{Epoch, Incarnation, LogPosition, TopicIncarnation};
use std::hint::black_box;
use std::sync::Arc;
use store::commit_log::CommitLog;
use store::consume_queue::{ConsumeQueueConfig, ConsumeQueues, Unit};
use store::disk_os::OsDisk;
use wire::code::request;
use wire::command::Command;
use wire::frame::HeaderType;
use wire::header::send::SendMessage;

const TURNS: u64 = 256;
const SHAPES: [(Shape, &str); 2] = [(Shape::Ranged, "ranged"), (Shape::Irregular, "irregular")];

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal frame");
    group.throughput(Throughput::Elements(TURNS * BATCH));
    for (shape, name) in SHAPES {
        let turns = sends(TURNS, shape);
        let encode = || {
            let mut encoder = FrameEncoder::new();
            let frame = |(now, facts): &(_, Vec<_>)| {
                let mut out = Vec::new();
                encoder.encode(*now, false, facts, &mut out);
                out
            };
            turns.iter().map(frame).collect::<Vec<_>>()
        };
        group.bench_function(format!("encode, {name}"), |bench| bench.iter(|| black_box(encode())));
        let encoded = encode();
        group.bench_function(format!("decode, {name}"), |bench| {
            bench.iter(|| {
                let mut decoder = FrameDecoder::new();
                for payload in &encoded {
                    black_box(decoder.decode(payload).expect("own frames decode"));
                }
            });
        });
    }
    group.finish();
}

fn fold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold (6 stages a message)");
    group.throughput(Throughput::Elements(TURNS * BATCH * 6));
    for (shape, name) in SHAPES {
        let frames = lives(TURNS, shape);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut books = Books::default();
                for (position, frame) in &frames {
                    books.apply(&"b".into(), *position, frame);
                }
                assert_eq!(books.totals().produced, TURNS * BATCH);
                black_box(books)
            });
        });
    }
    group.finish();
}

/// A send as the Java client writes it.
fn send(header_type: HeaderType) -> Bytes {
    let properties =
        "UNIQ_KEY\u{1}7F0000010A2B18B4AAC2000012340001\u{2}WAIT\u{1}true\u{2}TAGS\u{1}a\u{2}KEYS\u{1}order-1";
    let command = Command { header_type, ..Command::request(request::SEND_MESSAGE_V2, 7) }
        .with_field("a", "producers")
        .with_field("b", "orders")
        .with_field("c", "TBW102")
        .with_field("d", 8)
        .with_field("e", 3)
        .with_field("f", 0)
        .with_field("g", 1_800_000_000_000i64)
        .with_field("h", 0)
        .with_field("i", properties)
        .with_field("j", 0)
        .with_field("k", false)
        .with_field("m", false)
        .with_body(vec![b'x'; 1024]);
    let mut bytes = BytesMut::new();
    command.encode(&mut bytes);
    bytes.freeze()
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send request, frame to header");
    group.throughput(Throughput::Elements(1));
    for (header_type, name) in [(HeaderType::Json, "JSON"), (HeaderType::Rocketmq, "ROCKETMQ")] {
        let bytes = send(header_type);
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || BytesMut::from(&bytes[..]),
                |mut buffer| {
                    let frame = wire::frame::FrameDecoder::default().decode(&mut buffer);
                    let command =
                        Command::decode(frame.expect("a frame").expect("whole")).expect("a command");
                    black_box(SendMessage::decode(&command).expect("a send").queue_id);
                    command
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn commit_log(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let epoch = Epoch { number: 1, incarnation: Incarnation([1; 16]) };
    let (disk, segment_bytes) = (Arc::new(OsDisk), 256 << 20);
    let mut log = CommitLog::open(disk, folder.path(), segment_bytes, Vec::new()).expect("an empty folder");
    log.begin_epoch(epoch);
    let record = vec![7u8; 1200];
    let mut group = criterion.benchmark_group("commit log");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append 1200 B, one write for 64", |bench| {
        bench.iter(|| {
            for _ in 0..BATCH {
                black_box(log.place(record.len(), false).expect("room"));
                log.push(TopicIncarnation(1), None, |out| out.extend_from_slice(&record));
            }
            log.write().expect("room on the disk");
            // what was written is not needed: the benchmark must not fill the disk
            let end = log.end().0;
            if end > 1 << 30 {
                log.remove_before(LogPosition(end)).expect("segments go");
            }
        });
    });
    group.finish();
}

fn consume_queue(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = ConsumeQueueConfig::new(folder.path().to_path_buf());
    let (mut queues, _) = ConsumeQueues::open(Arc::new(OsDisk), config, 0).expect("an empty folder");
    let index = queues.create("orders", 0).expect("a queue");
    let mut offset = 0;
    let mut group = criterion.benchmark_group("consume queue");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append", |bench| {
        bench.iter(|| {
            for _ in 0..BATCH {
                let unit = Unit { commitlog_offset: offset * 1229, size: 1229, tag_hash: 0 };
                black_box(queues.append(index, offset, unit).expect("room on the disk"));
                offset += 1;
            }
        });
    });
    group.finish();
}

criterion_group!(costs, frames, fold, headers, commit_log, consume_queue);
criterion_main!(costs);
