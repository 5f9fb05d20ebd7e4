//! Owns the bytes that wait for one connection, and the count of what it still waits for. The core's turn puts answers in, the
//! session takes all of them out at once. Never touches the socket. Both sides run on one thread: the lock is never waited for.

use bytes::{BufMut, Bytes, BytesMut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use wire::command::Command;

/// Where answers wait.
#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    changed: Notify,
    /// Numbers the requests we make on this connection.
    opaque: AtomicI32,
}

#[derive(Default)]
struct Inner {
    bytes: BytesMut,
    in_flight_bytes: usize,
    owed: usize,
    is_closed: bool,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Bytes to write.
    pub(super) waiting_bytes: usize,
    /// Bytes of requests that have no answer yet.
    pub(super) in_flight_bytes: usize,
    /// Requests without an answer that are answered soon: all but pulls, which may be held.
    pub(super) owed: usize,
}

impl Outbox {
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
        drop(inner);
        self.changed.notify_one();
    }

    /// Appends a command whose body is its own plus `records`; false when the connection is gone.
    pub(super) fn put(&self, command: &Command, records: &[Bytes]) -> bool {
        let mut inner = self.lock();
        if inner.is_closed {
            return false;
        }
        let body_len = command.body.len() + records.iter().map(Bytes::len).sum::<usize>();
        command.encode_head(body_len, &mut inner.bytes);
        inner.bytes.put_slice(&command.body);
        for record in records {
            inner.bytes.put_slice(record);
        }
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// The number of our next request on this connection.
    pub(super) fn next_opaque(&self) -> i32 {
        self.opaque.fetch_add(1, Ordering::Relaxed)
    }

    /// Exchanges what waits for an empty buffer.
    pub(super) fn swap(&self, empty: &mut BytesMut) {
        assert!(empty.is_empty(), "bytes not written yet would be lost");
        let mut inner = self.lock();
        if !inner.bytes.is_empty() {
            std::mem::swap(&mut inner.bytes, empty);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let inner = self.lock();
        Standing {
            waiting_bytes: inner.bytes.len(),
            in_flight_bytes: inner.in_flight_bytes,
            owed: inner.owed,
        }
    }

    /// Completes when something was put or settled since the last wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The connection is gone: what comes is dropped.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.bytes = BytesMut::new();
    }

    /// Gives the memory of a quiet connection back.
    pub(super) fn shrink(&self) {
        let mut inner = self.lock();
        if inner.bytes.is_empty() {
            inner.bytes = BytesMut::new();
        }
    }
}
