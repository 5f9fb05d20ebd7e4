//! Owns what would be lost if the broker died now, and settings or situations that cannot deliver what they promise.

use super::views::{ExposureFinding, ExposureReport};
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::group::GroupBooks;
use crate::fold::marks::State;
use crate::judge::Judge;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::{QueueKey, TopicIncarnation};

/// Whatever is configured, a message is near its end only in this last part of the retention time.
const NEAR_EXPIRY_SHARE: u64 = 4;
/// Findings shown; the totals count everything.
const FINDINGS_MAX: usize = 10_000;

/// What a SYNC_MASTER alone is worth.
pub const SYNC_ALONE: &str =
    "in_sync_replicas is 1: SYNC_MASTER waits for nobody, and SEND_OK promises one copy";
/// What replication behind the answer is worth.
pub const ASYNC_REPLICATION: &str =
    "sends are answered OK before a replica has them: a fail-over takes what had not arrived there";

/// What a log that nobody reads back is worth.
pub const SCRUB_OFF: &str = "nothing on disk is read back: a record that rots is noticed when somebody wants it, and a second copy may have rotted by then";

/// The whole report.
pub fn exposure(books: &Books, judge: &Judge, now_wall_ms: u64) -> ExposureReport {
    let near_expiry_ms = judge.deadlines().near_expiry_ms;
    let mut report = ExposureReport::default();
    for broker in books.brokers.values().filter(|broker| broker.epoch > 0) {
        report.unflushed_messages += broker.unflushed.counted();
        report.answered_unflushed_messages += broker.unflushed.below_ordinal(broker.answered_end);
        report.not_durable_messages += broker.not_durable();
        report.unreplicated_messages += broker.replication.waiting.counted();
        report.unnamed_messages_max += broker.reserved_messages;
        broker_findings(broker, &mut report);
        let owing = broker.owing();
        for (topic, configured) in &broker.topics {
            let name = &configured.configured.name;
            let stored: u64 = broker.queues_of(*topic).map(|(_, q)| q.max - q.min).sum();
            let system =
                name.starts_with('%') || name.starts_with("SCHEDULE_TOPIC") || name.starts_with("RMQ_SYS");
            if stored > 0 && !system && !owing.contains_key(topic) {
                let text =
                    format!("nobody is known to read {name}: it will expire unread, and nothing will say so");
                let finding = finding(broker, "no-group", "info", (name, "", stored));
                report.findings.push(ExposureFinding { text, ..finding });
            }
        }
        for (name, group) in broker.groups.iter().filter(|(name, group)| !books.is_retired(group, name)) {
            group_findings(broker, (name, group), (now_wall_ms, near_expiry_ms), &mut report);
        }
    }
    report.findings.truncate(FINDINGS_MAX);
    report
}

fn finding(broker: &BrokerBooks, finding: &str, severity: &str, about: (&str, &str, u64)) -> ExposureFinding {
    ExposureFinding {
        finding: finding.to_owned(),
        severity: severity.to_owned(),
        broker: broker.name.0.to_string(),
        topic: about.0.to_owned(),
        group: about.1.to_owned(),
        messages: about.2,
        setting: String::new(),
        text: String::new(),
        remedy: remedy(finding).to_owned(),
    }
}

