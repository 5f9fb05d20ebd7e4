//! Holds the budgets that do not depend on the machine: journal bytes per message, flushes and disk writes per message, on the real
//! core over the simulated disk. Rates and CPU are measured by `losstrace bench`; what is asserted here is the same everywhere.
//!
//! A budget that fails is never loosened here: find out what costs the bytes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may stop at what it did not expect, and shows what it saw"
)]

use broker::api::*;
use broker::config::{Config, FlushDiskType};
use broker::core::{Core, CoreParts, FlushDone, FlushOrders};
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::Incarnation;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use store::disk_sim::{SimCounters, SimDisk, SimRng};

/// Messages before anything is counted: dictionaries are filled, as they are on a running broker.
const WARM: u64 = 4_000;
const COUNTED: u64 = 24_000;
/// One turn of a busy broker, microseconds.
const TURN_US: u64 = 400;

/// A broker's core, its disk and its clock.
struct Stand {
    disk: SimDisk,
    core: Core,
    now_us: u64,
    orders: Vec<FlushOrders>,
    turns: u64,
}

/// What was used while messages went through.
#[derive(Debug)]
struct Used {
    messages: u64,
    turns: u64,
    journal_bytes: u64,
    disk: SimCounters,
    log_flushes: u64,
    journal_flushes: u64,
}

impl Used {
    fn journal_bytes_per_message(&self) -> f64 {
        self.journal_bytes as f64 / self.messages as f64
    }

    fn per_turn(&self, count: u64) -> f64 {
        count as f64 / self.turns as f64
    }

    fn per_message(&self, count: u64) -> f64 {
        count as f64 / self.messages as f64
    }
}

/// A reading of everything that only grows.
struct Mark {
    turns: u64,
    journal_bytes: u64,
    disk: SimCounters,
    log_flushes: u64,
    journal_flushes: u64,
}

impl Stand {
    fn new(flush_disk_type: FlushDiskType) -> Stand {
        let disk = SimDisk::new();
        let parts = CoreParts {
            disk: Arc::new(disk.clone()),
            dir: PathBuf::from("/data"),
            config: Config { flush_disk_type, ..Config::default() },
            incarnation: Incarnation([7; 16]),
            boot: None,
            mandate: None,
            store_host: "127.0.0.1:10911".parse().unwrap(),
        };
        let (core, _) = Core::open(parts, now(0)).unwrap();
        Stand { disk, core, now_us: 0, orders: Vec::new(), turns: 0 }
    }

    /// One turn: flushes ordered by the one before are done now.
    fn turn(&mut self, mut requests: Vec<Request>) {
        let mut done = Vec::new();
        for orders in self.orders.drain(..) {
            done.extend(orders.log.map(|batch| FlushDone::Log(batch.sync())));
            done.extend(orders.journal.map(|batch| FlushDone::Journal(batch.sync())));
            done.extend(orders.jobs.into_iter().map(|job| FlushDone::Job(job.run())));
        }
        self.now_us += TURN_US;
        self.turns += 1;
        let mut effects = self.core.turn(now(self.now_us), &mut requests, &mut done);
        assert_eq!(effects.fatal, None);
        self.orders.push(std::mem::take(&mut effects.flush));
    }

    fn ask<T: Send + 'static>(&mut self, request: impl FnOnce(ReplyFn<T>) -> Request) -> T {
        let (request, answer) = asking(request);
        self.turn(vec![request]);
        for _ in 0..3 {
            if let Some(answer) = answer.lock().unwrap().take() {
                return answer;
            }
            self.turn(Vec::new());
        }
        panic!("not answered");
    }

    fn create(&mut self, topic: &str, queues: u32) {
        let configure = ConfigureTopic {
            name: topic.into(),
            read_queues: queues,
            write_queues: queues,
            perm: 6,
            message_type: "NORMAL".into(),
            only_if_absent: false,
            actor: "test".into(),
        };
        self.ask(|reply| Request::ConfigureTopic(configure, reply)).unwrap();
    }

    fn mark(&self) -> Mark {
        let journal = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "journal");
        let files = self.disk.files().into_iter();
        let counters = self.core.counters();
        Mark {
            turns: self.turns,
            journal_bytes: files.filter(|(path, _)| journal(path)).map(|(_, bytes)| bytes).sum(),
            disk: self.disk.counters(),
            log_flushes: counters.log_flushes_total,
            journal_flushes: counters.journal_flushes_total,
        }
    }

    fn used_since(&self, before: &Mark, messages: u64) -> Used {
        let after = self.mark();
        assert!(after.journal_bytes > before.journal_bytes, "the journal is where it is looked for");
        Used {
            messages,
            turns: after.turns - before.turns,
            journal_bytes: after.journal_bytes - before.journal_bytes,
            disk: SimCounters {
                writes: after.disk.writes - before.disk.writes,
                bytes_written: after.disk.bytes_written - before.disk.bytes_written,
                syncs: after.disk.syncs - before.disk.syncs,
                ..SimCounters::default()
            },
            log_flushes: after.log_flushes - before.log_flushes,
            journal_flushes: after.journal_flushes - before.journal_flushes,
        }
    }
}

