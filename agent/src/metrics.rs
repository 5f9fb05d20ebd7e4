//! Owns every metric of the agent: names, help, labels, and the limits on series. Never decides anything: it shows an
//! [`Observed`], which the caller takes from books and judge at one moment. Called by the HTTP route `/metrics`, and by the
//! checkpoint writer and the judge for their two histograms.
//!
//! Counters are totals since the evidence began, kept by the ledger and the verdict log. Here they are only raised, never
//! set: whatever the caller says, no counter steps back. Every series of a closed set exists at 0 from the start, because a
//! series that first appears with a value looks to Prometheus as if nothing had happened.

pub mod observed;
pub mod series;

use crate::metrics::observed::{ByLabel, Observed};
use crate::metrics::series::Series;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::sync::{Mutex, PoisonError};

/// Pairs of topic and group with a series of their own.
pub const PAIRS_MAX: usize = 30_000;
/// Topics with a series of their own.
pub const TOPICS_MAX: usize = 10_000;
/// Groups with a series of their own in `losstrace_dlq_messages`.
pub const DLQ_GROUPS_MAX: usize = 1_000;
/// Pairs shown in `losstrace_retention_margin_seconds`, those with the least margin.
pub const MARGINS_MAX: usize = 1_000;
/// Sources with series of their own.
pub const SOURCES_MAX: usize = 100;
/// The label value of everything beyond a limit.
pub const OTHER: &str = "__other__";
/// The group of losses that happen before any group comes into play.
pub const NO_GROUP: &str = "__none__";

/// Stages of a message, cluster-wide.
pub const STAGES: [&str; 11] = [
    "received",
    "refused",
    "stored",
    "flushed",
    "answered",
    "delivered",
    "filtered",
    "acked",
    "retried",
    "dead_lettered",
    "expired",
];
/// Every class of verdict.
pub const VERDICTS: [&str; 23] = [
    "never-stored",
    "send-refused",
    "send-unknown",
    "stored-though-unacked",
    "answered-not-durable",
    "stored-not-flushed-lost",
    "expired-before-consumption",
    "skipped-by-offset-reset",
    "acked-without-delivery",
    "send-back-failed-then-passed",
    "stuck-in-retry",
    "dead-lettered",
    "dlq-write-failed",
    "dlq-expired",
    "filter-conflict",
    "duplicate",
    "unexpected-message",
    "offset-reused",
    "evidence-gap",
    "undecided",
    "not-replicated-at-failover",
    "flush-lied",
    "corrupted-at-rest",
];
/// Those of them that say that messages are lost, now or soon.
pub const LOSSES: [&str; 14] = [
    "never-stored",
    "stored-not-flushed-lost",
    "expired-before-consumption",
    "skipped-by-offset-reset",
    "acked-without-delivery",
    "send-back-failed-then-passed",
    "stuck-in-retry",
    "dlq-write-failed",
    "dlq-expired",
    "filter-conflict",
    "offset-reused",
    "not-replicated-at-failover",
    "flush-lied",
    "corrupted-at-rest",
];
/// States a verdict can reach.
pub const STATES: [&str; 6] =
    ["suspected", "confirmed", "withdrawn", "recovered", "acknowledged", "accepted"];
/// Where messages in flight are.
pub const IN_FLIGHT: [&str; 4] = ["unflushed", "unanswered", "undelivered", "unacked"];
/// Why a message was delivered again.
pub const DUPLICATE_CAUSES: [&str; 5] = ["producer_retry", "lease_expired", "nack", "rewind", "rebalance"];
/// What was true of a message when its send was answered.
pub const DURABILITIES: [&str; 7] = [
    "flushed",
    "buffered",
    "flush_disk_timeout",
    "flush_slave_timeout",
    "slave_not_available",
    "replicated",
    "one_way",
];
/// What a power cut of the broker, or a fail-over, would take now.
pub const RISKS: [&str; 3] = ["unflushed", "unanswered_durability", "unreplicated"];
/// Settings and situations that can lose messages; the API's closed set.
pub const FINDINGS: [&str; 14] = [
    "async-flush",
    "single-copy",
    "not-durable-answers",
    "one-way-sends",
    "near-expiry",
    "no-group",
    "filter-conflict",
    "broadcast-group",
    "dead-letters-waiting",
    "unreplicated",
    "sync-without-replicas",
    "replicas-missing",
    "async-replication",
    "scrub-off",
];

/// Why metrics could not be set up or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A name is taken, or a description is wrong.
    #[error("metrics: {0}")]
    Registry(#[from] prometheus::Error),
    /// The text encoder made something else than text.
    #[error("metrics are not valid text")]
    Text,
}

