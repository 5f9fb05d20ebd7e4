//! Owns the closed set of verdict classes: their names for ever, and which of them count as loss. Used by the fold (why a
//! debt ended), the judge and the metrics.

/// What a verdict says happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Class {
    /// A producer was told OK; no source ever stored it.
    NeverStored = 1,
    /// The broker refused it; nothing was stored.
    SendRefused = 2,
    /// The producer does not know, and neither do we yet.
    SendUnknown = 3,
    /// Stored, while its producer saw an error.
    StoredThoughUnacked = 4,
    /// Answered with less durability than promised; at risk until flushed.
    AnsweredNotDurable = 5,
    /// Stored, and gone after recovery.
    StoredNotFlushedLost = 6,
    /// Retention took it before the group got it.
    ExpiredBeforeConsumption = 7,
    /// The group's position was moved past it.
    SkippedByOffsetReset = 8,
    /// The group's progress passed it without a delivery.
    AckedWithoutDelivery = 9,
    /// Sent back, no copy could be stored, and the position passed it.
    SendBackFailedThenPassed = 10,
    /// Waits in the schedule beyond its due time.
    StuckInRetry = 11,
    /// In the dead-letter topic.
    DeadLettered = 12,
    /// Out of attempts, and no dead-letter copy.
    DlqWriteFailed = 13,
    /// Retention took a dead letter nobody had looked at.
    DlqExpired = 14,
    /// Passed over while members of one group subscribed differently.
    FilterConflict = 15,
    /// The same send stored twice.
    Duplicate = 16,
    /// Handed out, though never stored.
    UnexpectedMessage = 17,
    /// Stored below a position the group had reached in a lost epoch.
    OffsetReused = 18,
    /// Frames of a source are missing.
    EvidenceGap = 19,
    /// Fate unknown, with a bound.
    Undecided = 20,
    /// Stored by a master, and not in the log of the member that was promoted in its place, which is not known to have had it.
    NotReplicatedAtFailover = 21,
    /// The disk had said that it was flushed, and the recovered log ends before it.
    FlushLied = 22,
    /// Flushed, and its record was unreadable when the broker started.
    CorruptedAtRest = 23,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Class; 23] = [
        Class::NeverStored,
        Class::SendRefused,
        Class::SendUnknown,
        Class::StoredThoughUnacked,
        Class::AnsweredNotDurable,
        Class::StoredNotFlushedLost,
        Class::ExpiredBeforeConsumption,
        Class::SkippedByOffsetReset,
        Class::AckedWithoutDelivery,
        Class::SendBackFailedThenPassed,
        Class::StuckInRetry,
        Class::DeadLettered,
        Class::DlqWriteFailed,
        Class::DlqExpired,
        Class::FilterConflict,
        Class::Duplicate,
        Class::UnexpectedMessage,
        Class::OffsetReused,
        Class::EvidenceGap,
        Class::Undecided,
        Class::NotReplicatedAtFailover,
        Class::FlushLied,
        Class::CorruptedAtRest,
    ];

    /// Its name in metrics, answers and logs.
    pub fn text(self) -> &'static str {
        match self {
            Class::NeverStored => "never-stored",
            Class::SendRefused => "send-refused",
            Class::SendUnknown => "send-unknown",
            Class::StoredThoughUnacked => "stored-though-unacked",
            Class::AnsweredNotDurable => "answered-not-durable",
            Class::StoredNotFlushedLost => "stored-not-flushed-lost",
            Class::ExpiredBeforeConsumption => "expired-before-consumption",
            Class::SkippedByOffsetReset => "skipped-by-offset-reset",
            Class::AckedWithoutDelivery => "acked-without-delivery",
            Class::SendBackFailedThenPassed => "send-back-failed-then-passed",
            Class::StuckInRetry => "stuck-in-retry",
            Class::DeadLettered => "dead-lettered",
            Class::DlqWriteFailed => "dlq-write-failed",
            Class::DlqExpired => "dlq-expired",
            Class::FilterConflict => "filter-conflict",
            Class::Duplicate => "duplicate",
            Class::UnexpectedMessage => "unexpected-message",
            Class::OffsetReused => "offset-reused",
            Class::EvidenceGap => "evidence-gap",
            Class::Undecided => "undecided",
            Class::NotReplicatedAtFailover => "not-replicated-at-failover",
            Class::FlushLied => "flush-lied",
            Class::CorruptedAtRest => "corrupted-at-rest",
        }
    }

    /// The class with this name.
    pub fn from_text(text: &str) -> Option<Self> {
        Class::ALL.into_iter().find(|class| class.text() == text)
    }

    /// The class with this number in a row.
    pub fn from_u8(value: u8) -> Option<Self> {
        Class::ALL.into_iter().find(|class| *class as u8 == value)
    }

    /// Whether a recovery found that the store itself no longer has its messages.
    pub fn is_of_store(self) -> bool {
        use Class::*;
        matches!(self, StoredNotFlushedLost | NotReplicatedAtFailover | FlushLied | CorruptedAtRest)
    }

    /// Whether its messages are lost (or will be); the others inform.
    pub fn is_loss(self) -> bool {
        matches!(
            self,
            Class::NeverStored
                | Class::StoredNotFlushedLost
                | Class::ExpiredBeforeConsumption
                | Class::SkippedByOffsetReset
                | Class::AckedWithoutDelivery
                | Class::SendBackFailedThenPassed
                | Class::StuckInRetry
                | Class::DlqWriteFailed
                | Class::DlqExpired
                | Class::FilterConflict
                | Class::OffsetReused
                | Class::NotReplicatedAtFailover
                | Class::FlushLied
                | Class::CorruptedAtRest
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_one_to_one() {
        for class in Class::ALL {
            assert_eq!(Class::from_text(class.text()), Some(class));
            assert_eq!(Class::from_u8(class as u8), Some(class));
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{}\"", class.text()));
        }
        assert_eq!(Class::from_u8(0), None);
        assert_eq!(Class::ALL.iter().filter(|class| class.is_loss()).count(), 14);
    }
}
