//! Owns how long the judge waits before it speaks, per question. Barriers come from the sources; these are the rest: times
//! that no evidence can shorten. Never reads a clock.

use crate::fold::group_queue::reread::REREAD_MS;

/// Waiting times, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// A delayed message or retry may leave the schedule this long after it was due.
    pub timer_slack_ms: u64,
    /// A retry may lie in the retry topic this long while members are there and none fetches from its queue.
    pub retry_unread_ms: u64,
    /// A send whose outcome its producer does not know may still be on its way this long after the report.
    pub send_unknown_ms: u64,
    /// A reported send is looked up this long after the report, so that its frames can arrive.
    pub send_known_ms: u64,
    /// The broker may take this long after a restart to make a lost copy again.
    pub copy_remade_ms: u64,
    /// What was passed over because its offset was used again may be read yet, see [`REREAD_MS`].
    pub reread_ms: u64,
    /// An unread message is near its end when retention deletes it within this time.
    pub near_expiry_ms: u64,
    /// Clocks of producers and brokers may differ by this: within it, no order in time is concluded from them.
    pub clock_slack_ms: u64,
    /// An unanswered question is asked again after this.
    pub ask_again_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            timer_slack_ms: 30_000,
            retry_unread_ms: 120_000,
            send_unknown_ms: 10_000,
            send_known_ms: 0,
            copy_remade_ms: 30_000,
            reread_ms: REREAD_MS,
            near_expiry_ms: 6 * 3_600_000,
            clock_slack_ms: 1_000,
            ask_again_ms: 2_000,
        }
    }
}
