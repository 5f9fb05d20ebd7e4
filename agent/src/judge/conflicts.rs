//! Owns filter conflicts: members of one group subscribe differently, so the filter of one passes over what another one
//! wants. Only such messages are lost by the conflict; what no member wants is not. Whether another member wants a message
//! depends on its tag, and the books keep no tags: the source is asked.
//!
//! Expressions: `*` wants everything, `A || B` tags. Anything else (SQL92) is not evaluated: it stays suspected.

use super::classes::{About, NEVER};
use super::{Answer, Judge};
use crate::fold::Books;
use crate::fold::class::Class;
use crate::fold::event::{Event, Span, What};
use lifecycle::identity::{MessageIdentity, Name};
use lifecycle::position::Position;

/// Messages whose tags are asked for at the same time; beyond it the oldest are given up (and counted as undecided).
pub const OPEN_CONFLICTS_MAX: usize = 10_000;

/// A message passed over during a conflict, whose tag is not known yet.
#[derive(Clone, PartialEq, Debug)]
pub struct PassedOver {
    /// The source, and the frame that says so.
    pub source: Name,
    pub at: Position,
    /// When, the source's wall ms, and in which epoch.
    pub wall_ms: u64,
    pub epoch: u64,
    /// Whom it was not given to.
    pub group: Name,
    pub topic: Name,
    /// Which message.
    pub message: MessageIdentity,
    /// The filter that passed it over, and the others.
    pub filter: Name,
    pub others: Vec<Name>,
    /// When it was last asked; 0: never.
    pub asked_wall_ms: u64,
}

/// Whether a subscription expression takes a tag; `None`: this program cannot tell.
fn takes(expression: &str, tag: &str) -> Option<bool> {
    let expression = expression.trim();
    if expression.is_empty() || expression == "*" {
        return Some(true);
    }
    let tags: Vec<&str> = expression.split("||").map(str::trim).collect();
    let plain =
        |tag: &&str| !tag.is_empty() && !tag.contains(|c: char| c.is_whitespace() || "=<>()'".contains(c));
    tags.iter().all(plain).then(|| tags.contains(&tag))
}

/// Whether it takes everything.
fn takes_all(expression: &str) -> bool {
    matches!(expression.trim(), "" | "*")
}

impl Judge {
    pub(super) fn conflict_filtered(&mut self, books: &Books, event: Event) {
        let What::ConflictFiltered { group, topic, span, filter, others } = &event.what else { return };
        if others.iter().any(|other| takes_all(other)) {
            self.filter_conflict(books, &event, (group, topic, *span), (filter, others));
            return;
        }
        if others.iter().any(|other| takes(other, "").is_none()) {
            let text =
                format!("passed over by {filter}; whether {} takes it is not known", others.join(", "));
            let key = format!("conflict-suspected/{}/{}/{group}/{topic}", event.source, event.epoch);
            let about = About { class: Class::FilterConflict, key, group, span: *span, text };
            if let Some(incident) = self.grow(books, &event, about) {
                incident.verdict.due_wall_ms = NEVER;
            }
            return;
        }
        for queue_offset in span.from..span.to {
            let message = MessageIdentity { queue: span.queue, queue_offset, epoch_number: span.epoch };
            self.questions.passed_over(PassedOver {
                source: event.source.clone(),
                at: event.at,
                wall_ms: event.wall_ms,
                epoch: event.epoch,
                group: group.clone(),
                topic: topic.clone(),
                message,
                filter: filter.clone(),
                others: others.clone(),
                asked_wall_ms: 0,
            });
        }
    }

    /// The tag is known, or the message is gone and nobody will ever know it.
    pub(super) fn tag_answered(&mut self, books: &Books, passed: PassedOver, answer: &Answer) {
        let Some(tag) = &answer.tag else {
            self.questions.given_up += 1;
            return;
        };
        if !passed.others.iter().any(|other| takes(other, tag) == Some(true)) {
            return;
        }
        let PassedOver { source, at, wall_ms, epoch, group, topic, message, filter, others, .. } = passed;
        let broker = books.brokers.get(&source);
        let owed = broker.and_then(|b| b.groups.get(&group)?.queues.get(&message.queue));
        // somebody may have been given it meanwhile
        let offset = message.queue_offset;
        if owed.is_some_and(|owed| owed.passed_over(offset, offset + 1).is_empty()) {
            return;
        }
        let span = Span { queue: message.queue, from: offset, to: offset + 1, epoch: message.epoch_number };
        let what = What::ConflictFiltered {
            group: group.clone(),
            topic: topic.clone(),
            span,
            filter: filter.clone(),
            others: others.clone(),
        };
        let event = Event { source, at, wall_ms, epoch, what };
        self.filter_conflict(books, &event, (&group, &topic, span), (&filter, &others));
    }

    fn filter_conflict(
        &mut self,
        books: &Books,
        event: &Event,
        what: (&Name, &Name, Span),
        expressions: (&Name, &[Name]),
    ) {
        let (group, topic, span) = what;
        let (filter, others) = expressions;
        let key = format!("conflict/{}/{}/{group}/{topic}", event.source, event.epoch);
        let text = format!("passed over by {filter}, and wanted by {}", others.join(", "));
        self.grow(books, event, About { class: Class::FilterConflict, key, group, span, text });
    }
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn expressions_of_tags_are_evaluated_and_others_are_not() {
        assert_eq!(
            (takes("*", "x"), takes("a || b", "b"), takes("a||b", "c")),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(takes("price > 3", "a"), None);
        assert_eq!((takes("a", ""), takes("", "")), (Some(false), Some(true)));
    }
}
