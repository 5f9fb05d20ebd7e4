//! Owns the feed's gRPC server: converts between the wire and [`FeedHandle`]. Never decides anything.

use super::{
    BATCH_BYTES_MAX, Batch, FeedError, FeedHandle, Inspected, LocateBy, LocateQuery, Located, Place, Snapshot,
};
use bytes::Bytes;
use lifecycle::identity::{Incarnation, MessageIdentity, QueueKey, TopicIncarnation};
use lifecycle::position::Position;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Generated from `lifecycle/proto/feed.proto`.
#[allow(unreachable_pub, clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("losstrace.feed.v1");
}

/// Largest message either side sends: a batch, with room for one large frame.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Calls one connection may have open.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Calls that are still open so long after the shutdown are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The feed's server stopped for another reason than being told to.
#[derive(Debug, thiserror::Error)]
#[error("feed stopped: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves until `shutdown`; then ends every stream and waits a little for calls in flight.
pub async fn serve(
    listener: TcpListener,
    feed: FeedHandle,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let service = proto::feed_server::FeedServer::new(Answers { feed, shutdown: shutdown.clone() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.clone().cancelled_owned());
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = server => served?,
        () = grace => tracing::warn!("feed calls still open at the end of the grace period are cut"),
    }
    Ok(())
}

struct Answers {
    feed: FeedHandle,
    shutdown: CancellationToken,
}

type Batches<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl proto::feed_server::Feed for Answers {
    type SnapshotStream = Batches<proto::SnapshotBatch>;
    type ReadStream = Batches<proto::FrameBatch>;

    async fn snapshot(
        &self,
        request: Request<proto::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let snapshot = self.feed.snapshot(&request.into_inner().reader).await?;
        let batches = snapshot_batches(snapshot).into_iter().map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let after = position_from(request.after.unwrap_or_default())?;
        let batch_bytes = match request.batch_bytes_max as usize {
            0 => BATCH_BYTES_MAX,
            asked => asked,
        };
        let stop = self.shutdown.child_token();
        let batches = self.feed.read_until(&request.reader, (after, batch_bytes), stop)?;
        let batches = batches.map(|batch| batch.map(batch_to).map_err(Status::from));
        Ok(Response::new(Box::pin(batches)))
    }

    async fn confirm(
        &self,
        request: Request<proto::ConfirmRequest>,
    ) -> Result<Response<proto::ConfirmResponse>, Status> {
        let request = request.into_inner();
        let position = request.position.ok_or(FeedError::Invalid("position is missing"))?;
        self.feed.confirm(&request.reader, position_from(position)?)?;
        Ok(Response::new(proto::ConfirmResponse {}))
    }

    async fn locate(
        &self,
        request: Request<proto::LocateRequest>,
    ) -> Result<Response<proto::LocateResponse>, Status> {
        let request = request.into_inner();
        let what = match request.what {
            Some(proto::locate_request::What::Id(id)) => LocateBy::Id(id),
            Some(proto::locate_request::What::Key(key)) => LocateBy::Key(key),
            None => return Err(FeedError::Invalid("an id or a key is needed").into()),
        };
        let query = LocateQuery { what, topic: request.topic, limit: request.limit };
        let Located { places, as_of, complete } = self.feed.locate(query).await?;
        Ok(Response::new(proto::LocateResponse {
            places: places.into_iter().map(place_to).collect(),
            as_of: Some(position_to(as_of)),
            complete,
        }))
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        let identity = request.into_inner().identity.ok_or(FeedError::Invalid("identity is missing"))?;
        let inspected = self.feed.inspect(identity_from(identity)).await?;
        Ok(Response::new(inspected.map_or_else(Default::default, inspected_to)))
    }
}

impl From<FeedError> for Status {
    fn from(error: FeedError) -> Status {
        let text = error.to_string();
        match error {
            FeedError::UnknownRun(_) | FeedError::Trimmed(_) => Status::not_found(text),
            FeedError::Invalid(_) => Status::invalid_argument(text),
            FeedError::TooManyReaders(_) => Status::resource_exhausted(text),
            FeedError::NotTaken(_) | FeedError::Refused(_) => Status::unavailable(text),
            FeedError::Store(_) => Status::internal(text),
        }
    }
}

