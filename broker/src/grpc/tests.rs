//! The edge over loopback, with the generated client on one side and a core in memory on the other.

mod fake_core;
mod messages;
mod settings;

use super::proto::messaging_service_client::MessagingServiceClient;
use super::proto::receive_message_response::Content;
use super::proto::settings::PubSub;
use super::proto::telemetry_command::Command;
use super::proto::*;
use super::{Clock, GrpcConfig, serve};
use crate::api::SendStatus;
use crate::handle::CoreHandle;
use fake_core::FakeCore;
use lifecycle::clock::Now;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

const SOON: Duration = Duration::from_secs(5);

struct Bench {
    core: FakeCore,
    client: MessagingServiceClient<Channel>,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), super::ServeError>>,
}

fn clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || Now {
        mono_ms: start.elapsed().as_millis() as u64,
        #[expect(clippy::disallowed_methods, reason = "tests stand for the binary")]
        wall_ms: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64,
    })
}

async fn bench() -> Bench {
    bench_with(GrpcConfig { invisible_min_ms: 10, stream_grace_ms: 50, ..GrpcConfig::default() }).await
}

async fn bench_with(config: GrpcConfig) -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (handle, core, shutdown) = (CoreHandle::new(), FakeCore::default(), CancellationToken::new());
    tokio::spawn(core.clone().run(handle.clone()));
    let served = tokio::spawn(serve(listener, handle, config, clock(), shutdown.clone()));
    let client = MessagingServiceClient::connect(format!("http://{address}")).await.unwrap();
    Bench { core, client, shutdown, served }
}

fn by<T>(client: &str, language: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
    request.metadata_mut().insert("x-mq-language", language.parse().unwrap());
    request
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn message(topic: &str, id: &str, body: &str) -> Message {
    Message {
        topic: resource(topic),
        system_properties: Some(SystemProperties {
            message_id: id.to_owned(),
            message_type: MessageType::Normal.into(),
            body_encoding: Encoding::Identity.into(),
            ..SystemProperties::default()
        }),
        body: body.to_owned().into(),
        ..Message::default()
    }
}

fn receive(topic: &str, poll_ms: u64) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: resource("g"),
        message_queue: Some(MessageQueue { topic: resource(topic), ..MessageQueue::default() }),
        batch_size: 32,
        invisible_duration: Some(super::time::duration(60_000)),
        long_polling_timeout: Some(super::time::duration(poll_ms)),
        ..ReceiveMessageRequest::default()
    }
}

