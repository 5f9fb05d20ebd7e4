//! The feed over a real core on a simulated disk: the test runs the turns, and tells the feed of them as the server does.

use super::*;
use crate::api::{Answer, ConnectionId, NewMessage, QueueChoice, ReplyFn, SendMessages, StoredAt};
use crate::config::Config;
use crate::core::CoreParts;
use crate::state::State;
use lifecycle::fact::{EpochStarted, Fact};
use lifecycle::frame::FrameDecoder;
use std::future::Future;
use std::time::Duration;
use store::disk_sim::SimDisk;
use tokio_stream::StreamExt;

mod grpc;
mod questions;
mod reading;

struct Bench {
    disk: SimDisk,
    core: Core,
    handle: CoreHandle,
    heads: watch::Sender<FeedHead>,
    feed: FeedHandle,
    now: Now,
    run: u8,
}

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

impl Bench {
    fn new() -> Bench {
        Bench::open(SimDisk::new(), 1, START)
    }

    fn open(disk: SimDisk, run: u8, now: Now) -> Bench {
        let parts = CoreParts {
            disk: Arc::new(disk.clone()),
            dir: "/data".into(),
            config: Config { default_queues: 2, ..Config::default() },
            incarnation: incarnation(run),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            boot: None,
            mandate: None,
        };
        let (core, _) = Core::open(parts, now).unwrap();
        let handle = CoreHandle::new();
        let (position, flushed_sequence) = core.journal_head();
        let (heads, told) = watch::channel(FeedHead { position, flushed_sequence });
        let feed = FeedHandle::new("b".into(), core.journal_view(), handle.clone(), told);
        Bench { disk, core, handle, heads, feed, now, run }
    }

    /// kill -9, and a new run.
    fn restart(self) -> Bench {
        let Bench { disk, core, run, now, .. } = self;
        drop(core);
        Bench::open(disk, run + 1, Now { mono_ms: 0, wall_ms: now.wall_ms + 1000 })
    }

    fn turn(&mut self) {
        self.now.mono_ms += 1;
        self.now.wall_ms += 1;
        let mut requests = Vec::new();
        self.handle.drain(&mut requests);
        let effects = self.core.turn(self.now, &mut requests, &mut Vec::new());
        assert_eq!(effects.fatal, None);
        let (position, flushed_sequence) = self.core.journal_head();
        self.heads.send_replace(FeedHead { position, flushed_sequence });
    }

    fn head(&self) -> u64 {
        self.core.journal_head().0.sequence
    }

    /// Stores one message; its turn writes one frame.
    fn send(&mut self, topic: &str, id: &str) -> StoredAt {
        let stored = Arc::new(std::sync::Mutex::new(None));
        let slot = stored.clone();
        let reply: ReplyFn<Answer<Vec<StoredAt>>> =
            Box::new(move |answer| *slot.lock().unwrap() = Some(answer));
        self.handle.submit(Request::Send(message(topic, id), reply)).unwrap();
        self.turn();
        let mut answer = stored.lock().unwrap().take().unwrap().unwrap();
        answer.remove(0)
    }

    /// Runs turns until a question to the core is answered.
    async fn answered<T>(&mut self, question: impl Future<Output = T>) -> T {
        tokio::pin!(question);
        loop {
            tokio::select! {
                biased;
                answer = &mut question => return answer,
                () = tokio::time::sleep(Duration::from_millis(1)) => self.turn(),
            }
        }
    }
}

fn incarnation(run: u8) -> Incarnation {
    Incarnation([run; 16])
}

fn position(run: u8, sequence: u64) -> Position {
    Position { incarnation: incarnation(run), sequence }
}

fn message(topic: &str, id: &str) -> SendMessages {
    let properties = format!("UNIQ_KEY\u{1}{id}\u{2}KEYS\u{1}key-{id} all\u{2}TAGS\u{1}t");
    let one = NewMessage {
        body: format!("body of {id}").into_bytes().into(),
        properties: properties.into_bytes().into(),
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1_600_000_000_000,
        born_host: "127.0.0.1:4000".parse().unwrap(),
        reconsume_times: 0,
        max_reconsume_times: None,
        deliver_at_ms: None,
        message_type: None,
    };
    SendMessages {
        client: "producer".into(),
        connection: ConnectionId(1),
        topic: topic.into(),
        queue: QueueChoice::Given(0),
        create_with_queues: Some(2),
        one_way: false,
        messages: vec![one],
    }
}

/// The next batch; the test fails when none comes in five seconds.
async fn next(stream: &mut BatchStream) -> Option<Batch> {
    let item = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("a batch in time");
    item.map(|batch| batch.expect("a batch, not an error"))
}

