//! Owns clients of the 5.x protocol: producers that wait for answers, and consumers that receive and acknowledge.

use super::ids::IdSequence;
use super::options::{BenchOptions, Protocol};
use super::tally::Shared;
use super::workload::{GROUP, Lane};
use anyhow::{Context, Result, bail};
use broker::grpc::proto::messaging_service_client::MessagingServiceClient;
use broker::grpc::proto::receive_message_response::Content;
use broker::grpc::proto::*;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// As a broker numbers its answers.
const OK: i32 = Code::Ok as i32;
const NOT_FOUND: i32 = Code::MessageNotFound as i32;
/// Most messages of one receive.
const RECEIVE_MESSAGES: i32 = 32;
const INVISIBLE: Duration = Duration::from_secs(60);

type Client = MessagingServiceClient<Channel>;

async fn connect(address: SocketAddr) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let channel = endpoint.connect().await.with_context(|| format!("cannot reach {address}"))?;
    Ok(MessagingServiceClient::new(channel))
}

fn by<T>(client: &str, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-mq-client-id", client.parse()?);
    metadata.insert("x-mq-language", "RUST".parse()?);
    metadata.insert("x-mq-protocol", "v2".parse()?);
    Ok(request)
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn code(status: &Option<Status>) -> i32 {
    status.as_ref().map_or(0, |status| status.code)
}

/// One producer, until the run is over; a window is as many calls at a time on its connection.
pub(crate) async fn produce(
    address: SocketAddr,
    options: &BenchOptions,
    client: u32,
    shared: &Shared,
) -> Result<()> {
    let connection = connect(address).await?;
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..options.window {
        let (connection, options, shared) = (connection.clone(), options.clone(), shared.clone());
        let name = format!("127.0.0.1@{client}@bench");
        lanes.spawn_local(async move {
            send_all(connection, &options, (&name, client * options.window + lane), &shared).await
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    Ok(())
}

async fn send_all(
    mut connection: Client,
    options: &BenchOptions,
    (name, number): (&str, u32),
    shared: &Shared,
) -> Result<()> {
    let mut lane = Lane::new(options, number);
    let mut ids = IdSequence::new(options.ids, Protocol::Grpc, number);
    let body = Bytes::from(vec![b'x'; options.size]);
    while shared.goes_on() {
        let elapsed = shared.started.elapsed().as_millis() as u64;
        let (topic, queue) = lane.next();
        let system = SystemProperties {
            tag: Some("bench".into()),
            message_id: ids.next(elapsed),
            message_type: MessageType::Normal.into(),
            body_encoding: Encoding::Identity.into(),
            born_host: "bench".into(),
            queue_id: queue as i32,
            ..SystemProperties::default()
        };
        let message = Message {
            topic: resource(topic),
            system_properties: Some(system),
            body: body.clone(),
            ..Message::default()
        };
        let request = by(name, SendMessageRequest { messages: vec![message] })?;
        let before = Instant::now();
        let answer = connection.send_message(request).await?.into_inner();
        match code(&answer.status) {
            OK => shared.answered(1, before.elapsed()),
            code => {
                let text = answer.status.map(|status| status.message).unwrap_or_default();
                shared.failed(&format!("{code} {text}"));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    Ok(())
}

/// One consumer: until nothing is left of its topics.
pub(crate) async fn consume(
    address: SocketAddr,
    topics: &[String],
    client: u32,
    shared: &Shared,
) -> Result<()> {
    let mut connection = connect(address).await?;
    let name = format!("127.0.0.1@{client}@bench-consumer");
    for topic in topics {
        while take_some(&mut connection, &name, topic, shared).await? {}
    }
    Ok(())
}

/// Receives and acknowledges once; false when there was nothing.
async fn take_some(connection: &mut Client, name: &str, topic: &str, shared: &Shared) -> Result<bool> {
    let duration = |time: Duration| prost_duration(time);
    let receive = ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(MessageQueue { topic: resource(topic), ..MessageQueue::default() }),
        batch_size: RECEIVE_MESSAGES,
        invisible_duration: duration(INVISIBLE),
        long_polling_timeout: duration(Duration::from_millis(100)),
        ..ReceiveMessageRequest::default()
    };
    let before = Instant::now();
    let mut stream = connection.receive_message(by(name, receive)?).await?.into_inner();
    let mut entries = Vec::new();
    while let Some(element) = stream.message().await? {
        match element.content {
            Some(Content::Message(message)) => {
                let system = message.system_properties.context("a message without properties")?;
                let receipt_handle = system.receipt_handle.context("a message without receipt handle")?;
                let message_id = system.message_id;
                entries.push(AckMessageEntry { message_id, receipt_handle, ..AckMessageEntry::default() });
            }
            Some(Content::Status(status)) if ![OK, NOT_FOUND].contains(&status.code) => {
                bail!("receive from {topic}: {} {}", status.code, status.message)
            }
            _ => {}
        }
    }
    let count = entries.len() as u64;
    if count == 0 {
        return Ok(false);
    }
    let ack = AckMessageRequest { group: resource(GROUP), topic: resource(topic), entries };
    let answer = connection.ack_message(by(name, ack)?).await?.into_inner();
    match code(&answer.status) {
        OK => shared.answered(count, before.elapsed()),
        code => shared.failed(&format!("ack {code}")),
    }
    Ok(true)
}

fn prost_duration(time: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 })
}
