//! Owns the life of one message as it is shown: which stages it reached, what each group did with it, where it broke first.
//! What the sources answered to `locate` is given as input; nothing is asked here.

use super::losses::evidence;
use super::views::{CopyView, MessageInGroup, MessageTimeline, Stage};
use super::{identity, is_system, times};
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::class::Class;
use crate::fold::group_queue::GroupQueue;
use crate::fold::marks::State;
use crate::judge::Judge;
use crate::judge::verdict::{Verdict, VerdictSpan, VerdictState};
use lifecycle::fact::AnswerClass;
use lifecycle::identity::{MessageIdentity, Name};

/// What is asked, and what the sources said about it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What the person typed.
    pub asked: String,
    /// The client id; empty when asked by place.
    pub id: String,
    /// Where messages with this id are (or the one place asked for).
    pub places: Vec<(Name, MessageIdentity)>,
    /// Whether every source answered in full.
    pub complete: bool,
    /// Sources that did not.
    pub silent: Vec<String>,
}

/// The life of the message.
pub fn message(books: &Books, judge: &Judge, asked: &Asked) -> MessageTimeline {
    let mut timeline = MessageTimeline {
        asked: asked.asked.clone(),
        id: asked.id.clone(),
        identity: None,
        stages: Vec::new(),
        groups: Vec::new(),
        copies: Vec::new(),
        incidents: Vec::new(),
        first_break: None,
        explanation: String::new(),
        rests_on: rests_on(books, asked),
    };
    let origin = asked.places.iter().find(|(source, at)| !is_copy(books, source, *at));
    let Some((source, at)) = origin.or_else(|| asked.places.first()) else {
        return never_seen(judge, asked, timeline);
    };
    let Some(broker) = books.brokers.get(source) else { return never_seen(judge, asked, timeline) };
    let at = with_epoch(broker, *at);
    timeline.identity = Some(identity(broker, at));
    let verdicts: Vec<&Verdict> = judge
        .incidents()
        .map(|incident| &incident.verdict)
        .filter(|v| v.state != VerdictState::Withdrawn && names(v, source, at, &asked.id))
        .collect();
    timeline.incidents = verdicts.iter().map(|v| v.incident.to_string()).collect();
    let store_loss = verdicts.iter().find(|v| v.group.is_empty() && v.is_loss()).copied();
    let is_at_risk =
        verdicts.iter().any(|v| v.class == Class::AnsweredNotDurable && covers(&v.open_spans, at));
    timeline.stages = store_stages(broker, at, (store_loss, is_at_risk));
    for (name, group) in &broker.groups {
        if let Some(owed) = group.queues.get(&at.queue) {
            let verdict = verdicts.iter().find(|v| v.group == **name).copied();
            timeline.groups.push(in_group(broker, (name, owed), at, verdict));
        }
    }
    for (copy_source, copy) in asked.places.iter().filter(|place| place.1 != at) {
        if let Some(copies) = books.brokers.get(copy_source) {
            timeline.copies.push(copy_view(copies, *copy));
        }
    }
    add_dead_letters(broker, at, &mut timeline.copies);
    timeline.first_break = first_break(&timeline, store_loss);
    timeline.explanation = explanation(&timeline, store_loss);
    timeline
}

fn is_copy(books: &Books, source: &Name, at: MessageIdentity) -> bool {
    is_system(books.brokers.get(source).map_or("", |broker| broker.topic_name(at.queue.topic)))
}

/// Answers are decided in the order of storing, so only those that still wait need to be known one by one.
fn answered(broker: &BrokerBooks, at: MessageIdentity, is_at_risk: bool) -> Stage {
    let ordinal = broker.unflushed.ordinal_of(at.queue, at.queue_offset);
    if ordinal.is_some_and(|ordinal| ordinal >= broker.answered_end) {
        return stage("answered", "not yet", None, "the answer was not decided yet".to_owned());
    }
    let text = if is_at_risk {
        "answered with less than the promised durability".to_owned()
    } else {
        format!(
            "the answer was decided; that it arrived is never claimed{}",
            receipt(broker, at.epoch_number)
        )
    };
    stage("answered", "yes", None, text)
}

/// What was true of messages of this epoch when their sends were answered, as far as that was heard.
fn receipt(broker: &BrokerBooks, epoch: u64) -> String {
    let answers: Vec<_> = broker.receipts.of(epoch).collect();
    match answers.as_slice() {
        [] => String::new(),
        [(class, _)] => format!("; every answer of epoch {epoch} that was heard of: {}", then(*class)),
        several => {
            let each = several.iter().map(|(class, count)| format!("{count} {}", then(*class)));
            let each: Vec<String> = each.collect();
            format!("; answers of epoch {epoch} that were heard of: {}", each.join(", "))
        }
    }
}

