//! A core, its disk and its clock, and short ways to ask it things.

use crate::api::*;
use crate::config::{Config, FlushDiskType};
use crate::core::{Core, CoreParts, FlushDone, RecoveryReport, TurnEffects};
use crate::replication::mastership::Mandate;
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::{ConsumeModel, Fact};
use lifecycle::frame::FrameDecoder;
use lifecycle::identity::{Incarnation, Name};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use store::disk_sim::SimDisk;
use store::journal::JournalItem;
use wire::message::StoredMessage;

pub(super) struct Bench {
    pub(super) disk: SimDisk,
    pub(super) core: Option<Core>,
    pub(super) now: Now,
    pub(super) config: Config,
    pub(super) runs: u8,
    pub(super) mandate: Option<Mandate>,
    boots: u8,
    orders: Vec<crate::core::FlushOrders>,
    /// Flushes are carried out right after the turn that ordered them.
    pub(super) flushing: bool,
}

pub(super) fn small() -> Config {
    Config {
        broker_name: "b".into(),
        max_body_bytes: 4096,
        segment_bytes: 256 * 1024,
        delay_levels_ms: (1..=18).map(|n| n * 1000).collect(),
        default_queues: 2,
        retry_max: 2,
        ..Config::default()
    }
}

impl Bench {
    pub(super) fn new(config: Config) -> Bench {
        let now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
        let mut bench = Bench {
            disk: SimDisk::new(),
            core: None,
            now,
            config,
            runs: 0,
            mandate: None,
            boots: 0,
            orders: Vec::new(),
            flushing: true,
        };
        bench.open();
        bench
    }

    pub(super) fn sync() -> Bench {
        Bench::new(Config { flush_disk_type: FlushDiskType::Sync, ..small() })
    }

    pub(super) fn open(&mut self) -> RecoveryReport {
        self.runs += 1;
        self.now.mono_ms = 0;
        self.orders.clear();
        let parts = CoreParts {
            disk: Arc::new(self.disk.clone()),
            dir: PathBuf::from("/data"),
            config: self.config.clone(),
            incarnation: Incarnation([self.runs; 16]),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            boot: Some(format!("boot {}", self.boots)),
            mandate: self.mandate,
        };
        let (core, report) = Core::open(parts, self.now).unwrap();
        self.core = Some(core);
        report
    }

    /// kill -9: the process is gone, what the operating system has stays.
    pub(super) fn kill(&mut self) -> RecoveryReport {
        self.core = None;
        self.open()
    }

    pub(super) fn power_cut(&mut self, seed: u64) -> RecoveryReport {
        self.core = None;
        self.boots += 1;
        self.disk.power_cut(seed);
        self.open()
    }

    pub(super) fn stop_cleanly(&mut self) -> RecoveryReport {
        self.core.take().unwrap().close(self.now).unwrap();
        self.open()
    }

    pub(super) fn turn(&mut self, requests: Vec<Request>) -> TurnEffects {
        let mut done = Vec::new();
        if self.flushing {
            for orders in self.orders.drain(..) {
                done.extend(orders.log.map(|batch| FlushDone::Log(batch.sync())));
                done.extend(orders.journal.map(|batch| FlushDone::Journal(batch.sync())));
                done.extend(orders.jobs.into_iter().map(|job| FlushDone::Job(job.run())));
            }
        }
        let mut requests = requests;
        let mut effects = self.core.as_mut().unwrap().turn(self.now, &mut requests, &mut done);
        self.orders.push(std::mem::take(&mut effects.flush));
        assert_eq!(effects.fatal, None);
        effects
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        for _ in 0..3 {
            self.turn(Vec::new());
        }
    }

