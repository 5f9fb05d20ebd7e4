//! A core that keeps everything in memory and answers the requests of the gRPC edge: leases run out, receives wait, handles
//! change. What it was asked is kept for tests to look at.

use crate::api::{
    Answer, ChangeInvisible, ConfigureTopic, ConnectionId, Heartbeat, LeasedMessage, NewMessage, Query,
    QueryAnswer, ReceiveMessages, Refusal, ReplyFn, Request, SendMessages, SendStatus, StoredAt, TopicInfo,
};
use crate::handle::CoreHandle;
use bytes::Bytes;
use lifecycle::identity::Name;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use wire::message::{RecordVersion, StoredMessage, body_crc};
use wire::properties::Properties;
use wire::sys_flag::SysFlag;

const TICK: Duration = Duration::from_millis(10);

/// Everything the core knows, and everything it was asked.
#[derive(Default)]
pub(super) struct World {
    pub(super) topics: BTreeMap<Name, TopicInfo>,
    pub(super) stored: Vec<Stored>,
    pub(super) heartbeats: Vec<Heartbeat>,
    pub(super) disconnected: Vec<ConnectionId>,
    pub(super) left: Vec<Name>,
    pub(super) receives: Vec<(Name, u64)>,
    pub(super) dead: Vec<usize>,
    /// What every send is answered with.
    pub(super) send_status: Option<SendStatus>,
    waiting: Vec<Waiting>,
    handles: u64,
}

pub(super) struct Stored {
    pub(super) topic: Name,
    pub(super) message: NewMessage,
    pub(super) attempt: u32,
    pub(super) settled: bool,
    pub(super) handle: Option<String>,
    pub(super) visible_at: Instant,
}

struct Waiting {
    ask: ReceiveMessages,
    until: Instant,
    reply: ReplyFn<Answer<Vec<LeasedMessage>>>,
}

#[derive(Clone, Default)]
pub(super) struct FakeCore(Arc<Mutex<World>>);

impl FakeCore {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn add_topic(&self, name: &str, message_type: &str) {
        let (name, message_type) = (Name::from(name), Name::from(message_type));
        let topic = TopicInfo {
            name: name.clone(),
            read_queues: 4,
            write_queues: 4,
            perm: 6,
            message_type,
            system: false,
        };
        self.world().topics.insert(name, topic);
    }

    /// Answers for ever.
    pub(super) async fn run(self, core: CoreHandle) {
        let mut requests = Vec::new();
        loop {
            tokio::select! {
                () = core.arrived() => {}
                () = sleep(TICK) => {}
            }
            core.drain(&mut requests);
            let mut world = self.world();
            for request in requests.drain(..) {
                world.answer(request);
            }
            world.serve_waiting();
        }
    }
}

impl World {
    fn answer(&mut self, request: Request) {
        match request {
            Request::Send(send, reply) => reply(self.send(send)),
            Request::Receive(ask, reply) => {
                self.receives.push((ask.client.clone(), ask.wait_ms));
                let until = Instant::now() + Duration::from_millis(ask.wait_ms);
                self.waiting.push(Waiting { ask, until, reply });
            }
            Request::Ack(ack, reply) => {
                reply(
                    ack.handles
                        .iter()
                        .map(|handle| self.leased(handle).map(|stored| stored.settled = true))
                        .collect(),
                );
            }
            Request::ChangeInvisible(change, reply) => reply(self.change_invisible(&change)),
            Request::ForwardToDeadLetter(forward, reply) => {
                let at =
                    self.stored.iter().position(|stored| stored.handle.as_deref() == Some(&forward.handle));
                self.dead.extend(at);
                reply(self.leased(&forward.handle).map(|stored| stored.settled = true));
            }
            Request::Heartbeat(heartbeat, reply) => {
                self.heartbeats.push(heartbeat);
                reply(Ok(()));
            }
            Request::Unregister(leave, reply) => {
                self.left.push(leave.client);
                reply(());
            }
            Request::Disconnected(connection) => {
                self.disconnected.push(connection);
                self.waiting.retain(|waiting| waiting.ask.connection != connection);
            }
            Request::Query(Query::Topic(name), reply) => {
                let topic = self.topics.get(&name).cloned().map(QueryAnswer::Topic);
                reply(topic.ok_or(Refusal::TopicNotFound(name.to_string())));
            }
            Request::ConfigureTopic(topic, reply) => {
                self.configure(topic);
                reply(Ok(()));
            }
            _ => panic!("not a request of the gRPC edge"),
        }
    }