/// Every metric of the agent. Cheap to share behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    /// Held over update and gathering, so that no scrape sees half an update.
    turn: Mutex<Limited>,
    messages: IntCounterVec,
    lost: IntCounterVec,
    incidents_open: IntGaugeVec,
    verdicts: IntCounterVec,
    undecided: IntGauge,
    evidence_gaps: IntCounterVec,
    source_up: IntGaugeVec,
    source_lag_seconds: GaugeVec,
    source_lag_frames: IntGaugeVec,
    evidence_complete: IntGaugeVec,
    in_flight: IntGaugeVec,
    oldest_unsettled: Gauge,
    dlq_arrivals: IntCounter,
    dlq_write_failures: IntCounter,
    skipped: IntCounter,
    duplicates: IntCounterVec,
    answers: IntCounterVec,
    retention_margin: GaugeVec,
    near_expiry: Gauge,
    detection_delay: Histogram,
    checkpoint_age: Gauge,
    checkpoint: Histogram,
    ledger_rebuilds: IntCounter,
    ledger_rows: IntGauge,
    exposed: IntGaugeVec,
    findings: IntGaugeVec,
    series_dropped: IntCounter,
}

/// Families whose labels are open, each with its limit.
struct Limited {
    topics: Series,
    open_losses: Series,
    dlq_messages: Series,
    sources: Series,
    topic_messages: IntCounterVec,
    open_losses_gauge: IntGaugeVec,
    dlq_messages_gauge: IntGaugeVec,
}

impl Metrics {
    /// Registers every metric, with every series of every closed set at 0.
    pub fn new(registry: Registry, version: &str) -> Result<Metrics, MetricsError> {
        let of = Registrar { registry: &registry };
        let limited = Limited {
            topics: Series::new(TOPICS_MAX),
            open_losses: Series::new(PAIRS_MAX),
            dlq_messages: Series::new(DLQ_GROUPS_MAX),
            sources: Series::new(SOURCES_MAX),
            topic_messages: of.counters(
                "losstrace_topic_messages_total",
                "Messages stored, by topic.",
                &["topic"],
            )?,
            open_losses_gauge: of.gauges(
                "losstrace_open_losses",
                "Lost messages that nobody has recovered, acknowledged or accepted.",
                &["topic", "group"],
            )?,
            dlq_messages_gauge: of.gauges(
                "losstrace_dlq_messages",
                "Dead letters nobody has taken.",
                &["group"],
            )?,
        };
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let metrics = Metrics {
            messages: of.counters("losstrace_messages_total", "Messages that reached a stage.", &["stage"])?,
            lost: of.counters("losstrace_messages_lost_total", "Messages confirmed as lost, by class.", &["verdict"])?,
            incidents_open: of.gauges("losstrace_incidents_open", "Incidents that are not closed.", &["verdict"])?,
            verdicts: of.counters("losstrace_verdicts_total", "Verdicts that reached a state.", &["verdict", "state"])?,
            undecided: of
                .gauge("losstrace_undecided_messages", "Upper bound of messages the evidence does not decide.")?,
            evidence_gaps: of.counters("losstrace_evidence_gaps_total", "Holes in the facts of a source.", &["source"])?,
            source_up: of.gauges("losstrace_source_up", "Whether the source delivers facts.", &["source"])?,
            source_lag_seconds: of.float_gauges(
                "losstrace_source_lag_seconds",
                "Age of the oldest fact of the source that is not folded yet.",
                &["source"],
            )?,
            source_lag_frames: of.gauges(
                "losstrace_source_lag_frames",
                "Frames of the source that are not folded yet.",
                &["source"],
            )?,
            evidence_complete: of.gauges(
                "losstrace_evidence_complete",
                "Whether the source is up, not behind and without holes.",
                &["source"],
            )?,
            in_flight: of.gauges("losstrace_in_flight_messages", "Messages between two stages.", &["stage"])?,
            oldest_unsettled: of.float_gauge(
                "losstrace_oldest_unsettled_age_seconds",
                "Age of the oldest message that a group still owes.",
            )?,
            dlq_arrivals: of.counter("losstrace_dlq_arrivals_total", "Dead letters stored.")?,
            dlq_write_failures: of
                .counter("losstrace_dlq_write_failures_total", "Dead letters that could not be stored.")?,
            skipped: of
                .counter("losstrace_messages_skipped_total", "Messages passed by an offset reset, not delivered.")?,
            answers: of.counters(
                "losstrace_answers_total",
                "Sends answered, by what was true of the message then.",
                &["durability"],
            )?,
            duplicates: of
                .counters("losstrace_duplicates_total", "Messages delivered or stored again, by cause.", &["cause"])?,
            retention_margin: of.float_gauges(
                "losstrace_retention_margin_seconds",
                "Time until retention deletes the oldest message a group has not read; the smallest ones only.",
                &["topic", "group"],
            )?,
            near_expiry: of.float_gauge(
                "losstrace_near_expiry_threshold_seconds",
                "A retention margin below this is near its end, as configured.",
            )?,
            detection_delay: of.histogram(
                "losstrace_detection_delay_seconds",
                "From complete evidence to the confirmed verdict.",
                &seconds,
            )?,
            checkpoint_age: of.float_gauge(
                "losstrace_checkpoint_age_seconds",
                "Age of the last checkpoint while something new waits to be saved, else 0.",
            )?,
            checkpoint: of.histogram("losstrace_checkpoint_seconds", "Time a checkpoint took.", &seconds)?,
            ledger_rebuilds: of.counter("losstrace_ledger_rebuilds_total", "Damaged ledgers built again.")?,
            ledger_rows: of.gauge("losstrace_ledger_rows", "Rows in the ledger.")?,
            exposed: of.gauges(
                "losstrace_exposed_messages",
                "Messages a power cut of the broker would take now, by risk.",
                &["risk"],
            )?,
            findings: of.gauges(
                "losstrace_exposure_findings",
                "Settings and situations that can lose messages.",
                &["finding"],
            )?,
            series_dropped: of.counter(
                "losstrace_series_dropped_total",
                "Label values that found no room and are counted under __other__ for good.",
            )?,
            turn: Mutex::new(limited),
            registry: registry.clone(),
        };
        let build = of.gauges("losstrace_build_info", "The running version.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        registry.register(Box::new(ProcessCollector::for_self()))?;
        metrics.touch_closed_sets();
        Ok(metrics)
    }

    /// Shows `observed` in the Prometheus text format.
    pub fn render(&self, observed: &Observed) -> Result<String, MetricsError> {
        let mut limited = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.update_closed(observed);
        self.update_open(&mut limited, observed);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|_| MetricsError::Text)
    }

