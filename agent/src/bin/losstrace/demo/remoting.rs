//! Owns the demo's RocketMQ client: producer, consumer and operator over the remoting protocol, one blocking connection each.

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use wire::body::heartbeat::{
    ConsumeFromWhere, ConsumeType, Consumer, Heartbeat, MessageModel, Producer, Subscription,
};
use wire::code::{request, response};
use wire::command::Command;
use wire::frame::FrameDecoder;
use wire::ids::UniqKey;
use wire::message::records;
use wire::properties::{NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR, UNIQ_KEY, WAIT};
use wire::sys_flag::PullSysFlag;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Readable and writable.
const READ_WRITE: u32 = 6;
/// Readable only.
pub(super) const READ_ONLY: u32 = 4;

/// Where a broker says that it stored a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) queue_id: u32,
    pub(super) offset: u64,
}

/// A message as a consumer gets it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) commitlog_offset: u64,
}

/// An id as a Java client makes it; never the same twice in one demo.
pub(super) fn new_id() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    UniqKey {
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        pid: (std::process::id() & 0xffff) as u16,
        class_loader: counter >> 16,
        since_month_ms: 0,
        counter: (counter & 0xffff) as u16,
    }
    .to_string()
}

/// One connection.
pub(super) struct Client {
    name: String,
    stream: TcpStream,
    bytes: BytesMut,
    opaque: i32,
}

