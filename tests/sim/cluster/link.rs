//! Owns one replication connection of the simulated group: the production agreement, source and frames, and a wire both ways that
//! keeps order, is late, is cut, and breaks. The transport loses nothing by itself: what is lost is the connection. Written here is
//! only what tokio does in production: when which end reads or writes.

use super::member::Member;
use broker::api::{Answer, FromMaster, ReplicaEvent, ReplyFn, Request};
use broker::replication::agreement::{Agreement, Ground};
use broker::replication::followers::FollowerError;
use broker::replication::frame::{HEADER_LEN, Header, Hello, Message, Welcome};
use broker::replication::source::Source;
use broker::replication::{Head, Progress};
use bytes::Bytes;
use lifecycle::identity::LogPosition;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use store::disk_sim::SimRng;

const HEARTBEAT_MS: u64 = 1_000;
const SILENCE_MAX_MS: u64 = 10_000;
const RETRY_MS: u64 = 200;
/// Messages a connection holds on their way, each way: TCP's window.
const WINDOW: usize = 16;

/// Where the answer to one message comes; in words when it is a refusal.
type Slot = Arc<Mutex<Option<Result<(), String>>>>;

/// What stands while a connection does.
struct Stream {
    /// `None`: the sender is gone, and what is on the wire still arrives.
    source: Option<Source>,
    sent: LogPosition,
    told: LogPosition,
    told_ms: u64,
    said: Progress,
    said_ms: u64,
    heard_above_ms: u64,
    heard_below_ms: u64,
    down: VecDeque<(u64, Bytes)>,
    up: VecDeque<(u64, Bytes)>,
    answers: Vec<Slot>,
}

/// See the module text.
pub(crate) struct Link {
    /// Who sends.
    pub(crate) from: usize,
    /// Who follows.
    pub(crate) to: usize,
    /// Nothing passes towards the replica.
    pub(crate) cut_down: bool,
    /// Nothing passes towards the master.
    pub(crate) cut_up: bool,
    /// Longest delay of one message, ms.
    pub(crate) delay_max_ms: u64,
    /// It carries a copy to a candidate, from whoever has it.
    pub(crate) copies: bool,
    /// The replica is at another connection: it follows one member at a time.
    pub(crate) is_busy: bool,
    /// A planted bug: what was sent is confirmed.
    pub(crate) confirms_early: bool,
    stream: Option<Stream>,
    joined: bool,
    has_left: bool,
    retry_ms: u64,
}

fn slot<T: Send + 'static>(text: impl Fn(T) -> Result<(), String> + Send + 'static) -> (Slot, ReplyFn<T>) {
    let slot = Slot::default();
    let answer = slot.clone();
    (slot, Box::new(move |value| *answer.lock().expect("one thread") = Some(text(value))))
}

fn read(bytes: &Bytes) -> Message {
    let head: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().expect("a frame has a header");
    let header = Header::decode(&head).expect("it was encoded");
    header.message(bytes.slice(HEADER_LEN..)).expect("it was encoded")
}

