//! Owns every metric of the broker: names, help, labels. RocketMQ's names where it has them, `losstrace_broker_…` elsewhere. Never
//! decides anything: it shows an [`Observed`], taken from the core between two turns. Called by the HTTP route `/metrics`.
//!
//! Counters start at 0 with each run, as Prometheus expects of a process. No label is open: messages per topic and group are the
//! agent's to show.

use crate::core::{Core, Counters};
use crate::remoting::RemotingStats;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use store::error::StoreError;

/// What the metrics show, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Counts of this run.
    pub counters: Counters,
    /// This run's newest frame.
    pub journal_sequence: u64,
    /// ... on disk.
    pub journal_flushed_sequence: u64,
    /// Bytes of the journal, all runs.
    pub journal_bytes: u64,
    /// Runs in the journal.
    pub journal_runs: u64,
    /// Messages a power cut could take now.
    pub unflushed_messages: u64,
    /// Messages that may be answered before the next flush returns.
    pub reserved_messages: u64,
    /// First byte of the commit log.
    pub log_start: u64,
    /// One past its last byte.
    pub log_end: u64,
    /// Flushed up to here.
    pub log_flushed: u64,
    /// Share of the disk in use, 0 to 1.
    pub disk_ratio: f64,
    /// Topics, RocketMQ's own included.
    pub topics: u64,
    /// Queues of all topics.
    pub queues: u64,
    /// Consumer groups.
    pub groups: u64,
    /// Members of all groups.
    pub members: u64,
    /// Messages waiting for their time.
    pub timers: u64,
    /// The epoch in force.
    pub epoch: u64,
    /// When this run started, wall ms.
    pub started_ms: u64,
    /// When the last whole round of the scrubber ended, wall ms; 0: none has.
    pub scrubbed_ms: u64,
}

impl Observed {
    /// Looks at the core between two turns; what only a query answers (`disk_ratio`, …) is added by the caller.
    pub fn of(core: &Core) -> Observed {
        let state = core.state_view();
        let (position, journal_flushed_sequence) = core.journal_head();
        let runs = core.journal_view().incarnations();
        Observed {
            counters: core.counters(),
            journal_sequence: position.sequence,
            journal_flushed_sequence,
            journal_bytes: runs.iter().map(|run| run.bytes).sum(),
            journal_runs: runs.len() as u64,
            unflushed_messages: core.unflushed_messages(),
            reserved_messages: state.reserved_messages,
            log_end: state.log_end.0,
            log_flushed: state.flushed.0,
            topics: state.topics().len() as u64,
            queues: state.queues().count() as u64,
            groups: state.groups().count() as u64,
            members: state.groups().map(|(_, group)| group.members.len() as u64).sum(),
            timers: state.timers().len() as u64,
            epoch: state.epoch.number,
            scrubbed_ms: core.scrubbed_wall_ms(),
            ..Observed::default()
        }
    }
}

