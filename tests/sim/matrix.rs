//! Owns the confusion matrix: what was true against what was said, and how it is printed. Never decides what is right.

use agent::fold::class::Class;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// What was said of something true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    Said(Class),
    Undecided,
    Nothing,
}

/// See the module text.
#[derive(Default)]
pub(crate) struct Matrix {
    cells: BTreeMap<(Class, Cell), u64>,
    invented: BTreeMap<Class, u64>,
}

impl Matrix {
    pub(crate) fn add(&mut self, truth: Class, said: Cell) {
        *self.cells.entry((truth, said)).or_default() += 1;
    }

    /// Said, and nothing of the kind happened.
    pub(crate) fn add_invented(&mut self, class: Class) {
        *self.invented.entry(class).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: Matrix) {
        for (cell, count) in other.cells {
            *self.cells.entry(cell).or_default() += count;
        }
        for (class, count) in other.invented {
            *self.invented.entry(class).or_default() += count;
        }
    }

    /// How many of a class were told as what they were.
    pub(crate) fn told(&self, class: Class) -> u64 {
        self.cells.get(&(class, Cell::Said(class))).copied().unwrap_or(0)
    }

    /// How many of a class were injected.
    pub(crate) fn injected(&self, class: Class) -> u64 {
        self.cells.iter().filter(|((truth, _), _)| *truth == class).map(|(_, count)| count).sum()
    }
}

impl Display for Matrix {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30} {:>8} {:>8} {:>9} {:>7}  other class",
            "true", "injected", "same", "undecided", "missed"
        )?;
        let classes: BTreeSet<Class> =
            self.cells.keys().map(|(truth, _)| *truth).chain(self.invented.keys().copied()).collect();
        for class in classes {
            let count = |cell| self.cells.get(&(class, cell)).copied().unwrap_or(0);
            let others: Vec<String> = self
                .cells
                .iter()
                .filter_map(|((truth, said), count)| match said {
                    Cell::Said(other) if *truth == class && *other != class => {
                        Some(format!("{} {count}", other.text()))
                    }
                    _ => None,
                })
                .collect();
            let (same, undecided, missed) =
                (count(Cell::Said(class)), count(Cell::Undecided), count(Cell::Nothing));
            writeln!(
                f,
                "{:<30} {:>8} {same:>8} {undecided:>9} {missed:>7}  {}",
                class.text(),
                self.injected(class),
                if others.is_empty() { "0".to_owned() } else { others.join(", ") }
            )?;
        }
        let invented: u64 = self.invented.values().sum();
        writeln!(f, "invented (said, and nothing of the kind happened): {invented} {:?}", self.invented)
    }
}
