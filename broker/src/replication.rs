//! Replication: a master's log and journal on other machines, byte for byte.
//!
//! ```text
//! core (master) ── head ──► stream to each replica: log bytes, then the journal frames that describe them
//!      ▲                                                             │ verified, appended, flushed
//!      └── followers ◄── acks (received, flushed) ◄──────────────────┘
//! ```
//! [`epochs`] agrees on where two logs part, [`followers`] knows what is confirmed by whom, [`waits`] what waits for it, [`copy`]
//! is a replica's folder, [`frame`] the wire, [`mastership`] what a member was told, [`agreement`] where a stream starts, [`election`]
//! who may become master: no sockets, no clocks. [`master`] and [`follow`]
//! are the two ends of a connection, [`source`] reads what a master sends, [`campaign`] makes a member master.

pub mod agreement;
pub mod campaign;
pub mod copy;
pub mod election;
pub mod epochs;
pub mod follow;
pub mod followers;
pub mod frame;
pub mod master;
pub mod mastership;
pub mod source;
pub mod waits;

use frame::{FrameError, HEADER_LEN, Header, Message};
use lifecycle::identity::LogPosition;
use lifecycle::position::Position;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Either side says something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A side that was silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What a master's streams may send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// First byte of the log.
    pub start: LogPosition,
    /// Its end; what lies below is written.
    pub end: LogPosition,
    /// Consumers may read below.
    pub readable: LogPosition,
    /// The last journal frame; every frame up to it speaks of log bytes below `end`.
    pub journal: Position,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// It has written everything below.
    pub received: LogPosition,
    /// It has everything below on disk.
    pub flushed: LogPosition,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Nothing came for too long.
    #[error("nothing was heard for {} s", SILENCE_MAX.as_secs())]
    Silence,
    /// A message at the wrong time.
    #[error("a message came that has no place here")]
    Unexpected,
    /// The other side does not want us.
    #[error("the master refuses this replica: {0}")]
    Refused(String),
    /// We do not want the other side.
    #[error("{0}")]
    Disagreed(String),
    /// The disk.
    #[error(transparent)]
    Store(#[from] store::error::StoreError),
    /// A replica claims what it cannot have.
    #[error("it confirms positions that it was never sent")]
    ForgedAck,
    /// The core takes nothing more.
    #[error(transparent)]
    Core(#[from] crate::handle::NotTaken),
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Result<Message, StreamError> {
    let read = async {
        let mut head = [0; HEADER_LEN];
        from.read_exact(&mut head).await?;
        let header = Header::decode(&head)?;
        let mut payload = vec![0; header.len];
        from.read_exact(&mut payload).await?;
        Ok(header.message(payload.into())?)
    };
    tokio::time::timeout(SILENCE_MAX, read).await.map_err(|_| StreamError::Silence)?
}

async fn write_bytes(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), StreamError> {
    let write = async { Ok(to.write_all(bytes).await?) };
    tokio::time::timeout(SILENCE_MAX, write).await.map_err(|_| StreamError::Silence)?
}
