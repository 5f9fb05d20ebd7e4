//! Owns one connection: reads chunks, cuts and dispatches all frames of each, and closes it when the client leaves, misbehaves
//! or stalls. Never looks into a request, and writes nothing itself: the outbox does, and only wakes the session when the
//! socket is full. One task each, started by the listener; an idle one keeps no buffers.

use super::dispatch;
use super::listener::Edge;
use super::outbox::{Outbox, Standing};
use super::stats::{add, count};
use crate::api::{ConnectionId, Request};
use bytes::{Buf, BytesMut};
use lifecycle::identity::Name;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::ready;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;
use wire::command::Command;
use wire::frame::{Frame, FrameDecoder, FrameError, HeaderType};

/// Bytes asked for in the first read; a client that fills its reads is given four times as many, up to the largest.
const READ_MIN_BYTES: usize = 4 * 1024;
const READ_MAX_BYTES: usize = 256 * 1024;
/// How often a connection is looked at, at most and at least.
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_secs(10);
/// Names remembered per connection; clients repeat few.
const NAMES_MAX: usize = 8;

/// What is known about one connection.
pub(super) struct Session {
    pub(super) edge: Arc<Edge>,
    pub(super) id: ConnectionId,
    pub(super) peer: SocketAddr,
    /// Client id of the last heartbeat; before it, the peer's address.
    pub(super) client: Name,
    pub(super) outbox: Arc<Outbox>,
    names: Vec<Name>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client sends no more: it is still told what it is owed.
    PeerClosed,
    /// Reading or writing failed.
    Broken,
    /// What came is no frame; the answer to it, if it could be answered, is still written.
    BadFrame,
    Idle,
    Slow,
    Shutdown,
}

impl Session {
    pub(super) fn new(edge: Arc<Edge>, id: ConnectionId, peer: SocketAddr) -> Session {
        count(&edge.stats.connections);
        edge.peers().insert(id, peer);
        let client = Name::from(peer.to_string());
        let outbox = Arc::new(Outbox::new(
            edge.unsent.clone(),
            edge.stats.clone(),
            edge.config.limits.outbox_max_bytes,
        ));
        Session { edge, id, peer, client, outbox, names: Vec::new() }
    }

    /// The shared form of a name this client keeps using.
    pub(super) fn name(&mut self, text: &str) -> Name {
        if let Some(known) = self.names.iter().find(|known| ***known == *text) {
            return known.clone();
        }
        let name = Name::from(text);
        if self.names.len() == NAMES_MAX {
            self.names.remove(0);
        }
        self.names.push(name.clone());
        name
    }

    /// Hands a request to the core. When it is not taken, the reply that is dropped with it answers.
    pub(super) fn submit(&self, request: Request) {
        if let Err(error) = self.edge.core.submit(request) {
            tracing::debug!(%error, peer = %self.peer, "request not taken");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.outbox.close();
        self.edge.peers().remove(&self.id);
        self.edge.stats.connections.fetch_sub(1, Ordering::Relaxed);
        self.submit(Request::Disconnected(self.id));
    }
}

/// Serves a connection to its end.
pub(super) async fn run(session: Session, stream: TcpStream, shutdown: CancellationToken) {
    let mut run = Run::new(session, stream);
    let end = run.until_end(&shutdown).await;
    let stats = &run.session.edge.stats;
    match end {
        End::Idle => count(&stats.closed_idle),
        End::Slow => count(&stats.closed_slow),
        End::PeerClosed | End::Broken | End::BadFrame | End::Shutdown => {}
    }
    tracing::debug!(peer = %run.session.peer, ?end, "connection closed");
    let limit = run.session.edge.config.limits.linger;
    match end {
        End::PeerClosed | End::Shutdown => run.linger(limit).await,
        End::BadFrame => {
            run.linger(limit).await;
            run.discard(limit).await;
        }
        End::Broken | End::Idle | End::Slow => {}
    }
}

/// The moving parts of a connection.
struct Run {
    session: Session,
    reader: OwnedReadHalf,
    decoder: FrameDecoder,
    read: BytesMut,
    read_bytes: usize,
    did_read: bool,
    /// Bytes written until the last tick.
    written_total: u64,
    idle: Duration,
    stalled: Duration,
}

impl Run {
    fn new(session: Session, stream: TcpStream) -> Run {
        let decoder = FrameDecoder::new(session.edge.config.limits.max_frame_bytes);
        let (reader, writer) = stream.into_split();
        session.outbox.connect(writer);
        Run {
            session,
            reader,
            decoder,
            read: BytesMut::new(),
            read_bytes: READ_MIN_BYTES,
            did_read: false,
            written_total: 0,
            idle: Duration::ZERO,
            stalled: Duration::ZERO,
        }
    }

