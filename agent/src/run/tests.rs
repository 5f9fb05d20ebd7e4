use super::*;
use crate::fold::class::Class;
use crate::ingest::*;
use crate::ledger::memory::{CommitFault, MemoryLedger};
use bytes::Bytes;
use lifecycle::fact::*;
use lifecycle::frame::FrameEncoder;
use lifecycle::identity::*;
use lifecycle::ids::IdColumn;
use lifecycle::position::Position;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::disk_sim::{SimDisk, SimFaults, SimRng};
use tokio_stream::StreamExt;

const TOPIC: TopicIncarnation = TopicIncarnation(1 << 32);
const PER_FRAME: u64 = 3;

fn run_of(n: u8) -> Incarnation {
    Incarnation([n; 16])
}

/// One run of a broker: a start, then frames of three messages each; offsets go on from `first_offset`.
fn journal(n: u8, frames: u64, first_offset: u64, closed: Option<(Incarnation, u64)>) -> Vec<Bytes> {
    let queue = QueueKey { topic: TOPIC, queue_id: 0 };
    let epoch = Epoch { number: u64::from(n), incarnation: run_of(n) };
    let mut encoder = FrameEncoder::new();
    let mut encode = |sequence: u64, facts: &[Fact]| {
        let mut out = Vec::new();
        let now = Now { mono_ms: sequence, wall_ms: 1_000_000 + sequence };
        encoder.encode(now, sequence % 7 == 1, facts, &mut out);
        Bytes::from(out)
    };
    let recovered = Recovered {
        clean: true,
        queues: if first_offset > 0 { vec![(queue, 0, first_offset)] } else { vec![] },
        closed: closed.into_iter().collect(),
        ..Default::default()
    };
    let started = EpochStarted {
        epoch,
        broker_name: "broker-a".into(),
        log_start: LogPosition(first_offset * 100),
        roster: vec![],
        settings: vec![],
    };
    let topic = TopicConfigured {
        topic: TOPIC,
        name: "orders".into(),
        read_queues: 1,
        write_queues: 1,
        perm: 6,
        message_type: "NORMAL".into(),
    };
    let mut start = vec![Fact::Recovered(recovered), Fact::EpochStarted(started)];
    if n == 1 {
        start.push(Fact::TopicConfigured(topic));
    }
    let mut out = vec![encode(1, &start)];
    for k in 0..frames {
        let ids: Vec<String> = (0..PER_FRAME).map(|m| format!("run{n}-{}", k * PER_FRAME + m)).collect();
        let stored = Stored {
            first_ordinal: k * PER_FRAME,
            log_end: LogPosition((first_offset + (k + 1) * PER_FRAME) * 100),
            store_wall_ms: 1_000_000 + k,
            runs: vec![StoredRun { queue, queue_offset: first_offset + k * PER_FRAME, count: PER_FRAME }],
            kinds: vec![(PER_FRAME, StoredKind::Produced)],
            ids: ids.iter().map(|id| id.as_bytes()).collect::<IdColumn>(),
        };
        let answered =
            Fact::Answered { from_ordinal: k * PER_FRAME, count: PER_FRAME, class: AnswerClass::Buffered };
        out.push(encode(k + 2, &[Fact::Stored(stored), answered]));
    }
    out
}

#[derive(Default)]
struct World {
    runs: Vec<(Incarnation, Vec<Bytes>)>,
    flushed: u64,
    confirmed: Vec<Position>,
    /// Seed of the stream's misbehaviour; 0: none.
    seed: u64,
    /// Streams opened.
    streams: u64,
    down: bool,
}

/// A broker's feed that may drop, repeat and swap batches.
#[derive(Clone, Default)]
struct FakeSource(Arc<Mutex<World>>);

impl FakeSource {
    fn with(runs: Vec<(Incarnation, Vec<Bytes>)>) -> Self {
        let source = FakeSource::default();
        source.0.lock().unwrap().runs = runs;
        source
    }

