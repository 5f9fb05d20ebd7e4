//! Messages that were cut off a log because their epoch lost, sent again by an operator.

use lifecycle::identity::{Epoch, LogPosition};
use serde::{Deserialize, Serialize};
use store::commit_log::survivor::SurvivingRecord;

/// Most messages in one request.
pub const REINJECT_MAX: usize = 1024;

/// Messages to be stored again.
pub struct ReinjectMessages {
    /// The epochs of the log they were cut off, with the first byte each owned.
    pub epochs: Vec<(Epoch, LogPosition)>,
    /// In the order of that log.
    pub records: Vec<SurvivingRecord>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Reinjected {
    /// It is stored, as durably as this broker promises.
    Stored {
        /// Its topic, queue and offset now.
        topic: String,
        queue: u32,
        offset: u64,
    },
    /// Nothing speaks against it (dry run).
    WouldStore,
    /// It was stored again before.
    AlreadyStored,
    /// This log has it: it was not lost.
    NotLost,
    /// A copy the old master had made of a message: that message is due again, or among those that are sent again.
    Copy,
    /// No topic of this name is here: it was deleted, or never was. Make it, and the message can be sent again.
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// Refused for another reason.
    Refused {
        /// Which.
        why: String,
    },
}