    /// A verdict was confirmed this long after its evidence was complete.
    pub fn observe_detection_delay(&self, seconds: f64) {
        self.detection_delay.observe(seconds);
    }

    /// A checkpoint took this long.
    pub fn observe_checkpoint(&self, seconds: f64) {
        self.checkpoint.observe(seconds);
    }

    fn touch_closed_sets(&self) {
        for (family, labels) in [
            (&self.messages, &STAGES[..]),
            (&self.lost, &LOSSES[..]),
            (&self.duplicates, &DUPLICATE_CAUSES[..]),
            (&self.answers, &DURABILITIES[..]),
        ] {
            for label in labels {
                family.with_label_values(&[label]);
            }
        }
        for verdict in VERDICTS {
            for state in STATES {
                self.verdicts.with_label_values(&[verdict, state]);
            }
        }
        for (family, labels) in [
            (&self.incidents_open, &VERDICTS[..]),
            (&self.in_flight, &IN_FLIGHT[..]),
            (&self.exposed, &RISKS[..]),
            (&self.findings, &FINDINGS[..]),
        ] {
            for label in labels {
                family.with_label_values(&[label]);
            }
        }
    }

    fn update_closed(&self, observed: &Observed) {
        raise_all(&self.messages, &STAGES, &observed.messages);
        raise_all(&self.lost, &LOSSES, &observed.lost);
        raise_all(&self.duplicates, &DUPLICATE_CAUSES, &observed.duplicates);
        raise_all(&self.answers, &DURABILITIES, &observed.answers);
        for (verdict, state, count) in &observed.verdicts {
            assert!(VERDICTS.contains(verdict) && STATES.contains(state), "verdict {verdict} {state}");
            raise(&self.verdicts.with_label_values(&[*verdict, *state]), *count);
        }
        set_all(&self.incidents_open, &VERDICTS, &observed.incidents_open);
        set_all(&self.in_flight, &IN_FLIGHT, &observed.in_flight);
        set_all(&self.exposed, &RISKS, &observed.exposed);
        set_all(&self.findings, &FINDINGS, &observed.findings);
        self.undecided.set(gauge_value(observed.undecided_messages));
        self.oldest_unsettled.set(observed.oldest_unsettled_age_seconds);
        self.checkpoint_age.set(observed.checkpoint_age_seconds);
        self.ledger_rows.set(gauge_value(observed.ledger_rows));
        raise(&self.dlq_arrivals, observed.dlq_arrivals);
        raise(&self.dlq_write_failures, observed.dlq_write_failures);
        raise(&self.skipped, observed.skipped);
        raise(&self.ledger_rebuilds, observed.ledger_rebuilds);
    }

