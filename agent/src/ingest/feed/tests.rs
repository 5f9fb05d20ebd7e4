use super::proto::feed_server::{Feed, FeedServer};
use super::*;
use crate::ingest::pump::{Event, EventKind, Order, Pump};
use lifecycle::identity::CopyReason;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

type Answers<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

const RUN: Incarnation = Incarnation([7; 16]);

/// A server that answers what it is told, and notes what it is asked.
#[derive(Clone, Default)]
struct Scripted {
    confirmed: Arc<Mutex<Vec<(String, u64)>>>,
    read_after: Arc<Mutex<Vec<u64>>>,
}

fn lineage() -> Lineage {
    let identity = MessageIdentity { queue_offset: 9, epoch_number: 2, ..Default::default() };
    Lineage { parent: identity, root: identity, reason: CopyReason::Retry }
}

fn place() -> proto::MessagePlace {
    proto::MessagePlace {
        identity: Some(proto::Identity {
            topic_incarnation: 5,
            queue_id: 6,
            queue_offset: 7,
            epoch_number: 8,
        }),
        topic: "orders".into(),
        commitlog_offset: 1_000,
        store_wall_ms: 11,
        born_wall_ms: 10,
        body_bytes: 4,
        unique_id: "id".into(),
        keys: "k1 k2".into(),
        tags: "t".into(),
        lineage: lineage().encode().to_vec().into(),
    }
}

#[tonic::async_trait]
impl Feed for Scripted {
    type SnapshotStream = Answers<proto::SnapshotBatch>;
    type ReadStream = Answers<proto::FrameBatch>;

    async fn snapshot(
        &self,
        _: Request<proto::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let head = proto::SnapshotBatch {
            broker_name: "broker-a".into(),
            position: Some(position_to(Position { incarnation: RUN, sequence: 40 })),
            oldest: Some(position_to(Position { incarnation: RUN, sequence: 3 })),
            ..Default::default()
        };
        let rest = proto::SnapshotBatch {
            frames: vec![vec![1u8].into(), vec![2u8, 3].into()],
            last: true,
            ..Default::default()
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(head), Ok(rest)]))))
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let after = request.into_inner().after.unwrap();
        if after.incarnation.as_ref() != RUN.0 {
            return Err(Status::not_found("run is gone"));
        }
        self.read_after.lock().unwrap().push(after.sequence);
        let batch = proto::FrameBatch {
            broker_name: "broker-a".into(),
            incarnation: RUN.0.to_vec().into(),
            first_sequence: after.sequence + 1,
            frames: vec![vec![9u8].into()],
            flushed_sequence: 4,
            head_sequence: 5,
            run_end: Some(proto::RunEnd { last_sequence: 5, next_incarnation: vec![8u8; 16].into() }),
        };
        let bad = proto::FrameBatch { incarnation: vec![1u8].into(), ..batch.clone() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(batch), Ok(bad)]))))
    }

    async fn confirm(
        &self,
        request: Request<proto::ConfirmRequest>,
    ) -> Result<Response<proto::ConfirmResponse>, Status> {
        let request = request.into_inner();
        let sequence = request.position.unwrap().sequence;
        self.confirmed.lock().unwrap().push((request.reader, sequence));
        Ok(Response::new(proto::ConfirmResponse {}))
    }

    async fn locate(
        &self,
        request: Request<proto::LocateRequest>,
    ) -> Result<Response<proto::LocateResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.what, Some(proto::locate_request::What::Key("k1".into())));
        assert_eq!((request.topic.as_str(), request.limit), ("orders", 3));
        let as_of = Some(position_to(Position { incarnation: RUN, sequence: 44 }));
        Ok(Response::new(proto::LocateResponse { places: vec![place()], as_of, complete: true }))
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        if request.into_inner().identity.unwrap().queue_offset == 404 {
            return Ok(Response::new(proto::InspectResponse::default()));
        }
        Ok(Response::new(proto::InspectResponse {
            found: true,
            place: Some(place()),
            body_sha256: vec![1u8; 32].into(),
            copies: vec![place()],
            hosts: vec!["127.0.0.1:10911".into()],
            properties: vec![proto::Property { name: "KEYS".into(), value: "k1".into() }],
            ..Default::default()
        }))
    }
}

async fn serve() -> (Scripted, FeedSource) {
    let (scripted, address) = serve_at().await;
    (scripted, FeedSource::new("broker-a".into(), &[format!("http://{address}")], "agent-1").unwrap())
}

