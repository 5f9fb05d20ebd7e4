//! Owns the way facts come in: what a source is, and the bounded path from sources to the fold. Never interprets facts.
//!
//! A [`Source`] is one replica group's feed, in this process or behind gRPC ([`feed`]). For each one a [`pump`] task keeps a
//! stream of batches open; the [`intake`] puts frames into order, drops duplicates, and says what is missing. Positions are
//! decided by the intake alone: whatever goes wrong, the pump is told where to go on.

pub mod feed;
pub mod held;
pub mod intake;
pub mod pump;

use bytes::Bytes;
use lifecycle::identity::{Incarnation, Lineage, MessageIdentity, Name};
use lifecycle::position::Position;
use std::future::Future;
use std::pin::Pin;
use thiserror::Error;
use tokio_stream::Stream;

/// An answer that comes later.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Batches as they come, until the connection is gone.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<Batch, SourceError>> + Send>>;

/// Most places one [`LocateQuery`] asks for.
pub const LOCATE_LIMIT: u32 = 64;
/// Largest snapshot taken, in bytes of frames.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// Where facts come from: one replica group. Called by the pump and, for questions, by anybody; stateless, so calls may
/// overlap. Implemented by [`feed::FeedSource`], and by the binary for a broker in the same process.
pub trait Source: Send + Sync + 'static {
    /// A name that stays the same over restarts of both sides; label of the source's metrics.
    fn name(&self) -> Name;
    /// The whole state as it stands now.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>>;
    /// Frames after a position, run after run, then live. A new stream ends the one before it.
    fn read(&self, after: Position) -> BoxFuture<'_, Result<BatchStream, SourceError>>;
    /// Everything up to here is durable in the agent.
    fn confirm(&self, position: Position) -> BoxFuture<'_, Result<(), SourceError>>;
    /// Where messages with an id or key are stored.
    fn locate(&self, query: LocateQuery) -> BoxFuture<'_, Result<Located, SourceError>>;
    /// What is stored under one identity.
    fn inspect(&self, identity: MessageIdentity) -> BoxFuture<'_, Result<Option<Inspected>, SourceError>>;
}

/// Why a source does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceError {
    /// No connection, or it broke; trying again may help.
    #[error("source unavailable: {0}")]
    Unavailable(String),
    /// The source does not know this position any more: only a snapshot helps.
    #[error("position is not kept any more")]
    PositionGone,
    /// The source said something this program does not understand.
    #[error("source protocol: {0}")]
    Protocol(String),
}

/// Frames of one run in order, and how far that run has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Replica group.
    pub broker_name: Name,
    /// The run.
    pub incarnation: Incarnation,
    /// Number of `frames[0]`; the others follow without a hole.
    pub first_sequence: u64,
    /// Payloads, as the journal holds them.
    pub frames: Vec<Bytes>,
    /// The run's journal is on the broker's disk up to here.
    pub flushed_sequence: u64,
    /// The newest frame of the run.
    pub head_sequence: u64,
    /// The run is over.
    pub run_end: Option<RunEnd>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// The last frame that is readable; what the agent holds above it stays valid.
    pub last_sequence: u64,
    /// The run that follows.
    pub next: Incarnation,
}

/// A source's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Replica group.
    pub broker_name: Name,
    /// Folding every frame up to here gives the same state.
    pub position: Position,
    /// The lowest position [`Source::read`] takes.
    pub oldest: Position,
    /// The journal still holds everything since the beginning: reading from `oldest` needs no snapshot.
    pub history_complete: bool,
    /// Payloads of snapshot frames, the first is a reset point.
    pub frames: Vec<Bytes>,
}

/// Which messages to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocateQuery {
    /// By id or by key.
    pub what: LocateBy,
    /// Empty: any topic (ids only).
    pub topic: String,
    /// At most this many places, see [`LOCATE_LIMIT`].
    pub limit: u32,
}

/// The two ways to find a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocateBy {
    /// The client's id, or an offset message id.
    Id(String),
    /// One of the message's keys.
    Key(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Located {
    /// Where messages are stored, copies included.
    pub places: Vec<Place>,
    /// Every frame up to here was considered.
    pub as_of: Position,
    /// Whether these are all places: only then is "none" an answer.
    pub complete: bool,
}

/// Where a message is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Which message.
    pub identity: MessageIdentity,
    /// Its topic's name.
    pub topic: String,
    /// First byte in the commit log.
    pub commitlog_offset: u64,
    /// When it was stored, broker wall ms.
    pub store_wall_ms: u64,
    /// When it was sent, producer wall ms.
    pub born_wall_ms: u64,
    /// Size of its body.
    pub body_bytes: u32,
    /// The client's id, empty when it has none.
    pub unique_id: String,
    /// Keys, separated by spaces.
    pub keys: String,
    /// Tag.
    pub tags: String,
    /// Where the copy comes from; `None`: sent by a client.
    pub lineage: Option<Lineage>,
}

/// What is stored under an identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspected {
    /// Where.
    pub place: Place,
    /// SHA-256 of the body.
    pub body_sha256: Vec<u8>,
    /// Why it cannot be read although it should be there; empty: it can.
    pub damage: String,
    /// Addresses of the brokers that hold it.
    pub hosts: Vec<String>,
    /// Copies that name it as their parent.
    pub copies: Vec<Place>,
    /// The message's properties.
    pub properties: Vec<(String, String)>,
}
