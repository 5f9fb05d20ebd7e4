//! Owns the feed's gRPC client: converts between the wire and [`super::Source`]. Never retries and keeps no position: the
//! pump and the intake do.

use super::{
    Batch, BatchStream, BoxFuture, Inspected, LocateBy, LocateQuery, Located, Place, RunEnd,
    SNAPSHOT_BYTES_MAX, Snapshot, Source, SourceError,
};
use lifecycle::identity::{Incarnation, Lineage, MessageIdentity, Name, QueueKey, TopicIncarnation};
use lifecycle::position::Position;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

/// Generated from `broker/lifecycle/proto/feed.proto`.
#[allow(unreachable_pub, clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("losstrace.feed.v1");
}

/// Largest message taken from a feed, in bytes: its batch limit with room for one large frame.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// A broker's feed behind gRPC, at the address of whichever member of its replica group is master.
pub struct FeedSource {
    name: Name,
    reader: String,
    members: Vec<proto::feed_client::FeedClient<Channel>>,
    /// The member that is asked; the next one, when it is away: a member that follows has no feed.
    asked: AtomicUsize,
}

impl FeedSource {
    /// Describes the connection; it is made when first needed. Must be called within a tokio runtime.
    pub fn new(name: Name, urls: &[String], reader: &str) -> Result<Self, SourceError> {
        if urls.is_empty() {
            return Err(SourceError::Protocol(format!("feed {name} has no address")));
        }
        let members = urls.iter().map(|url| {
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| SourceError::Protocol(format!("feed address {url}: {error}")))?
                .connect_timeout(CONNECT_MAX)
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_while_idle(true);
            let client = proto::feed_client::FeedClient::new(endpoint.connect_lazy());
            Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
        });
        let members = members.collect::<Result<_, _>>()?;
        Ok(FeedSource { name, reader: reader.to_owned(), members, asked: AtomicUsize::new(0) })
    }

    fn client(&self) -> proto::feed_client::FeedClient<Channel> {
        let asked = self.asked.load(Ordering::Relaxed) % self.members.len();
        self.members[asked].clone()
    }

    /// Whoever was asked is away: the next call asks the next member.
    fn ask_next<T>(&self, outcome: Result<T, SourceError>) -> Result<T, SourceError> {
        if matches!(outcome, Err(SourceError::Unavailable(_))) {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl Source for FeedSource {
    fn name(&self) -> Name {
        self.name.clone()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        let mut client = self.client();
        let request = proto::SnapshotRequest { reader: self.reader.clone() };
        Box::pin(async move {
            let answer = client.snapshot(request).await.map_err(from_status);
            let mut stream = self.ask_next(answer)?.into_inner();
            let mut snapshot: Option<Snapshot> = None;
            let mut bytes = 0;
            while let Some(batch) = stream.message().await.map_err(from_status)? {
                bytes += batch.frames.iter().map(|frame| frame.len()).sum::<usize>();
                if bytes > SNAPSHOT_BYTES_MAX {
                    return Err(SourceError::Protocol("snapshot too large".into()));
                }
                match &mut snapshot {
                    Some(snapshot) => snapshot.frames.extend(batch.frames),
                    None => {
                        snapshot = Some(Snapshot {
                            broker_name: batch.broker_name.into(),
                            position: position_from(batch.position)?,
                            oldest: position_from(batch.oldest)?,
                            history_complete: batch.history_complete,
                            frames: batch.frames,
                        });
                    }
                }
                if batch.last {
                    return snapshot.ok_or_else(|| SourceError::Protocol("empty snapshot".into()));
                }
            }
            Err(SourceError::Unavailable("snapshot ended early".into()))
        })
    }

    fn read(&self, after: Position) -> BoxFuture<'_, Result<BatchStream, SourceError>> {
        let mut client = self.client();
        let request = proto::ReadRequest {
            reader: self.reader.clone(),
            after: Some(position_to(after)),
            batch_bytes_max: 0,
        };
        Box::pin(async move {
            let answer = client.read(request).await.map_err(from_status);
            let stream = self.ask_next(answer)?.into_inner();
            let batches = stream.map(|item| item.map_err(from_status).and_then(batch_from));
            Ok(Box::pin(batches) as BatchStream)
        })
    }

    fn confirm(&self, position: Position) -> BoxFuture<'_, Result<(), SourceError>> {
        let mut client = self.client();
        let request =
            proto::ConfirmRequest { reader: self.reader.clone(), position: Some(position_to(position)) };
        Box::pin(async move { client.confirm(request).await.map(|_| ()).map_err(from_status) })
    }

    fn locate(&self, query: LocateQuery) -> BoxFuture<'_, Result<Located, SourceError>> {
        let mut client = self.client();
        let what = match query.what {
            LocateBy::Id(id) => proto::locate_request::What::Id(id),
            LocateBy::Key(key) => proto::locate_request::What::Key(key),
        };
        let request = proto::LocateRequest { what: Some(what), topic: query.topic, limit: query.limit };
        Box::pin(async move {
            let answer = client.locate(request).await.map_err(from_status)?.into_inner();
            Ok(Located {
                places: answer.places.into_iter().map(place_from).collect::<Result<_, _>>()?,
                as_of: position_from(answer.as_of)?,
                complete: answer.complete,
            })
        })
    }

    fn inspect(&self, identity: MessageIdentity) -> BoxFuture<'_, Result<Option<Inspected>, SourceError>> {
        let mut client = self.client();
        let request = proto::InspectRequest { identity: Some(identity_to(identity)) };
        Box::pin(async move {
            let answer = client.inspect(request).await.map_err(from_status)?.into_inner();
            if !answer.found {
                return Ok(None);
            }
            let place = answer.place.ok_or_else(|| SourceError::Protocol("found without a place".into()))?;
            Ok(Some(Inspected {
                place: place_from(place)?,
                body_sha256: answer.body_sha256.to_vec(),
                damage: answer.damage,
                hosts: answer.hosts,
                copies: answer.copies.into_iter().map(place_from).collect::<Result<_, _>>()?,
                properties: answer.properties.into_iter().map(|p| (p.name, p.value)).collect(),
            }))
        })
    }
}