/// What would help, for every finding there is.
pub fn remedy(finding: &str) -> &'static str {
    match finding {
        "async-flush" => {
            "broker.flush_disk_type = SYNC_FLUSH, where a lost message costs more than the wait for the disk"
        }
        "single-copy" => {
            "a disk that survives the machine (a replicated volume); keep what producers sent until it is consumed"
        }
        "not-durable-answers" => {
            "look at the disk (slower than sync_flush_timeout_ms?) and the replicas; producers must send again what was not SEND_OK"
        }
        "unreplicated" => {
            "look at the replicas and the links to them; SYNC_MASTER, where a fail-over must take nothing"
        }
        "sync-without-replicas" => {
            "broker.in_sync_replicas of at least 2, and members or a replica that follows"
        }
        "replicas-missing" => "start the missing replicas, or look at the links to them",
        "async-replication" => {
            "broker_role = SYNC_MASTER, where a fail-over must not take what was answered OK"
        }
        "no-group" => "start a consumer group, or stop sending there",
        "broadcast-group" => "clustering consumers, where a missed message matters",
        "filter-conflict" => {
            "the same subscription in every member of a group; a group of its own for each other one"
        }
        "dead-letters-waiting" => {
            "read them (losstrace dlq), mend the cause, send them again; an alert on arrivals"
        }
        "near-expiry" => "more consumers, or a longer broker.retention_ms, before the time is over",
        "scrub-off" => "broker.scrub_interval_ms = 86400000: once a day, at broker.scrub_bytes_per_second",
        "shared-disk" => "run the agent on another machine (losstrace agent), following this broker's feed",
        "untracked" => "broker.journal = true",
        "auto-create" => "broker.auto_create_topics = false, and create topics on purpose",
        "open-door" => "bind to loopback or a private network: nobody is asked who he is",
        "no-retry" => "broker.retry_max of at least 1: one failure makes a dead letter",
        "short-retention" => "a broker.retention_ms longer than the longest time a consumer may be down",
        _ => "",
    }
}

fn broker_findings(broker: &BrokerBooks, report: &mut ExposureReport) {
    let flush = broker.setting(broker.epoch, "flushDiskType");
    if flush == "ASYNC_FLUSH" {
        report.findings.push(ExposureFinding {
            setting: "flushDiskType=ASYNC_FLUSH".to_owned(),
            text: "sends are answered OK before they are on disk: a power cut takes what was not flushed"
                .to_owned(),
            ..finding(broker, "async-flush", "warning", ("", "", broker.unflushed.counted()))
        });
    }
    if broker.setting(broker.epoch, "scrubIntervalMs") == "0" {
        report.findings.push(ExposureFinding {
            setting: "scrubIntervalMs=0".to_owned(),
            text: SCRUB_OFF.to_owned(),
            ..finding(broker, "scrub-off", "warning", ("", "", 0))
        });
    }
    replication_findings(broker, report);
    if broker.not_durable() > 0 {
        report.findings.push(ExposureFinding {
            text: "answered with less than the promised durability, and still not on disk, or not with enough replicas"
                .to_owned(),
            ..finding(broker, "not-durable-answers", "critical", ("", "", broker.not_durable()))
        });
    }
}

/// What replication promises here, and whether it can keep it.
fn replication_findings(broker: &BrokerBooks, report: &mut ExposureReport) {
    let role = broker.setting(broker.epoch, "brokerRole");
    let setting = format!("brokerRole={role}");
    let stored = || broker.queues.values().map(|q| q.max - q.min).sum();
    let mut find = |name: &str, severity: &str, messages: u64, text: &str| {
        let (setting, text) = (setting.clone(), text.to_owned());
        report.findings.push(ExposureFinding {
            setting,
            text,
            ..finding(broker, name, severity, ("", "", messages))
        });
    };
    let replicas = broker.replication.replicas.len();
    if replicas == 0 {
        let text = "one copy only, as far as is known: a lost disk takes every message";
        find("single-copy", "warning", stored(), text);
    }
    if role == "SYNC_MASTER" && broker.replication.others() == 0 {
        find("sync-without-replicas", "critical", 0, SYNC_ALONE);
    }
    if replicas < broker.replication.others() {
        let text = "fewer replicas have been heard of in this epoch than a send needs to be answered OK";
        find("replicas-missing", "critical", 0, text);
    }
    if role == "ASYNC_MASTER" && replicas > 0 {
        find("async-replication", "warning", 0, ASYNC_REPLICATION);
    }
    let unreplicated = broker.replication.waiting.counted();
    if unreplicated > 0 {
        let text =
            "on the master's disk, and not known to be with enough replicas: a fail-over now would take them";
        find("unreplicated", "warning", unreplicated, text);
    }
}

