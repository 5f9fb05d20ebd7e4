//! What a snapshot and the journal behind it tell: the state before the log is read.

use super::Ends;
use crate::core::snapshot::Snapshot;
use crate::state::State;
use lifecycle::frame::FrameDecoder;
use lifecycle::identity::{Epoch, Incarnation, LogPosition};
use lifecycle::position::Position;
use store::error::Result as StoreResult;
use store::journal::{JournalItem, JournalView};

/// What snapshot and journal tell.
#[derive(Default)]
pub(in crate::core) struct Replayed {
    pub(in crate::core) state: State,
    /// Who owns which part of the log.
    pub(in crate::core) epochs: Vec<(Epoch, LogPosition)>,
    /// Queue ends as of `log_end`.
    pub(in crate::core) base: Ends,
    /// Below this the snapshot vouches for queues and log.
    pub(in crate::core) log_end: LogPosition,
    pub(in crate::core) clean: bool,
    pub(in crate::core) closed: Vec<(Incarnation, u64)>,
    /// Where the snapshot stands in the journal.
    pub(in crate::core) snapshot: Option<Position>,
    /// Journal frames are missing.
    pub(in crate::core) holes: bool,
}

pub(super) fn replay(
    view: &JournalView,
    snapshot: Option<&Snapshot>,
    new: Incarnation,
) -> StoreResult<Replayed> {
    let mut state = State::default();
    for fact in snapshot.iter().flat_map(|snapshot| &snapshot.facts) {
        state.apply(fact);
    }
    let log_end = snapshot.map_or(LogPosition(0), |snapshot| snapshot.log_end);
    let base = state.queues().map(|(queue, bounds)| (queue, bounds.max_offset)).collect();
    let closed: Vec<(Incarnation, u64)> = view
        .incarnations()
        .into_iter()
        .filter(|info| info.incarnation != new)
        .map(|info| (info.incarnation, info.last_sequence))
        .collect();
    let start = snapshot.map(|snapshot| snapshot.position);
    let mut fold = Fold { state, decoder: FrameDecoder::new(), holes: false };
    fold.read(view, start, new)?;
    let last = closed
        .last()
        .map(|(incarnation, sequence)| Position { incarnation: *incarnation, sequence: *sequence });
    let nothing_before = closed.is_empty() && snapshot.is_none();
    let clean = nothing_before || snapshot.is_some_and(|s| s.clean && Some(s.position) == last);
    let (clean, holes) = (clean && !fold.holes, fold.holes);
    let epochs = fold.state.epochs.clone();
    Ok(Replayed { state: fold.state, epochs, base, log_end, clean, closed, snapshot: start, holes })
}

#[derive(Default)]
pub(in crate::core) struct Fold {
    pub(in crate::core) state: State,
    pub(in crate::core) decoder: FrameDecoder,
    pub(in crate::core) holes: bool,
}

impl Fold {
    pub(in crate::core) fn read(
        &mut self,
        view: &JournalView,
        start: Option<Position>,
        new: Incarnation,
    ) -> StoreResult<()> {
        let mut reader = match start.map(|position| view.read_from(position)) {
            Some(Err(error)) if error.is_not_found() => {
                // the journal is gone, the snapshot is not: what was stored is in the log, and readers are told of the gap
                tracing::warn!(
                    "the journal that the snapshot belongs to is missing: what it told is unknown"
                );
                self.holes = true;
                view.read_all()?
            }
            Some(reader) => reader?,
            None => view.read_all()?,
        };
        while let Some(item) = reader.next()? {
            match item {
                JournalItem::Frame { position, .. } if position.incarnation == new => break,
                JournalItem::Frame { position, payload, .. } => self.frame(position, payload, start),
                JournalItem::Hole { incarnation, from, to } => {
                    tracing::warn!(%incarnation, from, to, "journal frames are missing");
                    self.holes = true;
                    self.decoder = FrameDecoder::new();
                }
                JournalItem::Closed { .. } => self.decoder = FrameDecoder::new(),
            }
        }
        Ok(())
    }

    fn frame(&mut self, position: Position, payload: &[u8], start: Option<Position>) {
        match self.decoder.decode(payload) {
            Ok(frame) => {
                let behind = start.is_some_and(|s| {
                    s.incarnation == position.incarnation && position.sequence <= s.sequence
                });
                if !behind {
                    frame.facts.iter().for_each(|fact| self.state.apply(fact));
                }
            }
            Err(error) => {
                tracing::warn!(%error, incarnation = %position.incarnation, sequence = position.sequence, "journal frame unreadable");
                self.holes = true;
            }
        }
    }
}
