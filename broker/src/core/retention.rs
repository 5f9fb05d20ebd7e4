//! Deletes what is too old, or what the disk has no room for; says which messages went. Whole segments only: a quiet topic's
//! messages go with the busy one's, as in RocketMQ, but here each queue's loss is a fact.

use super::Core;
use lifecycle::clock::Now;
use lifecycle::fact::{ExpiryReason, Fact};
use lifecycle::identity::LogPosition;
use store::commit_log::HEADER_LEN;
use store::disk::DiskSpace;
use store::error::StoreError;
use store::retention::{AgedSegment, Expiry, ExpiryCause, RetentionPolicy, expire};
use store::segment::SegmentInfo;
use wire::message::StoredMessage;

/// Most segments deleted at once.
const SEGMENTS_AT_ONCE: usize = 10;
/// A full disk is looked at more often, ms.
const FULL_INTERVAL_MS: u64 = 200;

/// When retention looks next, and what it saw last.
#[derive(Default)]
pub(super) struct RetentionState {
    pub(super) next_due_ms: u64,
    pub(super) refuses_sends: bool,
    pub(super) used_percent: u8,
    /// Size of the disk, bytes; 0: not known.
    pub(super) disk_bytes: u64,
}

impl Core {
    pub(super) fn retention_due(&mut self, now: Now) {
        if now.mono_ms < self.retention.next_due_ms {
            return;
        }
        let space = match self.disk.space(&self.folder.path) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "free space unknown");
                DiskSpace { total_bytes: 0, free_bytes: 0 }
            }
        };
        self.retention.used_percent = space.used_percent();
        self.retention.disk_bytes = space.total_bytes;
        let refuses = self.retention.used_percent >= self.config.disk_refuse_percent;
        if refuses != self.retention.refuses_sends {
            tracing::warn!(
                used_percent = self.retention.used_percent,
                refuses,
                "disk nearly full: sends refused or taken again"
            );
        }
        self.retention.refuses_sends = refuses;
        let interval = if refuses { FULL_INTERVAL_MS } else { self.config.retention_interval_ms };
        self.retention.next_due_ms = now.mono_ms + interval;
        if let Err(error) = self.expire_segments(now, space) {
            self.stop(error);
        }
    }

    fn expire_segments(&mut self, now: Now, space: DiskSpace) -> Result<(), StoreError> {
        let policy = RetentionPolicy {
            max_age_ms: self.config.retention_ms,
            clean_at_percent: self.config.disk_clean_percent,
            segments_at_once_max: SEGMENTS_AT_ONCE,
        };
        let segments: Vec<(LogPosition, LogPosition)> = self.log.segments().collect();
        let mut aged = Vec::with_capacity(segments.len());
        for (index, (start, end)) in segments.iter().enumerate() {
            // the next segment began when this one was last written
            let last_write_ms = match segments.get(index + 1) {
                Some((next, _)) => self.first_store_time(*next)?.unwrap_or(now.wall_ms),
                None => now.wall_ms,
            };
            aged.push(AgedSegment { segment: SegmentInfo { start: start.0, end: end.0 }, last_write_ms });
            if now.wall_ms.saturating_sub(last_write_ms) <= policy.max_age_ms && index >= SEGMENTS_AT_ONCE {
                break;
            }
        }
        // the rule never takes the segment being written: the list may have been cut short
        if aged.len() < segments.len() {
            let last = SegmentInfo { start: aged.last().map_or(0, |a| a.segment.end), end: self.log.end().0 };
            aged.push(AgedSegment { segment: last, last_write_ms: now.wall_ms });
        }
        let keep_from = self.state.flushed.0;
        let expiry = expire(&policy, &aged, now.wall_ms, (space, keep_from));
        self.apply_expiry(expiry)
    }

    fn first_store_time(&self, segment_start: LogPosition) -> Result<Option<u64>, StoreError> {
        let logged = self.log.read(LogPosition(segment_start.0 + HEADER_LEN as u64))?;
        let message = logged.as_ref().and_then(|logged| StoredMessage::decode(&logged.record).ok());
        Ok(message.and_then(|(message, _)| u64::try_from(message.store_timestamp_ms).ok()))
    }

    fn apply_expiry(&mut self, expiry: Expiry) -> Result<(), StoreError> {
        if expiry.is_disk_still_full {
            tracing::warn!("disk is full, and nothing more may be deleted");
        }
        for (cause, end) in expiry.steps {
            let reason = match cause {
                ExpiryCause::Age => ExpiryReason::Age,
                ExpiryCause::Disk => ExpiryReason::Disk,
            };
            // first the files, then the fact: a crash in between is made good by recovery, which finds the log's new start
            let start = self.log.remove_before(LogPosition(end))?;
            self.state_expired(start, reason)?;
        }
        Ok(())
    }

    /// States per queue what lies below the log's first byte, and trims what was derived from it.
    pub(super) fn state_expired(
        &mut self,
        start: LogPosition,
        reason: ExpiryReason,
    ) -> Result<(), StoreError> {
        let queues: Vec<_> = self.state.queues().filter(|(_, b)| b.min_offset < b.max_offset).collect();
        for (queue, bounds) in queues {
            let index = self.queue_index(queue)?;
            let to = self.queues.first_at_or_above(index, start.0)?.min(bounds.max_offset);
            if to > bounds.min_offset {
                self.queues.remove_below(index, to)?;
                self.state(Fact::Expired { queue, from: bounds.min_offset, to, reason });
            }
        }
        self.index.remove_before(start.0)?;
        Ok(())
    }
}
