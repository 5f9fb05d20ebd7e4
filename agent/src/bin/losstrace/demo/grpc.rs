//! Owns the demo's client of the 5.x protocol: it sends, receives under leases, acknowledges and gives back.

use super::remoting::Place;
use anyhow::{Context, Result, ensure};
use broker::grpc::proto::messaging_service_client::MessagingServiceClient;
use broker::grpc::proto::receive_message_response::Content;
use broker::grpc::proto::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

const OK: i32 = Code::Ok as i32;
const NOT_FOUND: i32 = Code::MessageNotFound as i32;
const LEASE_SECONDS: i64 = 60;
const POLL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A message under a lease.
#[derive(Debug, Clone)]
pub(super) struct Leased {
    pub(super) id: String,
    handle: String,
}

/// One connection of one client; blocking, as the rest of the demo.
pub(super) struct GrpcClient {
    name: String,
    runtime: Runtime,
    service: MessagingServiceClient<Channel>,
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn check(what: &str, status: Option<Status>) -> Result<()> {
    let status = status.with_context(|| format!("{what} has no status"))?;
    ensure!(status.code == OK, "{what} answered {} ({})", status.code, status.message);
    Ok(())
}

impl GrpcClient {
    pub(super) fn connect(address: SocketAddr, name: &str) -> Result<GrpcClient> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(TIMEOUT);
        let channel =
            runtime.block_on(endpoint.connect()).with_context(|| format!("connect to {address}"))?;
        Ok(GrpcClient { name: name.to_owned(), runtime, service: MessagingServiceClient::new(channel) })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", self.name.parse()?);
        metadata.insert("x-mq-language", "RUST".parse()?);
        metadata.insert("x-mq-protocol", "v2".parse()?);
        Ok(request)
    }

    /// Sends to a topic of one queue, and waits for OK.
    pub(super) fn send(&mut self, topic: &str, id: &str) -> Result<Place> {
        let system = SystemProperties {
            message_id: id.to_owned(),
            message_type: MessageType::Normal.into(),
            body_encoding: Encoding::Identity.into(),
            born_host: "demo".to_owned(),
            ..SystemProperties::default()
        };
        let message = Message {
            topic: resource(topic),
            system_properties: Some(system),
            body: b"demo".to_vec().into(),
            ..Message::default()
        };
        let request = self.request(SendMessageRequest { messages: vec![message] })?;
        let answer = self.runtime.block_on(self.service.send_message(request))?.into_inner();
        check("send", answer.status)?;
        let entry = answer.entries.first().context("an answer to a send without an entry")?;
        ensure!(entry.message_id == id, "the broker calls {id} {}", entry.message_id);
        Ok(Place { queue_id: 0, offset: u64::try_from(entry.offset)? })
    }

    /// Whatever there is, under leases that outlive the demo.
    pub(super) fn receive(&mut self, group: &str, topic: &str) -> Result<Vec<Leased>> {
        let request = self.request(ReceiveMessageRequest {
            group: resource(group),
            message_queue: Some(MessageQueue { topic: resource(topic), ..MessageQueue::default() }),
            batch_size: 32,
            invisible_duration: Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 }),
            long_polling_timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: i32::try_from(POLL.as_nanos())?,
            }),
            ..ReceiveMessageRequest::default()
        })?;
        let GrpcClient { runtime, service, .. } = self;
        runtime.block_on(async {
            let mut stream = service.receive_message(request).await?.into_inner();
            let mut leased = Vec::new();
            while let Some(element) = stream.message().await? {
                match element.content {
                    Some(Content::Message(message)) => {
                        let system = message.system_properties.context("a message without properties")?;
                        let handle = system.receipt_handle.context("a message without receipt handle")?;
                        leased.push(Leased { id: system.message_id, handle });
                    }
                    Some(Content::Status(status)) if status.code != NOT_FOUND => {
                        check("receive", Some(status))?;
                    }
                    _ => {}
                }
            }
            Ok(leased)
        })
    }

    /// Done with it.
    pub(super) fn ack(&mut self, group: &str, topic: &str, message: &Leased) -> Result<()> {
        let entry = AckMessageEntry {
            message_id: message.id.clone(),
            receipt_handle: message.handle.clone(),
            ..AckMessageEntry::default()
        };
        let request = self.request(AckMessageRequest {
            group: resource(group),
            topic: resource(topic),
            entries: vec![entry],
        })?;
        check("ack", self.runtime.block_on(self.service.ack_message(request))?.into_inner().status)
    }

    /// Could not handle it: visible again at once.
    pub(super) fn nack(&mut self, group: &str, topic: &str, message: &Leased) -> Result<()> {
        let request = self.request(ChangeInvisibleDurationRequest {
            group: resource(group),
            topic: resource(topic),
            receipt_handle: message.handle.clone(),
            invisible_duration: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            message_id: message.id.clone(),
            ..ChangeInvisibleDurationRequest::default()
        })?;
        let answer = self.runtime.block_on(self.service.change_invisible_duration(request))?;
        check("nack", answer.into_inner().status)
    }
}