    fn batches(world: &World, after: Position) -> Result<Vec<Batch>, SourceError> {
        let at = world.runs.iter().position(|(run, _)| *run == after.incarnation);
        let at = at.ok_or(SourceError::PositionGone)?;
        let mut out = Vec::new();
        for (index, (incarnation, frames)) in world.runs.iter().enumerate().skip(at) {
            let last = frames.len() as u64;
            let next = if index == at { (after.sequence + 1).min(last + 1) } else { 1 };
            let from = (next - 1) / 7 * 7 + 1;
            let live = index + 1 == world.runs.len();
            let batch = |first: u64, frames: Vec<Bytes>| Batch {
                broker_name: "broker-a".into(),
                incarnation: *incarnation,
                first_sequence: first,
                frames,
                flushed_sequence: if live { world.flushed } else { last },
                head_sequence: last,
                run_end: None,
            };
            for first in (from..=last).step_by(2) {
                let chunk = frames.iter().skip(first as usize - 1).take(2).cloned().collect();
                out.push(batch(first, chunk));
            }
            let mut end = batch(last + 1, vec![]);
            if let Some((next, _)) = world.runs.get(index + 1) {
                end.run_end = Some(RunEnd { last_sequence: last, next: *next });
            }
            out.push(end);
        }
        Ok(out)
    }
}

impl Source for FakeSource {
    fn name(&self) -> Name {
        "broker-a".into()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        let world = self.0.lock().unwrap();
        let first = world.runs.first().map(|(run, _)| *run);
        let answer = first.filter(|_| !world.down).map(|incarnation| Snapshot {
            broker_name: "broker-a".into(),
            oldest: Position { incarnation, sequence: 0 },
            history_complete: true,
            ..Default::default()
        });
        Box::pin(async move { answer.ok_or(SourceError::Unavailable("down".into())) })
    }

    fn read(&self, after: Position) -> BoxFuture<'_, Result<BatchStream, SourceError>> {
        let mut world = self.0.lock().unwrap();
        world.streams += 1;
        let mut batches = if world.down {
            Err(SourceError::Unavailable("down".into()))
        } else {
            FakeSource::batches(&world, after)
        };
        if let (Ok(batches), true) = (&mut batches, world.seed != 0) {
            let mut rng = SimRng(world.seed + world.streams);
            for at in (1..batches.len().saturating_sub(1)).rev() {
                match rng.below(12) {
                    0 => drop(batches.remove(at)),
                    1 => batches.insert(at, batches[at].clone()),
                    2 => batches.swap(at, at - 1),
                    _ => {}
                }
            }
        }
        Box::pin(async move {
            let batches = batches?;
            let heartbeat = batches.last().cloned();
            let live = tokio_stream::iter(batches).map(Ok);
            let beats = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(
                Duration::from_millis(300),
            ));
            let beats = beats.filter_map(move |_| heartbeat.clone().map(Ok));
            Ok(Box::pin(live.chain(beats)) as BatchStream)
        })
    }

    fn confirm(&self, position: Position) -> BoxFuture<'_, Result<(), SourceError>> {
        self.0.lock().unwrap().confirmed.push(position);
        Box::pin(async { Ok(()) })
    }

    fn locate(&self, _: LocateQuery) -> BoxFuture<'_, Result<Located, SourceError>> {
        Box::pin(async { Ok(Located { complete: true, ..Default::default() }) })
    }

    fn inspect(&self, _: MessageIdentity) -> BoxFuture<'_, Result<Option<Inspected>, SourceError>> {
        Box::pin(async { Ok(None) })
    }
}

static STARTS: AtomicU64 = AtomicU64::new(1);

fn config() -> AgentConfig {
    let mut config = AgentConfig { data_dir: "/agent".into(), ..Default::default() };
    config.checkpoint.interval_ms = 100;
    config.checkpoint.verdict_interval_ms = 20;
    config
}

fn start(disk: &SimDisk, ledger: &MemoryLedger, source: &FakeSource) -> AgentHandle {
    let origin = tokio::time::Instant::now();
    let clock = move || {
        let mono_ms = origin.elapsed().as_millis() as u64;
        Now { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms }
    };
    let number = STARTS.fetch_add(1, Ordering::Relaxed);
    let mut incarnation = [0xA0; 16];
    incarnation[8..].copy_from_slice(&number.to_be_bytes());
    let ledger = ledger.clone();
    let environment = Environment {
        clock: Arc::new(clock),
        disk: Arc::new(disk.clone()),
        incarnation: Incarnation(incarnation),
        sources: vec![Arc::new(source.clone())],
        ledger: Some(Box::new(move || Ok(ledger.open()))),
    };
    Agent::start(config(), environment).unwrap()
}