fn group_findings(
    broker: &BrokerBooks,
    group: (&str, &GroupBooks),
    times: (u64, u64),
    report: &mut ExposureReport,
) {
    let (name, group) = group;
    let (now_wall_ms, near_expiry_ms) = times;
    if group.model == Some(ConsumeModel::Broadcasting) {
        report.findings.push(ExposureFinding {
            text: format!("members of {name} keep their own positions: what they miss cannot be seen"),
            ..finding(broker, "broadcast-group", "info", ("", name, 0))
        });
    }
    for topic in &group.conflicts {
        let expressions = group.expressions(topic);
        let expressions: Vec<&str> = expressions.iter().map(|e| &**e).collect();
        report.findings.push(ExposureFinding {
            text: format!("members of {name} subscribe to {topic} differently: {}", expressions.join(", ")),
            ..finding(broker, "filter-conflict", "critical", (topic, name, 0))
        });
    }
    let waiting = group.dead_letters.waiting();
    if waiting > 0 {
        report.findings.push(ExposureFinding {
            text: format!("{waiting} dead letters of {name} wait for somebody"),
            ..finding(broker, "dead-letters-waiting", "warning", ("", name, waiting))
        });
    }
    let (Some(retention), Some(near)) = (retention_ms(broker), near_ms(broker, near_expiry_ms)) else {
        return;
    };
    let mut topics: Vec<TopicIncarnation> = group.queues.keys().map(|key| key.topic).collect();
    topics.dedup();
    for topic in topics {
        let Some(margin) = margin_ms(broker, group, topic, now_wall_ms) else { continue };
        if margin < near {
            let topic_name = broker.topic_name(topic);
            let unread = super::balances::group_book(broker, group, topic).undelivered;
            report.findings.push(ExposureFinding {
                setting: format!("fileReservedTimeMs={retention}"),
                text: format!(
                    "the oldest unread message of {name} in {topic_name} expires in {} s",
                    margin / 1_000
                ),
                ..finding(broker, "near-expiry", "critical", (topic_name, name, unread))
            });
        }
    }
}

/// How long messages are kept, ms; `None` when not stated.
pub fn retention_ms(broker: &BrokerBooks) -> Option<u64> {
    let exact = broker.setting(broker.epoch, "fileReservedTimeMs").parse::<u64>().ok();
    let hours = || broker.setting(broker.epoch, "fileReservedTime").parse::<u64>().ok();
    exact.or_else(|| hours()?.checked_mul(3_600_000))
}

/// A margin below this is near the end, ms: as configured, but at most a quarter of the retention time; `None`: retention is
/// not stated.
pub fn near_ms(broker: &BrokerBooks, near_expiry_ms: u64) -> Option<u64> {
    Some(near_expiry_ms.min(retention_ms(broker)? / NEAR_EXPIRY_SHARE))
}

/// How long until retention takes the oldest message of a topic that the group was not handed; `None`: nothing is unread, or
/// it is not known when it was stored.
pub fn margin_ms(
    broker: &BrokerBooks,
    group: &GroupBooks,
    topic: TopicIncarnation,
    now_wall_ms: u64,
) -> Option<u64> {
    let retention = retention_ms(broker)?;
    let keys = QueueKey { topic, queue_id: 0 }..=QueueKey { topic, queue_id: u32::MAX };
    let oldest = group.queues.range(keys).filter_map(|(key, books)| {
        let queue = broker.queues.get(key)?;
        let mut at = books.floor.max(queue.min);
        for (from, to, mark) in books.marks.iter_from(at) {
            let unread = from > at || matches!(mark.state, State::Reopened | State::Missed);
            if unread {
                break;
            }
            at = to;
        }
        (at < queue.max).then(|| queue.stored_wall_ms(at)).flatten()
    });
    let oldest = oldest.min()?;
    Some(oldest.saturating_add(retention).saturating_sub(now_wall_ms))
}
