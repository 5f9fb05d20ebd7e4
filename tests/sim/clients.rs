//! Owns what clients do, as an SDK does it: sends with retries, pulls, commits, leases, send-backs; and writes down what they saw.
//! Checks on the spot what only a client can see (skipped offsets, strangers among what it was handed). Called by acts.

use crate::oracle::Sent;
use crate::world::{BROKER, World};
use broker::api::*;
use bytes::Bytes;
use lifecycle::fact::{ConsumeModel, SendOutcome, SentReported};
use wire::message::StoredMessage;

/// A message handed to a client.
#[derive(Debug, Clone)]
pub(crate) struct Handed {
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) commitlog_offset: u64,
    pub(crate) id: String,
}

/// What to send.
#[derive(Clone, Copy)]
pub(crate) struct Parcel<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue: u32,
    pub(crate) tag: &'a str,
    pub(crate) body_bytes: usize,
    pub(crate) one_way: bool,
}

impl<'a> Parcel<'a> {
    pub(crate) fn to(topic: &'a str, queue: u32) -> Parcel<'a> {
        Parcel { topic, queue, tag: "", body_bytes: 40, one_way: false }
    }
}

/// Who consumes what.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) group: &'a str,
    pub(crate) client: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) expression: &'a str,
}

impl<'a> Reader<'a> {
    /// What gives a pulled message back; `level` below 0: to the dead letters at once.
    pub(crate) fn back(&self, handed: &Handed, level: i32) -> SendBack {
        SendBack {
            group: self.group.into(),
            commitlog_offset: handed.commitlog_offset,
            delay_level: level,
            max_reconsume_times: None,
            client: self.client.into(),
        }
    }

    pub(crate) fn of(group: &'a str, topic: &'a str) -> Reader<'a> {
        Reader { group, client: group, topic, expression: "*" }
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            topic: self.topic.into(),
            expression: self.expression.into(),
            version: 1,
            expression_type: "TAG".into(),
        }
    }
}

fn connection(client: &str) -> ConnectionId {
    ConnectionId(client.bytes().fold(7, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte)))
}

pub(crate) fn message(parcel: Parcel<'_>, id: &str) -> SendMessages {
    let tags = if parcel.tag.is_empty() { String::new() } else { format!("\u{2}TAGS\u{1}{}", parcel.tag) };
    SendMessages {
        client: "producer".into(),
        connection: connection("producer"),
        topic: parcel.topic.into(),
        queue: QueueChoice::Given(parcel.queue),
        create_with_queues: None,
        one_way: parcel.one_way,
        messages: vec![NewMessage {
            body: Bytes::from(vec![b'x'; parcel.body_bytes]),
            properties: Bytes::from(format!("UNIQ_KEY\u{1}{id}\u{2}WAIT\u{1}true{tags}")),
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:5000".parse().expect("an address"),
            reconsume_times: 0,
            max_reconsume_times: None,
            deliver_at_ms: None,
            message_type: None,
        }],
    }
}

impl World {
    pub(crate) fn create(&mut self, topic: &str, queues: u32, perm: u32) {
        let configure = ConfigureTopic {
            name: topic.into(),
            read_queues: queues,
            write_queues: queues,
            perm,
            message_type: "NORMAL".into(),
            only_if_absent: false,
            actor: "operator".into(),
        };
        let answer = self.ask(|reply| Request::ConfigureTopic(configure, reply)).expect("answered");
        assert_eq!(answer, Ok(()));
    }

    /// One attempt to send; `None`: no answer came.
    pub(crate) fn try_send(&mut self, parcel: Parcel<'_>, id: &str) -> Option<Answer<Vec<StoredAt>>> {
        let sent = self
            .oracle
            .sent
            .entry(id.to_owned())
            .or_insert_with(|| Sent { topic: parcel.topic.to_owned(), ..Sent::default() });
        sent.attempts += 1;
        let send = message(parcel, id);
        let answer = self.ask(|reply| Request::Send(send, reply));
        self.note(format_args!("send {id} to {}/{}: {answer:?}", parcel.topic, parcel.queue));
        let durable = self.promises();
        let sent = self.oracle.sent.get_mut(id).expect("just put there");
        match &answer {
            Some(Ok(stored)) if !parcel.one_way => {
                let at = &stored[0];
                sent.answered = Some((at.queue_id, at.queue_offset, durable && at.status == SendStatus::Ok));
            }
            Some(Err(_)) => sent.refused = true,
            _ => {}
        }
        let is_less = |at: &[StoredAt]| at.iter().any(|at| at.status != SendStatus::Ok);
        if self.group.is_some() && matches!(&answer, Some(Ok(at)) if is_less(at)) {
            self.may_be_said.insert((String::new(), format!("at risk:{id}")));
        }
        answer
    }