/// Waits until the agent has folded everything and saved it, or has failed.
async fn settle(handle: &AgentHandle) -> Result<Arc<Status>, String> {
    for _ in 0..2_000 {
        let status = handle.status();
        let idle = status.checkpoint.unsaved_since_wall_ms == 0;
        if let Some(error) = handle.failure() {
            return Err(error);
        }
        if status.ready() && idle && status.sources.iter().all(|source| source.caught_up) {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never settled: {:?}", handle.status());
}

async fn stop(handle: AgentHandle) {
    handle.stop();
    tokio::time::timeout(Duration::from_secs(20), handle.stopped()).await.unwrap();
}

async fn stored(handle: &AgentHandle) -> u64 {
    handle.query(|view| view.books.totals().stored).await.unwrap()
}

fn report(id: &str) -> SentReported {
    SentReported {
        id: id.into(),
        topic: "orders".into(),
        outcome: SendOutcome::Ok,
        broker: "".into(),
        queue_id: None,
        queue_offset: None,
        sent_wall_ms: 0,
        reported_wall_ms: 0,
    }
}

fn two_runs() -> FakeSource {
    let first = journal(1, 30, 0, None);
    let last = first.len() as u64;
    let second = journal(2, 20, 30 * PER_FRAME, Some((run_of(1), last)));
    FakeSource::with(vec![(run_of(1), first), (run_of(2), second)])
}

const EXPECTED: u64 = 50 * PER_FRAME;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_drops_repeats_and_swaps_is_folded_exactly_once() {
    for seed in [0, 11, 22, 33] {
        let source = two_runs();
        source.0.lock().unwrap().seed = seed;
        let (disk, ledger) = (SimDisk::new(), MemoryLedger::new());
        let handle = start(&disk, &ledger, &source);
        let status = settle(&handle).await.unwrap();
        assert_eq!(stored(&handle).await, EXPECTED, "seed {seed}");
        let broker = &status.sources[0];
        assert_eq!((broker.gaps, broker.position.incarnation, broker.position.sequence), (0, run_of(2), 21));
        stop(handle).await;
        assert_eq!(source.0.lock().unwrap().confirmed.last().unwrap().sequence, 21);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_durably_is_on_disk_when_it_is_answered() {
    let (disk, ledger) = (SimDisk::new(), MemoryLedger::new());
    let handle = start(&disk, &ledger, &two_runs());
    settle(&handle).await.unwrap();
    let position = |view: &View<'_>| view.books.position_of(ledger::evidence_log::SOURCE_NAME);
    let mut last = None;
    for number in 0..20 {
        handle.report_sent(vec![report(&format!("R{number}"))]).await.unwrap();
        let told = handle.query_durable(position).await.unwrap();
        let kept = Core::import(&ledger.open().rows, &config()).unwrap();
        let kept = kept.position_of(ledger::evidence_log::SOURCE_NAME);
        assert!(kept >= told && told >= last, "told {told:?}, on disk {kept:?}, told before {last:?}");
        last = told;
    }
    stop(handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_on_after_a_restart_of_either_side_is_folded_exactly_once() {
    let (disk, ledger) = (SimDisk::new(), MemoryLedger::new());
    let first = journal(1, 30, 0, None);
    let source = FakeSource::with(vec![(run_of(1), first[..10].to_vec())]);
    let handle = start(&disk, &ledger, &source);
    settle(&handle).await.unwrap();
    assert_eq!(stored(&handle).await, 9 * PER_FRAME);
    stop(handle).await;
    disk.kill();

    source.0.lock().unwrap().runs = vec![(run_of(1), first.clone())];
    let handle = start(&disk, &ledger, &source);
    settle(&handle).await.unwrap();
    assert_eq!(stored(&handle).await, 30 * PER_FRAME);
    // the broker starts again under a running agent
    let last = first.len() as u64;
    let second = journal(2, 20, 30 * PER_FRAME, Some((run_of(1), last)));
    {
        let mut world = source.0.lock().unwrap();
        world.runs.push((run_of(2), second));
    }
    stop(handle).await;
    let handle = start(&disk, &ledger, &source);
    settle(&handle).await.unwrap();
    assert_eq!(stored(&handle).await, EXPECTED);
    stop(handle).await;
}

/// The agent dies after every single effect on its disk, starts again, and nothing is missing, double, or forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_between_any_two_steps_goes_on_exactly_once() {
    let mut runs: tokio::task::JoinSet<()> = (0..60).map(killed_after).collect();
    while let Some(run) = runs.join_next().await {
        run.unwrap();
    }
}

async fn killed_after(effects: u64) {
    {
        let (disk, ledger, source) = (SimDisk::new(), MemoryLedger::new(), two_runs());
        disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
        let handle = start(&disk, &ledger, &source);
        let mut taken = Vec::new();
        for n in 0..5 {
            let id = format!("report-{n}");
            if handle.report_sent(vec![report(&id)]).await.is_ok() {
                taken.push(id);
            }
        }
        if settle(&handle).await.is_ok() {
            stop(handle).await;
        } else {
            handle.stopped().await;
            drop(handle);
        }
        disk.power_cut(effects);
        disk.set_faults(SimFaults::default());

        let handle = start(&disk, &ledger, &source);
        let status = settle(&handle).await.unwrap();
        assert_eq!(stored(&handle).await, EXPECTED, "died after {effects} effects");
        let evidence = status.sources.last().unwrap();
        assert_eq!(status.checkpoint.log_damage, Vec::<String>::new());
        assert_eq!(evidence.gaps, 0);
        let said = never_stored(&handle).await;
        assert!((taken.len()..=5).contains(&said), "{} reports taken, {said} judged", taken.len());
        stop(handle).await;
        // what was said is not said again
        let handle = start(&disk, &ledger, &source);
        settle(&handle).await.unwrap();
        assert_eq!((never_stored(&handle).await, stored(&handle).await), (said, EXPECTED));
        stop(handle).await;
    }
}

/// How many reported sends were judged never stored, once nothing is open.
async fn never_stored(handle: &AgentHandle) -> usize {
    for _ in 0..500 {
        let (open, said) = handle
            .query(|view| {
                let said = view.judge.counts().confirmed_messages.get(&Class::NeverStored).copied();
                let mut verdicts = view.judge.incidents().map(|incident| &incident.verdict);
                let waits = verdicts.any(|verdict| verdict.confirmed_messages < verdict.messages);
                (view.judge.questions().open_reports().count() + usize::from(waits), said.unwrap_or(0))
            })
            .await
            .unwrap();
        if open == 0 {
            return said as usize;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("reports stay open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_fails_on_either_side_of_a_commit_stops_the_agent_and_loses_nothing() {
    for fault in [CommitFault::Before, CommitFault::After] {
        for number in 1..4 {
            let (disk, ledger) = (SimDisk::new(), MemoryLedger::new());
            ledger.fail_at(number, fault);
            let all = two_runs();
            let runs = all.0.lock().unwrap().runs.clone();
            let source = FakeSource::with(vec![(run_of(1), runs[0].1[..12].to_vec())]);
            let mut failures = 0;
            for upto in [12, 20, 31] {
                source.0.lock().unwrap().runs[0].1 = runs[0].1[..upto].to_vec();
                let handle = start(&disk, &ledger, &source);
                if settle(&handle).await.is_err() {
                    failures += 1;
                    handle.stopped().await;
                } else {
                    stop(handle).await;
                }
                disk.kill();
            }
            let handle = start(&disk, &ledger, &source);
            settle(&handle).await.unwrap();
            assert_eq!(stored(&handle).await, 30 * PER_FRAME, "{fault:?} at {number}");
            assert_eq!(failures, 1, "{fault:?} at {number}");
            stop(handle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_gone_is_built_again_from_the_feed() {
    let (disk, ledger, source) = (SimDisk::new(), MemoryLedger::new(), two_runs());
    let handle = start(&disk, &ledger, &source);
    let mut observations = handle.observations();
    handle.report_sent(vec![report("a")]).await.unwrap();
    settle(&handle).await.unwrap();
    assert_eq!(never_stored(&handle).await, 1);
    stop(handle).await;
    let mut seen = Vec::new();
    while let Ok(observation) = observations.try_recv() {
        seen.push(observation);
    }
    assert!(seen.iter().any(|o| matches!(o, Observation::CheckpointMs(_))));
    assert_eq!(seen.iter().filter(|o| matches!(o, Observation::DetectionMs(_))).count(), 1);
    ledger.wipe();
    let handle = start(&disk, &ledger, &source);
    let status = settle(&handle).await.unwrap();
    assert_eq!(stored(&handle).await, EXPECTED);
    assert_eq!(never_stored(&handle).await, 1, "counted once, by the verdict log");
    assert!(status.sources.last().unwrap().position.sequence > 0, "the evidence log was read again");
    stop(handle).await;
}

/// The real ledger on a real disk: damage is noticed, counted, and costs nothing but time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sled_is_built_again_and_said_so_for_good() {
    let root = tempfile::tempdir().unwrap();
    let source = two_runs();
    let begin = || {
        let mut config = config();
        config.data_dir = root.path().into();
        let mut incarnation = [0xB0; 16];
        incarnation[8..].copy_from_slice(&STARTS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let origin = tokio::time::Instant::now();
        let clock = move || {
            let mono_ms = origin.elapsed().as_millis() as u64;
            Now { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms }
        };
        let environment = Environment {
            clock: Arc::new(clock),
            disk: Arc::new(store::disk_os::OsDisk),
            incarnation: Incarnation(incarnation),
            sources: vec![Arc::new(source.clone())],
            ledger: None,
        };
        Agent::start(config, environment).unwrap()
    };
    for round in 0..4u64 {
        let handle = begin();
        let status = settle(&handle).await.unwrap();
        assert_eq!(stored(&handle).await, EXPECTED);
        assert_eq!(status.checkpoint.rebuilds, round.div_ceil(2), "round {round}");
        assert!(status.checkpoint.rows > 0);
        stop(handle).await;
        if round % 2 == 0 {
            let file = root.path().join("ledger/db");
            let mut bytes = std::fs::read(&file).unwrap();
            for byte in bytes.iter_mut().filter(|byte| **byte != 0).step_by(50) {
                *byte ^= 0x55;
            }
            std::fs::write(&file, bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_gone_is_a_gap_for_good_and_the_agent_goes_on() {
    let (disk, ledger, source) = (SimDisk::new(), MemoryLedger::new(), two_runs());
    let handle = start(&disk, &ledger, &source);
    settle(&handle).await.unwrap();
    stop(handle).await;
    // somebody replaced the broker's folder
    source.0.lock().unwrap().runs = vec![(run_of(3), journal(3, 5, 0, None))];
    for _ in 0..2 {
        let handle = start(&disk, &ledger, &source);
        let status = settle(&handle).await.unwrap();
        let broker = &status.sources[0];
        assert_eq!((broker.gaps, broker.position.incarnation, broker.position.sequence), (1, run_of(3), 6));
        assert!(!broker.complete());
        stop(handle).await;
    }
}

/// The broker loses the unflushed end of its journal in a power cut while the agent is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_the_broker_lost_are_kept_over_a_restart_even_without_the_ledger() {
    for wiped in [false, true] {
        let (disk, ledger) = (SimDisk::new(), MemoryLedger::new());
        let first = journal(1, 30, 0, None);
        let source = FakeSource::with(vec![(run_of(1), first.clone())]);
        source.0.lock().unwrap().flushed = 17;
        let handle = start(&disk, &ledger, &source);
        settle(&handle).await.unwrap();
        stop(handle).await;
        disk.power_cut(5);
        if wiped {
            ledger.wipe();
        }
        // 20 of 31 frames are readable; the log lost what they told
        let second = journal(2, 1, 19 * PER_FRAME, Some((run_of(1), 20)));
        source.0.lock().unwrap().runs = vec![(run_of(1), first[..20].to_vec()), (run_of(2), second)];
        let handle = start(&disk, &ledger, &source);
        let status = settle(&handle).await.unwrap();
        assert_eq!(status.sources[0].gaps, 0);
        assert_eq!(stored(&handle).await, 31 * PER_FRAME, "wiped: {wiped}");
        stop(handle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_holds_answers_back_for_a_while_only() {
    let (disk, ledger, source) = (SimDisk::new(), MemoryLedger::new(), two_runs());
    source.0.lock().unwrap().down = true;
    let handle = start(&disk, &ledger, &source);
    tokio::time::sleep(Duration::from_millis(800)).await;
    let status = handle.status();
    assert!(!status.ready() && !status.sources[0].up, "{status:?}");
    assert!(status.sources[0].error.contains("down"));
    source.0.lock().unwrap().down = false;
    settle(&handle).await.unwrap();
    assert_eq!(stored(&handle).await, EXPECTED);
    stop(handle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_of_one_name_are_refused() {
    let mut config = config();
    config.feeds = vec![crate::config::FeedConfig {
        name: "evidence-log".into(),
        urls: vec!["http://127.0.0.1:1".into()],
    }];
    let environment = Environment {
        clock: Arc::new(Now::default),
        disk: Arc::new(SimDisk::new()),
        incarnation: run_of(9),
        sources: vec![],
        ledger: None,
    };
    assert!(matches!(Agent::start(config, environment), Err(StartError::TwoOfOneName(_))));
}
