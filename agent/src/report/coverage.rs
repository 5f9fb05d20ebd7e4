//! Owns what can be decided at all with the sources there are, said in advance: per class and source exact, bounded,
//! suspected or blind.

use super::views::CoverageRow;
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::class::Class;
use lifecycle::fact::ConsumeModel;

/// One row per class and source.
pub fn coverage(books: &Books) -> Vec<CoverageRow> {
    let mut rows = Vec::new();
    for (name, broker) in books.brokers.iter().filter(|(_, broker)| broker.epoch > 0) {
        for class in Class::ALL {
            let (level, why) = level(class, broker);
            rows.push(CoverageRow {
                class: class.text().to_owned(),
                source: name.to_string(),
                level: level.to_owned(),
                why: why.to_owned(),
            });
        }
    }
    rows
}

fn level(class: Class, broker: &BrokerBooks) -> (&'static str, &'static str) {
    let gaps = broker.gap_count > 0;
    let broadcast = broker.groups.values().any(|g| g.model == Some(ConsumeModel::Broadcasting));
    match class {
        Class::NeverStored | Class::SendUnknown => {
            ("bounded", "exact for sends that producers report; blind for sends nobody reports")
        }
        Class::StoredThoughUnacked => ("exact", "the broker states answers it could not write"),
        Class::SendRefused => ("exact", "the broker states every refusal"),
        Class::CorruptedAtRest if broker.setting(broker.epoch, "scrubIntervalMs") == "0" => (
            "bounded",
            "the scrubber is off: at the start of the broker, behind its last snapshot; older records when somebody wants them",
        ),
        Class::CorruptedAtRest => (
            "bounded",
            "exact once a round of the scrubber has passed it (scrub_interval_ms), or somebody wants it; until then silent",
        ),
        class if class.is_of_store() => (
            "bounded",
            "by name for everything the agent has received; the rest within the stated reservation",
        ),
        Class::Undecided | Class::EvidenceGap => ("exact", "frames are numbered: a missing one is seen"),
        Class::UnexpectedMessage => {
            ("suspected", "deliveries of messages never stored are seen; forged sends are not")
        }
        Class::Duplicate => {
            ("bounded", "repeats within the last 65,536 stored ids, confirmed with the broker")
        }
        Class::FilterConflict => (
            "bounded",
            "exact for expressions of tags, by asking the broker for each tag (10,000 at a time); SQL92 stays suspected",
        ),
        _ if gaps => ("bounded", "frames are missing: what they said about deliveries is undecided"),
        Class::ExpiredBeforeConsumption
        | Class::SkippedByOffsetReset
        | Class::AckedWithoutDelivery
        | Class::OffsetReused
            if broadcast =>
        {
            ("bounded", "exact for groups that share messages; blind for broadcasting groups")
        }
        _ => ("exact", "every step is in the broker's journal"),
    }
}