fn consumer_settings(topic: &str) -> Settings {
    let entry = SubscriptionEntry { topic: resource(topic), expression: None };
    let subscription =
        Subscription { group: resource("g"), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(ClientType::PushConsumer.into()),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

impl Bench {
    async fn send(&mut self, language: &str, messages: Vec<Message>) -> SendMessageResponse {
        let request = by("producer", language, SendMessageRequest { messages });
        self.client.send_message(request).await.unwrap().into_inner()
    }

    /// Status code and messages.
    async fn receive(&mut self, request: ReceiveMessageRequest) -> (i32, Vec<Message>) {
        let mut stream =
            self.client.receive_message(by("consumer", "PYTHON", request)).await.unwrap().into_inner();
        let (mut codes, mut messages, mut timestamps) = (Vec::new(), Vec::new(), 0);
        while let Some(element) = stream.message().await.unwrap() {
            match element.content.expect("every element has content") {
                Content::Status(status) => codes.push(status.code),
                Content::Message(message) => messages.push(message),
                Content::DeliveryTimestamp(_) => timestamps += 1,
            }
        }
        assert_eq!(codes.len(), 1, "exactly one status");
        assert_eq!(timestamps, usize::from(!messages.is_empty()));
        (codes[0], messages)
    }

    async fn telemetry(
        &mut self,
        client: &str,
    ) -> (tokio::sync::mpsc::Sender<TelemetryCommand>, Streaming<TelemetryCommand>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let request = by(client, "PYTHON", ReceiverStream::new(receiver));
        let stream = timeout(SOON, self.client.telemetry(request)).await.expect("headers at once").unwrap();
        (sender, stream.into_inner())
    }

    async fn until(&self, what: &str, holds: impl Fn(&fake_core::World) -> bool) {
        for _ in 0..500 {
            if holds(&self.core.world()) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("did not happen: {what}");
    }
}

fn code(status: Option<Status>) -> i32 {
    status.expect("a status").code
}

fn handle(message: &Message) -> String {
    message.system_properties.as_ref().unwrap().receipt_handle.clone().unwrap()
}

fn ack_of(handles: &[String]) -> AckMessageRequest {
    let entry =
        |handle: &String| AckMessageEntry { receipt_handle: handle.clone(), ..AckMessageEntry::default() };
    AckMessageRequest {
        group: resource("g"),
        topic: resource("t"),
        entries: handles.iter().map(entry).collect(),
    }
}

#[tokio::test]
async fn a_message_goes_round() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let sent = bench.send("PYTHON", vec![message("t", "id-1", "one"), message("t", "id-2", "two")]).await;
    assert_eq!(code(sent.status), 20000);
    let ids: Vec<_> = sent.entries.iter().map(|entry| (entry.message_id.as_str(), entry.offset)).collect();
    assert_eq!(ids, [("id-1", 0), ("id-2", 1)]);

    let (status, messages) = bench.receive(receive("t", 1_000)).await;
    assert_eq!((status, messages.len()), (20000, 2));
    let first = &messages[0];
    let system = first.system_properties.clone().unwrap();
    assert_eq!((&first.body[..], system.message_id.as_str()), (&b"one"[..], "id-1"));
    assert_eq!((system.delivery_attempt, system.body_encoding), (Some(1), Encoding::Identity as i32));
    assert_eq!(system.body_digest.unwrap().checksum, "F97C5D29941BFB1B2FDAB0874906AB82");

    let handles: Vec<_> = messages.iter().map(handle).collect();
    let mut ack = async |handles: &[String]| {
        let request = by("consumer", "PYTHON", ack_of(handles));
        bench.client.ack_message(request).await.unwrap().into_inner()
    };
    assert_eq!(code(ack(&handles[..1]).await.status), 20000);
    assert_eq!(code(ack(&handles[..1]).await.status), 40013, "it is settled");
    let mixed = ack(&handles).await;
    assert_eq!(code(mixed.status), 30000);
    let codes: Vec<_> = mixed.entries.into_iter().map(|entry| code(entry.status)).collect();
    assert_eq!(codes, [40013, 20000]);
}

#[tokio::test]
async fn a_nack_brings_a_new_handle_and_the_message_again() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    bench.send("PYTHON", vec![message("t", "id", "x")]).await;
    let (_, messages) = bench.receive(receive("t", 1_000)).await;
    let nack = ChangeInvisibleDurationRequest {
        group: resource("g"),
        topic: resource("t"),
        receipt_handle: handle(&messages[0]),
        invisible_duration: Some(super::time::duration(5)),
        ..ChangeInvisibleDurationRequest::default()
    };
    let mut change = async |request: ChangeInvisibleDurationRequest| {
        let answer = bench.client.change_invisible_duration(by("consumer", "HTTP", request)).await;
        answer.unwrap().into_inner()
    };
    let changed = change(nack.clone()).await;
    assert_eq!(code(changed.status), 20000);
    assert_ne!(changed.receipt_handle, nack.receipt_handle);
    let refused = change(nack.clone()).await;
    assert_eq!((code(refused.status), refused.receipt_handle), (40013, nack.receipt_handle.clone()));
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    assert_eq!(
        code(
            change(ChangeInvisibleDurationRequest { invisible_duration: Some(negative), ..nack })
                .await
                .status
        ),
        40011
    );

    let (_, again) = bench.receive(receive("t", 1_000)).await;
    assert_eq!(again[0].system_properties.as_ref().unwrap().delivery_attempt, Some(2));
    let forward = ForwardMessageToDeadLetterQueueRequest {
        group: resource("g"),
        topic: resource("t"),
        receipt_handle: handle(&again[0]),
        ..ForwardMessageToDeadLetterQueueRequest::default()
    };
    let request = by("consumer", "PYTHON", forward);
    let answer = bench.client.forward_message_to_dead_letter_queue(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), 20000);
    assert_eq!(bench.core.world().dead, [0]);
}

