//! Owns the numbers of the remoting edge, read by `/metrics`. Counting is all it does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Cumulative since the process started, but for `connections`. One set may serve both ports.
#[derive(Debug, Default)]
pub struct RemotingStats {
    /// Open now.
    pub connections: AtomicU64,
    /// Accepted.
    pub accepted: AtomicU64,
    /// Closed at once because too many were open.
    pub turned_away: AtomicU64,
    /// Commands read, responses of clients included.
    pub commands: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// What was no frame, or a frame whose header could not be read: the connection was closed.
    pub bad_frames: AtomicU64,
    /// Frames over the limit: the connection was closed.
    pub oversize_frames: AtomicU64,
    /// Requests refused because their fields or body could not be read.
    pub bad_requests: AtomicU64,
    /// Requests with a code this broker does not serve.
    pub unsupported: AtomicU64,
    /// Closed because the client took nothing for too long, or too much waited for it.
    pub closed_slow: AtomicU64,
    /// Closed because nothing happened for too long.
    pub closed_idle: AtomicU64,
    /// Answers nobody was there to take.
    pub answers_broken_off: AtomicU64,
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
