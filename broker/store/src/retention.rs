//! Which segments of the commit log may go: by age, and by how full the disk is.
//!
//! Pure: owns only the rule. Never touches a file, never reads a clock. Called by the broker once in a while with what it
//! knows; the broker then states the expiry in its journal, removes the segments, and trims queues and index to the new
//! start.
//!
//! The rule, as in Apache RocketMQ (`DefaultMessageStore.java: CleanCommitLogService`) but for two things: it never removes a
//! segment beyond `keep_from` (say, what the agents have not been told of), and it says so when that leaves the disk too full.

use crate::disk::DiskSpace;
use crate::segment::SegmentInfo;

/// Limits of what is kept. Percentages are of the whole file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Segments whose last write is older may go.
    pub max_age_ms: u64,
    /// At this usage or above, segments go whatever their age, oldest first.
    pub clean_at_percent: u8,
    /// Most segments that go at once: removal is work for the disk too.
    pub segments_at_once_max: usize,
}

impl Default for RetentionPolicy {
    /// Apache's defaults: 72 hours, 85 %, 10 files.
    fn default() -> RetentionPolicy {
        RetentionPolicy { max_age_ms: 72 * 3_600_000, clean_at_percent: 85, segments_at_once_max: 10 }
    }
}

/// One segment and when it was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgedSegment {
    pub segment: SegmentInfo,
    pub last_write_ms: u64,
}

/// Why the log's start moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryCause {
    Age,
    Disk,
}

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The new start of the log, with the cause for each stretch up to it; in order, no gaps.
    pub steps: Vec<(ExpiryCause, u64)>,
    /// The disk stays above its limit because the rest must be kept, or is the segment being written.
    pub is_disk_still_full: bool,
}

impl Expiry {
    /// The position below which everything goes, if anything does.
    pub fn remove_before(&self) -> Option<u64> {
        self.steps.last().map(|(_, end)| *end)
    }
}

