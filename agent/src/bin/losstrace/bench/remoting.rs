//! Owns clients of the 4.x protocol: producers that wait for answers (or keep a window of sends under way), and consumers that
//! pull and commit. JSON headers, as the Java client writes them by default.

use super::ids::IdSequence;
use super::options::{BenchOptions, Protocol};
use super::tally::Shared;
use super::workload::{GROUP, Lane, topic_name};
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::body::heartbeat::{ConsumeFromWhere, ConsumeType, Consumer, Heartbeat, MessageModel, Subscription};
use wire::code::{request, response};
use wire::command::Command;
use wire::frame::FrameDecoder;
use wire::header::send::is_send_status;
use wire::sys_flag::PullSysFlag;

/// Most messages of a pull, RocketMQ's default.
const PULL_MESSAGES: i32 = 32;

/// One client's connection.
pub(crate) struct Connection {
    stream: TcpStream,
    arrived: BytesMut,
    leaving: BytesMut,
    opaque: i32,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        stream.set_nodelay(true)?;
        let arrived = BytesMut::with_capacity(64 * 1024);
        Ok(Connection { stream, arrived, leaving: BytesMut::new(), opaque: 0 })
    }

    /// A request with this connection's next number.
    fn request(&mut self, code: i32) -> Command {
        self.opaque = self.opaque.wrapping_add(1);
        Command::request(code, self.opaque)
    }

    fn lay_down(&mut self, command: &Command) {
        command.encode(&mut self.leaving);
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.leaving).await?;
        self.leaving.clear();
        Ok(())
    }

    /// The next answer; requests of the broker are passed over.
    async fn answer(&mut self) -> Result<Command> {
        loop {
            while let Some(frame) = FrameDecoder::default().decode(&mut self.arrived)? {
                let command = Command::decode(frame)?;
                if command.is_response() {
                    return Ok(command);
                }
            }
            if self.stream.read_buf(&mut self.arrived).await? == 0 {
                bail!("the broker closed the connection");
            }
        }
    }

    async fn ask(&mut self, command: &Command) -> Result<Command> {
        self.lay_down(command);
        self.flush().await?;
        self.answer().await
    }
}

/// Creates the topics of a run (or finds them as they should be).
pub(crate) async fn create_topics(address: SocketAddr, options: &BenchOptions) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    for topic in 0..options.topics {
        let command = connection
            .request(request::UPDATE_AND_CREATE_TOPIC)
            .with_field("topic", topic_name(topic).as_str())
            .with_field("defaultTopic", "TBW102")
            .with_field("readQueueNums", options.queues as i32)
            .with_field("writeQueueNums", options.queues as i32)
            .with_field("perm", 6)
            .with_field("topicFilterType", "SINGLE_TAG")
            .with_field("topicSysFlag", 0)
            .with_field("order", false);
        let answer = connection.ask(&command).await?;
        if answer.code != response::SUCCESS {
            bail!("topic {} refused: {} {:?}", topic_name(topic), answer.code, answer.remark);
        }
    }
    Ok(())
}