async fn serve_at() -> (Scripted, std::net::SocketAddr) {
    let scripted = Scripted::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(FeedServer::new(scripted.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    (scripted, address)
}

#[tokio::test]
async fn everything_survives_the_wire() {
    let (_, source) = serve().await;
    let snapshot = source.snapshot().await.unwrap();
    assert_eq!(snapshot.position, Position { incarnation: RUN, sequence: 40 });
    assert_eq!((snapshot.oldest.sequence, snapshot.history_complete, snapshot.frames.len()), (3, false, 2));

    let mut stream = source.read(Position { incarnation: RUN, sequence: 3 }).await.unwrap();
    let batch = stream.next().await.unwrap().unwrap();
    assert_eq!((batch.first_sequence, batch.flushed_sequence, batch.head_sequence), (4, 4, 5));
    assert_eq!(batch.run_end, Some(RunEnd { last_sequence: 5, next: Incarnation([8; 16]) }));
    assert!(matches!(stream.next().await.unwrap(), Err(SourceError::Protocol(_))));

    let what = LocateBy::Key("k1".into());
    let located = source.locate(LocateQuery { what, topic: "orders".into(), limit: 3 }).await.unwrap();
    let found = &located.places[0];
    assert_eq!((located.complete, located.as_of.sequence), (true, 44));
    assert_eq!(found.identity.queue, QueueKey { topic: TopicIncarnation(5), queue_id: 6 });
    assert_eq!((found.identity.queue_offset, found.identity.epoch_number), (7, 8));
    assert_eq!(
        (found.keys.as_str(), found.commitlog_offset, found.lineage),
        ("k1 k2", 1_000, Some(lineage()))
    );

    let inspected = source.inspect(MessageIdentity::default()).await.unwrap().unwrap();
    assert_eq!(
        (inspected.place == *found, inspected.copies.len(), inspected.body_sha256.len()),
        (true, 1, 32)
    );
    let missing = MessageIdentity { queue_offset: 404, ..Default::default() };
    assert_eq!(source.inspect(missing).await, Ok(None));
}

#[tokio::test]
async fn the_pump_reads_where_it_is_told_and_confirms_under_its_name() {
    let (scripted, source) = serve().await;
    let (orders, received) = mpsc::channel(8);
    let (events, mut told) = mpsc::channel(8);
    tokio::spawn(Pump::new(3, Arc::new(source), received, events).run());

    let gone = Position { incarnation: Incarnation([1; 16]), sequence: 1 };
    orders.send(Order::Read { after: gone, generation: 1 }).await.unwrap();
    let Event { source: 3, kind: EventKind::Down(error) } = told.recv().await.unwrap() else { panic!() };
    assert_eq!(error, SourceError::PositionGone);

    let after = Position { incarnation: RUN, sequence: 12 };
    orders.send(Order::Read { after, generation: 2 }).await.unwrap();
    let Event { kind: EventKind::Batch { batch, generation: 2 }, .. } = told.recv().await.unwrap() else {
        panic!()
    };
    assert_eq!(batch.first_sequence, 13);
    let Event { kind: EventKind::Down(SourceError::Protocol(_)), .. } = told.recv().await.unwrap() else {
        panic!("the malformed batch must end the stream")
    };
    orders.send(Order::Confirm(after)).await.unwrap();
    orders.send(Order::Snapshot).await.unwrap();
    let Event { kind: EventKind::Snapshot(_), .. } = told.recv().await.unwrap() else { panic!() };
    assert_eq!(*scripted.confirmed.lock().unwrap(), [("agent-1".to_owned(), 12)]);
    assert_eq!(*scripted.read_after.lock().unwrap(), [12]);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_unavailable_and_a_bad_address_is_told_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let source = FeedSource::new("broker-a".into(), &[format!("http://{address}")], "agent").unwrap();
    assert!(matches!(source.snapshot().await, Err(SourceError::Unavailable(_))));
    assert!(matches!(
        FeedSource::new("x".into(), &["not an address".into()], "agent"),
        Err(SourceError::Protocol(_))
    ));
}

#[tokio::test]
async fn of_a_replica_group_whoever_answers_is_followed() {
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = away.local_addr().unwrap();
    drop(away);
    let (_, second) = serve_at().await;
    let urls = [format!("http://{first}"), format!("http://{second}")];
    let source = FeedSource::new("broker-a".into(), &urls, "agent-1").unwrap();
    let after = Position { incarnation: RUN, sequence: 3 };
    assert!(matches!(source.read(after).await.map(drop), Err(SourceError::Unavailable(_))));
    assert!(source.read(after).await.is_ok());
    assert_eq!(source.snapshot().await.unwrap().position.sequence, 40);
}