/// The head travels in the first batch; frames follow, each batch under the limit.
fn snapshot_batches(snapshot: Snapshot) -> Vec<proto::SnapshotBatch> {
    let mut batches = vec![proto::SnapshotBatch {
        broker_name: snapshot.broker_name.to_string(),
        position: Some(position_to(snapshot.position)),
        oldest: Some(position_to(snapshot.oldest)),
        history_complete: snapshot.history_complete,
        ..Default::default()
    }];
    let mut room = 0;
    for frame in snapshot.frames {
        match batches.last_mut() {
            Some(batch) if frame.len() <= room => {
                room -= frame.len();
                batch.frames.push(frame);
            }
            _ => {
                room = BATCH_BYTES_MAX.saturating_sub(frame.len());
                batches.push(proto::SnapshotBatch { frames: vec![frame], ..Default::default() });
            }
        }
    }
    if let Some(batch) = batches.last_mut() {
        batch.last = true;
    }
    batches
}

fn position_from(position: proto::Position) -> Result<Position, FeedError> {
    let incarnation = match position.incarnation.as_ref() {
        [] => Incarnation::NONE,
        bytes => {
            let bytes = bytes.try_into().map_err(|_| FeedError::Invalid("incarnation is not 16 bytes"))?;
            Incarnation(bytes)
        }
    };
    Ok(Position { incarnation, sequence: position.sequence })
}

fn incarnation_to(incarnation: Incarnation) -> Bytes {
    Bytes::copy_from_slice(&incarnation.0)
}

fn position_to(position: Position) -> proto::Position {
    proto::Position { incarnation: incarnation_to(position.incarnation), sequence: position.sequence }
}

fn batch_to(batch: Batch) -> proto::FrameBatch {
    proto::FrameBatch {
        broker_name: batch.broker_name.to_string(),
        incarnation: incarnation_to(batch.incarnation),
        first_sequence: batch.first_sequence,
        frames: batch.frames,
        flushed_sequence: batch.flushed_sequence,
        head_sequence: batch.head_sequence,
        run_end: batch.run_end.map(|end| proto::RunEnd {
            last_sequence: end.last_sequence,
            next_incarnation: incarnation_to(end.next),
        }),
    }
}

fn identity_from(identity: proto::Identity) -> MessageIdentity {
    let topic = TopicIncarnation(identity.topic_incarnation);
    MessageIdentity {
        queue: QueueKey { topic, queue_id: identity.queue_id },
        queue_offset: identity.queue_offset,
        epoch_number: identity.epoch_number,
    }
}

fn identity_to(identity: MessageIdentity) -> proto::Identity {
    proto::Identity {
        topic_incarnation: identity.queue.topic.0,
        queue_id: identity.queue.queue_id,
        queue_offset: identity.queue_offset,
        epoch_number: identity.epoch_number,
    }
}

fn place_to(place: Place) -> proto::MessagePlace {
    proto::MessagePlace {
        identity: Some(identity_to(place.identity)),
        topic: place.topic,
        commitlog_offset: place.commitlog_offset,
        store_wall_ms: place.store_wall_ms,
        born_wall_ms: place.born_wall_ms,
        body_bytes: place.body_bytes,
        unique_id: place.unique_id,
        keys: place.keys,
        tags: place.tags,
        lineage: place.lineage.map_or(Bytes::new(), |lineage| Bytes::copy_from_slice(&lineage.encode())),
    }
}

fn inspected_to(inspected: Inspected) -> proto::InspectResponse {
    proto::InspectResponse {
        found: true,
        place: Some(place_to(inspected.place)),
        body_sha256: inspected.body_sha256.into(),
        damage: inspected.damage,
        hosts: inspected.hosts,
        copies: inspected.copies.into_iter().map(place_to).collect(),
        properties: inspected
            .properties
            .into_iter()
            .map(|(name, value)| proto::Property { name, value })
            .collect(),
    }
}