fn from_status(status: tonic::Status) -> SourceError {
    use tonic::Code;
    let text = format!("{}: {}", status.code(), status.message());
    match status.code() {
        Code::NotFound => SourceError::PositionGone,
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => SourceError::Protocol(text),
        _ => SourceError::Unavailable(text),
    }
}

fn incarnation_from(bytes: &[u8]) -> Result<Incarnation, SourceError> {
    let bytes = bytes.try_into().map_err(|_| SourceError::Protocol("incarnation is not 16 bytes".into()))?;
    Ok(Incarnation(bytes))
}

fn position_from(position: Option<proto::Position>) -> Result<Position, SourceError> {
    let position = position.ok_or_else(|| SourceError::Protocol("position missing".into()))?;
    Ok(Position { incarnation: incarnation_from(&position.incarnation)?, sequence: position.sequence })
}

fn position_to(position: Position) -> proto::Position {
    proto::Position { incarnation: position.incarnation.0.to_vec().into(), sequence: position.sequence }
}

fn batch_from(batch: proto::FrameBatch) -> Result<Batch, SourceError> {
    let run_end = batch.run_end.map(|end| {
        Ok(RunEnd { last_sequence: end.last_sequence, next: incarnation_from(&end.next_incarnation)? })
    });
    Ok(Batch {
        broker_name: batch.broker_name.into(),
        incarnation: incarnation_from(&batch.incarnation)?,
        first_sequence: batch.first_sequence,
        frames: batch.frames,
        flushed_sequence: batch.flushed_sequence,
        head_sequence: batch.head_sequence,
        run_end: run_end.transpose()?,
    })
}

fn identity_to(identity: MessageIdentity) -> proto::Identity {
    proto::Identity {
        topic_incarnation: identity.queue.topic.0,
        queue_id: identity.queue.queue_id,
        queue_offset: identity.queue_offset,
        epoch_number: identity.epoch_number,
    }
}

fn place_from(place: proto::MessagePlace) -> Result<Place, SourceError> {
    let identity = place.identity.unwrap_or_default();
    let lineage = match place.lineage.as_ref() {
        [] => None,
        bytes => {
            Some(Lineage::decode(bytes).ok_or_else(|| SourceError::Protocol("malformed lineage".into()))?)
        }
    };
    Ok(Place {
        identity: MessageIdentity {
            queue: QueueKey {
                topic: TopicIncarnation(identity.topic_incarnation),
                queue_id: identity.queue_id,
            },
            queue_offset: identity.queue_offset,
            epoch_number: identity.epoch_number,
        },
        topic: place.topic,
        commitlog_offset: place.commitlog_offset,
        store_wall_ms: place.store_wall_ms,
        born_wall_ms: place.born_wall_ms,
        body_bytes: place.body_bytes,
        unique_id: place.unique_id,
        keys: place.keys,
        tags: place.tags,
        lineage,
    })
}

#[cfg(test)]
mod tests;