fn then(class: AnswerClass) -> &'static str {
    match class {
        AnswerClass::Flushed => "when it was on this broker's disk",
        AnswerClass::Buffered => "when it was in the operating system's memory only",
        AnswerClass::FlushDiskTimeout => "when it was not on disk in time",
        AnswerClass::FlushSlaveTimeout => "when it was not with enough replicas in time",
        AnswerClass::SlaveNotAvailable => "when no replica was in reach",
        AnswerClass::Replicated => "when as many members had it as promised",
        AnswerClass::OneWay => "none, since its producer waits for none",
    }
}

fn with_epoch(broker: &BrokerBooks, at: MessageIdentity) -> MessageIdentity {
    let known = || broker.queues.get(&at.queue).map_or(0, |queue| queue.epoch_of(at.queue_offset));
    MessageIdentity { epoch_number: if at.epoch_number == 0 { known() } else { at.epoch_number }, ..at }
}

fn names(verdict: &Verdict, source: &Name, at: MessageIdentity, id: &str) -> bool {
    let by_place = verdict.broker == **source && covers(&verdict.spans, at);
    by_place || (!id.is_empty() && verdict.ids.iter().any(|known| known == id))
}

fn covers(spans: &[VerdictSpan], at: MessageIdentity) -> bool {
    spans.iter().any(|span| {
        let same_epoch = span.epoch == 0 || at.epoch_number == 0 || span.epoch == at.epoch_number;
        span.queue() == at.queue && (span.from..span.to).contains(&at.queue_offset) && same_epoch
    })
}

fn stage(stage: &str, reached: &str, at_wall_ms: Option<u64>, text: String) -> Stage {
    Stage { stage: stage.to_owned(), reached: reached.to_owned(), at_wall_ms, text, evidence: Vec::new() }
}

fn store_stages(
    broker: &BrokerBooks,
    at: MessageIdentity,
    (loss, is_at_risk): (Option<&Verdict>, bool),
) -> Vec<Stage> {
    let queue = broker.queues.get(&at.queue);
    let mut stages = Vec::new();
    let since = queue.and_then(|queue| queue.stored_wall_ms(at.queue_offset));
    let place = format!("queue {} offset {}, epoch {}", at.queue.queue_id, at.queue_offset, at.epoch_number);
    let about = since.map_or(String::new(), |ms| format!(", not before {}", times::text(ms)));
    stages.push(stage("stored", "yes", None, format!("{place}{about}")));
    if !is_system(broker.topic_name(at.queue.topic)) {
        stages.push(answered(broker, at, is_at_risk));
    }
    if let Some(verdict) = loss {
        stages.push(match verdict.class {
            Class::NotReplicatedAtFailover => {
                let text = "the member that was promoted is not known to have had it";
                stage("replicated", "no", None, text.to_owned())
            }
            Class::FlushLied => {
                stage("flushed", "no", None, "the disk had said so, and had not kept it".to_owned())
            }
            Class::CorruptedAtRest => {
                stage("flushed", "yes", None, "on the broker's disk, and later unreadable there".to_owned())
            }
            _ => stage("flushed", "no", None, "it was not on disk when the epoch ended".to_owned()),
        });
        let mut lost = stage("lost", "yes", Some(verdict.event_wall_ms), verdict.cause.event.clone());
        lost.evidence = verdict.evidence.iter().map(evidence).collect();
        stages.push(lost);
        return stages;
    }
    let waiting = broker.unflushed.contains(at.queue, at.queue_offset);
    stages.push(match waiting {
        true => stage("flushed", "not yet", None, "in the operating system's memory only".to_owned()),
        false => stage("flushed", "yes", None, "on the broker's disk".to_owned()),
    });
    if broker.replication.is_expected() {
        let with_replicas =
            if waiting { Some(false) } else { broker.replication.has(at.queue, at.queue_offset) };
        stages.push(match with_replicas {
            Some(true) => stage("replicated", "yes", None, "enough replicas have it".to_owned()),
            Some(false) => {
                stage("replicated", "not yet", None, "not known to be with enough replicas".to_owned())
            }
            None => stage(
                "replicated",
                "unknown",
                None,
                "the replicas have not caught up with the log before it".to_owned(),
            ),
        });
    }
    if let Some(timer) = broker.timers.get(at.queue, at.queue_offset) {
        let due = times::text(timer.due_wall_ms);
        stages.push(stage("copied", "not yet", None, format!("waits in the schedule until {due}")));
    }
    if queue.is_some_and(|queue| at.queue_offset < queue.min) {
        stages.push(stage("expired", "yes", None, "deleted by retention".to_owned()));
    }
    stages
}