    async fn until_end(&mut self, shutdown: &CancellationToken) -> End {
        let limits = self.session.edge.config.limits.clone();
        let tick = (limits.idle_timeout.min(limits.write_stall_timeout) / 4).clamp(TICK_MIN, TICK_MAX);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.reset();
        let outbox = self.session.outbox.clone();
        // what is hardly ever ready is made once, not for every message
        let mut changed = pin!(outbox.changed());
        let mut cancelled = pin!(shutdown.cancelled());
        let may_read = |standing: &Standing| {
            standing.waiting_bytes < limits.outbox_high_bytes
                && standing.in_flight_bytes < limits.in_flight_max_bytes
        };
        loop {
            let standing = outbox.standing(|standing| standing.is_blocked || !may_read(standing));
            if standing.is_overfull {
                return End::Slow;
            }
            if standing.is_broken {
                return End::Broken;
            }
            tokio::select! {
                biased;
                read = read_some(&mut self.reader, &mut self.read, self.read_bytes), if may_read(&standing) => match read {
                    Ok(0) => return End::PeerClosed,
                    Ok(read) => {
                        if !self.received(read) {
                            return End::BadFrame;
                        }
                    }
                    Err(_) => return End::Broken,
                },
                () = &mut changed => changed.set(outbox.changed()),
                () = outbox.resume(), if standing.is_blocked => {}
                _ = ticks.tick() => {
                    if let Some(end) = self.tick(tick) {
                        return end;
                    }
                }
                () = &mut cancelled => return End::Shutdown,
            }
        }
    }

    /// Dispatches every complete frame; false when the connection cannot go on.
    fn received(&mut self, read: usize) -> bool {
        add(&self.session.edge.stats.bytes_in, read as u64);
        self.did_read = true;
        if read >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 4).min(READ_MAX_BYTES);
        }
        loop {
            match self.decoder.decode(&mut self.read) {
                Ok(None) => return true,
                Ok(Some(frame)) => {
                    if !self.frame(frame) {
                        return false;
                    }
                }
                Err(error) => {
                    self.bad_frame(&error);
                    return false;
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> bool {
        let len = frame.header.len() + frame.body.len();
        match Command::decode(frame) {
            Ok(command) => {
                count(&self.session.edge.stats.commands);
                dispatch::dispatch(&mut self.session, command, len);
                true
            }
            Err(error) => {
                // without its opaque nobody can be answered
                tracing::warn!(%error, peer = %self.session.peer, "header cannot be read, closing the connection");
                count(&self.session.edge.stats.bad_frames);
                false
            }
        }
    }

    fn bad_frame(&mut self, error: &FrameError) {
        tracing::warn!(%error, peer = %self.session.peer, "not a frame, closing the connection");
        let FrameError::TooLong { .. } = error else {
            return count(&self.session.edge.stats.bad_frames);
        };
        count(&self.session.edge.stats.oversize_frames);
        if let Some(command) = header_of_oversize(&self.read) {
            dispatch::refuse_oversize(&self.session, &command, error);
        }
    }

    fn tick(&mut self, tick: Duration) -> Option<End> {
        let limits = &self.session.edge.config.limits;
        let standing = self.session.outbox.standing(|standing| standing.is_blocked);
        let did_write = standing.written_total != self.written_total;
        self.written_total = standing.written_total;
        self.stalled = match did_write || standing.waiting_bytes == 0 {
            true => Duration::ZERO,
            false => self.stalled + tick,
        };
        self.idle = match did_write || self.did_read {
            true => Duration::ZERO,
            false => self.idle + tick,
        };
        self.did_read = false;
        if self.stalled >= limits.write_stall_timeout {
            return Some(End::Slow);
        }
        if self.idle >= limits.idle_timeout {
            return Some(End::Idle);
        }
        if !self.idle.is_zero() {
            self.give_memory_back();
        }
        None
    }

    fn give_memory_back(&mut self) {
        self.read_bytes = READ_MIN_BYTES;
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        self.session.outbox.shrink();
    }

    /// Writes what the client is still owed. Held pulls are not waited for: nobody will read their answers.
    async fn linger(&mut self, limit: Duration) {
        let outbox = &self.session.outbox;
        let rest = async {
            loop {
                let standing = outbox.standing(|_| true);
                let is_done = standing.waiting_bytes == 0 && standing.owed == 0;
                if is_done || standing.is_broken || standing.is_overfull {
                    return;
                }
                tokio::select! {
                    () = outbox.changed() => {}
                    () = outbox.resume(), if standing.is_blocked => {}
                }
            }
        };
        // whatever does not go out now is lost with the connection, which the core is told
        drop(tokio::time::timeout(limit, rest).await);
        outbox.close();
    }

    /// Reads on without looking: closing a socket with unread bytes would take the last answer from the client.
    async fn discard(&mut self, limit: Duration) {
        let rest = async {
            loop {
                self.read.clear();
                self.read.reserve(READ_MAX_BYTES);
                if !matches!(self.reader.read_buf(&mut self.read).await, Ok(read) if read > 0) {
                    return;
                }
            }
        };
        drop(tokio::time::timeout(limit, rest).await);
    }
}

/// Reads once when there is something to read; memory is taken only then, and most often the last chunk's can be used again.
async fn read_some(
    reader: &mut OwnedReadHalf,
    into: &mut BytesMut,
    at_least: usize,
) -> std::io::Result<usize> {
    poll_fn(|context| {
        ready!(reader.as_ref().poll_read_ready(context))?;
        into.reserve(at_least);
        poll_read_buf(Pin::new(&mut *reader), context, into)
    })
    .await
}

/// The header of a frame that is too long, when all of it has arrived.
fn header_of_oversize(read: &BytesMut) -> Option<Command> {
    let mut rest = &read[..];
    if rest.len() < 8 {
        return None;
    }
    rest.advance(4);
    let type_word = rest.get_u32();
    let header_type = HeaderType::from_byte((type_word >> 24) as u8)?;
    let header = rest.get(..(type_word & 0x00FF_FFFF) as usize)?;
    let header = bytes::Bytes::copy_from_slice(header);
    Command::decode(Frame { header_type, header, body: bytes::Bytes::new() }).ok()
}
