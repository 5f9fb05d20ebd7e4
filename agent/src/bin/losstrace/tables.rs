//! Owns how answers look in a terminal: one table per question, and first of all what the answer rests on.

use agent::report::views::{
    BalanceRow, DlqRow, Envelope, ExposureFinding, ExposureReport, GroupRow, LossItem, MessageTimeline,
    Stage, TopicRow,
};
use comfy_table::{Table, presets};
use time::OffsetDateTime;
use time::macros::format_description;

/// Two lines at most: whether "nothing" means "none".
pub(crate) fn evidence<T>(envelope: &Envelope<T>) -> String {
    let mut text = if envelope.complete {
        "evidence: complete".to_owned()
    } else {
        format!("evidence: INCOMPLETE, behind or with gaps: {}", envelope.sources_behind.join(", "))
    };
    if envelope.undecided_messages > 0 {
        text.push_str(&format!("\nundecided: at most {} messages", envelope.undecided_messages));
    }
    text
}

/// UTC with milliseconds; empty for "not known".
pub(crate) fn wall(ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    time.filter(|_| ms > 0).and_then(|time| time.format(format).ok()).unwrap_or_default()
}

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head.to_vec());
    table
}

pub(crate) fn print(table: &Table, empty: &str) -> String {
    if table.row_count() == 0 { empty.to_owned() } else { table.trim_fmt() }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "NO" }
}

pub(crate) fn losses(rows: &[LossItem]) -> String {
    let mut table = table(&[
        "INCIDENT",
        "CLASS",
        "LOSS",
        "STATE",
        "TOPIC",
        "GROUP",
        "MESSAGES",
        "UNDECIDED",
        "SINCE",
        "SUMMARY",
    ]);
    for row in rows {
        table.add_row([
            row.incident.clone(),
            row.class.clone(),
            if row.loss { "yes" } else { "-" }.to_owned(),
            row.state.clone(),
            row.topic.clone(),
            row.group.clone(),
            row.messages.to_string(),
            row.undecided_messages.to_string(),
            wall(row.first_seen_wall_ms),
            row.summary.clone(),
        ]);
    }
    print(&table, "no incidents")
}

pub(crate) fn balance(rows: &[BalanceRow]) -> String {
    let mut table = table(&[
        "TOPIC",
        "GROUP",
        "BALANCED",
        "RECEIVED",
        "REFUSED",
        "STORED",
        "FLUSHED",
        "OWED",
        "SETTLED",
        "IN FLIGHT",
        "DLQ",
        "MOVED",
        "UNDECIDED",
        "LOST",
    ]);
    for row in rows {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let (producer, store, consumer) = (row.producer.as_ref(), row.store.as_ref(), row.consumer.as_ref());
        let lost = store.map_or(0, |book| book.lost) + consumer.map_or(0, |book| book.lost);
        table.add_row([
            row.topic.clone(),
            row.group.clone(),
            yes(row.balanced).to_owned(),
            number(producer.map(|book| book.received)),
            number(producer.map(|book| book.refused)),
            number(store.map(|book| book.stored)),
            number(store.map(|book| book.flushed)),
            number(consumer.map(|book| book.owed)),
            number(consumer.map(|book| book.settled)),
            number(consumer.map(|book| book.in_flight)),
            number(consumer.map(|book| book.dead_lettered)),
            number(consumer.map(|book| book.moved)),
            number(consumer.map(|book| book.undecided)),
            lost.to_string(),
        ]);
    }
    let books = print(&table, "no books: nothing was sent yet");
    let mut windows: Vec<&str> =
        rows.iter().filter(|row| row.window_from_wall_ms.is_some()).map(|row| row.window.as_str()).collect();
    windows.sort_unstable();
    windows.dedup();
    match windows.as_slice() {
        [] => books,
        covered => format!("stored: {}\n{books}", covered.join("; ")),
    }
}

pub(crate) fn retired(rows: &[GroupRow]) -> String {
    let mut table = table(&["BROKER", "GROUP", "RETIRED", "DEAD LETTERS", "OPEN LOSSES"]);
    for row in rows {
        table.add_row([
            row.broker.clone(),
            row.group.clone(),
            yes(row.retired).to_owned(),
            row.dead_letters.to_string(),
            row.open_losses.to_string(),
        ]);
    }
    print(&table, "no group")
}

pub(crate) fn dlq(rows: &[DlqRow]) -> String {
    let mut table = table(&["GROUP", "STATE", "ARRIVED", "DEAD LETTER", "WAS"]);
    for row in rows {
        let at = |identity: &agent::report::views::Identity| {
            format!("{}/{}/{}/{}", identity.broker, identity.topic, identity.queue_id, identity.queue_offset)
        };
        table.add_row([
            row.group.clone(),
            row.state.clone(),
            wall(row.arrived_wall_ms),
            at(&row.identity),
            at(&row.root),
        ]);
    }
    print(&table, "no dead letters")
}