fn now(us: u64) -> Now {
    Now { mono_ms: us / 1000, wall_ms: 1_800_000_000_000 + us / 1000 }
}

/// Where an answer comes.
type Slot<T> = Arc<Mutex<Option<T>>>;

fn asking<T: Send + 'static>(request: impl FnOnce(ReplyFn<T>) -> Request) -> (Request, Slot<T>) {
    let slot = Arc::new(Mutex::new(None));
    let answer = slot.clone();
    (request(Box::new(move |value| *slot.lock().unwrap() = Some(value))), answer)
}

/// How clients make ids.
#[derive(Debug, Clone, Copy)]
enum Ids {
    /// The 4.x client: 32 digits; the last eight bytes hold milliseconds and a counter.
    Remoting,
    /// The 5.x clients: 34 digits; the last eight bytes hold seconds and a counter.
    Grpc,
    /// 128 random bits in 32 digits.
    Random,
}

/// Producers that wait for each answer, each a process of its own, over the queues of some topics.
struct Producers {
    ids: Ids,
    counters: Vec<u32>,
    waiting: Vec<Option<Slot<Answer<Vec<StoredAt>>>>>,
    queues: Vec<(String, u32)>,
    at: usize,
    rng: SimRng,
    answered: u64,
}

impl Producers {
    fn new(count: usize, ids: Ids, queues: Vec<(String, u32)>) -> Producers {
        Producers {
            ids,
            counters: vec![0; count],
            waiting: vec![None; count],
            queues,
            at: 0,
            rng: SimRng(11),
            answered: 0,
        }
    }

    /// Everybody whose answer has come sends again, in one turn.
    fn turn(&mut self, stand: &mut Stand) {
        let mut requests = Vec::new();
        for producer in 0..self.counters.len() {
            let answer = self.waiting[producer].as_ref().map(|slot| slot.lock().unwrap().take());
            match answer {
                Some(None) => continue,
                Some(Some(answer)) => {
                    assert_eq!(answer.unwrap()[0].status, SendStatus::Ok);
                    self.answered += 1;
                }
                None => {}
            }
            let send = self.message(producer, stand.now_us);
            let (request, slot) = asking(|reply| Request::Send(send, reply));
            requests.push(request);
            self.waiting[producer] = Some(slot);
        }
        stand.turn(requests);
    }

    /// Turns until so many more were answered.
    fn run(&mut self, stand: &mut Stand, messages: u64) -> u64 {
        let from = self.answered;
        let turns_max = messages * 4 + 100;
        for _ in 0..turns_max {
            if self.answered - from >= messages {
                return self.answered - from;
            }
            self.turn(stand);
        }
        panic!("{} of {messages} messages answered after {turns_max} turns", self.answered - from);
    }

    fn message(&mut self, producer: usize, now_us: u64) -> SendMessages {
        self.counters[producer] += 1;
        let counter = self.counters[producer];
        // clients are not in step: each has been running for its own while
        let ms = (now_us / 1000) as u32 + producer as u32 * 977;
        let id = match self.ids {
            Ids::Remoting => format!("7F000001{producer:04X}18B4AAC2{ms:08X}{:04X}", counter & 0xFFFF),
            Ids::Grpc => {
                format!("0102420A00{producer:04X}{producer:04X}{:08X}{counter:08X}", 0x0B1E_0000 + ms / 1000)
            }
            Ids::Random => format!("{:016X}{:016X}", self.rng.next_u64(), self.rng.next_u64()),
        };
        self.at = (self.at + 1) % self.queues.len();
        let (topic, queue) = &self.queues[self.at];
        SendMessages {
            client: format!("p{producer}").as_str().into(),
            connection: ConnectionId(producer as u64),
            topic: topic.as_str().into(),
            queue: QueueChoice::Given(*queue),
            create_with_queues: None,
            one_way: false,
            messages: vec![NewMessage {
                body: Bytes::from_static(&[b'x'; 128]),
                properties: Bytes::from(format!("UNIQ_KEY\u{1}{id}\u{2}WAIT\u{1}true")),
                flag: 0,
                sys_flag: 0,
                born_timestamp_ms: now_us / 1000,
                born_host: "127.0.0.1:5000".parse().unwrap(),
                reconsume_times: 0,
                max_reconsume_times: None,
                deliver_at_ms: None,
                message_type: None,
            }],
        }
    }
}

