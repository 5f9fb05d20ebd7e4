//! Owns incidents as they are shown.

use super::is_system;
use super::views::{CauseView, EvidenceView, LossDetail, LossItem, QueueRangeView, StateChange};
use crate::fold::Books;
use crate::fold::class::Class;
use crate::judge::Judge;
use crate::judge::verdict::{EvidencePlace, Verdict};
use uuid::Uuid;

/// Every incident, oldest first.
pub fn losses(judge: &Judge) -> Vec<LossItem> {
    let mut items: Vec<LossItem> = judge.incidents().map(|incident| item(&incident.verdict)).collect();
    items.sort_by(|a, b| (a.first_seen_wall_ms, &a.incident).cmp(&(b.first_seen_wall_ms, &b.incident)));
    items
}

/// One incident in full.
pub fn loss(books: &Books, judge: &Judge, incident: &Uuid) -> Option<LossDetail> {
    let verdict = &judge.incident(incident)?.verdict;
    let broker = books.brokers.get(verdict.broker.as_str());
    let ranges = verdict.spans.iter().chain(&verdict.windows).map(|span| QueueRangeView {
        topic: broker.map_or(String::new(), |b| b.topic_name(span.queue().topic).to_owned()),
        topic_incarnation: format!("{:x}", span.topic_incarnation),
        queue_id: span.queue_id,
        from: span.from,
        to: span.to,
    });
    let history = verdict.history.iter().map(|turn| StateChange {
        state: turn.state.text().to_owned(),
        at_wall_ms: turn.at_wall_ms,
        actor: turn.actor.clone(),
        note: turn.note.clone(),
    });
    Some(LossDetail {
        item: item(verdict),
        ranges: ranges.collect(),
        ids: verdict.ids.clone(),
        ids_total: verdict.ids_total,
        cause: CauseView {
            hop: verdict.cause.hop.clone(),
            broker: verdict.broker.clone(),
            epoch: verdict.epoch,
            setting: verdict.cause.setting.clone(),
            event: verdict.cause.event.clone(),
            actor: verdict.cause.actor.clone(),
        },
        evidence: verdict.evidence.iter().map(evidence).collect(),
        history: history.collect(),
        next_steps: next_steps(verdict),
    })
}

/// One incident in a list.
pub fn item(verdict: &Verdict) -> LossItem {
    LossItem {
        incident: verdict.incident.to_string(),
        class: verdict.class.text().to_owned(),
        loss: verdict.is_loss(),
        state: verdict.state.text().to_owned(),
        open: verdict.state.is_open(),
        hop: verdict.cause.hop.clone(),
        broker: verdict.broker.clone(),
        epoch: verdict.epoch,
        topic: first_topic(verdict).to_owned(),
        topics: verdict.topics.len() as u64,
        topic_names: verdict.topics.clone(),
        group: verdict.group.clone(),
        messages: verdict.messages,
        undecided_messages: verdict.undecided,
        first_seen_wall_ms: verdict.first_seen_wall_ms,
        confirmed_wall_ms: (verdict.confirmed_wall_ms > 0).then_some(verdict.confirmed_wall_ms),
        summary: summary(verdict),
    }
}

/// A place in a source, as it is shown.
pub fn evidence(place: &EvidencePlace) -> EvidenceView {
    EvidenceView {
        source: place.source.clone(),
        incarnation: place.incarnation.to_string(),
        sequence: place.sequence,
        text: place.text.clone(),
    }
}

/// The first topic clients know, else the first of all; empty when none is known.
fn first_topic(verdict: &Verdict) -> &str {
    let known = verdict.topics.iter().find(|topic| !is_system(topic));
    known.or_else(|| verdict.topics.first()).map_or("", String::as_str)
}

fn summary(verdict: &Verdict) -> String {
    let count = match (verdict.messages, verdict.undecided) {
        (0, 0) => String::new(),
        (0, bound) => format!("up to {bound} messages, "),
        (1, 0) => "1 message, ".to_owned(),
        (known, 0) => format!("{known} messages, "),
        (known, bound) => format!("{known} messages and up to {bound} more, "),
    };
    let place = match (first_topic(verdict), verdict.group.as_str()) {
        ("", "") => String::new(),
        (topic, "") => format!(" in {topic}"),
        ("", group) => format!(" for group {group}"),
        (topic, group) => format!(" in {topic} for group {group}"),
    };
    let setting = match verdict.cause.setting.as_str() {
        "" => String::new(),
        setting => format!(" ({setting})"),
    };
    let held = match verdict.recoverable_from.as_slice() {
        [] => String::new(),
        members => format!("; nothing is lost, it is recoverable from {}", members.join(", ")),
    };
    let (class, event) = (verdict.class.text(), &verdict.cause.event);
    format!("{count}{class}{place} at {}: {event}{setting}{held}", verdict.broker)
}

fn next_steps(verdict: &Verdict) -> Vec<String> {
    let steps: &[&str] = match verdict.class {
        Class::StoredNotFlushedLost => &[
            "send the named messages again from their producers' records",
            "set flushDiskType=SYNC_FLUSH for topics that must not lose messages",
        ],
        Class::FlushLied => &[
            "do not trust this disk: look for a volatile write cache, or a controller or hypervisor that ignores flushes",
            "send the messages again from their producers' records, or take them from a replica",
        ],
        Class::CorruptedAtRest if !verdict.recoverable_from.is_empty() => &[
            "look at the disk's health before the other copies are needed; the damaged log file is kept",
            "make this member follow another one with an empty folder: it then copies what it lacks",
        ],
        Class::CorruptedAtRest => &[
            "look at the disk's health; the damaged log file is kept",
            "send the messages again from their producers' records, or take them from a replica",
        ],
        Class::NotReplicatedAtFailover => &[
            "keep the old master's disk: when it comes back it puts these messages into a file below its survivors folder",
            "there, `losstrace recover` says which of them no group had consumed, and sends them again with --confirm",
            "brokerRole=SYNC_MASTER answers OK only to what survives a fail-over",
        ],
        Class::NeverStored => {
            &["send the named messages again", "check the producer's retry and time-out settings"]
        }
        Class::SendRefused => &["see the refusal code; one-way sends need another sending mode to notice it"],
        Class::ExpiredBeforeConsumption => {
            &["scale the group or extend the retention time", "send the messages again from their origin"]
        }
        Class::SkippedByOffsetReset => {
            &["set the group's position back to the start of the range while it still exists"]
        }
        Class::AckedWithoutDelivery | Class::OffsetReused => &[
            "set the group's position back to the start of the range",
            "check who commits offsets for this group",
        ],
        Class::SendBackFailedThenPassed => {
            &["set the group's position back to the message, or send it again"]
        }
        Class::StuckInRetry => {
            &["check the broker's schedule and its disk", "compare the broker's clock with real time"]
        }
        Class::DeadLettered => &["look at the dead letters and send them again, or accept them"],
        Class::DlqWriteFailed => &["check disk space and permissions of the dead-letter topic"],
        Class::DlqExpired => &["look at dead letters before retention does: alert on arrivals"],
        Class::FilterConflict => {
            &["give every member of the group the same subscription, then set the position back"]
        }
        Class::AnsweredNotDurable => &["look at the disk's flush times, and at what the replicas are doing"],
        Class::EvidenceGap | Class::Undecided => {
            &["let producers report their sends: reports name what evidence cannot"]
        }
        Class::SendUnknown | Class::StoredThoughUnacked | Class::Duplicate | Class::UnexpectedMessage => &[],
    };
    steps.iter().map(|step| (*step).to_owned()).collect()
}