#[tokio::test]
async fn an_empty_receive_is_held_as_long_as_asked_and_ends_before_the_deadline() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let start = Instant::now();
    assert_eq!(bench.receive(receive("t", 300)).await, (40401, Vec::new()));
    assert!(start.elapsed() >= Duration::from_millis(300));

    let mut impatient = by("consumer", "RUST", receive("t", 2_000));
    impatient.set_timeout(Duration::from_millis(1_500));
    let mut stream = bench.client.receive_message(impatient).await.unwrap().into_inner();
    let element = stream.message().await.expect("an answer, not DEADLINE_EXCEEDED").unwrap();
    assert!(matches!(element.content, Some(Content::Status(status)) if status.code == 40401));
    let held: Vec<_> = bench.core.world().receives.iter().map(|(_, held)| *held).collect();
    assert_eq!(held[0], 300);
    assert!((900..=1_000).contains(&held[1]), "{held:?}");
}

#[tokio::test]
async fn messages_of_a_client_that_hung_up_are_given_back() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let waiting = bench.client.receive_message(by("consumer", "PYTHON", receive("t", 10_000)));
    assert!(timeout(Duration::from_millis(200), waiting).await.is_err(), "nothing to receive yet");
    bench.send("PYTHON", vec![message("t", "id", "x")]).await;
    // the lease for the vanished call lasts a minute: without giving back, this would find nothing
    let (status, messages) = bench.receive(receive("t", 2_000)).await;
    assert_eq!((status, messages.len()), (20000, 1));
}

#[tokio::test]
async fn messages_of_a_broken_answer_are_given_back() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    // more than the windows of a connection hold, so that the stream cannot have ended when it is dropped
    let large = "x".repeat(1024 * 1024);
    for id in ["a", "b", "c", "d", "e", "f"] {
        bench.send("PYTHON", vec![message("t", id, &large)]).await;
    }
    let mut stream = bench
        .client
        .receive_message(by("consumer", "PYTHON", receive("t", 1_000)))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..2 {
        stream.message().await.unwrap().expect("the status and a message");
    }
    drop(stream);
    bench
        .until("all are visible again", |world| {
            world.stored.iter().all(|one| one.visible_at <= Instant::now())
        })
        .await;
    let (_, messages) = bench.receive(receive("t", 1_000)).await;
    assert_eq!(messages.len(), 6);
}

#[tokio::test]
async fn consumers_of_an_ordered_topic_work_in_order() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "FIFO");
    let (commands, mut stream) = bench.telemetry("consumer").await;
    let settings = Command::Settings(consumer_settings("t"));
    commands.send(TelemetryCommand { status: None, command: Some(settings) }).await.unwrap();
    let told = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    let Some(Command::Settings(Settings { pub_sub: Some(PubSub::Subscription(told)), .. })) = told.command
    else {
        panic!("settings of a consumer");
    };
    assert_eq!(told.fifo, Some(true));
    let request = QueryAssignmentRequest { topic: resource("t"), group: resource("g"), endpoints: None };
    let answer = bench.client.query_assignment(by("consumer", "PYTHON", request)).await.unwrap().into_inner();
    assert_eq!(answer.assignments.len(), 4);
}