/// Why metrics could not be set up or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A name is taken, or a description is wrong.
    #[error("metrics: {0}")]
    Registry(#[from] prometheus::Error),
    /// The text encoder made something else than text.
    #[error("metrics are not valid text")]
    Text,
    /// The journal's size is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Every metric of the broker.
pub struct Metrics {
    registry: Registry,
    /// Held over update and gathering, so that no scrape sees half an update.
    turn: Mutex<()>,
    messages_in: IntCounter,
    messages_out: IntCounter,
    throughput_in: IntCounter,
    dead_letters: IntCounter,
    refused: IntCounter,
    frames: IntCounter,
    flushes: [IntCounter; 2],
    journal_dropped: IntCounter,
    scrubbed_bytes: IntCounter,
    scrub_bad_records: IntCounter,
    scrub_rounds: IntCounter,
    scrubbed: Gauge,
    topics: IntGauge,
    groups: IntGauge,
    flush_behind_bytes: IntGauge,
    queues: IntGauge,
    members: IntGauge,
    timers: IntGauge,
    epoch: IntGauge,
    unflushed: IntGauge,
    reserved: IntGauge,
    log_start: IntGauge,
    log_end: IntGauge,
    journal_bytes: IntGauge,
    journal_runs: IntGauge,
    journal_sequence: IntGauge,
    journal_flushed_sequence: IntGauge,
    disk_ratio: Gauge,
    start_time: Gauge,
    remoting: Remoting,
}

/// The remoting edge's own numbers.
struct Remoting {
    connections: IntGauge,
    counters: [IntCounter; 12],
}

/// Name, help and reading of each counter of the remoting edge.
type RemotingRow = (&'static str, &'static str, fn(&RemotingStats) -> &std::sync::atomic::AtomicU64);

const REMOTING: [RemotingRow; 12] = [
    ("accepted_connections", "Connections accepted.", |s| &s.accepted),
    ("turned_away_connections", "Connections closed at once because too many were open.", |s| &s.turned_away),
    ("commands", "Commands read, responses of clients included.", |s| &s.commands),
    ("received_bytes", "Bytes read.", |s| &s.bytes_in),
    ("sent_bytes", "Bytes written.", |s| &s.bytes_out),
    ("bad_frames", "Connections closed because of what was no frame.", |s| &s.bad_frames),
    ("oversize_frames", "Connections closed because of a frame over the limit.", |s| &s.oversize_frames),
    ("bad_requests", "Requests refused because they could not be read.", |s| &s.bad_requests),
    ("unsupported_requests", "Requests with a code this broker does not serve.", |s| &s.unsupported),
    ("closed_slow_connections", "Connections closed because the client took nothing.", |s| &s.closed_slow),
    ("closed_idle_connections", "Connections closed because nothing happened.", |s| &s.closed_idle),
    ("answers_broken_off", "Answers nobody was there to take.", |s| &s.answers_broken_off),
];

/// Makes collectors and registers each at once.
struct Registering<'a> {
    registry: &'a Registry,
    labels: &'a HashMap<String, String>,
}

impl Registering<'_> {
    fn add<C: Collector + Clone + 'static>(
        &self,
        make: impl FnOnce(Opts) -> prometheus::Result<C>,
        name: &str,
        help: &str,
    ) -> prometheus::Result<C> {
        let collector = make(Opts::new(name, help).const_labels(self.labels.clone()))?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::with_opts, name, help)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts, name, help)
    }

    fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::with_opts, name, help)
    }
}