impl Client {
    /// Connects and says who it is.
    pub(super) fn connect(address: SocketAddr, name: &str) -> Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut client = Client { name: name.to_owned(), stream, bytes: BytesMut::new(), opaque: 0 };
        client.heartbeat(Vec::new())?;
        Ok(client)
    }

    fn heartbeat(&mut self, consumers: Vec<Consumer>) -> Result<()> {
        let producers = vec![Producer { group_name: "demo-producers".to_owned() }];
        let body = Heartbeat { client_id: self.name.clone(), consumers, producers }.encode();
        self.ask(Command::request(request::HEART_BEAT, 0).with_body(body)).map(drop)
    }

    /// Becomes a member of a group, which from its first member on owes the topic from its start.
    pub(super) fn join(&mut self, group: &str, topic: &str) -> Result<()> {
        let retry = format!("%RETRY%{group}");
        let subscriptions = [topic, &retry].map(|topic| Subscription {
            class_filter_mode: false,
            codes: Vec::new(),
            expression_type: "TAG".to_owned(),
            sub_string: "*".to_owned(),
            sub_version: 1,
            tags: Vec::new(),
            topic: topic.to_owned(),
        });
        self.heartbeat(vec![Consumer {
            consume_from_where: Some(ConsumeFromWhere::FirstOffset),
            consume_type: Some(ConsumeType::Passively),
            group_name: group.to_owned(),
            message_model: Some(MessageModel::Clustering),
            subscriptions: subscriptions.into(),
            unit_mode: false,
        }])
    }

    /// Leaves a group properly.
    pub(super) fn leave(&mut self, group: &str) -> Result<()> {
        let leave = Command::request(request::UNREGISTER_CLIENT, 0)
            .with_field("clientID", self.name.as_str())
            .with_field("consumerGroup", group);
        self.ask(leave).map(drop)
    }

    /// Creates a topic, or changes it.
    pub(super) fn set_topic(&mut self, topic: &str, queues: u32, perm: u32) -> Result<()> {
        let create = Command::request(request::UPDATE_AND_CREATE_TOPIC, 0)
            .with_field("topic", topic)
            .with_field("defaultTopic", "TBW102")
            .with_field("readQueueNums", u64::from(queues))
            .with_field("writeQueueNums", u64::from(queues))
            .with_field("perm", u64::from(perm))
            .with_field("topicFilterType", "SINGLE_TAG")
            .with_field("topicSysFlag", 0)
            .with_field("order", false);
        self.ask(create).map(drop)
    }

    pub(super) fn create_topic(&mut self, topic: &str, queues: u32) -> Result<()> {
        self.set_topic(topic, queues, READ_WRITE)
    }

    fn send_command(command: Command, topic: &str, queue_id: u32, message: (&str, usize)) -> Command {
        let (id, body_bytes) = message;
        let properties = format!(
            "{UNIQ_KEY}{NAME_VALUE_SEPARATOR}{id}{PROPERTY_SEPARATOR}{WAIT}{NAME_VALUE_SEPARATOR}true"
        );
        command
            .with_field("a", "demo-producers")
            .with_field("b", topic)
            // not the topic that asks for creation: a topic that is not there is a refusal
            .with_field("c", "none")
            .with_field("d", 1)
            .with_field("e", u64::from(queue_id))
            .with_field("f", 0)
            .with_field("g", 0)
            .with_field("h", 0)
            .with_field("i", properties.as_str())
            .with_field("j", 0)
            .with_field("k", false)
            .with_field("m", false)
            .with_body(vec![b'x'; body_bytes])
    }

    /// Sends and waits for SEND_OK.
    pub(super) fn send(&mut self, topic: &str, queue_id: u32, message: (&str, usize)) -> Result<Place> {
        let command = Command::request(request::SEND_MESSAGE_V2, 0);
        let answer = self.ask(Self::send_command(command, topic, queue_id, message))?;
        Ok(Place { queue_id: number(&answer, "queueId")?, offset: number(&answer, "queueOffset")? })
    }

    /// Sends and never hears what became of it.
    pub(super) fn send_one_way(&mut self, topic: &str, id: &str) -> Result<()> {
        self.opaque += 1;
        let command = Command::oneway(request::SEND_MESSAGE_V2, self.opaque);
        self.write(&Self::send_command(command, topic, 0, (id, 32)))
    }

    /// Pulls at most `max` messages of a queue, without waiting.
    pub(super) fn pull(
        &mut self,
        group: &str,
        queue: (&str, u32),
        from: u64,
        max: u32,
    ) -> Result<Vec<Message>> {
        let pull = Command::request(request::PULL_MESSAGE, 0)
            .with_field("consumerGroup", group)
            .with_field("topic", queue.0)
            .with_field("queueId", u64::from(queue.1))
            .with_field("queueOffset", from)
            .with_field("maxMsgNums", u64::from(max))
            .with_field("sysFlag", PullSysFlag::SUBSCRIPTION)
            .with_field("commitOffset", 0)
            .with_field("suspendTimeoutMillis", 0)
            .with_field("subscription", "*")
            .with_field("subVersion", 1)
            .with_field("expressionType", "TAG");
        let answer = self.exchange(pull)?;
        match answer.code {
            response::SUCCESS => {}
            response::PULL_NOT_FOUND => return Ok(Vec::new()),
            _ => bail!("pull of {} answered {} ({:?})", queue.0, answer.code, answer.remark),
        }
        let messages = records(&answer.body).map(|record| {
            let record = record.context("a pulled record cannot be read")?;
            let id = record.properties.get(UNIQ_KEY).unwrap_or_default().to_owned();
            Ok(Message { id, commitlog_offset: record.commitlog_offset })
        });
        messages.collect()
    }

    /// Sets a group's position.
    pub(super) fn commit(&mut self, group: &str, queue: (&str, u32), offset: u64) -> Result<()> {
        let commit = Command::request(request::UPDATE_CONSUMER_OFFSET, 0)
            .with_field("consumerGroup", group)
            .with_field("topic", queue.0)
            .with_field("queueId", u64::from(queue.1))
            .with_field("commitOffset", offset);
        self.ask(commit).map(drop)
    }

    /// Could not handle it: to be delivered again later, or dead when out of attempts.
    pub(super) fn send_back(&mut self, group: &str, topic: &str, message: &Message) -> Result<()> {
        let back = Command::request(request::CONSUMER_SEND_MSG_BACK, 0)
            .with_field("offset", message.commitlog_offset)
            .with_field("group", group)
            .with_field("delayLevel", 0)
            .with_field("originMsgId", message.id.as_str())
            .with_field("originTopic", topic)
            .with_field("unitMode", false);
        self.ask(back).map(drop)
    }

    /// First offset a queue still has.
    pub(super) fn min_offset(&mut self, topic: &str, queue_id: u32) -> Result<u64> {
        self.offset(request::GET_MIN_OFFSET, topic, queue_id)
    }

    /// One past the last offset of a queue.
    pub(super) fn max_offset(&mut self, topic: &str, queue_id: u32) -> Result<u64> {
        self.offset(request::GET_MAX_OFFSET, topic, queue_id)
    }

    fn offset(&mut self, code: i32, topic: &str, queue_id: u32) -> Result<u64> {
        let query = Command::request(code, 0).with_field("topic", topic);
        number(&self.ask(query.with_field("queueId", u64::from(queue_id)))?, "offset")
    }

    /// Asks; anything but SUCCESS is an error.
    fn ask(&mut self, command: Command) -> Result<Command> {
        let code = command.code_name();
        let answer = self.exchange(command)?;
        ensure!(answer.code == response::SUCCESS, "{code} answered {} ({:?})", answer.code, answer.remark);
        Ok(answer)
    }

    fn exchange(&mut self, mut command: Command) -> Result<Command> {
        self.opaque += 1;
        command.opaque = self.opaque;
        self.write(&command)?;
        loop {
            while let Some(frame) = FrameDecoder::default().decode(&mut self.bytes)? {
                let found = Command::decode(frame)?;
                // a broker also asks by itself, e.g. when a group's members changed: nothing to do here
                if found.is_response() && found.opaque == self.opaque {
                    return Ok(found);
                }
            }
            let mut chunk = [0; 16 * 1024];
            let count =
                self.stream.read(&mut chunk).with_context(|| format!("answer to {}", command.code_name()))?;
            ensure!(count > 0, "the broker closed the connection");
            self.bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }

    fn write(&mut self, command: &Command) -> Result<()> {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        self.stream.write_all(&bytes).context("write to the broker")
    }
}

fn number<T: std::str::FromStr>(answer: &Command, field: &str) -> Result<T> {
    let found = answer.field(field).and_then(|text| text.parse().ok());
    found.with_context(|| format!("the answer has no usable {field}"))
}
