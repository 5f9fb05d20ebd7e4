//! Owns what a measurement is and how it is shown: JSON with everything, or a table of what matters. Medians over rounds; ratios of
//! two sides only within one run.

use super::tally::Latency;
use super::target::Reading;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One phase of one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub messages: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    pub latency_us: Latency,
    pub errors: BTreeMap<String, u64>,
    /// What the broker used, per message it stored or handed out.
    pub cost: Cost,
    /// The most its replica was seen to lack, bytes of log; `None` without a replica.
    pub lag_bytes: Option<u64>,
}

/// Per message; `None` where it could not be read.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Cost {
    pub cpu_us: Option<f64>,
    pub cpu_user_us: Option<f64>,
    pub cpu_system_us: Option<f64>,
    /// What the clients used beside it, on the same processors.
    pub clients_cpu_us: f64,
    /// What its replica used, beside `cpu_us`.
    pub replica_cpu_us: Option<f64>,
    /// CPU of the broker's threads, by name.
    pub threads_us: BTreeMap<String, f64>,
    pub write_calls: Option<f64>,
    pub read_calls: Option<f64>,
    pub turns: Option<f64>,
    pub log_flushes: Option<f64>,
    pub journal_flushes: Option<f64>,
    pub journal_bytes: Option<f64>,
    pub log_bytes: Option<f64>,
}

impl Cost {
    pub(crate) fn between(before: &Reading, after: &Reading, messages: u64) -> Cost {
        let counted = |name: &str| Some(after.counters.get(name)? - before.counters.get(name)?);
        // the broker's own count covers exactly the same time as its costs; consuming stores nothing
        let own = counted("rocketmq_messages_in_total").filter(|own| *own > 0.0);
        let messages = own.unwrap_or(messages as f64).max(1.0);
        let per_message = |name: &str| Some(counted(name)? / messages);
        let (user, system) = (after.user - before.user, after.system - before.system);
        let read = !after.threads.is_empty();
        let us = |time: std::time::Duration| time.as_secs_f64() * 1e6 / messages;
        let threads = after.threads.iter().map(|(name, used)| {
            let before = before.threads.get(name).copied().unwrap_or_default();
            (name.clone(), us(used.saturating_sub(before)))
        });
        let calls = |after: u64, before: u64| read.then_some((after - before) as f64 / messages);
        Cost {
            cpu_us: read.then_some(us(user + system)),
            cpu_user_us: read.then_some(us(user)),
            cpu_system_us: read.then_some(us(system)),
            clients_cpu_us: us(after.clients.saturating_sub(before.clients)),
            replica_cpu_us: after
                .replica
                .map(|used| us(used.saturating_sub(before.replica.unwrap_or_default()))),
            threads_us: threads.filter(|(_, used)| *used > 0.0).collect(),
            write_calls: calls(after.write_calls, before.write_calls),
            read_calls: calls(after.read_calls, before.read_calls),
            turns: per_message("losstrace_broker_journal_frames_total"),
            log_flushes: per_message("losstrace_broker_log_flushes_total"),
            journal_flushes: per_message("losstrace_broker_journal_flushes_total"),
            journal_bytes: per_message("losstrace_broker_journal_bytes"),
            log_bytes: per_message("losstrace_broker_log_end_bytes"),
        }
    }
}

/// All rounds of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub label: String,
    pub rounds: Vec<Measured>,
    /// Said beside it, e.g. the disk's own rate.
    pub notes: BTreeMap<String, f64>,
}

type Reader = fn(&Measured) -> Option<f64>;

/// The columns of a table: heading, digits behind the point, where it is read.
const COLUMNS: [(&str, usize, Reader); 16] = [
    ("MSG/S", 0, |m| Some(m.messages_per_second)),
    ("P50 us", 0, |m| Some(m.latency_us.p50 as f64)),
    ("P90", 0, |m| Some(m.latency_us.p90 as f64)),
    ("P99", 0, |m| Some(m.latency_us.p99 as f64)),
    ("P99.9", 0, |m| Some(m.latency_us.p999 as f64)),
    ("MAX", 0, |m| Some(m.latency_us.max as f64)),
    ("CPU us/msg", 2, |m| m.cost.cpu_us),
    ("REPLICA", 2, |m| m.cost.replica_cpu_us),
    ("CLIENTS", 2, |m| Some(m.cost.clients_cpu_us)),
    ("WRITES/msg", 3, |m| m.cost.write_calls),
    ("FLUSH/msg", 4, |m| Some(m.cost.log_flushes? + m.cost.journal_flushes?)),
    ("JOURNAL B/msg", 2, |m| m.cost.journal_bytes),
    ("LOG B/msg", 0, |m| m.cost.log_bytes),
    ("MSG/TURN", 1, |m| m.cost.turns.filter(|turns| *turns > 0.0).map(|turns| 1.0 / turns)),
    ("LAG B", 0, |m| m.lag_bytes.map(|lag| lag as f64)),
    ("ERRORS", 0, |m| Some(m.errors.values().sum::<u64>() as f64)),
];