impl Metrics {
    /// Registers everything; `cluster` and `broker_name` become the labels RocketMQ gives its own metrics.
    pub fn new(registry: Registry, cluster: &str, broker_name: &str) -> Result<Metrics, MetricsError> {
        let labels = [("cluster", cluster), ("node_type", "broker"), ("node_id", broker_name)];
        let labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build = Opts::new("losstrace_broker_build_info", "Always 1; the label tells the version.");
        let build = IntGaugeVec::new(build, &["version"])?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let r = Registering { registry: &registry, labels: &labels };
        let remoting = Remoting::new(&r)?;
        Ok(Metrics {
            messages_in: r.counter("rocketmq_messages_in_total", "Messages stored for producers.")?,
            messages_out: r.counter("rocketmq_messages_out_total", "Messages handed to consumers.")?,
            throughput_in: r
                .counter("rocketmq_throughput_in_total", "Bytes of bodies stored for producers.")?,
            dead_letters: r.counter(
                "rocketmq_send_to_dlq_messages_total",
                "Messages put into dead-letter queues, counted after the copy is stored.",
            )?,
            refused: r.counter("losstrace_broker_refused_messages_total", "Messages refused, not stored.")?,
            frames: r
                .counter("losstrace_broker_journal_frames_total", "Turns that wrote a journal frame.")?,
            flushes: [
                r.counter("losstrace_broker_log_flushes_total", "Flushes of the commit log.")?,
                r.counter("losstrace_broker_journal_flushes_total", "Flushes of the journal.")?,
            ],
            journal_dropped: r.counter(
                "losstrace_broker_journal_dropped_bytes_total",
                "Bytes of the journal given up over its share of the disk, whether or not agents had them.",
            )?,
            scrubbed_bytes: r.counter(
                "losstrace_broker_scrubbed_bytes_total",
                "Bytes of the commit log read back from the disk to be checked.",
            )?,
            scrub_bad_records: r.counter(
                "losstrace_broker_scrub_bad_records_total",
                "Messages whose records on this disk were found unreadable, each once.",
            )?,
            scrub_rounds: r.counter(
                "losstrace_broker_scrub_rounds_total",
                "Rounds of the scrubber over the whole commit log that ended.",
            )?,
            scrubbed: r.float(
                "losstrace_broker_scrub_round_end_time_seconds",
                "When the last whole round of the scrubber ended, seconds since 1970; 0: none has.",
            )?,
            topics: r.gauge("rocketmq_topic_number", "Topics, the broker's own included.")?,
            groups: r.gauge("rocketmq_consumer_group_number", "Consumer groups.")?,
            flush_behind_bytes: r.gauge(
                "rocketmq_storage_flush_behind_bytes",
                "Bytes of the commit log that are not on disk yet.",
            )?,
            queues: r.gauge("losstrace_broker_queues", "Queues of all topics.")?,
            members: r.gauge("losstrace_broker_group_members", "Members of all consumer groups.")?,
            timers: r.gauge("losstrace_broker_waiting_messages", "Delayed messages that are not due yet.")?,
            epoch: r.gauge("losstrace_broker_epoch", "Number of the epoch in force.")?,
            unflushed: r
                .gauge("losstrace_broker_unflushed_messages", "Messages a power cut could take now.")?,
            reserved: r.gauge(
                "losstrace_broker_reserved_messages",
                "Messages that may be answered before the next flush of the journal returns.",
            )?,
            log_start: r.gauge("losstrace_broker_log_start_bytes", "First byte the commit log keeps.")?,
            log_end: r.gauge("losstrace_broker_log_end_bytes", "One past the commit log's last byte.")?,
            journal_bytes: r.gauge("losstrace_broker_journal_bytes", "Size of the journal, all runs.")?,
            journal_runs: r.gauge("losstrace_broker_journal_runs", "Runs the journal holds frames of.")?,
            journal_sequence: r.gauge("losstrace_broker_journal_sequence", "This run's newest frame.")?,
            journal_flushed_sequence: r.gauge(
                "losstrace_broker_journal_flushed_sequence",
                "This run's newest frame that is on disk.",
            )?,
            disk_ratio: r.float("losstrace_broker_disk_used_ratio", "Share of the disk in use, 0 to 1.")?,
            start_time: r
                .float("losstrace_broker_start_time_seconds", "When this run started, seconds since 1970.")?,
            remoting,
            turn: Mutex::new(()),
            registry,
        })
    }

    /// The text Prometheus reads.
    pub fn render(&self, observed: &Observed, remoting: &RemotingStats) -> Result<String, MetricsError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.show(observed);
        self.remoting.show(remoting);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|_| MetricsError::Text)
    }

    fn show(&self, observed: &Observed) {
        let counters = &observed.counters;
        let [log_flushes, journal_flushes] = &self.flushes;
        for (counter, total) in [
            (&self.messages_in, counters.put_total),
            (&self.messages_out, counters.get_total),
            (&self.throughput_in, counters.put_bytes),
            (&self.dead_letters, counters.dead_letters_total),
            (&self.refused, counters.refused_total),
            (&self.frames, counters.frames_total),
            (log_flushes, counters.log_flushes_total),
            (journal_flushes, counters.journal_flushes_total),
            (&self.journal_dropped, counters.journal_dropped_bytes),
            (&self.scrubbed_bytes, counters.scrubbed_bytes_total),
            (&self.scrub_bad_records, counters.scrub_bad_records_total),
            (&self.scrub_rounds, counters.scrub_rounds_total),
        ] {
            raise(counter, total);
        }
        for (gauge, value) in [
            (&self.topics, observed.topics),
            (&self.groups, observed.groups),
            (&self.flush_behind_bytes, observed.log_end.saturating_sub(observed.log_flushed)),
            (&self.queues, observed.queues),
            (&self.members, observed.members),
            (&self.timers, observed.timers),
            (&self.epoch, observed.epoch),
            (&self.unflushed, observed.unflushed_messages),
            (&self.reserved, observed.reserved_messages),
            (&self.log_start, observed.log_start),
            (&self.log_end, observed.log_end),
            (&self.journal_bytes, observed.journal_bytes),
            (&self.journal_runs, observed.journal_runs),
            (&self.journal_sequence, observed.journal_sequence),
            (&self.journal_flushed_sequence, observed.journal_flushed_sequence),
        ] {
            set(gauge, value);
        }
        self.disk_ratio.set(observed.disk_ratio);
        self.start_time.set(observed.started_ms as f64 / 1000.0);
        self.scrubbed.set(observed.scrubbed_ms as f64 / 1000.0);
    }
}