#[tokio::test]
async fn routes() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let mut route = async |language: &str, topic: &str| {
        let address = Address { host: "example.com".to_owned(), port: 80 };
        let endpoints = Some(Endpoints { scheme: 0, addresses: vec![address] });
        let request = by("c", language, QueryRouteRequest { topic: resource(topic), endpoints });
        bench.client.query_route(request).await.unwrap().into_inner()
    };
    let known = route("PYTHON", "t").await;
    assert_eq!((code(known.status), known.message_queues.len()), (20000, 4));
    let queue = &known.message_queues[0];
    let endpoints = queue.broker.as_ref().unwrap().endpoints.as_ref().unwrap();
    assert_eq!((queue.id, queue.permission()), (0, Permission::ReadWrite));
    assert_eq!(
        (endpoints.scheme(), endpoints.addresses[0].host.as_str()),
        (AddressScheme::DomainName, "example.com")
    );
    assert_eq!(queue.accept_message_types, [MessageType::Normal as i32]);

    let created = route("PYTHON", "new").await;
    assert_eq!((code(created.status), created.message_queues.len()), (20000, 8));
    assert_eq!(created.message_queues[0].accept_message_types, [1, 2, 3]);
    assert_eq!(code(route("PYTHON", "%RETRY%g").await.status), 40402);
    assert_eq!(code(route("PYTHON", "a b").await.status), 40002);
}

#[tokio::test]
async fn unknown_topics_are_refused_when_they_are_not_created() {
    let mut bench = bench_with(GrpcConfig { auto_create_queues: None, ..GrpcConfig::default() }).await;
    let request = QueryRouteRequest { topic: resource("t"), endpoints: None };
    let answer = bench.client.query_route(by("c", "RUST", request)).await.unwrap().into_inner();
    assert_eq!((code(answer.status), answer.message_queues.len()), (40402, 0));
    let request = QueryAssignmentRequest { topic: resource("t"), group: resource("g"), endpoints: None };
    let answer = bench.client.query_assignment(by("c", "RUST", request.clone())).await.unwrap().into_inner();
    assert_eq!(code(answer.status), 40402);
    bench.core.add_topic("t", "NORMAL");
    let answer = bench.client.query_assignment(by("c", "RUST", request)).await.unwrap().into_inner();
    let queues: Vec<_> =
        answer.assignments.iter().map(|one| one.message_queue.as_ref().unwrap().id).collect();
    assert_eq!((code(answer.status), queues), (20000, vec![-1]));
}

#[tokio::test]
async fn refused_sends_have_an_entry_for_each_message() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let empty = bench.send("PYTHON", vec![message("t", "id", "")]).await;
    assert_eq!((code(empty.status), code(empty.entries[0].status.clone())), (41302, 41302));
    let empty = bench.send("RUST", vec![message("t", "id", "")]).await;
    assert_eq!(code(empty.status), 40000, "the Rust SDK does not know 41302");
    let unknown = bench.send("RUST", vec![message("nowhere", "id", "x")]).await;
    assert_eq!((code(unknown.status), unknown.entries.len()), (40402, 1));
    assert_eq!(unknown.entries[0].message_id, "id");
    bench.core.world().send_status = Some(SendStatus::FlushDiskTimeout);
    let late = bench.send("PYTHON", vec![message("t", "id", "x")]).await;
    assert_eq!((code(late.status), late.entries[0].message_id.as_str()), (50401, "id"));
    let nothing = bench.send("PYTHON", Vec::new()).await;
    assert_eq!(code(nothing.status), 40000);
}

