//! Owns the bytes that wait for one connection, and the count of what it still waits for. The core's turn puts answers in; when
//! it is over they are written to the socket, all of one connection in one call, without waking its session. Only when the
//! socket takes no more does the session wait for it. Everything runs on one thread: no lock is ever waited for.

use super::stats::{RemotingStats, add};
use bytes::Bytes;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use wire::command::Command;

/// A drained buffer above this is given back.
const KEEP_BYTES: usize = 256 * 1024;
/// Written bytes in front of waiting ones are cut off above this.
const WRITTEN_MAX_BYTES: usize = 64 * 1024;

/// Where answers wait.
pub(super) struct Outbox {
    pub(super) stats: Arc<RemotingStats>,
    unsent: Arc<Unsent>,
    inner: Mutex<Inner>,
    /// When more bytes than these wait, all of them are dropped.
    max_bytes: usize,
    changed: Notify,
    /// Numbers the requests we make on this connection.
    opaque: AtomicI32,
}

/// The outboxes of one port with something to write; at most one entry for each.
#[derive(Default)]
pub(super) struct Unsent {
    outboxes: Mutex<Vec<Arc<Outbox>>>,
    some: Notify,
}

#[derive(Default)]
struct Inner {
    socket: Option<OwnedWriteHalf>,
    bytes: Vec<u8>,
    /// So many of the first bytes are written.
    written: usize,
    written_total: u64,
    in_flight_bytes: usize,
    owed: usize,
    is_listed: bool,
    /// The socket takes no more for now; the session waits for it.
    is_blocked: bool,
    is_broken: bool,
    /// More waited than may: what waited is dropped, and nothing is taken any more.
    is_overfull: bool,
    is_closed: bool,
    /// The session waits for any change.
    is_watched: bool,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Bytes to write.
    pub(super) waiting_bytes: usize,
    /// Bytes written so far.
    pub(super) written_total: u64,
    /// Bytes of requests that have no answer yet.
    pub(super) in_flight_bytes: usize,
    /// Requests without an answer that are answered soon: all but pulls, which may be held.
    pub(super) owed: usize,
    /// The socket takes no more for now.
    pub(super) is_blocked: bool,
    /// Writing failed.
    pub(super) is_broken: bool,
    /// More waited than may, and was dropped.
    pub(super) is_overfull: bool,
}

impl Unsent {
    /// Writes what turns have put into outboxes, for ever: one pass after each turn.
    pub(super) async fn write(&self) {
        let mut outboxes = Vec::new();
        loop {
            self.some.notified().await;
            std::mem::swap(&mut *self.lock(), &mut outboxes);
            outboxes.drain(..).for_each(|outbox| outbox.write_listed());
        }
    }

