//! Where two logs of one replica group part. Pure: epoch tables in, a position out. Called by both ends of a stream, which must
//! come to the same answer.

use lifecycle::identity::{Epoch, Incarnation, LogPosition};
use lifecycle::position::Position;

/// Most epochs in a table: a master start or a promotion makes one.
pub const EPOCHS_MAX: usize = 65_536;

/// One epoch, and the first commit-log byte it owns.
pub type EpochRow = (Epoch, LogPosition);

/// A log as the other side sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogView {
    /// Every epoch it has accepted, rising; the newest may begin beyond what it holds.
    pub epochs: Vec<EpochRow>,
    /// One past its last valid byte.
    pub end: LogPosition,
}

/// Why a replica does not follow a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAgreement {
    /// The replica has accepted a later epoch, from another master.
    #[error("the master's epoch {master} is older than epoch {accepted}, which this replica has accepted")]
    OlderEpoch {
        /// The master's newest.
        master: u64,
        /// The replica's newest.
        accepted: u64,
    },
    /// Two runs opened epochs of one number.
    #[error("a fork: epoch {0} was opened by two masters")]
    Fork(u64),
    /// The logs have no epoch in common.
    #[error("the logs have no epoch in common: this folder belongs to another replica group")]
    Strangers,
    /// The tables are not epoch tables.
    #[error("the epoch table is not in order")]
    Disorder,
}

impl LogView {
    /// Numbers and starts rise, and the table is within its limit.
    pub fn is_in_order(&self) -> bool {
        let mut pairs = self.epochs.iter().zip(self.epochs.iter().skip(1));
        self.epochs.len() <= EPOCHS_MAX && pairs.all(|(a, b)| a.0.number < b.0.number && a.1 <= b.1)
    }

    fn newest(&self) -> u64 {
        self.epochs.last().map_or(0, |(epoch, _)| epoch.number)
    }

    /// Where the epoch in row `index` ends in this log.
    fn end_of(&self, index: usize) -> LogPosition {
        self.epochs.get(index + 1).map_or(self.end, |(_, start)| *start).min(self.end)
    }
}

/// The last position up to which a replica's log is the master's: the end of the newest epoch both have, on the side where it
/// ended first. What the replica has above it belongs to epochs that lost.
pub fn common_position(master: &LogView, replica: &LogView) -> Result<LogPosition, NoAgreement> {
    if !master.is_in_order() || !replica.is_in_order() {
        return Err(NoAgreement::Disorder);
    }
    let (newest, accepted) = (master.newest(), replica.newest());
    if newest < accepted {
        return Err(NoAgreement::OlderEpoch { master: newest, accepted });
    }
    if newest == accepted && master.epochs.last().map(|row| row.0) != replica.epochs.last().map(|row| row.0) {
        return Err(NoAgreement::Fork(newest));
    }
    for (index, row) in replica.epochs.iter().enumerate().rev() {
        if let Some(other) = master.epochs.iter().position(|known| known == row) {
            return Ok(master.end_of(other).min(replica.end_of(index)));
        }
    }
    match replica.end {
        LogPosition(0) => Ok(LogPosition(0)),
        _ => Err(NoAgreement::Strangers),
    }
}