#[tokio::test]
async fn a_call_without_a_client_id_is_refused() {
    let mut bench = bench().await;
    let answer = bench.client.heartbeat(HeartbeatRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(answer.status), 40017);
    let answer = bench.client.send_message(SendMessageRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(answer.status), 40017);
    let nothing = tokio_stream::iter(Vec::<TelemetryCommand>::new());
    let mut stream = bench.client.telemetry(nothing).await.unwrap().into_inner();
    let command = stream.message().await.unwrap().expect("the reason");
    assert_eq!(code(command.status), 40017);
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn settings_are_answered_and_sent_again_and_reach_the_core() {
    let mut bench = bench().await;
    let (commands, mut stream) = bench.telemetry("consumer").await;
    let settings = Command::Settings(consumer_settings("t"));
    commands.send(TelemetryCommand { status: None, command: Some(settings) }).await.unwrap();
    let first = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(code(first.status.clone()), 20000);
    {
        let world = bench.core.world();
        let declared = &world.heartbeats[0].consumers[0];
        assert_eq!((&*declared.group, declared.push), ("g", true));
        assert_eq!((&*declared.subscriptions[0].topic, &*declared.subscriptions[0].expression), ("t", "*"));
    }
    let again = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(again, first);

    let request = HeartbeatRequest { group: resource("g"), client_type: ClientType::PushConsumer.into() };
    let beat = bench.client.heartbeat(by("consumer", "PYTHON", request)).await.unwrap().into_inner();
    assert_eq!(code(beat.status), 20000);
    let connection = {
        let world = bench.core.world();
        assert_eq!(world.heartbeats.len(), 2);
        assert_eq!(world.heartbeats[1].consumers, world.heartbeats[0].consumers);
        world.heartbeats[0].connection
    };
    drop((commands, stream));
    bench.until("the client is gone", |world| world.disconnected == [connection]).await;
}

#[tokio::test]
async fn good_bye_reaches_the_core_at_once() {
    let mut bench = bench_with(GrpcConfig::default()).await;
    let (commands, mut stream) = bench.telemetry("consumer").await;
    let settings = Command::Settings(consumer_settings("t"));
    commands.send(TelemetryCommand { status: None, command: Some(settings) }).await.unwrap();
    timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    let request = by("consumer", "PYTHON", NotifyClientTerminationRequest { group: resource("g") });
    let answer = bench.client.notify_client_termination(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), 20000);
    bench.until("the client left", |world| world.left.len() == 1 && world.disconnected.len() == 1).await;
    let connection = bench.core.world().heartbeats[0].connection;
    assert_eq!(bench.core.world().disconnected, [connection]);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let mut bench = bench().await;
    let answer = bench.client.end_transaction(by("c", "RUST", EndTransactionRequest::default())).await;
    assert_eq!(code(answer.unwrap().into_inner().status), 50100);
    let recall = bench.client.recall_message(by("c", "RUST", RecallMessageRequest::default())).await;
    assert_eq!(recall.unwrap_err().code(), tonic::Code::Unimplemented);
    bench.core.add_topic("t", "MIXED");
    let mut half = message("t", "id", "x");
    half.system_properties.as_mut().unwrap().message_type = MessageType::Transaction.into();
    let sent = bench.send("RUST", vec![half]).await;
    assert_eq!(code(sent.status), 50100);
    assert!(bench.core.world().stored.is_empty());
}

#[tokio::test]
async fn shutdown_ends_streams_and_waiting_receives() {
    let mut bench = bench().await;
    bench.core.add_topic("t", "NORMAL");
    let (_commands, mut stream) = bench.telemetry("consumer").await;
    let mut client = bench.client.clone();
    let receive = by("consumer", "PYTHON", receive("t", 20_000));
    let waiting = tokio::spawn(async move {
        let mut stream = client.receive_message(receive).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap().content
    });
    bench.until("the receive waits", |world| world.receives.len() == 1).await;
    bench.shutdown.cancel();
    assert!(timeout(SOON, stream.message()).await.unwrap().unwrap().is_none());
    let told = timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(matches!(told, Some(Content::Status(status)) if status.code == 50001));
    drop(bench.client);
    timeout(SOON, bench.served).await.expect("the server ends").unwrap().unwrap();
}
