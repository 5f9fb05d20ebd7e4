//! Owns the bridge between a broker and an agent in one process: the broker's feed as a source of facts, without sockets. Only
//! shapes are converted; both sides define their own, so that neither library knows the other.

use agent::ingest::{
    Batch, BatchStream, BoxFuture, Inspected, LocateBy, LocateQuery, Located, Place, RunEnd, Snapshot,
    Source, SourceError,
};
use broker::feed::{self, FeedError, FeedHandle};
use lifecycle::identity::{MessageIdentity, Name};
use lifecycle::position::Position;
use tokio_stream::StreamExt;

/// A broker of this process.
pub(crate) struct InProcess {
    name: Name,
    reader: String,
    feed: FeedHandle,
}

impl InProcess {
    /// `reader` is the name under which the agent's progress is kept.
    pub(crate) fn new(broker_name: &str, reader: &str, feed: FeedHandle) -> Self {
        InProcess { name: broker_name.into(), reader: reader.to_owned(), feed }
    }
}

impl Source for InProcess {
    fn name(&self) -> Name {
        self.name.clone()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        Box::pin(async {
            let taken = self.feed.snapshot(&self.reader).await.map_err(failed)?;
            Ok(Snapshot {
                broker_name: taken.broker_name,
                position: taken.position,
                oldest: taken.oldest,
                history_complete: taken.history_complete,
                frames: taken.frames,
            })
        })
    }

    fn read(&self, after: Position) -> BoxFuture<'_, Result<BatchStream, SourceError>> {
        Box::pin(async move {
            let stream = self.feed.read(&self.reader, after).map_err(failed)?;
            let batches: BatchStream = Box::pin(stream.map(|batch| batch.map(convert).map_err(failed)));
            Ok(batches)
        })
    }

    fn confirm(&self, position: Position) -> BoxFuture<'_, Result<(), SourceError>> {
        let confirmed = self.feed.confirm(&self.reader, position).map_err(failed);
        Box::pin(async move { confirmed })
    }

    fn locate(&self, query: LocateQuery) -> BoxFuture<'_, Result<Located, SourceError>> {
        let what = match query.what {
            LocateBy::Id(id) => feed::LocateBy::Id(id),
            LocateBy::Key(key) => feed::LocateBy::Key(key),
        };
        let query = feed::LocateQuery { what, topic: query.topic, limit: query.limit };
        Box::pin(async move {
            let found = self.feed.locate(query).await.map_err(failed)?;
            let places = found.places.into_iter().map(place).collect();
            Ok(Located { places, as_of: found.as_of, complete: found.complete })
        })
    }

    fn inspect(&self, identity: MessageIdentity) -> BoxFuture<'_, Result<Option<Inspected>, SourceError>> {
        Box::pin(async move {
            let found = self.feed.inspect(identity).await.map_err(failed)?;
            Ok(found.map(|found| Inspected {
                place: place(found.place),
                body_sha256: found.body_sha256,
                damage: found.damage,
                hosts: found.hosts,
                copies: found.copies.into_iter().map(place).collect(),
                properties: found.properties,
            }))
        })
    }
}

fn failed(error: FeedError) -> SourceError {
    match error {
        FeedError::UnknownRun(_) | FeedError::Trimmed(_) => SourceError::PositionGone,
        other => SourceError::Unavailable(other.to_string()),
    }
}

fn convert(batch: feed::Batch) -> Batch {
    Batch {
        broker_name: batch.broker_name,
        incarnation: batch.incarnation,
        first_sequence: batch.first_sequence,
        frames: batch.frames,
        flushed_sequence: batch.flushed_sequence,
        head_sequence: batch.head_sequence,
        run_end: batch.run_end.map(|end| RunEnd { last_sequence: end.last_sequence, next: end.next }),
    }
}

fn place(place: feed::Place) -> Place {
    Place {
        identity: place.identity,
        topic: place.topic,
        commitlog_offset: place.commitlog_offset,
        store_wall_ms: place.store_wall_ms,
        born_wall_ms: place.born_wall_ms,
        body_bytes: place.body_bytes,
        unique_id: place.unique_id,
        keys: place.keys,
        tags: place.tags,
        lineage: place.lineage,
    }
}