/// Everything up to a frame, or to the end of a run.
async fn up_to(stream: &mut BatchStream, run: u8, sequence: u64) -> Vec<Batch> {
    let mut batches = Vec::new();
    loop {
        let batch = next(stream).await.expect("the stream goes on");
        let last = batch.first_sequence + batch.frames.len() as u64 - 1;
        let there = batch.incarnation == incarnation(run) && last >= sequence;
        batches.push(batch);
        if there {
            return batches;
        }
    }
}

/// Decodes as a reader does: frames in order, a new decoder for each run, nothing applied up to `after`.
fn facts(batches: &[Batch], after: Position) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut decoder = FrameDecoder::new();
    let mut applied = after;
    for batch in batches {
        assert_eq!(batch.broker_name.as_ref(), "b");
        if batch.incarnation != applied.incarnation {
            (decoder, applied) =
                (FrameDecoder::new(), Position { incarnation: batch.incarnation, sequence: 0 });
        }
        for (sequence, frame) in (batch.first_sequence..).zip(&batch.frames) {
            let frame = decoder.decode(frame).expect("frames follow a reset point");
            if sequence > applied.sequence {
                assert_eq!(sequence, applied.sequence + 1, "no frame is missing");
                applied.sequence = sequence;
                facts.extend(frame.facts);
            }
        }
    }
    facts
}

fn folded(facts: &[Fact]) -> State {
    let mut state = State::default();
    facts.iter().for_each(|fact| state.apply(fact));
    state
}

/// What a reader would know a broker by: everything but the settings that a snapshot restates.
fn known(state: &State) -> Vec<Fact> {
    state.dump(&EpochStarted {
        epoch: state.epoch,
        broker_name: "b".into(),
        log_start: Default::default(),
        roster: Vec::new(),
        settings: Vec::new(),
    })
}

#[test]
fn the_journal_is_kept_for_the_slowest_reader() {
    let bench = Bench::new().restart();
    let feed = &bench.feed;
    assert_eq!(feed.min_confirmed(), None);
    feed.confirm("a", position(2, 1)).unwrap();
    assert_eq!(feed.min_confirmed(), Some(position(2, 1)));
    feed.confirm("b", position(1, 7)).unwrap();
    assert_eq!(feed.min_confirmed(), Some(position(1, 7)), "an older run is further back");
    feed.confirm("b", position(2, 3)).unwrap();
    assert_eq!(feed.min_confirmed(), Some(position(2, 1)));
    assert_eq!(feed.confirm("b", position(9, 1)), Err(FeedError::UnknownRun(incarnation(9))));
    feed.readers.meet("c").unwrap();
    assert_eq!(feed.min_confirmed(), None, "one that has said nothing yet may need everything");
    for index in 3..readers::READERS_MAX {
        feed.readers.meet(&format!("r{index}")).unwrap();
    }
    let refused = feed.confirm("one too many", position(2, 1));
    assert_eq!(refused, Err(FeedError::TooManyReaders(readers::READERS_MAX)));
    assert_eq!(feed.confirm("a", position(2, 2)), Ok(()), "known readers go on");
}

#[test]
fn readers_are_known_over_a_restart_and_hold_the_journal_until_they_confirm_again() {
    let kept = |bench: &Bench| {
        let disk: Arc<dyn store::disk::Disk> = Arc::new(bench.disk.clone());
        bench.feed.clone().with_readers_kept(disk, "/data".as_ref()).unwrap()
    };
    let bench = Bench::new();
    let feed = kept(&bench);
    feed.confirm("a", position(1, 1)).unwrap();
    feed.confirm("b", position(1, 2)).unwrap();
    assert_eq!(feed.min_confirmed(), Some(position(1, 1)));
    drop(feed);
    bench.disk.power_cut(1);
    let bench = bench.restart();
    let feed = kept(&bench);
    assert_eq!(feed.min_confirmed(), None);
    feed.confirm("a", position(2, 1)).unwrap();
    assert_eq!(feed.min_confirmed(), None, "b may be further back");
    feed.confirm("b", position(1, 2)).unwrap();
    assert_eq!(feed.min_confirmed(), Some(position(1, 2)));
    let refused = feed.confirm("two\nlines", position(1, 1));
    assert!(matches!(refused, Err(FeedError::Invalid(_))));
    // names of old make room; those that speak do not
    for index in 2..readers::READERS_MAX {
        feed.readers.meet(&format!("r{index}")).unwrap();
    }
    let feed = kept(&bench);
    feed.confirm("new", position(2, 1)).unwrap();
    assert_eq!(feed.confirm("z", position(2, 1)), Ok(()));
}
