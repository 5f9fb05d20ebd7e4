//! What open messages cost the agent: memory of the books, rows on disk, and the time from a start to the first answer. Prints
//! three shapes of ten million open messages; every shape is what a real group leaves behind.
//!
//! `cargo bench -p tests --bench scale [-- MESSAGES]`

#![allow(clippy::print_stdout, reason = "a measurement speaks to its terminal")]

use agent::config::AgentConfig;
use agent::ledger;
use agent::run::Core;
use lifecycle::clock::Now;
use lifecycle::fact::{Fact, StartReason, Stored, StoredKind, StoredRun};
use lifecycle::frame::Frame;
use lifecycle::identity::{Incarnation, LogPosition, Name, QueueKey, TopicIncarnation};
use lifecycle::ids::IdColumn;
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use store::disk_os::OsDisk;

const MESSAGES: u64 = 10_000_000;
const QUEUES: u64 = 16;
/// Messages of a frame.
const BATCH: u64 = 1_024;
/// Frames between two checkpoints, as many facts as the agent folds between them.
const FRAMES_PER_CHECKPOINT: u64 = 512;

/// What the group does with what is stored.
#[derive(Clone, Copy)]
enum Shape {
    /// Nothing: it is stopped.
    Unread,
    /// Takes them one by one under leases that end at different times, settles none.
    Leased,
    /// As leased, and every second one is settled, so that nothing merges. Twice as many are stored.
    Alternating,
}

const SHAPES: [(Shape, &str); 3] = [
    (Shape::Unread, "stored, unread"),
    (Shape::Leased, "leased one by one"),
    (Shape::Alternating, "leased, every second settled"),
];

fn main() {
    let args: Vec<String> = std::env::args().filter(|arg| !arg.starts_with("--")).collect();
    if let [_, phase, shape, open, dir] = &args[..] {
        let number = |text: &str| text.parse().expect("a number");
        let (shape, open) = (SHAPES[number(shape) as usize].0, number(open));
        let line = if phase == "fill" { fill(shape, open, dir.as_ref()) } else { start(open, dir.as_ref()) };
        return print!("{line}");
    }
    let open = args.get(1).and_then(|arg| arg.parse().ok()).unwrap_or(MESSAGES);
    println!("{open} open messages in {QUEUES} queues");
    println!(
        "{:<28} {:>11} {:>11} {:>12} {:>8} {:>12} {:>8}",
        "SHAPE", "BOOKS B/msg", "LEDGER rows", "LEDGER B/msg", "FILL s", "START B/msg", "START s"
    );
    for (index, (_, name)) in SHAPES.iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder for the ledger");
        let dir = folder.path().join("ledger");
        print!("{name:<28}");
        std::io::stdout().flush().expect("somebody reads");
        for phase in ["fill", "start"] {
            // a process for each, so that one finds no memory that another one left
            let program = std::env::current_exe().expect("this program");
            let mut command = std::process::Command::new(program);
            command.args([phase, &index.to_string(), &open.to_string()]).arg(&dir);
            assert!(command.status().expect("this program starts").success(), "{phase} of {name}");
        }
        println!();
    }
}

/// Folds the whole shape with checkpoints, as an agent does that runs from the first message on.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn fill(shape: Shape, open: u64, dir: &Path) -> String {
    let stored = if matches!(shape, Shape::Alternating) { 2 * open } else { open };
    let mut ledger = ledger::sled::open(&OsDisk, dir, 1).expect("ledger opens").ledger;
    let mut core = Core::new(&AgentConfig::default());
    let before = resident_bytes();
    let start = Instant::now();
    for (number, (position, frame)) in frames(shape, stored).enumerate() {
        core.apply(&"broker".into(), position, &frame);
        if number as u64 % FRAMES_PER_CHECKPOINT == FRAMES_PER_CHECKPOINT - 1 {
            save(&mut core, ledger.as_mut());
        }
    }
    save(&mut core, ledger.as_mut());
    let fill_s = start.elapsed().as_secs_f64();
    assert_eq!(open_messages(&core), open, "the shape is what it says");
    let per_message = |bytes: u64| bytes as f64 / open as f64;
    let books = per_message(resident_bytes().saturating_sub(before));
    let on_disk = per_message(folder_bytes(dir));
    format!(" {books:>11.1} {:>11} {on_disk:>12.2} {fill_s:>8.1}", ledger.row_count())
}