    fn update_open(&self, limited: &mut Limited, observed: &Observed) {
        for ((topic, _), messages) in
            limited.topics.sums(observed.topics.iter().map(|(topic, count)| (topic.as_str(), "", *count)))
        {
            raise(&limited.topic_messages.with_label_values(&[&topic]), messages);
        }
        let pairs = observed.open_losses.iter().map(|(topic, group, messages)| {
            (topic.as_str(), if group.is_empty() { NO_GROUP } else { group.as_str() }, *messages)
        });
        set_pairs(&mut limited.open_losses, &limited.open_losses_gauge, pairs, 2);
        let dlq = observed.dlq_messages.iter().map(|(group, messages)| (group.as_str(), "", *messages));
        set_pairs(&mut limited.dlq_messages, &limited.dlq_messages_gauge, dlq, 1);
        self.update_sources(limited, observed);
        self.update_margins(observed);
        let dropped = [&limited.topics, &limited.open_losses, &limited.dlq_messages, &limited.sources];
        raise(&self.series_dropped, dropped.into_iter().map(|series| series.dropped()).sum());
    }

    fn update_sources(&self, limited: &mut Limited, observed: &Observed) {
        for row in &observed.sources {
            // Beyond the limit a source is only in the API; folding sources together would mix up and down.
            if !limited.sources.admits(&row.source, "") {
                continue;
            }
            let label = &[row.source.as_str()];
            raise(&self.evidence_gaps.with_label_values(label), row.gaps);
            self.source_up.with_label_values(label).set(i64::from(row.up));
            self.evidence_complete.with_label_values(label).set(i64::from(row.complete));
            self.source_lag_seconds.with_label_values(label).set(row.lag_seconds);
            self.source_lag_frames.with_label_values(label).set(gauge_value(row.lag_frames));
        }
    }

    fn update_margins(&self, observed: &Observed) {
        let mut rows: Vec<_> = observed.retention_margins.iter().collect();
        rows.sort_by(|a, b| a.2.total_cmp(&b.2));
        self.near_expiry.set(observed.near_expiry_seconds);
        self.retention_margin.reset();
        for (topic, group, seconds) in rows.into_iter().take(MARGINS_MAX) {
            self.retention_margin.with_label_values(&[topic.as_str(), group.as_str()]).set(*seconds);
        }
    }
}

/// Creates metrics and registers them. Names are written in full where they are used, so that a search finds them.
struct Registrar<'a> {
    registry: &'a Registry,
}

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> Result<C, MetricsError> {
        let metric = metric?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(IntCounter::with_opts(self.opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.add(IntCounterVec::new(self.opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(IntGauge::with_opts(self.opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(IntGaugeVec::new(self.opts(name, help), labels))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, MetricsError> {
        self.add(Gauge::with_opts(self.opts(name, help)))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.add(GaugeVec::new(self.opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts))
    }
}

/// A counter only rises: a lower total (a caller that has not caught up) changes nothing.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn raise_all(family: &IntCounterVec, closed: &[&str], rows: &ByLabel) {
    for (label, total) in rows {
        assert!(closed.contains(label), "label {label} is not in its closed set");
        raise(&family.with_label_values(&[*label]), *total);
    }
}

/// What is not mentioned is 0: gauges show the present.
fn set_all(family: &IntGaugeVec, closed: &[&'static str], rows: &ByLabel) {
    for (label, _) in rows {
        assert!(closed.contains(label), "label {label} is not in its closed set");
    }
    for label in closed {
        let value = rows.iter().filter(|(row, _)| row == label).map(|(_, value)| *value).sum();
        family.with_label_values(&[*label]).set(gauge_value(value));
    }
}

/// Sets a gauge of one or two open labels; a series that is not mentioned any more goes to 0 and stays.
fn set_pairs<'a>(
    series: &mut Series,
    family: &IntGaugeVec,
    rows: impl Iterator<Item = (&'a str, &'a str, u64)>,
    labels: usize,
) {
    for ((first, second), value) in series.sums(rows) {
        let values = [first.as_str(), second.as_str()];
        family.with_label_values(values.get(..labels).unwrap_or(&values)).set(gauge_value(value));
    }
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
