//! Owns durability receipts: what was true of messages when their sends were answered. Counted by epoch, because an epoch's settings are
//! its promise: nearly always all of its sends were answered alike, and then each message's receipt is known without a word about it.

use lifecycle::fact::AnswerClass;
use std::collections::BTreeMap;

/// Epochs whose answers are counted apart; the oldest are forgotten, the total keeps them.
pub const EPOCHS_MAX: usize = 256;
/// Every class of answer, in the order of its number.
pub const CLASSES: [AnswerClass; 7] = [
    AnswerClass::Flushed,
    AnswerClass::Buffered,
    AnswerClass::FlushDiskTimeout,
    AnswerClass::FlushSlaveTimeout,
    AnswerClass::SlaveNotAvailable,
    AnswerClass::Replicated,
    AnswerClass::OneWay,
];

/// Sends by how they were answered, in the order of [`CLASSES`].
pub type Answers = [u64; CLASSES.len()];

/// See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Receipts {
    epochs: BTreeMap<u64, Answers>,
    total: Answers,
}

impl Receipts {
    /// `count` sends of this epoch were answered so.
    pub fn note(&mut self, epoch: u64, class: AnswerClass, count: u64) {
        let Some(place) = CLASSES.iter().position(|known| *known == class) else { return };
        let of_epoch = self.epochs.entry(epoch).or_default();
        for answers in [of_epoch, &mut self.total] {
            if let Some(answered) = answers.get_mut(place) {
                *answered += count;
            }
        }
        while self.epochs.len() > EPOCHS_MAX {
            self.epochs.pop_first();
        }
    }

    /// All of them.
    pub fn total(&self) -> &Answers {
        &self.total
    }

    /// Those of an epoch, the classes that occurred; empty: none is known.
    pub fn of(&self, epoch: u64) -> impl Iterator<Item = (AnswerClass, u64)> + '_ {
        let answers = self.epochs.get(&epoch).into_iter().flatten();
        CLASSES.into_iter().zip(answers.copied()).filter(|(_, count)| *count > 0)
    }

    /// For the ledger.
    pub(in crate::fold) fn parts(&self) -> (Vec<(u64, Vec<u64>)>, Vec<u64>) {
        let epochs = self.epochs.iter().map(|(epoch, answers)| (*epoch, answers.to_vec()));
        (epochs.collect(), self.total.to_vec())
    }

    /// From the ledger; `None`: these are no receipts.
    pub(in crate::fold) fn of_parts((epochs, total): (Vec<(u64, Vec<u64>)>, Vec<u64>)) -> Option<Receipts> {
        let answers = |counts: Vec<u64>| Answers::try_from(counts).ok();
        let epochs = epochs.into_iter().map(|(epoch, counts)| Some((epoch, answers(counts)?)));
        let epochs: BTreeMap<u64, Answers> = epochs.collect::<Option<_>>()?;
        (epochs.len() <= EPOCHS_MAX).then_some(())?;
        Some(Receipts { epochs, total: answers(total)? })
    }
}

/// What a class is called in metrics.
pub fn label(class: AnswerClass) -> &'static str {
    match class {
        AnswerClass::Flushed => "flushed",
        AnswerClass::Buffered => "buffered",
        AnswerClass::FlushDiskTimeout => "flush_disk_timeout",
        AnswerClass::FlushSlaveTimeout => "flush_slave_timeout",
        AnswerClass::SlaveNotAvailable => "slave_not_available",
        AnswerClass::Replicated => "replicated",
        AnswerClass::OneWay => "one_way",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_epoch_and_the_oldest_epochs_are_forgotten() {
        let mut receipts = Receipts::default();
        for epoch in 1..=EPOCHS_MAX as u64 + 1 {
            receipts.note(epoch, AnswerClass::Flushed, 3);
        }
        receipts.note(7, AnswerClass::FlushDiskTimeout, 2);
        assert_eq!(receipts.of(1).count(), 0, "forgotten");
        assert_eq!(receipts.of(2).collect::<Vec<_>>(), [(AnswerClass::Flushed, 3)]);
        let mixed = [(AnswerClass::Flushed, 3), (AnswerClass::FlushDiskTimeout, 2)];
        assert_eq!(receipts.of(7).collect::<Vec<_>>(), mixed);
        assert_eq!(receipts.total()[0], 3 * (EPOCHS_MAX as u64 + 1), "the total keeps them");
        assert_eq!(Receipts::of_parts(receipts.parts()), Some(receipts));
        assert_eq!(Receipts::of_parts((vec![(1, vec![1, 2])], vec![0; 7])), None);
    }
}