    /// Asks, and runs turns until the answer is there (at most three).
    pub(super) fn ask<T: Send + 'static>(&mut self, request: impl FnOnce(ReplyFn<T>) -> Request) -> T {
        self.try_ask(request).expect("answered within three turns")
    }

    pub(super) fn try_ask<T: Send + 'static>(
        &mut self,
        request: impl FnOnce(ReplyFn<T>) -> Request,
    ) -> Option<T> {
        let slot = Arc::new(Mutex::new(None));
        let sender = slot.clone();
        self.turn(vec![request(Box::new(move |answer| *sender.lock().unwrap() = Some(answer)))]);
        for _ in 0..2 {
            if slot.lock().unwrap().is_none() {
                self.turn(Vec::new());
            }
        }
        slot.lock().unwrap().take()
    }

    pub(super) fn send(&mut self, topic: &str, id: &str) -> Answer<Vec<StoredAt>> {
        self.ask(|reply| Request::Send(message(topic, id, ""), reply))
    }

    pub(super) fn send_with(&mut self, topic: &str, id: &str, properties: &str) -> Answer<Vec<StoredAt>> {
        self.ask(|reply| Request::Send(message(topic, id, properties), reply))
    }

    pub(super) fn heartbeat(&mut self, client: &str, group: &str, topic: &str, model: ConsumeModel) {
        self.heartbeat_for(client, group, topic, "*", model).unwrap();
    }

    pub(super) fn heartbeat_for(
        &mut self,
        client: &str,
        group: &str,
        topic: &str,
        expression: &str,
        model: ConsumeModel,
    ) -> Answer<()> {
        let consumer = ConsumerDeclaration {
            group: group.into(),
            model,
            push: true,
            start: StartPolicy::Last,
            subscriptions: vec![subscription(topic, expression)],
        };
        let heartbeat = Heartbeat {
            client: client.into(),
            connection: connection(client),
            language: "JAVA".into(),
            version: 409,
            producer_groups: vec![],
            consumers: vec![consumer],
            notify: None,
        };
        self.ask(|reply| Request::Heartbeat(heartbeat, reply))
    }

    pub(super) fn pull(
        &mut self,
        client: &str,
        group: &str,
        topic: &str,
        queue_id: u32,
        offset: i64,
    ) -> Pulled {
        self.ask(|reply| Request::Pull(pull(client, group, topic, queue_id, offset), reply)).unwrap()
    }

    pub(super) fn commit(
        &mut self,
        client: &str,
        group: &str,
        topic: &str,
        queue_id: u32,
        offset: u64,
    ) -> Answer<()> {
        let queue = QueueOfGroup { group: group.into(), topic: topic.into(), queue_id };
        let update = UpdateOffset { queue, offset, client: client.into(), connection: connection(client) };
        self.ask(|reply| Request::UpdateOffset(update, reply))
    }

    pub(super) fn receive(
        &mut self,
        client: &str,
        group: &str,
        topic: &str,
        invisible_ms: u64,
    ) -> Vec<LeasedMessage> {
        self.ask(|reply| Request::Receive(receive(client, group, topic, invisible_ms), reply)).unwrap()
    }

    /// Gives a message back, to be visible again after `ms`.
    pub(super) fn nack(&mut self, group: &str, topic: &str, handle: &str, ms: u64) -> Answer<String> {
        let change = ChangeInvisible {
            group: group.into(),
            topic: topic.into(),
            client: "c".into(),
            handle: handle.to_owned(),
            invisible_ms: ms,
            never_left: false,
        };
        self.ask(|reply| Request::ChangeInvisible(change, reply))
    }

    pub(super) fn leave(&mut self, client: &str) {
        let unregister =
            Unregister { client: client.into(), producer_group: "".into(), consumer_group: "".into() };
        self.ask(|reply| Request::Unregister(unregister, reply));
        self.pass(1);
    }

    pub(super) fn configure(&mut self, topic: &str, message_type: &str, only_if_absent: bool) -> Answer<()> {
        let configure = ConfigureTopic {
            name: topic.into(),
            read_queues: 1,
            write_queues: 1,
            perm: 6,
            message_type: message_type.into(),
            only_if_absent,
            actor: "operator".into(),
        };
        self.ask(|reply| Request::ConfigureTopic(configure, reply))
    }

    pub(super) fn ack(&mut self, group: &str, topic: &str, handle: &str) -> Answer<()> {
        let acks = AckMessages {
            group: group.into(),
            topic: topic.into(),
            client: "c".into(),
            handles: vec![handle.to_owned()],
        };
        self.ask(|reply| Request::Ack(acks, reply)).remove(0)
    }

    /// Every fact of every run, as the feed would tell them.
    pub(super) fn facts(&self) -> Vec<Fact> {
        let mut reader = self.core.as_ref().unwrap().journal_view().read_all().unwrap();
        let mut decoder = FrameDecoder::new();
        let mut facts = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            match item {
                JournalItem::Frame { payload, .. } => facts.extend(decoder.decode(payload).unwrap().facts),
                JournalItem::Closed { .. } => decoder = FrameDecoder::new(),
                JournalItem::Hole { .. } => panic!("the journal has a hole"),
            }
        }
        facts
    }

    pub(super) fn queue_ends(&self, topic: &str) -> Vec<u64> {
        let state = self.core.as_ref().unwrap().state_view();
        let count = state.topic(topic).map_or(0, |topic| topic.queue_count);
        (0..count).map(|id| state.bounds(state.queue_key(topic, id).unwrap()).max_offset).collect()
    }

    pub(super) fn position(&self, group: &str, topic: &str, queue_id: u32) -> u64 {
        let state = self.core.as_ref().unwrap().state_view();
        state.group(group).unwrap().queues[&state.queue_key(topic, queue_id).unwrap()].position
    }
}