fn in_group(
    broker: &BrokerBooks,
    group: (&Name, &GroupQueue),
    at: MessageIdentity,
    verdict: Option<&Verdict>,
) -> MessageInGroup {
    let (name, owed) = group;
    let mark = owed.marks.get(at.queue_offset);
    let letters = broker.groups.get(name).map(|group| &group.dead_letters);
    let dead = letters.is_some_and(|l| l.iter().any(|l| l.parent == at || l.root == at));
    let lost = verdict.filter(|v| v.is_loss() && v.state.is_open());
    let state = match mark.map(|mark| mark.state) {
        _ if at.queue_offset < owed.start => "before-membership",
        _ if lost.is_some() => "lost",
        _ if dead => "dead-lettered",
        Some(State::Delivered | State::Nacked | State::LeaseExpired) => "in-flight",
        Some(State::Reopened | State::Missed) => "undelivered",
        Some(State::Settled) => "settled",
        Some(State::Filtered) => "filtered",
        Some(State::Moved) => "moved",
        Some(State::DeadLettered) => "dead-lettered",
        Some(State::Lost) => "lost",
        Some(State::Undecided) => "undecided",
        None if at.queue_offset < owed.floor => ended_state(owed.ended.how(at.queue_offset)),
        None => "undelivered",
    };
    let forgotten = state == "settled" && mark.is_none() && owed.ended.how(at.queue_offset).is_none();
    let mut stages = Vec::new();
    match mark.map(|mark| mark.state) {
        Some(State::Delivered) => stages.push(stage("delivered", "yes", None, "a member has it".to_owned())),
        Some(State::Nacked) => stages.push(stage("nacked", "yes", None, "given back by a member".to_owned())),
        Some(State::LeaseExpired) => {
            stages.push(stage("lease-expired", "yes", None, "its lease ran out".to_owned()));
        }
        _ => {}
    }
    if forgotten {
        let text = "this debt has ended; whether by delivery or by a filter is no longer kept";
        stages.push(stage("delivered", "unknown", None, text.to_owned()));
    } else {
        stages.extend(ended_stages(state));
    }
    if let Some(verdict) = lost {
        let mut lost = stage("lost", "yes", Some(verdict.event_wall_ms), verdict.cause.event.clone());
        lost.evidence = verdict.evidence.iter().map(evidence).collect();
        stages.push(lost);
    }
    MessageInGroup {
        group: name.to_string(),
        state: state.to_owned(),
        class: lost.map(|v| v.class.text().to_owned()),
        attempt: mark.filter(|mark| mark.attempt > 0).map(|mark| mark.attempt),
        lease_until_wall_ms: mark.map(|mark| mark.lease_until_ms).filter(|until| *until > 1),
        stages,
    }
}

/// The name of how a debt ended; one whose end is no longer kept is settled, as every debt below the floor is.
fn ended_state(how: Option<State>) -> &'static str {
    match how {
        Some(State::Filtered) => "filtered",
        Some(State::Moved) => "moved",
        Some(State::DeadLettered) => "dead-lettered",
        Some(State::Lost) => "lost",
        Some(State::Undecided) => "undecided",
        _ => "settled",
    }
}

/// The stages a finished debt went through.
fn ended_stages(state: &str) -> Vec<Stage> {
    let yes = |name: &str, text: &str| stage(name, "yes", None, text.to_owned());
    let delivered = || yes("delivered", "a member was handed it");
    match state {
        "settled" => {
            vec![delivered(), yes("acked", "acknowledged, or passed by the group's progress after delivery")]
        }
        "filtered" => vec![yes("filtered", "the group's subscription excludes it")],
        "moved" => vec![delivered(), yes("copied", "sent back: a copy took over the debt")],
        "dead-lettered" => {
            vec![delivered(), yes("dead-lettered", "out of attempts: a copy is in the dead-letter topic")]
        }
        "undelivered" => vec![stage("delivered", "not yet", None, "no member was handed it".to_owned())],
        "undecided" => {
            vec![stage("delivered", "unknown", None, "the evidence of its delivery is missing".to_owned())]
        }
        _ => Vec::new(),
    }
}