fn queues(topics: u32, each: u32) -> Vec<(String, u32)> {
    (0..topics).flat_map(|topic| (0..each).map(move |queue| (format!("t{topic}"), queue))).collect()
}

/// The same queues in no order: nobody sends round them neatly when there are many.
fn shuffled(mut queues: Vec<(String, u32)>) -> Vec<(String, u32)> {
    let mut rng = SimRng(5);
    for index in (1..queues.len()).rev() {
        queues.swap(index, rng.below(index as u64 + 1) as usize);
    }
    queues
}

/// Sends, and says what was used once everything had settled.
fn send(flush: FlushDiskType, producers: usize, ids: Ids, (topics, each): (u32, u32)) -> Used {
    let mut stand = Stand::new(flush);
    (0..topics).for_each(|topic| stand.create(&format!("t{topic}"), each));
    let count = u64::from(topics * each);
    let all = queues(topics, each);
    let all = if count > 16 { shuffled(all) } else { all };
    let mut producers = Producers::new(producers, ids, all);
    producers.run(&mut stand, WARM.max(count * 2));
    let before = stand.mark();
    let messages = producers.run(&mut stand, COUNTED.max(count * 6));
    let used = stand.used_since(&before, messages);
    println!(
        "{producers} producers, {ids:?} ids, {count} queues, {flush:?}: {used:?}",
        producers = producers.counters.len()
    );
    println!("  {:.2} journal bytes a message", used.journal_bytes_per_message());
    used
}

#[track_caller]
fn at_most(what: &str, value: f64, budget: f64) {
    assert!(value <= budget, "{what}: {value:.3}, the budget is {budget}");
}

#[test]
fn sdk_ids_of_sixteen_producers_cost_eight_journal_bytes_a_message() {
    for ids in [Ids::Remoting, Ids::Grpc] {
        for flush in [FlushDiskType::Async, FlushDiskType::Sync] {
            let used = send(flush, 16, ids, (2, 8));
            at_most(&format!("{ids:?} {flush:?}"), used.journal_bytes_per_message(), 8.0);
        }
    }
}

#[test]
fn random_ids_cost_twenty_four_journal_bytes_a_message() {
    for flush in [FlushDiskType::Async, FlushDiskType::Sync] {
        let used = send(flush, 16, Ids::Random, (2, 8));
        at_most(&format!("{flush:?}"), used.journal_bytes_per_message(), 24.0);
    }
}

#[test]
fn a_lone_waiting_producer_costs_forty_journal_bytes_a_message() {
    let used = [Ids::Remoting, Ids::Grpc].map(|ids| send(FlushDiskType::Sync, 1, ids, (1, 8)));
    for used in used {
        at_most("a lone producer", used.journal_bytes_per_message(), 40.0);
    }
}

#[test]
fn ten_thousand_queues_cost_fourteen_journal_bytes_a_message() {
    let used = send(FlushDiskType::Async, 16, Ids::Remoting, (10, 1000));
    at_most("10,000 queues", used.journal_bytes_per_message(), 14.0);
}

#[test]
fn a_turn_writes_log_and_journal_once_and_one_flush_covers_all_that_wait() {
    let used = send(FlushDiskType::Sync, 64, Ids::Remoting, (1, 8));
    // log and journal; tails of queues and indexes go out in blocks, snapshots are rare
    at_most("disk writes a turn", used.per_turn(used.disk.writes), 2.5);
    at_most("log flushes a message", used.per_message(used.log_flushes), 1.0 / 32.0);
    at_most("journal flushes a message", used.per_message(used.journal_flushes), 1.0 / 32.0);

    let used = send(FlushDiskType::Async, 64, Ids::Remoting, (1, 8));
    at_most("disk writes a turn", used.per_turn(used.disk.writes), 2.5);
    // every 500 ms, and after every snapshot or full segment; 64 messages a turn of 0.4 ms are 80,000 in that time
    at_most("log flushes a message", used.per_message(used.log_flushes), 1.0 / 10_000.0);
    at_most(
        "bytes written a byte of log",
        used.disk.bytes_written as f64 / (used.messages * 270) as f64,
        2.0,
    );
}