pub(super) fn connection(client: &str) -> ConnectionId {
    ConnectionId(client.bytes().map(u64::from).sum())
}

pub(super) fn subscription(topic: &str, expression: &str) -> Subscription {
    Subscription {
        topic: topic.into(),
        expression: expression.into(),
        version: 1,
        expression_type: "TAG".into(),
    }
}

/// `invisible_ms` 0: a push consumer's, renewed while it lives.
pub(super) fn receive(client: &str, group: &str, topic: &str, invisible_ms: u64) -> ReceiveMessages {
    ReceiveMessages {
        group: group.into(),
        topic: topic.into(),
        queue_id: None,
        client: client.into(),
        connection: connection(client),
        max_messages: 32,
        invisible_ms,
        auto_renew: invisible_ms == 0,
        subscription: subscription(topic, "*"),
        wait_ms: 0,
        attempt_id: "".into(),
    }
}

/// Client ids and attempts of leased messages.
pub(super) fn leased(messages: &[LeasedMessage]) -> Vec<(String, u32)> {
    messages.iter().map(|message| (id(&message.record), message.attempt)).collect()
}

pub(super) fn message(topic: &str, id: &str, properties: &str) -> SendMessages {
    let properties = format!("UNIQ_KEY\u{1}{id}\u{2}KEYS\u{1}key-{id}\u{2}{properties}");
    SendMessages {
        client: "p".into(),
        connection: ConnectionId(1),
        topic: topic.into(),
        queue: QueueChoice::Given(0),
        create_with_queues: Some(2),
        one_way: false,
        messages: vec![NewMessage {
            body: Bytes::from(format!("body of {id}")),
            properties: Bytes::from(properties),
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:5000".parse().unwrap(),
            reconsume_times: 0,
            max_reconsume_times: None,
            deliver_at_ms: None,
            message_type: None,
        }],
    }
}

pub(super) fn pull(client: &str, group: &str, topic: &str, queue_id: u32, offset: i64) -> PullMessages {
    PullMessages {
        queue: QueueOfGroup { group: group.into(), topic: topic.into(), queue_id },
        client: client.into(),
        connection: connection(client),
        offset,
        max_messages: 32,
        max_bytes: 0,
        commit_offset: None,
        subscription: None,
        subscription_version: 0,
        suspend_ms: 0,
    }
}

/// Client ids of records.
pub(super) fn ids(records: &[Bytes]) -> Vec<String> {
    records.iter().map(id).collect()
}

pub(super) fn id(record: &Bytes) -> String {
    StoredMessage::decode(record).unwrap().0.properties.get("UNIQ_KEY").unwrap().to_owned()
}

pub(super) fn name(text: &str) -> Name {
    text.into()
}