impl Link {
    pub(crate) fn new(from: usize, to: usize, delay_max_ms: u64) -> Link {
        Link {
            from,
            to,
            cut_down: false,
            cut_up: false,
            delay_max_ms,
            copies: false,
            is_busy: false,
            confirms_early: false,
            stream: None,
            joined: false,
            has_left: false,
            retry_ms: 0,
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut_down || self.cut_up
    }

    pub(crate) fn stands(&self) -> bool {
        self.stream.is_some()
    }

    /// The connection is gone; the master's end notices.
    pub(crate) fn end(&mut self, now_ms: u64) {
        self.stream = None;
        self.has_left |= std::mem::take(&mut self.joined);
        self.retry_ms = now_ms + RETRY_MS;
    }

    /// The sender is gone; what is on its way arrives or not.
    pub(crate) fn sender_gone(&mut self, now_ms: u64, arrives: bool) {
        self.joined = false;
        self.has_left = false;
        match &mut self.stream {
            Some(stream) if arrives => stream.source = None,
            _ => self.end(now_ms),
        }
    }

    /// What has arrived, for both ends' next turn: one message for the replica, every word for the master.
    pub(crate) fn arrive(&mut self, now_ms: u64, members: &[Member], requests: &mut [Vec<Request>]) {
        let id = || members[self.to].id().into();
        if std::mem::take(&mut self.has_left) {
            requests[self.from].push(Request::Replica(ReplicaEvent::Left { id: id() }));
        }
        let Some(stream) = &mut self.stream else { return };
        let ready = |wire: &VecDeque<(u64, Bytes)>| wire.front().is_some_and(|(due, _)| *due <= now_ms);
        if !self.cut_down && !members[self.to].is_paused && ready(&stream.down) {
            let (_, bytes) = stream.down.pop_front().expect("it is ready");
            stream.heard_above_ms = now_ms;
            let message = match read(&bytes) {
                Message::Welcome(welcome) => FromMaster::Welcome { welcome, copies: self.copies },
                Message::Log { position, readable, bytes } => FromMaster::Log { position, readable, bytes },
                Message::Frames { run, frames } => FromMaster::Frames { run, frames },
                Message::Heartbeat { start, readable, .. } => FromMaster::Heartbeat { start, readable },
                other => panic!("a master does not say {other:?}"),
            };
            let (slot, reply) = slot(|answer: Answer<()>| answer.map_err(|refusal| refusal.to_string()));
            stream.answers.push(slot);
            requests[self.to].push(Request::FromMaster(vec![message], reply));
        }
        while !self.cut_up && !members[self.from].is_paused && ready(&stream.up) {
            let (_, bytes) = stream.up.pop_front().expect("it is ready");
            stream.heard_below_ms = now_ms;
            let Message::Ack { received, flushed } = read(&bytes) else { panic!("a replica only confirms") };
            if self.joined {
                let acked = ReplicaEvent::Acked { id: id(), sent: stream.sent, received, flushed };
                requests[self.from].push(Request::Replica(acked));
            }
        }
    }

    /// After the turns: connects, goes on sending and confirming, or ends. Says what happened.
    pub(crate) fn go_on(
        &mut self,
        now_ms: u64,
        members: &[Member],
        rng: &mut SimRng,
        requests: &mut [Vec<Request>],
    ) -> Option<String> {
        let (from, to) = (&members[self.from], &members[self.to]);
        let name = format!("{} -> {}", from.id(), to.id());
        let follows = to.core.as_ref().is_some_and(|core| core.is_slave());
        let leads = from.core.as_ref().is_some_and(|core| self.copies || !core.is_slave());
        if self.stream.is_none() {
            let waits =
                now_ms < self.retry_ms || self.is_busy || self.is_cut() || from.is_paused || to.is_paused;
            if waits || !follows || !leads {
                return None;
            }
            return match self.connect(now_ms, (from, to), requests) {
                Ok(welcome) => Some(format!("{name} from {}", welcome.start.0)),
                Err(why) => {
                    self.retry_ms = now_ms + RETRY_MS;
                    Some(format!("{name} refused: {why}"))
                }
            };
        }
        let outcome = match follows {
            true => self.carry(now_ms, (from, to), rng),
            false => Err("the replica is gone".to_owned()),
        };
        outcome.err().map(|why| {
            self.end(now_ms);
            format!("{name} ended: {why}")
        })
    }

    fn connect(
        &mut self,
        now_ms: u64,
        (from, to): (&Member, &Member),
        requests: &mut [Vec<Request>],
    ) -> Result<Welcome, String> {
        let (Some(master), Some(replica)) = (&from.core, &to.core) else { return Err("dead".into()) };
        let hello = replica.replica_hello().ok_or("no replica")?;
        let hello = Message::Hello(Hello { copies: self.copies, ..hello }).encode();
        let Message::Hello(hello) = read(&hello) else { return Err("no hello".into()) };
        let Agreement { welcome, view, is_master } =
            Ground::of(master).agree(&hello).map_err(|error| error.to_string())?;
        let disk = Arc::new(from.disk.clone());
        let places = (&view, welcome.journal);
        let source = Source::open(disk, master.log_segments(), places, welcome.start);
        let source = source.map_err(|error| error.to_string())?;
        let waits_for_disk = is_master && super::waits_for_disk(master.config());
        let welcome = Welcome { waits_for_disk, ..welcome };
        let mut answers = Vec::new();
        if !self.copies {
            let (slot, reply) =
                slot(|joined: Result<(), FollowerError>| joined.map_err(|error| error.to_string()));
            let (id, at) = (hello.replica_id.as_str().into(), welcome.start);
            requests[self.from].push(Request::Replica(ReplicaEvent::Joined { id, at, reply }));
            answers.push(slot);
            self.joined = true;
        }
        self.stream = Some(Stream {
            source: Some(source),
            sent: welcome.start,
            told: LogPosition(0),
            told_ms: now_ms,
            said: Progress::default(),
            said_ms: now_ms,
            heard_above_ms: now_ms,
            heard_below_ms: now_ms,
            down: VecDeque::from([(now_ms, Message::Welcome(welcome.clone()).encode())]),
            up: VecDeque::new(),
            answers,
        });
        Ok(welcome)
    }

    fn carry(&mut self, now_ms: u64, (from, to): (&Member, &Member), rng: &mut SimRng) -> Result<(), String> {
        let delay = self.delay_max_ms + 1;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        for answer in std::mem::take(&mut stream.answers) {
            match answer.lock().expect("one thread").take() {
                Some(outcome) => outcome?,
                None => stream.answers.push(answer.clone()),
            }
        }
        let late = |rng: &mut SimRng, wire: &VecDeque<(u64, Bytes)>| {
            (now_ms + rng.below(delay)).max(wire.back().map_or(0, |(due, _)| *due))
        };
        if !to.is_paused && stream.up.len() < WINDOW {
            let mut progress = to.core.as_ref().map(|core| core.replica_progress()).unwrap_or_default();
            if self.confirms_early {
                progress = Progress { received: stream.sent, flushed: stream.sent };
            }
            if progress != stream.said || now_ms >= stream.said_ms + HEARTBEAT_MS {
                (stream.said, stream.said_ms) = (progress, now_ms);
                let Progress { received, flushed } = progress;
                let due = late(rng, &stream.up);
                stream.up.push_back((due, Message::Ack { received, flushed }.encode()));
            }
        }
        let Some(source) = &mut stream.source else {
            return if stream.down.is_empty() { Err("the master is gone".into()) } else { Ok(()) };
        };
        let head = from.core.as_ref().filter(|_| !from.is_paused).and_then(|core| core.replication_head());
        if let Some(head) = head {
            while stream.down.len() < WINDOW {
                let Some(message) = source.next(&head).map_err(|error| error.to_string())? else { break };
                if let Message::Log { position, bytes, .. } = &message {
                    stream.sent = LogPosition(position.0 + bytes.len() as u64).max(stream.sent);
                }
                let due = late(rng, &stream.down);
                stream.down.push_back((due, message.encode()));
            }
            let Head { start, end, readable, .. } = head;
            let news = readable > stream.told || now_ms >= stream.told_ms + HEARTBEAT_MS;
            if news && stream.down.len() < WINDOW {
                (stream.told, stream.told_ms) = (readable, now_ms);
                let due = late(rng, &stream.down);
                stream.down.push_back((due, Message::Heartbeat { start, end, readable }.encode()));
            }
        }
        let silent = |heard: u64| now_ms > heard + SILENCE_MAX_MS;
        match silent(stream.heard_above_ms) || silent(stream.heard_below_ms) {
            true => Err("silence".into()),
            false => Ok(()),
        }
    }
}