/// One producer, until the run is over.
pub(crate) async fn produce(
    address: SocketAddr,
    options: &BenchOptions,
    client: u32,
    shared: &Shared,
) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut lane = Lane::new(options, client);
    let mut ids = IdSequence::new(options.ids, Protocol::Remoting, client);
    let body = Bytes::from(vec![b'x'; options.size]);
    let mut under_way: HashMap<i32, Instant> = HashMap::new();
    loop {
        while under_way.len() < options.window as usize && shared.goes_on() {
            let elapsed = shared.started.elapsed().as_millis() as u64;
            let (topic, queue) = lane.next();
            let properties =
                format!("UNIQ_KEY\u{1}{}\u{2}WAIT\u{1}true\u{2}TAGS\u{1}bench", ids.next(elapsed));
            let send = connection
                .request(request::SEND_MESSAGE_V2)
                .with_field("a", "bench-producers")
                .with_field("b", topic)
                .with_field("c", "TBW102")
                .with_field("d", options.queues as i32)
                .with_field("e", queue as i32)
                .with_field("f", 0)
                .with_field("g", elapsed as i64)
                .with_field("h", 0)
                .with_field("i", properties.as_str())
                .with_field("j", 0)
                .with_field("k", false)
                .with_field("m", false)
                .with_body(body.clone());
            under_way.insert(send.opaque, Instant::now());
            connection.lay_down(&send);
        }
        connection.flush().await?;
        if under_way.is_empty() {
            return Ok(());
        }
        let answer = connection.answer().await?;
        let Some(sent) = under_way.remove(&answer.opaque) else { continue };
        match answer.code {
            response::SUCCESS => shared.answered(1, sent.elapsed()),
            code if is_send_status(code) => shared.failed(answer.code_name()),
            code => {
                shared.failed(&format!("{code} {}", answer.remark.as_deref().unwrap_or_default()));
                // refused at once: do not spin
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }
}

/// One consumer: everything its queues hold now.
pub(crate) async fn consume(
    address: SocketAddr,
    queues: &[(String, u32)],
    client: u32,
    shared: &Shared,
) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let heartbeat = connection.request(request::HEART_BEAT).with_body(heartbeat(queues, client).encode());
    connection.ask(&heartbeat).await?;
    for (topic, queue) in queues {
        drain(&mut connection, topic, *queue, shared).await?;
    }
    Ok(())
}

async fn drain(connection: &mut Connection, topic: &str, queue: u32, shared: &Shared) -> Result<()> {
    let of_queue = |command: Command| {
        command
            .with_field("consumerGroup", GROUP)
            .with_field("topic", topic)
            .with_field("queueId", queue as i32)
    };
    let query = of_queue(connection.request(request::QUERY_CONSUMER_OFFSET));
    let answer = connection.ask(&query).await?;
    let mut offset = answer.field("offset").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    loop {
        let pull = of_queue(connection.request(request::PULL_MESSAGE))
            .with_field("queueOffset", offset)
            .with_field("maxMsgNums", PULL_MESSAGES)
            .with_field("sysFlag", PullSysFlag::COMMIT_OFFSET | PullSysFlag::SUBSCRIPTION)
            .with_field("commitOffset", offset)
            .with_field("suspendTimeoutMillis", 0)
            .with_field("subscription", "*")
            .with_field("subVersion", 1)
            .with_field("expressionType", "TAG");
        let before = Instant::now();
        let answer = connection.ask(&pull).await?;
        let next = answer.field("nextBeginOffset").and_then(|text| text.parse::<i64>().ok());
        match (answer.code, next) {
            (response::SUCCESS, Some(next)) if next > offset => {
                shared.answered((next - offset) as u64, before.elapsed());
                offset = next;
            }
            (response::PULL_NOT_FOUND, _) => break,
            (code, _) => bail!("pull of {topic}:{queue} at {offset}: {code} {:?}", answer.remark),
        }
    }
    let commit =
        of_queue(connection.request(request::UPDATE_CONSUMER_OFFSET)).with_field("commitOffset", offset);
    connection.ask(&commit).await?;
    Ok(())
}

fn heartbeat(queues: &[(String, u32)], client: u32) -> Heartbeat {
    let mut topics: Vec<&String> = queues.iter().map(|(topic, _)| topic).collect();
    topics.dedup();
    let subscription = |topic: &&String| Subscription {
        class_filter_mode: false,
        codes: Vec::new(),
        expression_type: "TAG".into(),
        sub_string: "*".into(),
        sub_version: 1,
        tags: Vec::new(),
        topic: topic.to_string(),
    };
    let consumer = Consumer {
        consume_from_where: Some(ConsumeFromWhere::FirstOffset),
        consume_type: Some(ConsumeType::Passively),
        group_name: GROUP.into(),
        message_model: Some(MessageModel::Clustering),
        subscriptions: topics.iter().map(subscription).collect(),
        unit_mode: false,
    };
    Heartbeat {
        client_id: format!("127.0.0.1@bench-{client}"),
        consumers: vec![consumer],
        producers: Vec::new(),
    }
}
