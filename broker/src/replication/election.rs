//! Who may become master, and with what it must begin: the rules of a campaign. Pure: standings in, the next step out. Called by
//! the campaign, which asks and carries.
//!
//! Why nothing answered is lost: n members, k of which had each answered message; n - k + 1 have promised, so at least one of them
//! has it, and none of them confirms anything to an older master from then on.

use super::frame::Standing;
use lifecycle::identity::LogPosition;

/// What a candidate goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Members that must promise, itself included.
    pub needed: usize,
    /// Whoever is master now.
    pub forced: bool,
    /// The others were waited for long enough.
    pub out_of_patience: bool,
}

/// What comes after everybody was asked how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Another member is master: follow it.
    Follow,
    /// Only so many members are in reach, this one included.
    TooFew(usize),
    /// Promise this epoch number, and ask everybody to.
    Promise(u64),
}

/// What comes after everybody was asked to promise.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a, K> {
    /// Only so many members have promised, this one included.
    TooFew(usize),
    /// This member has whatever any of them has.
    Elected,
    /// Another member has more: that is copied first.
    CopyFirst(&'a (K, Standing)),
}

/// The epoch number of a log's last epoch; 0: none.
pub fn newest(standing: &Standing) -> u64 {
    standing.log.epochs.last().map_or(0, |(epoch, _)| epoch.number)
}

impl Rules {
    /// What to do, given how this member and the others in reach stand.
    pub fn open(&self, mine: &Standing, others: &[&Standing]) -> Opening {
        if !self.forced && others.iter().any(|other| other.is_master && newest(other) >= newest(mine)) {
            return Opening::Follow;
        }
        if self.lacks(others.len()) {
            return Opening::TooFew(1 + others.len());
        }
        let everybody = others.iter().copied().chain([mine]);
        let highest = everybody.map(|standing| standing.promised.max(newest(standing))).max();
        Opening::Promise(highest.unwrap_or(0) + 1)
    }

    /// What to do, given who answered when asked to promise `number`. Who had promised as much before refuses, and is not counted.
    pub fn count<'a, K>(&self, mine: &Standing, number: u64, answers: &'a [(K, Standing)]) -> Outcome<'a, K> {
        let promised: Vec<_> = answers.iter().filter(|(_, other)| other.promised == number).collect();
        if self.lacks(promised.len()) {
            return Outcome::TooFew(1 + promised.len());
        }
        let has = |standing: &Standing| -> (u64, LogPosition) { (newest(standing), standing.log.end) };
        let most = promised.into_iter().max_by_key(|(_, other)| has(other));
        match most.filter(|(_, other)| has(other) > has(mine)) {
            Some(most) => Outcome::CopyFirst(most),
            None => Outcome::Elected,
        }
    }

    fn lacks(&self, others: usize) -> bool {
        1 + others < self.needed && !self.out_of_patience
    }
}