    fn configure(&mut self, topic: ConfigureTopic) {
        let info = TopicInfo {
            name: topic.name.clone(),
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: topic.perm,
            message_type: topic.message_type,
            system: false,
        };
        self.topics.insert(topic.name, info);
    }

    fn send(&mut self, send: SendMessages) -> Answer<Vec<StoredAt>> {
        if !self.topics.contains_key(&send.topic) {
            return Err(Refusal::TopicNotFound(send.topic.to_string()));
        }
        let status = self.send_status.unwrap_or(SendStatus::Ok);
        Ok(send.messages.into_iter().map(|message| self.store(&send.topic, message, status)).collect())
    }

    pub(super) fn store(&mut self, topic: &Name, message: NewMessage, status: SendStatus) -> StoredAt {
        let queue_offset = self.stored.len() as u64;
        self.stored.push(Stored {
            topic: topic.clone(),
            message,
            attempt: 0,
            settled: false,
            handle: None,
            visible_at: Instant::now(),
        });
        StoredAt { queue_id: 0, queue_offset, commitlog_offset: queue_offset * 1_000, status }
    }

    fn serve_waiting(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            let leased = self.lease(&waiting.ask, now);
            if leased.is_empty() && now < waiting.until {
                self.waiting.push(waiting);
            } else {
                (waiting.reply)(Ok(leased));
            }
        }
    }

    fn lease(&mut self, ask: &ReceiveMessages, now: Instant) -> Vec<LeasedMessage> {
        let free = |stored: &Stored| stored.topic == ask.topic && !stored.settled && stored.visible_at <= now;
        let ready = (0..self.stored.len()).filter(|at| free(&self.stored[*at]));
        let ready: Vec<_> = ready.take(ask.max_messages as usize).collect();
        ready
            .into_iter()
            .map(|at| {
                self.handles += 1;
                let handle = format!("handle-{}", self.handles);
                let stored = &mut self.stored[at];
                stored.attempt += 1;
                stored.handle = Some(handle.clone());
                stored.visible_at = now + Duration::from_millis(ask.invisible_ms);
                LeasedMessage {
                    record: stored.record(at),
                    topic: stored.topic.clone(),
                    handle,
                    attempt: stored.attempt,
                }
            })
            .collect()
    }

    fn leased(&mut self, handle: &str) -> Answer<&mut Stored> {
        let is_it = |stored: &&mut Stored| !stored.settled && stored.handle.as_deref() == Some(handle);
        self.stored
            .iter_mut()
            .find(is_it)
            .ok_or(Refusal::InvalidHandle("it is not a handle of a leased message"))
    }

    fn change_invisible(&mut self, change: &ChangeInvisible) -> Answer<String> {
        self.handles += 1;
        let handle = format!("handle-{}", self.handles);
        let stored = self.leased(&change.handle)?;
        stored.handle = Some(handle.clone());
        stored.visible_at = Instant::now() + Duration::from_millis(change.invisible_ms);
        Ok(handle)
    }
}

impl Stored {
    pub(super) fn record(&self, at: usize) -> Bytes {
        record(&self.topic, &self.message, at as u64)
    }
}

/// A message as the store lays it out.
pub(super) fn record(topic: &str, message: &NewMessage, queue_offset: u64) -> Bytes {
    let mut out = Vec::new();
    let stored = StoredMessage {
        version: RecordVersion::for_topic(topic),
        body_crc: body_crc(&message.body),
        queue_id: 3,
        flag: message.flag,
        queue_offset,
        commitlog_offset: queue_offset * 1_000,
        sys_flag: SysFlag(message.sys_flag),
        born_timestamp_ms: message.born_timestamp_ms as i64,
        born_host: message.born_host,
        store_timestamp_ms: 1_700_000_000_123,
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: message.reconsume_times,
        prepared_transaction_offset: 0,
        body: &message.body,
        topic,
        properties: Properties(std::str::from_utf8(&message.properties).unwrap()),
    };
    stored.encode(&mut out).unwrap();
    out.into()
}
