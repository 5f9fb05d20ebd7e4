//! What a recovery does to the state: whatever the journal says above the surviving log is void.

use super::{State, UnflushedCopy};
use lifecycle::fact::Recovered;
use lifecycle::identity::CopyReason;

impl State {
    pub(super) fn recovered(&mut self, recovered: &Recovered) {
        self.log_end = recovered.log_end;
        // a disk that did not keep what it had flushed: what is stored above the end from now on is not on it yet
        self.flushed = recovered.flushed.min(recovered.log_end);
        for (queue, min_offset, end) in &recovered.queues {
            let bounds = self.queues.entry(*queue).or_default();
            bounds.min_offset = *min_offset;
            bounds.max_offset = *end;
            self.timers.truncate(*queue, *end);
            for group in self.groups.values_mut() {
                if let Some(queue) = group.queues.get_mut(queue) {
                    queue.truncate(*end);
                }
            }
        }
        let copies = std::mem::take(&mut self.unflushed_copies);
        for copy in copies {
            if copy.copy.queue_offset >= self.bounds(copy.copy.queue).max_offset {
                self.copy_is_void(&copy);
            }
        }
    }

    /// A copy that did not survive counts as not made: its parent is due again, at once.
    fn copy_is_void(&mut self, copy: &UnflushedCopy) {
        let parent = copy.lineage.parent;
        if copy.lineage.reason == CopyReason::ReDrive {
            // of an epoch that lost: no bounds of ours tell of it; it can be sent again from where it came
            let key = (parent.queue, parent.epoch_number);
            if let Some(ranges) = self.re_driven.get_mut(&key) {
                ranges.remove(parent.queue_offset, parent.queue_offset + 1);
                if ranges.is_empty() {
                    self.re_driven.remove(&key);
                }
            }
            return;
        }
        if parent.queue_offset >= self.bounds(parent.queue).max_offset {
            return; // the parent is gone too: it has a verdict of its own
        }
        match copy.lineage.reason {
            CopyReason::Due => self.timers.insert(1, parent.queue, parent.queue_offset),
            CopyReason::Retry | CopyReason::DeadLetter => {
                self.lost_copies.push((copy.group.clone(), copy.lineage, copy.due_wall_ms));
            }
            CopyReason::Commit | CopyReason::ReDrive => {}
        }
    }
}
