//! Owns a ledger without a disk, for the simulation and for tests: durable at commit, and able to fail on either side of it.

use super::{Change, Ledger, LedgerError, OpenedLedger};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// When a commit fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitFault {
    /// Nothing was written.
    Before,
    /// Everything was written, and the process died before it knew.
    After,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    commits: u64,
    fault: Option<(u64, CommitFault)>,
}

/// Rows in memory; clones share them, as processes share a disk.
#[derive(Clone, Default)]
pub struct MemoryLedger {
    state: Arc<Mutex<State>>,
}

impl MemoryLedger {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a process finds that starts now.
    pub fn open(&self) -> OpenedLedger {
        let rows = self.lock().rows.clone().into_iter().collect();
        OpenedLedger { ledger: Box::new(self.clone()), rows, rebuilt: None }
    }

    /// Makes a commit fail, the `number`th from the beginning (from 1).
    pub fn fail_at(&self, number: u64, fault: CommitFault) {
        self.lock().fault = Some((number, fault));
    }

    /// How many commits were tried.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// Forgets everything, as a damaged ledger does.
    pub fn wipe(&self) {
        self.lock().rows.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for MemoryLedger {
    fn commit(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        let mut state = self.lock();
        state.commits += 1;
        let fault = state.fault.filter(|(number, _)| *number == state.commits).map(|(_, fault)| fault);
        if fault == Some(CommitFault::Before) {
            return Err(LedgerError::Io("planned fault before the commit".into()));
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.rows.insert(key.clone(), value.clone())),
                None => drop(state.rows.remove(key)),
            }
        }
        if fault == Some(CommitFault::After) {
            return Err(LedgerError::Io("planned fault after the commit".into()));
        }
        Ok(())
    }

    fn row_count(&self) -> u64 {
        self.lock().rows.len() as u64
    }
}