/// The last journal frame two members have in common (sequence 0: none): runs follow each other, so it lies in the newest run both
/// know, on the side where that ends first. `mine` and `theirs` name the last frame of each run, oldest first.
pub fn common_frame(mine: &[Position], theirs: &[Position]) -> Position {
    let common = theirs.iter().rev().find_map(|at| {
        let known = mine.iter().rev().find(|known| known.incarnation == at.incarnation)?;
        let sequence = at.sequence.min(known.sequence);
        (sequence > 0).then_some(Position { sequence, ..*at })
    });
    common.unwrap_or(Position { incarnation: Incarnation::NONE, sequence: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(number: u64, run: u8, start: u64) -> EpochRow {
        (Epoch { number, incarnation: Incarnation([run; 16]) }, LogPosition(start))
    }

    fn log(epochs: &[EpochRow], end: u64) -> LogView {
        LogView { epochs: epochs.to_vec(), end: LogPosition(end) }
    }

    #[test]
    fn the_common_frame_lies_in_the_newest_run_both_know() {
        let at = |run, sequence| Position { incarnation: Incarnation([run; 16]), sequence };
        let none = Position { incarnation: Incarnation::NONE, sequence: 0 };
        let master = [at(1, 10), at(2, 20), at(4, 5)];
        let cases: [(&[Position], Position); 6] = [
            (&[], none),
            (&[at(1, 7)], at(1, 7)),
            (&[at(1, 10), at(2, 26)], at(2, 20)),
            (&[at(1, 10), at(2, 26), at(3, 4)], at(2, 20)),
            (&[at(1, 10), at(2, 20), at(4, 2)], at(4, 2)),
            (&[at(9, 3)], none),
        ];
        for (replica, common) in cases {
            assert_eq!(common_frame(&master, replica), common, "{replica:?}");
        }
    }

    #[test]
    fn the_common_position_is_the_end_of_the_newest_epoch_both_have() {
        let master = log(&[row(1, 1, 0), row(2, 2, 100), row(4, 4, 250)], 400);
        let cases = [
            (log(&[], 0), Ok(0), "an empty replica starts at the beginning"),
            (log(&[row(1, 1, 0)], 60), Ok(60), "behind, in an epoch that is over"),
            (log(&[row(1, 1, 0)], 130), Ok(100), "had more than the master kept of epoch 1"),
            (log(&[row(1, 1, 0), row(2, 2, 100)], 300), Ok(250), "had more than the master kept of epoch 2"),
            (log(&[row(1, 1, 0), row(3, 3, 90)], 120), Ok(90), "its own epoch 3 lost to 4"),
            (log(&[row(1, 1, 0), row(2, 2, 100), row(4, 4, 250)], 300), Ok(300), "behind, in the newest"),
            (log(&[row(1, 1, 0), row(2, 2, 100), row(4, 4, 250)], 120), Ok(120), "behind what it accepted"),
            (log(&[row(1, 1, 0), row(3, 3, 200)], 90), Ok(90), "behind an epoch that lost"),
            (
                log(&[row(1, 1, 0), row(5, 5, 100)], 100),
                Err(NoAgreement::OlderEpoch { master: 4, accepted: 5 }),
                "an older master",
            ),
            (
                log(&[row(1, 1, 0), row(4, 9, 100)], 100),
                Err(NoAgreement::Fork(4)),
                "two masters of one epoch",
            ),
            (log(&[row(1, 7, 0)], 50), Err(NoAgreement::Strangers), "another group's folder"),
            (log(&[row(2, 2, 100), row(1, 1, 0)], 50), Err(NoAgreement::Disorder), "not a table"),
        ];
        for (replica, expected, why) in cases {
            assert_eq!(common_position(&master, &replica), expected.map(LogPosition), "{why}");
        }
    }

    proptest! {
        /// Two logs are grown from one, apart: what the function calls common is the same bytes in both.
        #[test]
        fn below_the_common_position_every_byte_has_one_owner(
            shared in prop::collection::vec(1u64..50, 0..4),
            kept in 0u64..60,
            theirs in prop::collection::vec(1u64..50, 0..3),
            ours in prop::collection::vec(1u64..50, 1..4),
        ) {
            let mut master = LogView::default();
            let grow = |log: &mut LogView, number: u64, run: u8, by: u64| {
                log.epochs.push(row(number, run, log.end.0));
                log.end.0 += by;
            };
            for (index, by) in shared.iter().enumerate() {
                grow(&mut master, index as u64 + 1, 1, *by);
            }
            let mut replica = master.clone();
            // the master lost a tail of its newest epoch, the replica went on by itself
            let last_start = master.epochs.last().map_or(0, |(_, start)| start.0);
            master.end.0 -= kept.min(master.end.0 - last_start);
            let fork = master.end;
            for (index, by) in theirs.iter().enumerate() {
                grow(&mut replica, 10 + index as u64, 2, *by);
            }
            for (index, by) in ours.iter().enumerate() {
                grow(&mut master, 20 + index as u64, 3, *by);
            }
            match common_position(&master, &replica) {
                Ok(common) => prop_assert_eq!(common, fork.min(replica.end)),
                Err(error) => prop_assert!(shared.is_empty() && replica.end.0 > 0, "{}", error),
            }
        }
    }
}
