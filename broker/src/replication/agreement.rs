//! Where a stream to one replica starts, or why there is none: a replica's introduction held against what this member has. Pure:
//! no sockets, no clock. Called by the master's end of a connection.

use super::StreamError;
use super::copy::last_frames;
use super::epochs::{LogView, common_frame, common_position};
use super::frame::{Hello, Welcome};
use crate::core::Core;
use lifecycle::identity::LogPosition;
use lifecycle::position::Position;
use store::journal::JournalView;

/// What a member holds a replica's introduction against.
pub struct Ground {
    broker_name: String,
    segment_bytes: u64,
    log: LogView,
    start: LogPosition,
    view: Option<JournalView>,
    is_master: bool,
}

/// What both ends agree on.
pub struct Agreement {
    /// What the replica is told. Where clients reach the master, and whether it waits for disks, the caller fills in.
    pub welcome: Welcome,
    /// The journal that is sent from `welcome.journal` on.
    pub view: JournalView,
    /// This member takes writes.
    pub is_master: bool,
}

impl Ground {
    /// As a core stands now.
    pub fn of(core: &Core) -> Ground {
        Ground {
            broker_name: core.config().broker_name.clone(),
            segment_bytes: core.log_segments().segment_size_bytes,
            log: core.log_view(),
            start: core.log_start(),
            view: core.replicated_journal(),
            is_master: core.standing().is_master,
        }
    }

    /// Compares the two logs and journals. Fails with [`StreamError::Disagreed`] alone.
    pub fn agree(self, hello: &Hello) -> Result<Agreement, StreamError> {
        let differs = |what: String| Err(StreamError::Disagreed(what));
        if hello.broker_name != self.broker_name {
            return differs(format!("this is replica group {}, not {}", self.broker_name, hello.broker_name));
        }
        let size = self.segment_bytes;
        if hello.segment_bytes != size {
            return differs(format!("segment_bytes is {size} here and {} there", hello.segment_bytes));
        }
        if !self.is_master && !hello.copies {
            return differs("this member is not the master".to_owned());
        }
        let Some(view) = self.view else { return differs("this member has no journal yet".to_owned()) };
        let (log, is_master) = (self.log, self.is_master);
        let start = common_position(&log, &hello.log).map_err(|e| StreamError::Disagreed(e.to_string()))?;
        if start < self.start {
            return differs(format!(
                "the log begins at {}, the replica needs {}: copy the folder",
                self.start.0, start.0
            ));
        }
        let journal = common_frame(&last_frames(&view), &hello.runs);
        check_journal(&view, journal, &log).map_err(StreamError::Disagreed)?;
        let welcome = Welcome { start, waits_for_disk: false, journal, remoting: String::new(), log };
        Ok(Agreement { welcome, view, is_master })
    }
}

/// The journal must still have every frame the replica lacks.
fn check_journal(view: &JournalView, after: Position, log: &LogView) -> Result<(), String> {
    let runs = view.incarnations();
    if after.sequence == 0 {
        let first = log.epochs.first().map(|(epoch, _)| epoch.incarnation);
        let whole = runs.first().is_some_and(|run| Some(run.incarnation) == first && run.first_sequence == 1);
        return whole
            .then_some(())
            .ok_or_else(|| "the journal's first frames are gone: copy the folder".into());
    }
    let kept = runs.iter().find(|run| run.incarnation == after.incarnation);
    match kept.is_some_and(|run| run.first_sequence <= after.sequence + 1) {
        true => Ok(()),
        false => Err("journal frames that the replica lacks are gone: copy the folder".into()),
    }
}