fn copy_view(broker: &BrokerBooks, at: MessageIdentity) -> CopyView {
    let topic = broker.topic_name(at.queue.topic);
    let (reason, group) = match (topic.strip_prefix("%RETRY%"), topic.strip_prefix("%DLQ%")) {
        (Some(group), _) => ("retry", group),
        (_, Some(group)) => ("dead-letter", group),
        _ if topic.starts_with("SCHEDULE_TOPIC") => ("due", ""),
        _ => ("re-drive", ""),
    };
    CopyView {
        identity: identity(broker, with_epoch(broker, at)),
        relation: "copy".to_owned(),
        reason: reason.to_owned(),
        group: group.to_owned(),
    }
}

/// What the dead-letter book knows of the message by lineage, beside what was found by id.
fn add_dead_letters(broker: &BrokerBooks, at: MessageIdentity, copies: &mut Vec<CopyView>) {
    for (name, group) in &broker.groups {
        for letter in group.dead_letters.iter().filter(|l| l.parent == at || l.root == at || l.copy == at) {
            let is_copy = letter.copy == at;
            let other = identity(broker, if is_copy { letter.root } else { letter.copy });
            if copies.iter().any(|known| known.identity == other) {
                continue;
            }
            copies.push(CopyView {
                identity: other,
                relation: if is_copy { "parent" } else { "copy" }.to_owned(),
                reason: "dead-letter".to_owned(),
                group: name.to_string(),
            });
        }
    }
}

fn first_break(timeline: &MessageTimeline, store_loss: Option<&Verdict>) -> Option<String> {
    if let Some(verdict) = store_loss {
        return Some(format!("{}: {}", verdict.cause.hop, verdict.class.text()));
    }
    let broken = timeline.groups.iter().find(|group| group.class.is_some())?;
    let class = broken.class.clone().unwrap_or_default();
    Some(format!("delivered to group {}: {class}", broken.group))
}

fn explanation(timeline: &MessageTimeline, store_loss: Option<&Verdict>) -> String {
    if let Some(verdict) = store_loss {
        let setting = if verdict.cause.setting.is_empty() {
            String::new()
        } else {
            format!(" ({})", verdict.cause.setting)
        };
        return format!("It was stored and is gone: {}{setting}.", verdict.cause.event);
    }
    if let Some(at) = &timeline.first_break {
        return format!("It was stored, and broke at: {at}.");
    }
    if timeline.groups.is_empty() {
        return "It is stored. No group owes its queue, so nobody is known to miss it.".to_owned();
    }
    let words: Vec<String> =
        timeline.groups.iter().map(|group| format!("{} for group {}", group.state, group.group)).collect();
    format!("It is stored: {}. Nothing broke.", words.join(", "))
}

fn never_seen(judge: &Judge, asked: &Asked, mut timeline: MessageTimeline) -> MessageTimeline {
    let named: Vec<&Verdict> = judge
        .incidents()
        .map(|incident| &incident.verdict)
        .filter(|v| v.state != VerdictState::Withdrawn && v.ids.contains(&asked.id))
        .collect();
    timeline.incidents = named.iter().map(|v| v.incident.to_string()).collect();
    let known = named.iter().find(|v| v.is_loss()).or_else(|| named.first());
    match known {
        Some(verdict) => {
            timeline.first_break = Some(format!("{}: {}", verdict.cause.hop, verdict.class.text()));
            timeline.stages = verdict
                .evidence
                .iter()
                .map(|place| Stage {
                    evidence: vec![evidence(place)],
                    ..stage("lost", "yes", None, place.text.clone())
                })
                .collect();
            timeline.explanation = format!("It is named by an incident: {}.", verdict.cause.event);
        }
        None if asked.complete => {
            timeline.explanation = "No source has stored a message with this id: it never reached these brokers, or retention has deleted it.".to_owned();
        }
        None => {
            let silent = asked.silent.join(", ");
            timeline.explanation =
                format!("Undecided: nothing was found, but not every source answered in full ({silent}).");
        }
    }
    timeline
}

fn rests_on(books: &Books, asked: &Asked) -> Vec<String> {
    let mut out = Vec::new();
    for broker in books.brokers.values().filter(|broker| broker.epoch > 0) {
        let run = broker.runs.get(&broker.current);
        let sequence = run.map_or(0, |run| run.applied);
        out.push(format!("the journal of {}, run {}, up to frame {sequence}", broker.name.0, broker.current));
        if broker.gap_count > 0 {
            out.push(format!("{} has {} gaps: what they hid is not known", broker.name.0, broker.gap_count));
        }
    }
    let index = if asked.complete { "answered in full" } else { "did not all answer in full" };
    out.push(format!("the brokers' indexes, which {index}"));
    out
}