    /// Sends until it is answered OK, as an SDK does (3 attempts).
    pub(crate) fn send(&mut self, parcel: Parcel<'_>) -> String {
        let id = self.oracle.new_id();
        for _ in 0..3 {
            if matches!(self.try_send(parcel, &id), Some(Ok(_))) {
                return id;
            }
        }
        self.broken.push(format!("a send to {} failed three times without a fault", parcel.topic));
        id
    }

    pub(crate) fn send_many(&mut self, parcel: Parcel<'_>, count: u64) -> Vec<String> {
        (0..count).map(|_| self.send(parcel)).collect()
    }

    /// A producer tells the agent what it knows of a send.
    pub(crate) fn report(&mut self, id: &str, topic: &str, outcome: SendOutcome) {
        let at = self.oracle.sent.get(id).and_then(|sent| sent.answered);
        let at = at.filter(|_| outcome == SendOutcome::Ok);
        let now = self.now();
        let report = SentReported {
            id: id.into(),
            topic: topic.into(),
            outcome,
            broker: BROKER.into(),
            queue_id: at.map(|(queue, _, _)| queue),
            queue_offset: at.map(|(_, offset, _)| offset),
            sent_wall_ms: now.wall_ms,
            reported_wall_ms: now.wall_ms,
        };
        self.note(format_args!("report {id} {}", outcome.text()));
        self.agent.report(now, report);
    }

    pub(crate) fn join(&mut self, reader: Reader<'_>, model: ConsumeModel, start: StartPolicy) {
        let consumer = ConsumerDeclaration {
            group: reader.group.into(),
            model,
            push: true,
            start,
            subscriptions: vec![reader.subscription()],
        };
        let heartbeat = Heartbeat {
            client: reader.client.into(),
            connection: connection(reader.client),
            language: "JAVA".into(),
            version: 409,
            producer_groups: vec![],
            consumers: vec![consumer],
            notify: None,
        };
        let answer = self.ask(|reply| Request::Heartbeat(heartbeat, reply)).expect("answered");
        assert_eq!(answer, Ok(()), "{}", reader.group);
    }

    pub(crate) fn leave(&mut self, client: &str) {
        let leave =
            Unregister { client: client.into(), producer_group: "".into(), consumer_group: "".into() };
        self.ask(|reply| Request::Unregister(leave, reply));
        self.pass(50);
    }

    /// The client dies: its connection closes.
    pub(crate) fn die(&mut self, client: &str) {
        self.turn(vec![Request::Disconnected(connection(client))]);
        self.pass(50);
    }

    pub(crate) fn position(&mut self, reader: Reader<'_>, queue: u32) -> Option<u64> {
        let asked = QueueOfGroup { group: reader.group.into(), topic: reader.topic.into(), queue_id: queue };
        self.ask(|reply| Request::QueryOffset(asked, reply)).expect("answered").ok()
    }

    pub(crate) fn pull(&mut self, reader: Reader<'_>, queue: u32, from: u64, max: u32) -> (Vec<Handed>, u64) {
        let pull = PullMessages {
            queue: QueueOfGroup { group: reader.group.into(), topic: reader.topic.into(), queue_id: queue },
            client: reader.client.into(),
            connection: connection(reader.client),
            offset: from as i64,
            max_messages: max,
            max_bytes: 0,
            commit_offset: None,
            subscription: Some(reader.subscription()),
            subscription_version: 0,
            suspend_ms: 0,
        };
        let pulled =
            self.ask(|reply| Request::Pull(pull, reply)).expect("answered").expect("a pull is answered");
        let handed: Vec<Handed> = pulled.records.iter().map(|record| self.handed(reader, record)).collect();
        let offsets: Vec<u64> = handed.iter().map(|h| h.offset).collect();
        self.note(format_args!("{} pulled {}/{queue} from {from}: {offsets:?}", reader.client, reader.topic));
        // what a fault destroyed nobody can be handed; what was stored in its place since, anybody
        let exists =
            |offset: &u64| offsets.contains(offset) || !self.oracle.is_hole(reader.topic, queue, *offset);
        let expected: Vec<u64> = (from..).filter(exists).take(offsets.len()).collect();
        if reader.expression == "*" && offsets != expected && !offsets.is_empty() {
            self.broken.push(format!("poll skip: {} asked from {from} and got {offsets:?}", reader.group));
        }
        (handed, pulled.next_offset)
    }

    /// Writes down what a client was handed.
    fn handed(&mut self, reader: Reader<'_>, record: &Bytes) -> Handed {
        let (message, _) = StoredMessage::decode(record).expect("a record is whole");
        let id = message.properties.get("UNIQ_KEY").unwrap_or_default().to_owned();
        let handed = Handed {
            queue: message.queue_id as u32,
            offset: message.queue_offset,
            commitlog_offset: message.commitlog_offset,
            id,
        };
        if !self.oracle.sent.contains_key(&handed.id) {
            self.broken
                .push(format!("unexpected: {} was handed {handed:?}, which nobody sent", reader.group));
        }
        let unit = crate::oracle::Unit {
            topic: message.topic.to_owned(),
            queue: handed.queue,
            offset: handed.offset,
            epoch: 0,
        };
        self.oracle.handed.entry(reader.group.to_owned()).or_default().insert(unit);
        handed
    }