/// Opens what [`fill`] left, as an agent does at its start.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn start(open: u64, dir: &Path) -> String {
    let before = resident_bytes();
    let start = Instant::now();
    let opened = ledger::sled::open(&OsDisk, dir, 2).expect("ledger opens again");
    assert_eq!(opened.rebuilt, None);
    let core = Core::import(&opened.rows, &AgentConfig::default()).expect("own rows are understood");
    drop(opened.rows);
    let start_s = start.elapsed().as_secs_f64();
    assert_eq!(open_messages(&core), open, "nothing is lost by a restart");
    let bytes = resident_bytes().saturating_sub(before) as f64 / open as f64;
    format!(" {bytes:>12.1} {start_s:>8.2}")
}

fn open_messages(core: &Core) -> u64 {
    let books = &core.books.brokers["broker"];
    let open = |(key, group): (&QueueKey, &agent::fold::group_queue::GroupQueue)| {
        group.in_flight_by_marks(books.queues[key].max)
    };
    books.groups["g"].queues.iter().map(open).sum()
}

fn save(core: &mut Core, ledger: &mut dyn ledger::Ledger) {
    core.judge(agent::run::core::Hearing { now: now(0), heads: &BTreeMap::new(), answers: Vec::new() });
    ledger.commit(&core.export()).expect("checkpoint");
}

fn now(ms: u64) -> Now {
    Now { mono_ms: ms, wall_ms: 1_800_000_000_000 + ms }
}

fn queue(number: u64) -> QueueKey {
    QueueKey { topic: TopicIncarnation(1), queue_id: (number % QUEUES) as u32 }
}

fn frames(shape: Shape, stored: u64) -> impl Iterator<Item = (Position, Frame)> {
    let turns = stored.div_ceil(BATCH);
    let facts = (0..turns).map(move |turn| turn_facts(shape, turn, BATCH.min(stored - turn * BATCH)));
    let start = (0..QUEUES).map(|number| Fact::GroupStarted {
        group: "g".into(),
        queue: queue(number),
        offset: 0,
        reason: StartReason::First,
    });
    let all = std::iter::once(start.collect()).chain(facts);
    all.enumerate().map(|(index, facts)| {
        let position = Position { incarnation: Incarnation([1; 16]), sequence: index as u64 + 1 };
        (position, Frame { reset: index == 0, snapshot: false, now: now(index as u64), facts })
    })
}

fn turn_facts(shape: Shape, turn: u64, count: u64) -> Vec<Fact> {
    let (group, member): (Name, Name) = ("g".into(), "m".into());
    let (queue, from) = (queue(turn), turn / QUEUES * BATCH);
    let ids: Vec<String> =
        (0..count).map(|n| format!("01AABBCCDDEEFF00170B1F3C{:08X}{n:08X}", turn)).collect();
    let ids: IdColumn = ids.iter().map(String::as_bytes).collect();
    let log_end = LogPosition((turn + 1) * BATCH * 1_229);
    let stored = Stored {
        first_ordinal: turn * BATCH,
        log_end,
        store_wall_ms: turn,
        runs: vec![StoredRun { queue, queue_offset: from, count }],
        kinds: vec![(count, StoredKind::Produced)],
        ids,
    };
    let mut facts = vec![Fact::Stored(stored), Fact::Flushed { log_position: log_end }];
    if matches!(shape, Shape::Unread) {
        return facts;
    }
    for n in from..from + count {
        facts.push(Fact::Delivered {
            group: group.clone(),
            queue,
            ranges: Ranges::of(n, n + 1),
            member: member.clone(),
            attempt: 1,
            lease_until_ms: 1_900_000_000_000 + n,
        });
    }
    if matches!(shape, Shape::Alternating) {
        for n in (from..from + count).filter(|n| n % 2 == 0) {
            let ranges = Ranges::of(n, n + 1);
            facts.push(Fact::Acked { group: group.clone(), queue, ranges, member: member.clone() });
        }
    }
    facts
}

/// Memory of this process that is in use.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let len = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(len).sum()
}
