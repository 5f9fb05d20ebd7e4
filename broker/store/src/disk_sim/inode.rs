//! One simulated file: its bytes, and what of them is durable. Used by `SimDisk` only.

use super::SimRng;
use std::collections::BTreeMap;

pub(super) const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) data: Vec<u8>,
    pub(super) durable_len: usize,
    /// Open handles; a removed file lives until the last one is dropped.
    pub(super) handles: u64,
    /// Durable content of the pages changed since the last sync.
    pub(super) undo: BTreeMap<usize, Vec<u8>>,
    /// The same for pages a failed sync left behind: the next sync does not write them.
    pub(super) forsaken: BTreeMap<usize, Vec<u8>>,
}

impl Inode {
    /// Remembers the durable content of the pages of a byte range before they change.
    pub(super) fn touch(&mut self, from: usize, to: usize) {
        for page in from / PAGE..to.div_ceil(PAGE) {
            if self.undo.contains_key(&page) {
                continue;
            }
            let old = self.forsaken.remove(&page).unwrap_or_else(|| {
                let end = self.durable_len.min((page + 1) * PAGE).min(self.data.len());
                self.data.get(page * PAGE..end).unwrap_or_default().to_vec()
            });
            self.undo.insert(page, old);
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let (low, high) = (self.data.len().min(len), self.data.len().max(len));
        self.touch(low, high.max(low + 1));
        self.data.resize(len, 0);
    }

    pub(super) fn power_cut(&mut self, rng: &mut SimRng) {
        let mut undo = std::mem::take(&mut self.undo);
        undo.append(&mut self.forsaken);
        let (low, high) = (self.durable_len.min(self.data.len()), self.durable_len.max(self.data.len()));
        let len = match rng.below(3) {
            0 => self.durable_len,
            1 => self.data.len(),
            _ => low + usize::try_from(rng.below((high - low) as u64 + 1)).unwrap_or(0),
        };
        self.data.resize(len, 0);
        for (page, old) in undo {
            let choice = rng.below(3);
            for sector in 0..PAGE / SECTOR {
                let keep_new = match choice {
                    0 => false,
                    1 => true,
                    _ => rng.below(2) == 0,
                };
                let start = page * PAGE + sector * SECTOR;
                let end = (start + SECTOR).min(len);
                if keep_new || start >= end {
                    continue;
                }
                for at in start..end {
                    self.data[at] = old.get(at - page * PAGE).copied().unwrap_or(0);
                }
            }
        }
        self.durable_len = len;
    }

    /// A sync that works, or one that fails and leaves the dirty pages volatile for good.
    pub(super) fn sync(&mut self, failing: bool) {
        if failing {
            self.forsaken.append(&mut self.undo);
            return;
        }
        self.undo.clear();
        self.durable_len = self.data.len();
    }
}
