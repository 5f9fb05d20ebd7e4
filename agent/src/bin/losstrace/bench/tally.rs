//! Owns what clients measured: latencies, errors, and the phase all of them are in. All clients run on one thread.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longest latency told apart, microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Kinds of errors told apart; more count as the last.
const ERROR_KINDS_MAX: usize = 32;

/// Before, during or after the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    WarmUp,
    Measuring,
    Over,
}

pub(crate) struct Tally {
    phase: Phase,
    latencies: Histogram<u64>,
    messages: u64,
    errors: BTreeMap<String, u64>,
    /// Messages still wanted, when their number is given.
    left: Option<u64>,
}

/// What all clients of a run write into.
#[derive(Clone)]
pub(crate) struct Shared {
    tally: Rc<RefCell<Tally>>,
    pub started: Instant,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Shared {
    pub(crate) fn new(left: Option<u64>) -> Result<Shared> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)?;
        let phase = Phase::WarmUp;
        let tally = Tally { phase, latencies, messages: 0, errors: BTreeMap::new(), left };
        Ok(Shared { tally: Rc::new(RefCell::new(tally)), started: Instant::now() })
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.tally.borrow_mut().phase = phase;
    }

    /// Whether another request may be made.
    pub(crate) fn goes_on(&self) -> bool {
        let tally = self.tally.borrow();
        tally.phase != Phase::Over && tally.left != Some(0)
    }

    /// A request of `messages` messages was answered well.
    pub(crate) fn answered(&self, messages: u64, took: Duration) {
        let mut tally = self.tally.borrow_mut();
        if tally.phase != Phase::Measuring {
            return;
        }
        tally.latencies.saturating_record(took.as_micros() as u64);
        tally.messages += messages;
        tally.left = tally.left.map(|left| left.saturating_sub(messages));
    }

    /// A request failed, or was refused.
    pub(crate) fn failed(&self, why: &str) {
        let mut tally = self.tally.borrow_mut();
        if tally.phase == Phase::Over {
            return;
        }
        let known = tally.errors.len() < ERROR_KINDS_MAX || tally.errors.contains_key(why);
        *tally.errors.entry(if known { why } else { "others" }.to_owned()).or_default() += 1;
        // failures count down too: a broker that refuses everything must not be asked for ever
        tally.left = tally.left.map(|left| left.saturating_sub(1));
    }

    pub(crate) fn messages(&self) -> u64 {
        self.tally.borrow().messages
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.tally.borrow().errors.clone()
    }

    pub(crate) fn latency(&self) -> Latency {
        let latencies = &self.tally.borrow().latencies;
        let at = |quantile| latencies.value_at_quantile(quantile);
        Latency {
            mean: latencies.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latencies.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_phase_counts_and_a_given_number_ends_it() {
        let shared = Shared::new(Some(3)).unwrap();
        let took = Duration::from_micros(700);
        shared.answered(1, took);
        assert_eq!(shared.messages(), 0);
        shared.enter(Phase::Measuring);
        shared.answered(2, took);
        assert!(shared.goes_on());
        shared.failed("14 busy");
        assert!(!shared.goes_on());
        shared.enter(Phase::Over);
        shared.answered(1, took);
        shared.failed("late");
        assert_eq!((shared.messages(), shared.latency().p50), (2, 700));
        assert_eq!(shared.errors(), BTreeMap::from([("14 busy".to_owned(), 1)]));
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let shared = Shared::new(None).unwrap();
        (0..100).for_each(|n| shared.failed(&n.to_string()));
        let errors = shared.errors();
        assert_eq!((errors.len(), errors.values().sum::<u64>()), (ERROR_KINDS_MAX + 1, 100));
    }
}