pub(crate) fn topics(rows: &[TopicRow]) -> String {
    let mut table = table(&[
        "TOPIC",
        "TYPE",
        "QUEUES",
        "STORED",
        "RETAINED",
        "UNFLUSHED",
        "EXPIRED",
        "GROUPS",
        "OPEN LOSSES",
    ]);
    for row in rows {
        let name = if row.deleted { format!("{} (deleted)", row.topic) } else { row.topic.clone() };
        let numbers = [
            u64::from(row.queues),
            row.stored,
            row.retained,
            row.unflushed,
            row.expired,
            row.groups,
            row.open_losses,
        ];
        table.add_row([name, row.message_type.clone()].into_iter().chain(numbers.map(|n| n.to_string())));
    }
    print(&table, "no topics")
}

pub(crate) fn exposure(report: &ExposureReport) -> String {
    let mut table = table(&["SEVERITY", "FINDING", "TOPIC", "GROUP", "MESSAGES", "SETTING", "WHAT"]);
    for row in &report.findings {
        table.add_row([
            row.severity.clone(),
            row.finding.clone(),
            row.topic.clone(),
            row.group.clone(),
            row.messages.to_string(),
            row.setting.clone(),
            row.text.clone(),
        ]);
    }
    format!(
        "a power cut now would take {} messages ({} of them answered OK); {} were answered with less than promised; \
         at most {} could not be named\n{}",
        report.unflushed_messages,
        report.answered_unflushed_messages,
        report.not_durable_messages,
        report.unnamed_messages_max,
        print(&table, "no findings")
    )
}

/// Findings with their remedies: a paragraph each, the worst first.
pub(crate) fn findings(findings: &[ExposureFinding]) -> String {
    let rank = |severity: &str| ["critical", "warning", "info"].iter().position(|known| *known == severity);
    let mut worst_first: Vec<&ExposureFinding> = findings.iter().collect();
    worst_first.sort_by_key(|row| rank(&row.severity));
    let paragraphs: Vec<String> = worst_first.into_iter().map(paragraph).collect();
    if paragraphs.is_empty() { "no findings".to_owned() } else { paragraphs.join("\n") }
}

fn paragraph(row: &ExposureFinding) -> String {
    let about = [("topic", &row.topic), ("group", &row.group), ("setting", &row.setting)];
    let about: Vec<String> = about
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    format!("{}: {}{about}\n  {}\n  remedy: {}", row.severity, row.finding, row.text, row.remedy)
}

/// One message's walk through its stages.
pub(crate) fn timeline(timeline: &MessageTimeline) -> String {
    let mut lines =
        vec![format!("message {}", if timeline.id.is_empty() { &timeline.asked } else { &timeline.id })];
    match &timeline.identity {
        Some(at) => lines.push(format!(
            "stored at {} {} queue {} offset {} (epoch {})",
            at.broker, at.topic, at.queue_id, at.queue_offset, at.epoch
        )),
        None => lines.push("never reached this broker, as far as the evidence goes".to_owned()),
    }
    lines.extend(timeline.stages.iter().map(|stage| stage_line(stage, "  ")));
    for group in &timeline.groups {
        let class = group.class.as_deref().map(|class| format!(" ({class})")).unwrap_or_default();
        lines.push(format!("group {}: {}{class}", group.group, group.state));
        lines.extend(group.stages.iter().map(|stage| stage_line(stage, "  ")));
    }
    for copy in &timeline.copies {
        let at = &copy.identity;
        lines.push(format!(
            "{} ({}): {} queue {} offset {}",
            copy.relation, copy.reason, at.topic, at.queue_id, at.queue_offset
        ));
    }
    lines.extend(timeline.incidents.iter().map(|incident| format!("incident {incident}")));
    lines.push(match &timeline.first_break {
        Some(stage) => format!("first break: {stage}"),
        None => "first break: none".to_owned(),
    });
    lines.push(timeline.explanation.clone());
    lines.extend(timeline.rests_on.iter().map(|basis| format!("rests on: {basis}")));
    lines.join("\n")
}

fn stage_line(stage: &Stage, indent: &str) -> String {
    let at = stage.at_wall_ms.map(wall).unwrap_or_default();
    let line = format!("{indent}{:<14} {:<8} {at:<24} {}", stage.stage, stage.reached, stage.text);
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds_and_unknown_is_empty() {
        assert_eq!(wall(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(wall(0), "");
        assert_eq!(wall(u64::MAX), "");
    }

    #[test]
    fn missing_evidence_is_the_first_thing_said() {
        let mut envelope = Envelope {
            as_of: vec![],
            complete: true,
            sources_behind: vec![],
            undecided_messages: 0,
            data: (),
        };
        assert_eq!(evidence(&envelope), "evidence: complete");
        envelope.complete = false;
        envelope.sources_behind = vec!["broker-a".into()];
        envelope.undecided_messages = 7;
        assert_eq!(
            evidence(&envelope),
            "evidence: INCOMPLETE, behind or with gaps: broker-a\nundecided: at most 7 messages"
        );
    }

    #[test]
    fn an_unknown_message_never_reached_the_broker() {
        let text = timeline(&MessageTimeline {
            asked: "GHOST".into(),
            id: String::new(),
            identity: None,
            stages: vec![],
            groups: vec![],
            copies: vec![],
            incidents: vec![],
            first_break: Some("stored".into()),
            explanation: "because".into(),
            rests_on: vec!["broker-a to frame 9".into()],
        });
        for part in ["message GHOST", "never reached", "first break: stored", "rests on: broker-a to frame 9"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