const GROUP: &str = "g";
const BACKLOG: u64 = 16_000;

/// A stand with a backlog of 16 queues, and a group that is about to read it.
fn backlog() -> Stand {
    let mut stand = Stand::new(FlushDiskType::Async);
    stand.create("t0", 16);
    Producers::new(16, Ids::Remoting, queues(1, 16)).run(&mut stand, BACKLOG);
    stand
}

fn subscription() -> Subscription {
    Subscription { topic: "t0".into(), expression: "*".into(), version: 1, expression_type: "TAG".into() }
}

#[test]
fn pulling_and_committing_costs_eight_journal_bytes_a_message() {
    let mut stand = backlog();
    for queue in 0..16 {
        let consumer = ConsumerDeclaration {
            group: GROUP.into(),
            model: ConsumeModel::Clustering,
            push: true,
            start: StartPolicy::First,
            subscriptions: vec![subscription()],
        };
        let heartbeat = Heartbeat {
            client: format!("c{queue}").as_str().into(),
            connection: ConnectionId(100 + queue),
            language: "JAVA".into(),
            version: 409,
            producer_groups: vec![],
            consumers: vec![consumer],
            notify: None,
        };
        stand.ask(|reply| Request::Heartbeat(heartbeat, reply)).unwrap();
    }
    let before = stand.mark();
    let mut offsets = [0u64; 16];
    let mut consumed = 0;
    for _ in 0..BACKLOG / 16 / 32 {
        let asked: Vec<_> = (0..16u32)
            .map(|queue_id| {
                let offset = offsets[queue_id as usize];
                asking(|reply| Request::Pull(pull(queue_id, offset), reply))
            })
            .collect();
        let (requests, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        stand.turn(requests);
        for (offset, answer) in offsets.iter_mut().zip(answers) {
            let pulled = answer.lock().unwrap().take().expect("answered at once").unwrap();
            consumed += pulled.records.len() as u64;
            *offset = pulled.next_offset;
        }
    }
    assert!(consumed > BACKLOG * 9 / 10, "{consumed}");
    let used = stand.used_since(&before, consumed);
    println!("pull: {used:?}, {:.2} journal bytes a message", used.journal_bytes_per_message());
    at_most("pull and commit", used.journal_bytes_per_message(), 8.0);
}

fn pull(queue_id: u32, offset: u64) -> PullMessages {
    PullMessages {
        queue: QueueOfGroup { group: GROUP.into(), topic: "t0".into(), queue_id },
        client: format!("c{queue_id}").as_str().into(),
        connection: ConnectionId(100 + u64::from(queue_id)),
        offset: offset as i64,
        max_messages: 32,
        max_bytes: 0,
        commit_offset: Some(offset),
        subscription: None,
        subscription_version: 0,
        suspend_ms: 0,
    }
}

#[test]
fn leases_and_acks_cost_eight_journal_bytes_a_message() {
    let mut stand = backlog();
    let before = stand.mark();
    let mut consumed = 0;
    for round in 0..BACKLOG / 32 {
        let client = format!("c{}", round % 16);
        let receive = ReceiveMessages {
            group: GROUP.into(),
            topic: "t0".into(),
            queue_id: None,
            client: client.as_str().into(),
            connection: ConnectionId(100 + round % 16),
            max_messages: 32,
            invisible_ms: 60_000,
            auto_renew: false,
            subscription: subscription(),
            wait_ms: 0,
            attempt_id: "".into(),
        };
        let leased = stand.ask(|reply| Request::Receive(receive, reply)).unwrap();
        if leased.is_empty() {
            break;
        }
        let acks = AckMessages {
            group: GROUP.into(),
            topic: "t0".into(),
            client: client.as_str().into(),
            handles: leased.iter().map(|message| message.handle.clone()).collect(),
        };
        for answer in stand.ask(|reply| Request::Ack(acks, reply)) {
            answer.unwrap();
            consumed += 1;
        }
    }
    assert!(consumed > BACKLOG * 9 / 10, "{consumed}");
    let used = stand.used_since(&before, consumed);
    println!("lease: {used:?}, {:.2} journal bytes a message", used.journal_bytes_per_message());
    at_most("receive and ack", used.journal_bytes_per_message(), 8.0);
}