impl Series {
    pub(crate) fn new(label: String) -> Series {
        Series { label, rounds: Vec::new(), notes: BTreeMap::new() }
    }

    pub(crate) fn median(&self, read: Reader) -> Option<f64> {
        median(self.rounds.iter().filter_map(read).collect())
    }

    /// Log flushes a second, of the median round.
    pub(crate) fn log_flushes_per_second(&self) -> Option<f64> {
        self.median(|m| Some(m.cost.log_flushes? * m.messages_per_second))
    }

    fn row(&self) -> Vec<String> {
        let cells = COLUMNS.iter().map(|(_, digits, read)| match self.median(*read) {
            Some(value) => format!("{value:.digits$}"),
            None => "-".to_owned(),
        });
        std::iter::once(self.label.clone()).chain(cells).collect()
    }

    fn json(&self) -> Value {
        let medians: BTreeMap<_, _> =
            COLUMNS.iter().map(|(name, _, read)| (*name, self.median(*read))).collect();
        json!({ "label": self.label, "notes": self.notes, "medians": medians, "rounds": self.rounds })
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values.get(middle - 1)? + values.get(middle)?) / 2.0),
    }
}

pub(crate) fn print_json(all: &[Series]) {
    let text =
        serde_json::to_string_pretty(&json!({ "series": all.iter().map(Series::json).collect::<Vec<_>>() }));
    println!("{}", text.unwrap_or_default());
}

pub(crate) fn print_table(all: &[Series]) {
    let mut table = Table::new();
    let heads = std::iter::once("MEDIAN OF ROUNDS").chain(COLUMNS.iter().map(|(name, ..)| *name));
    table.load_preset(presets::NOTHING).set_header(heads);
    for series in all {
        table.add_row(series.row());
    }
    println!("{}", table.trim_fmt());
    for series in all {
        for (name, value) in &series.notes {
            println!("{}: {name} {value:.2}", series.label);
        }
        let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
        for (why, count) in series.rounds.iter().flat_map(|round| &round.errors) {
            *errors.entry(why).or_default() += count;
        }
        for (why, count) in errors {
            println!("{}: {count} x {why}", series.label);
        }
    }
}

/// One side of a comparison against the other: ratios of medians, and the median of the ratios of neighbouring rounds (which
/// cancels what drifts on a busy machine).
pub(crate) fn compare(one: &Series, other: &Series) -> BTreeMap<String, f64> {
    let mut notes = BTreeMap::new();
    let readers: [(&str, Reader); 3] = [
        ("throughput", |m| Some(m.messages_per_second)),
        ("CPU per message, all brokers", |m| {
            Some(m.cost.cpu_us? + m.cost.replica_cpu_us.unwrap_or_default())
        }),
        ("p50", |m| Some(m.latency_us.p50 as f64)),
    ];
    for (name, read) in readers {
        let pairs = one.rounds.iter().zip(&other.rounds);
        let ratios = pairs.filter_map(|(a, b)| Some(read(a)? / read(b)?)).collect();
        notes.extend(median(ratios).map(|ratio| (format!("{name}, ratio to the other side"), ratio)));
    }
    let cpu: Reader = |m| Some(m.cost.cpu_us? + m.cost.replica_cpu_us.unwrap_or_default());
    let pairs = one.rounds.iter().zip(&other.rounds);
    let more = pairs.filter_map(|(a, b)| Some(cpu(a)? - cpu(b)?)).collect();
    notes.extend(median(more).map(|more| ("CPU per message more than the other side, us".to_owned(), more)));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn costs_are_per_message_the_broker_counted() {
        let reading = |messages: f64, journal: f64, user_ms: u64, calls: u64| Reading {
            user: Duration::from_millis(user_ms),
            threads: [("core".to_owned(), Duration::from_millis(user_ms / 2))].into(),
            write_calls: calls,
            counters: [
                ("rocketmq_messages_in_total".to_owned(), messages),
                ("losstrace_broker_journal_bytes".to_owned(), journal),
            ]
            .into(),
            ..Reading::default()
        };
        let cost = Cost::between(&reading(100.0, 1000.0, 10, 5), &reading(300.0, 2600.0, 30, 105), 190);
        assert_eq!((cost.cpu_us, cost.write_calls, cost.journal_bytes), (Some(100.0), Some(0.5), Some(8.0)));
        assert_eq!(cost.threads_us, BTreeMap::from([("core".to_owned(), 50.0)]));
        assert_eq!(cost.log_flushes, None);
    }
}