/// Decides. `segments` are in log order; the last one is being written and never goes, and nothing at or above
/// `keep_from` does.
pub fn expire(
    policy: &RetentionPolicy,
    segments: &[AgedSegment],
    now_ms: u64,
    (space, keep_from): (DiskSpace, u64),
) -> Expiry {
    assert!(segments.windows(2).all(|pair| pair[0].segment.end <= pair[1].segment.start), "in log order");
    let is_full = |freed: u64| {
        let free_bytes = space.free_bytes.saturating_add(freed).min(space.total_bytes);
        space.total_bytes > 0 && DiskSpace { free_bytes, ..space }.used_percent() >= policy.clean_at_percent
    };
    let mut expiry = Expiry::default();
    let mut freed = 0;
    let mut removed = 0;
    let closed = segments.len().saturating_sub(1);
    for aged in &segments[..closed] {
        let is_old = now_ms.saturating_sub(aged.last_write_ms) > policy.max_age_ms;
        let cause = match (is_old, is_full(freed)) {
            (true, _) => ExpiryCause::Age,
            (false, true) => ExpiryCause::Disk,
            (false, false) => break,
        };
        if aged.segment.end > keep_from || removed == policy.segments_at_once_max {
            break;
        }
        match expiry.steps.last_mut() {
            Some((last, end)) if *last == cause => *end = aged.segment.end,
            _ => expiry.steps.push((cause, aged.segment.end)),
        }
        freed += aged.segment.end - aged.segment.start;
        removed += 1;
    }
    expiry.is_disk_still_full = is_full(freed) && removed < policy.segments_at_once_max;
    expiry
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    fn segments(last_writes: &[u64]) -> Vec<AgedSegment> {
        let segment = |start: u64| SegmentInfo { start, end: start + 100 };
        let aged = |(n, last_write_ms): (usize, &u64)| AgedSegment {
            segment: segment(n as u64 * 100),
            last_write_ms: *last_write_ms,
        };
        last_writes.iter().enumerate().map(aged).collect()
    }

    fn space(free_bytes: u64) -> DiskSpace {
        DiskSpace { total_bytes: 1000, free_bytes }
    }

    #[test]
    fn the_old_go_and_the_open_segment_stays() {
        let policy = RetentionPolicy::default();
        let all = segments(&[0, HOUR, 2 * HOUR, 0]);
        let expiry = expire(&policy, &all, 73 * HOUR + 1, (space(900), u64::MAX));
        assert_eq!(expiry.steps, [(ExpiryCause::Age, 200)]);
        let expiry = expire(&policy, &all, 1000 * HOUR, (space(900), u64::MAX));
        assert_eq!(expiry.remove_before(), Some(300));
        assert_eq!(expire(&policy, &all, HOUR, (space(900), u64::MAX)), Expiry::default());
        assert_eq!(expire(&policy, &[], 0, (space(0), u64::MAX)).steps, []);
    }

    #[test]
    fn a_clock_that_stepped_back_removes_nothing() {
        let all = segments(&[50 * HOUR, 60 * HOUR]);
        assert_eq!(expire(&RetentionPolicy::default(), &all, 0, (space(900), u64::MAX)), Expiry::default());
    }

    #[test]
    fn a_full_disk_takes_young_segments_until_it_is_below_the_limit() {
        let policy = RetentionPolicy::default();
        let all = segments(&[0, 80 * HOUR, 80 * HOUR, 80 * HOUR]);
        let expiry = expire(&policy, &all, 80 * HOUR, (space(60), u64::MAX));
        assert_eq!(expiry.steps, [(ExpiryCause::Age, 100)], "the one that is old makes room enough");
        let expiry = expire(&policy, &all, 80 * HOUR, (space(40), u64::MAX));
        assert_eq!(expiry.steps, [(ExpiryCause::Age, 100), (ExpiryCause::Disk, 200)]);
        assert!(!expiry.is_disk_still_full);
    }

    #[test]
    fn what_must_be_kept_is_kept_and_the_full_disk_is_said() {
        let policy = RetentionPolicy::default();
        let all = segments(&[0, 0, 0, 0]);
        let expiry = expire(&policy, &all, 80 * HOUR, (space(0), 150));
        assert_eq!(expiry, Expiry { steps: vec![(ExpiryCause::Age, 100)], is_disk_still_full: true });
        let one = RetentionPolicy { segments_at_once_max: 1, ..policy };
        let expiry = expire(&one, &all, 80 * HOUR, (space(0), u64::MAX));
        assert_eq!(expiry, Expiry { steps: vec![(ExpiryCause::Age, 100)], is_disk_still_full: false });
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(
            writes in proptest::collection::vec(0..200u64, 0..20),
            now in 0..300u64, free in 0..1001u64, keep_from in 0..2500u64, at_once in 0..5usize,
        ) {
            let policy = RetentionPolicy { max_age_ms: 50, clean_at_percent: 80, segments_at_once_max: at_once };
            let all = segments(&writes);
            let expiry = expire(&policy, &all, now, (space(free), keep_from));
            let end = expiry.remove_before().unwrap_or(0);
            prop_assert!(end <= keep_from && end / 100 <= at_once as u64);
            prop_assert!(all.is_empty() || end < all.len() as u64 * 100);
            let mut start = 0;
            for (cause, end) in &expiry.steps {
                prop_assert!(*end > start);
                for aged in all.iter().filter(|aged| aged.segment.start >= start && aged.segment.end <= *end) {
                    let is_old = now.saturating_sub(aged.last_write_ms) > 50;
                    let used = 1000 - (free + aged.segment.start).min(1000);
                    let is_right = match cause {
                        ExpiryCause::Age => is_old,
                        ExpiryCause::Disk => !is_old && (used * 100).div_ceil(1000) >= 80,
                    };
                    prop_assert!(is_right, "{cause:?} {aged:?}");
                }
                start = *end;
            }
        }
    }
}