impl Remoting {
    fn new(r: &Registering<'_>) -> prometheus::Result<Remoting> {
        let counter = |(name, help, _): &RemotingRow| {
            r.counter(&format!("losstrace_broker_remoting_{name}_total"), help)
        };
        let counters: Vec<IntCounter> = REMOTING.iter().map(counter).collect::<Result<_, _>>()?;
        Ok(Remoting {
            connections: r.gauge("losstrace_broker_remoting_connections", "Connections open now.")?,
            counters: counters.try_into().expect("one counter per row"),
        })
    }

    fn show(&self, stats: &RemotingStats) {
        set(&self.connections, stats.connections.load(Ordering::Relaxed));
        for (counter, (_, _, read)) in self.counters.iter().zip(REMOTING) {
            raise(counter, read(stats).load(Ordering::Relaxed));
        }
    }
}

/// Counters are only raised, never set: none steps back.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn text(metrics: &Metrics, observed: &Observed) -> String {
        let stats = RemotingStats::default();
        stats.connections.store(3, Ordering::Relaxed);
        stats.bytes_in.store(99, Ordering::Relaxed);
        metrics.render(observed, &stats).unwrap()
    }

    #[test]
    fn numbers_arrive_under_their_names_and_no_counter_steps_back() {
        let metrics = Metrics::new(Registry::new(), "c", "b").unwrap();
        let mut observed = Observed { log_end: 70, log_flushed: 50, disk_ratio: 0.25, ..Observed::default() };
        observed.counters.put_total = 7;
        observed.counters.dead_letters_total = 2;
        observed.counters.scrub_bad_records_total = 4;
        observed.scrubbed_ms = 1_500;
        let all = text(&metrics, &observed);
        let labels = r#"{cluster="c",node_id="b",node_type="broker"}"#;
        for line in [
            format!("rocketmq_messages_in_total{labels} 7"),
            format!("rocketmq_messages_out_total{labels} 0"),
            format!("rocketmq_send_to_dlq_messages_total{labels} 2"),
            format!("rocketmq_storage_flush_behind_bytes{labels} 20"),
            format!("losstrace_broker_disk_used_ratio{labels} 0.25"),
            format!("losstrace_broker_scrub_bad_records_total{labels} 4"),
            format!("losstrace_broker_scrub_round_end_time_seconds{labels} 1.5"),
            format!("losstrace_broker_remoting_connections{labels} 3"),
            format!("losstrace_broker_remoting_received_bytes_total{labels} 99"),
        ] {
            assert!(all.lines().any(|l| l == line), "{line} is not in\n{all}");
        }
        observed.counters.put_total = 5;
        assert!(text(&metrics, &observed).contains(&format!("rocketmq_messages_in_total{labels} 7\n")));
        observed.counters.put_total = 9;
        assert!(text(&metrics, &observed).contains(&format!("rocketmq_messages_in_total{labels} 9\n")));
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let metrics = Metrics::new(Registry::new(), "c", "b").unwrap();
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut tool = match tool {
            Ok(tool) => tool,
            // the end-to-end run insists on it; a bare machine may do without
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("{error}"),
        };
        tool.stdin.take().unwrap().write_all(text(&metrics, &Observed::default()).as_bytes()).unwrap();
        let out = tool.wait_with_output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        assert!(out.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}