    /// Somebody sets a group's offset; a member's is a commit.
    pub(crate) fn set_offset(&mut self, reader: Reader<'_>, queue: u32, offset: u64) -> Answer<()> {
        let update = UpdateOffset {
            queue: QueueOfGroup { group: reader.group.into(), topic: reader.topic.into(), queue_id: queue },
            offset,
            client: reader.client.into(),
            connection: connection(reader.client),
        };
        let answer = self.ask(|reply| Request::UpdateOffset(update, reply)).expect("answered");
        self.note(format_args!("{} sets {}/{queue} to {offset}: {answer:?}", reader.client, reader.topic));
        answer
    }

    /// A healthy pull consumer: from where the broker says it is, to the end, committing as it goes.
    pub(crate) fn consume(&mut self, reader: Reader<'_>, queues: u32) -> u64 {
        let mut count = 0;
        for queue in 0..queues {
            let Some(mut at) = self.position(reader, queue) else { continue };
            loop {
                let (handed, next) = self.pull(reader, queue, at, 32);
                count += handed.len() as u64;
                if next <= at {
                    break;
                }
                at = next;
                assert_eq!(self.set_offset(reader, queue, at), Ok(()));
            }
        }
        count
    }

    pub(crate) fn receive(&mut self, reader: Reader<'_>, invisible_ms: u64) -> Vec<(Handed, String)> {
        let receive = ReceiveMessages {
            group: reader.group.into(),
            topic: reader.topic.into(),
            queue_id: None,
            client: reader.client.into(),
            connection: connection(reader.client),
            max_messages: 32,
            invisible_ms,
            auto_renew: false,
            subscription: reader.subscription(),
            wait_ms: 0,
            attempt_id: "".into(),
        };
        let leased = self.ask(|reply| Request::Receive(receive, reply)).expect("answered").expect("received");
        let got: Vec<_> =
            leased.into_iter().map(|leased| (self.handed(reader, &leased.record), leased.handle)).collect();
        let ids: Vec<_> = got.iter().map(|(handed, _)| handed.id.clone()).collect();
        self.note(format_args!("{} received {ids:?}", reader.client));
        got
    }

    pub(crate) fn ack(&mut self, reader: Reader<'_>, handle: &str) -> bool {
        let acks = AckMessages {
            group: reader.group.into(),
            topic: reader.topic.into(),
            client: reader.client.into(),
            handles: vec![handle.to_owned()],
        };
        self.ask(|reply| Request::Ack(acks, reply)).expect("answered").remove(0).is_ok()
    }

    pub(crate) fn nack(&mut self, reader: Reader<'_>, handle: &str) {
        let change = ChangeInvisible {
            group: reader.group.into(),
            topic: reader.topic.into(),
            client: reader.client.into(),
            handle: handle.to_owned(),
            invisible_ms: 0,
            never_left: false,
        };
        let answer = self.ask(|reply| Request::ChangeInvisible(change, reply)).expect("answered");
        assert!(answer.is_ok(), "{answer:?}");
    }

    /// Gives a pulled message back.
    pub(crate) fn send_back(&mut self, reader: Reader<'_>, handed: &Handed, level: i32) -> Answer<()> {
        let back = reader.back(handed, level);
        let answer = self.ask(|reply| Request::SendBack(back, reply)).expect("answered");
        self.note(format_args!("{} sends {} back: {answer:?}", reader.client, handed.id));
        answer
    }

    /// A healthy lease consumer: takes and acknowledges until nothing comes.
    pub(crate) fn work(&mut self, reader: Reader<'_>) -> u64 {
        let mut count = 0;
        loop {
            let got = self.receive(reader, 10_000);
            if got.is_empty() {
                return count;
            }
            for (_, handle) in got {
                count += u64::from(self.ack(reader, &handle));
            }
        }
    }
}

/// Where an answer to a send comes.
pub(crate) type SendSlot = std::sync::Arc<std::sync::Mutex<Option<Answer<Vec<StoredAt>>>>>;

impl World {
    /// Sends, and looks for the answer later.
    pub(crate) fn begin_send(&mut self, parcel: Parcel<'_>) -> (String, SendSlot) {
        let id = self.oracle.new_id();
        let sent = Sent { topic: parcel.topic.to_owned(), attempts: 1, ..Sent::default() };
        self.oracle.sent.insert(id.clone(), sent);
        let send = message(parcel, &id);
        let slot = self.begin(|reply| Request::Send(send, reply));
        (id, slot)
    }
}