    fn add(&self, outbox: Arc<Outbox>) {
        let mut outboxes = self.lock();
        outboxes.push(outbox);
        if outboxes.len() == 1 {
            self.some.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Of a connection for which at most `max_bytes` wait.
    pub(super) fn new(unsent: Arc<Unsent>, stats: Arc<RemotingStats>, max_bytes: usize) -> Outbox {
        let (inner, changed, opaque) = Default::default();
        Outbox { stats, unsent, inner, max_bytes, changed, opaque }
    }

    /// Where to write to.
    pub(super) fn connect(&self, socket: OwnedWriteHalf) {
        self.lock().socket = Some(socket);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was read: its answer is due.
    pub(super) fn expect_answer(&self, request_bytes: usize, is_owed: bool) {
        let mut inner = self.lock();
        inner.in_flight_bytes += request_bytes;
        inner.owed += usize::from(is_owed);
    }

    /// Its answer came, or never will.
    pub(super) fn settle(&self, request_bytes: usize, is_owed: bool) {
        let mut inner = self.lock();
        assert!(inner.in_flight_bytes >= request_bytes, "an answer is settled once");
        inner.in_flight_bytes -= request_bytes;
        inner.owed -= usize::from(is_owed);
        self.tell(&inner);
    }

    fn tell(&self, inner: &Inner) {
        if inner.is_watched {
            self.changed.notify_one();
        }
    }

    /// Appends a command whose body is its own plus `records`; false when the connection is gone.
    pub(super) fn put(self: &Arc<Self>, command: &Command, records: &[Bytes]) -> bool {
        self.put_with(|bytes| {
            let body_len = command.body.len() + records.iter().map(Bytes::len).sum::<usize>();
            command.encode_head(body_len, bytes);
            bytes.extend_from_slice(&command.body);
            for record in records {
                bytes.extend_from_slice(record);
            }
        })
    }

    /// Appends what `encode` appends; false when the connection is gone.
    pub(super) fn put_with(self: &Arc<Self>, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut inner = self.lock();
        if inner.is_closed || inner.is_overfull {
            return false;
        }
        encode(&mut inner.bytes);
        // here and not in the session, which only looks between turns: one turn may answer thousands of pulls
        if inner.waiting_bytes() > self.max_bytes {
            inner.overfill();
            self.changed.notify_one();
            return false;
        }
        self.tell(&inner);
        if !std::mem::replace(&mut inner.is_listed, true) {
            self.unsent.add(self.clone());
        }
        true
    }

    /// The number of our next request on this connection.
    pub(super) fn next_opaque(&self) -> i32 {
        self.opaque.fetch_add(1, Ordering::Relaxed)
    }

    fn write_listed(&self) {
        let mut inner = self.lock();
        inner.is_listed = false;
        if !inner.is_blocked {
            self.write(&mut inner);
        }
    }

    /// Waits until the socket takes more again, and goes on writing.
    pub(super) async fn resume(&self) {
        poll_fn(|context| {
            let mut inner = self.lock();
            if let Some(socket) = &inner.socket
                && socket.as_ref().poll_write_ready(context).is_pending()
            {
                return Poll::Pending;
            }
            inner.is_blocked = false;
            self.write(&mut inner);
            Poll::Ready(())
        })
        .await;
    }

    fn write(&self, inner: &mut Inner) {
        let before = inner.written;
        while let Some(socket) = &inner.socket
            && inner.written < inner.bytes.len()
        {
            match socket.try_write(&inner.bytes[inner.written..]) {
                Ok(count) if count > 0 => inner.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    inner.is_blocked = true;
                    break;
                }
                Ok(_) | Err(_) => {
                    inner.is_broken = true;
                    break;
                }
            }
        }
        let written = (inner.written - before) as u64;
        inner.written_total += written;
        add(&self.stats.bytes_out, written);
        inner.forget_written();
        if inner.is_blocked || inner.is_broken || inner.is_watched {
            self.changed.notify_one();
        }
    }

    /// Where the connection stands. With `watch`, every later change is told.
    pub(super) fn standing(&self, watch: impl FnOnce(&Standing) -> bool) -> Standing {
        let mut inner = self.lock();
        let standing = Standing {
            waiting_bytes: inner.waiting_bytes(),
            written_total: inner.written_total,
            in_flight_bytes: inner.in_flight_bytes,
            owed: inner.owed,
            is_blocked: inner.is_blocked,
            is_broken: inner.is_broken,
            is_overfull: inner.is_overfull,
        };
        inner.is_watched = watch(&standing);
        standing
    }

    /// Completes when something changed since the last wait, if it is watched; and when the socket takes no more, or failed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Nothing more is written, what comes is dropped; the client sees the end.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.bytes = Vec::new();
        inner.written = 0;
        inner.socket = None;
    }

    /// Gives the memory of a quiet connection back.
    pub(super) fn shrink(&self) {
        let mut inner = self.lock();
        if inner.bytes.is_empty() {
            inner.bytes = Vec::new();
        }
    }

    /// What waits, for a connection without a socket.
    #[cfg(test)]
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().bytes)
    }
}

impl Inner {
    fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn overfill(&mut self) {
        self.is_overfull = true;
        self.bytes = Vec::new();
        self.written = 0;
    }

    fn forget_written(&mut self) {
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
            if self.bytes.capacity() > KEEP_BYTES {
                self.bytes = Vec::new();
            }
        } else if self.written > WRITTEN_MAX_BYTES && self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_within_one_turn() {
        let outbox = Arc::new(Outbox::new(Arc::default(), Arc::default(), 1_000));
        let put = |len| outbox.put_with(|bytes| bytes.resize(bytes.len() + len, 0));
        assert!(put(600) && put(400), "as much as may wait");
        assert!(!put(1), "one more");
        let standing = outbox.standing(|_| false);
        assert!(standing.is_overfull && standing.waiting_bytes == 0, "{standing:?}");
        assert!(!put(1) && outbox.take().is_empty(), "what was half written is not gone on with");
    }
}
