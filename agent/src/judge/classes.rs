//! Owns what each class of verdict is made of: one function per class, from an event of the fold to an incident that opens,
//! grows or shrinks. Never decides when to speak ([`super::Judge::step`] does).

use super::Judge;
use super::incident::Incident;
use super::verdict::VerdictState;
use crate::fold::Books;
use crate::fold::class::Class;
use crate::fold::event::{Event, NamedMessage, Span, What};
use lifecycle::fact::{AnswerClass, OperatorAction, SendOutcome};
use lifecycle::identity::{CopyReason, Incarnation, MessageIdentity, Name};
use uuid::Uuid;

impl Judge {
    pub(super) fn hear(&mut self, books: &Books, event: Event) {
        match &event.what {
            What::Gap { incarnation, from, to } => {
                self.evidence_gap(books, &event, (*incarnation, *from, *to))
            }
            What::StoreLost { .. } => self.stored_not_flushed_lost(books, &event),
            What::Taken { .. } => self.taken_by_recovery(books, &event),
            What::Spoilt { .. } => self.spoilt(books, &event),
            What::Whole { spans } => {
                for span in spans {
                    self.close_span(span, |v| {
                        v.class == Class::CorruptedAtRest && v.broker == *event.source && v.group.is_empty()
                    });
                }
            }
            What::CopyLost { class, group, copy, parent, reason } => {
                self.copy_lost(books, &event, (*class, group), (*copy, *parent, *reason));
            }
            What::CopyRemade { group, parent, reason } => self.copy_remade(&event, group, *parent, *reason),
            What::Lost { class, group, span, ids, .. } => {
                self.lost_to_group(books, &event, *class, (group, *span, ids))
            }
            What::Regained { group, span } => {
                self.close_span(span, |v| v.broker == *event.source && v.group == **group);
            }
            What::Reopened { .. } | What::RetryUnread { .. } => {}
            What::AtRisk { class, spans, named } => {
                self.answered_not_durable(books, &event, *class, (spans, named))
            }
            What::RiskOver { spans } => {
                for span in spans {
                    self.close_span(span, |v| {
                        v.class == Class::AnsweredNotDurable && v.broker == *event.source
                    });
                }
            }
            What::Refused { .. } => self.send_refused(books, &event),
            What::BrokenOff { span, id } => self.stored_though_unacked(books, &event, *span, id.as_ref()),
            What::CopyFailed { group, parent, reason, .. } => {
                self.dlq_write_failing(books, &event, group, (*parent, *reason));
            }
            What::CopyMade { group, parent, .. } => {
                let span = Span::of(*parent);
                self.close_span(&span, |v| {
                    v.class == Class::DlqWriteFailed && v.broker == *event.source && v.group == **group
                });
            }
            What::DeadLettered { group, copy, root, id, .. } => {
                self.dead_lettered(books, &event, group, (*copy, *root, id));
            }
            What::DlqExpired { group, span, ids } => self.dlq_expired(books, &event, group, (*span, ids)),
            What::ConflictFiltered { .. } => self.conflict_filtered(books, event),
            What::ConflictDelivered { group, span } => self.close_span(span, |v| {
                v.class == Class::FilterConflict && v.broker == *event.source && v.group == **group
            }),
            What::Unexpected { group, span } => self.unexpected_message(books, &event, group, *span),
            What::DuplicateCandidate { id, first, second } => {
                let (id, first, second) = (id.clone(), *first, *second);
                self.questions.suspect_duplicate(event.clone(), id, (first, second));
            }
            What::ReDriven { spans } => self.re_driven(&event, spans),
            What::TimerDone { span } => {
                self.close_span(span, |v| v.class == Class::StuckInRetry && v.broker == *event.source)
            }
            What::Sent(report) => {
                if report.outcome == SendOutcome::Unknown {
                    self.send_unknown(books, event.at, report);
                }
                self.questions.reported(event.at, report.clone(), self.now.wall_ms);
            }
            What::Operator { incident, action, actor, note, wall_ms } => {
                self.operator_acted(*incident, *action, (actor, note, *wall_ms));
            }
        }
    }

    /// Adds a span to the incident of this key, citing the frame; `None` when a cause-mate knows it already.
    pub(super) fn grow(&mut self, books: &Books, event: &Event, about: About<'_>) -> Option<&mut Incident> {
        let news = self.news_of(&about.key, &about.span);
        if news.is_empty() {
            return None;
        }
        let topic = topic_name(books, event, about.span);
        let group = about.group.to_owned();
        let incident = self.incident_for(books, about.class, about.key, event);
        if incident.verdict.group.is_empty() {
            incident.verdict.group = group;
        }
        incident.add_topic(&topic);
        incident.add_span(&about.span, &news);
        incident.cite(event, about.text);
        Some(incident)
    }

    fn evidence_gap(&mut self, books: &Books, event: &Event, gap: (Incarnation, u64, u64)) {
        let (incarnation, from, to) = gap;
        let key = format!("gap/{}/{incarnation}/{from}", event.source);
        if self.has_cited(&key, event.at) {
            return;
        }
        let incident = self.incident_for(books, Class::EvidenceGap, key, event);
        let end = if to == u64::MAX { "an unknown end".to_owned() } else { to.to_string() };
        incident.cite(event, format!("frames {from} to {end} of run {incarnation} were never received"));
    }

    fn stored_not_flushed_lost(&mut self, books: &Books, event: &Event) {
        let What::StoreLost { closed_epoch, spans, named, lost, unnamed, windows, clean } = &event.what
        else {
            return;
        };
        let stop = if *clean { "clean stop" } else { "no clean stop" };
        let text = format!("recovered after {stop}: {lost} messages known to have been stored are gone");
        let key = lost_key(Class::StoredNotFlushedLost, event, *closed_epoch);
        self.taken_from_store(
            books,
            event,
            (Class::StoredNotFlushedLost, *closed_epoch, key),
            (spans, named, text),
        );
        self.undecided(books, event, (*closed_epoch, *unnamed), windows);
    }

    fn taken_by_recovery(&mut self, books: &Books, event: &Event) {
        let What::Taken { class, closed_epoch, member, replicas, spans, named } = &event.what else { return };
        let text = match class {
            Class::NotReplicatedAtFailover => {
                format!("{member} was promoted, and its log has nothing of these messages")
            }
            Class::FlushLied => {
                "these were told to be on disk, and the recovered log ends before them".to_owned()
            }
            _ => "these were told to be on disk, and their records are unreadable".to_owned(),
        };
        let text = match replicas.as_slice() {
            [] => text,
            _ => format!("{text}; replicas that said they have them: {}", replicas.join(", ")),
        };
        let key = lost_key(*class, event, *closed_epoch);
        self.taken_from_store(books, event, (*class, *closed_epoch, key), (spans, named, text));
    }

    /// What a recovery took from the whole store; nothing of it is at risk any more.
    pub(super) fn taken_from_store(
        &mut self,
        books: &Books,
        event: &Event,
        (class, closed_epoch, key): (Class, u64, String),
        (spans, named, text): (&[Span], &[NamedMessage], String),
    ) {
        let mut grown = false;
        for span in spans {
            let about = About { class, key: key.clone(), group: "", span: *span, text: text.clone() };
            if let Some(incident) = self.grow(books, event, about) {
                incident.verdict.epoch = closed_epoch;
                grown = true;
            }
            self.close_span(span, |v| v.class == Class::AnsweredNotDurable && v.broker == *event.source);
        }
        if grown {
            let incident = self.incident_for(books, class, key, event);
            for NamedMessage { id, .. } in named {
                incident.add_id(id);
            }
        }
    }

    fn undecided(&mut self, books: &Books, event: &Event, what: (u64, u64), windows: &[Span]) {
        let (closed_epoch, unnamed) = what;
        let key = format!("undecided/{}/{closed_epoch}/{}", event.source, event.at.incarnation);
        if unnamed == 0 || self.has_cited(&key, event.at) {
            return;
        }
        let incident = self.incident_for(books, Class::Undecided, key, event);
        incident.verdict.epoch = closed_epoch;
        incident.verdict.undecided = unnamed;
        incident.verdict.windows = windows.iter().copied().map(Into::into).collect();
        incident.cite(event, format!("up to {unnamed} messages may be gone without a readable trace"));
    }

    fn copy_lost(
        &mut self,
        books: &Books,
        event: &Event,
        (class, group): (Class, &Name),
        what: (Span, MessageIdentity, CopyReason),
    ) {
        let (copy, parent, reason) = what;
        if reason == CopyReason::DeadLetter {
            // no dead letter any more: the copy that is made again will be one
            self.close_span(&copy, |v| {
                v.class == Class::DeadLettered && v.broker == *event.source && v.group == **group
            });
        }
        // a due copy's record is in the schedule again: if nothing comes of it, it is stuck there
        if reason == CopyReason::Due {
            return;
        }
        let key = copy_key(event, group, parent, reason);
        let due = event.wall_ms.saturating_add(self.deadlines.copy_remade_ms);
        let text = format!("recovery took the copy at offset {}; it was to be made again", copy.from);
        let about = About { class, key, group, span: copy, text };
        if let Some(incident) = self.grow(books, event, about) {
            incident.verdict.due_wall_ms = due;
        }
    }

    fn copy_remade(&mut self, event: &Event, group: &Name, parent: MessageIdentity, reason: CopyReason) {
        let key = copy_key(event, group, parent, reason);
        for incident in self.all_mut() {
            if incident.verdict.key == key && incident.verdict.state.is_open() {
                let spans: Vec<Span> = incident
                    .open_ranges()
                    .flat_map(|(queue, epoch, ranges)| {
                        ranges
                            .iter()
                            .map(move |(from, to)| Span { queue, from, to, epoch })
                            .collect::<Vec<_>>()
                    })
                    .collect();
                for span in spans {
                    incident.close_span(&span);
                }
            }
        }
    }

    /// The classes in which a group's debt ends: expired, skipped, acked without delivery, send-back or dead-letter copy
    /// failed and passed, offset reused.
    fn lost_to_group(&mut self, books: &Books, event: &Event, class: Class, what: (&Name, Span, &[Name])) {
        let (group, span, ids) = what;
        if is_retired(books, event, group) {
            return;
        }
        if class == Class::CorruptedAtRest {
            // what the store itself has lost is told already
            let rest = self.not_lost_by_store(event, &span);
            // names stand for the whole span: nobody knows whose they are when a part is left out
            let ids = if rest.covers(span.from, span.to) { ids } else { &[] };
            for (from, to) in rest.iter() {
                self.lost_span_to_group(books, event, class, (group, Span { from, to, ..span }, ids));
            }
        } else {
            self.lost_span_to_group(books, event, class, what);
        }
    }

    fn lost_span_to_group(
        &mut self,
        books: &Books,
        event: &Event,
        class: Class,
        what: (&Name, Span, &[Name]),
    ) {
        let (group, span, ids) = what;
        let base = group_key(class, event, group, span.queue.topic.0);
        // each reset is a cause of its own; the others go on
        let key = match class {
            Class::SkippedByOffsetReset => format!("{base}/{}/{}", event.at.incarnation, event.at.sequence),
            _ => base,
        };
        self.close_span(&span, |v| {
            v.broker == *event.source
                && v.group == **group
                && v.key != key
                && v.class != Class::FilterConflict
        });
        let text = format!(
            "{} in queue {} from {} to {} for group {group}",
            class.text(),
            span.queue.queue_id,
            span.from,
            span.to
        );
        // the suspicion of failing dead letters becomes the incident of those that were passed
        if let Some(incident) = self.growing(&key)
            && incident.verdict.due_wall_ms == NEVER
        {
            incident.keep_only(&span);
            incident.verdict.due_wall_ms = 0;
            incident.cite(event, text.clone());
        }
        let due = event.wall_ms.saturating_add(self.deadlines.reread_ms);
        if let Some(incident) = self.grow(books, event, About { class, key, group, span, text }) {
            incident.add_ids(ids);
            if class == Class::OffsetReused {
                incident.verdict.due_wall_ms = due;
            }
        }
    }

    fn answered_not_durable(
        &mut self,
        books: &Books,
        event: &Event,
        answer: AnswerClass,
        what: (&[Span], &[NamedMessage]),
    ) {
        let (spans, named) = what;
        let key = format!("not-durable/{}/{}/{}", event.source, event.epoch, event.at.incarnation);
        let mut grown = false;
        for span in spans {
            let text = format!("answered {answer:?} at offset {} and on", span.from);
            let about =
                About { class: Class::AnsweredNotDurable, key: key.clone(), group: "", span: *span, text };
            grown |= self.grow(books, event, about).is_some();
        }
        if grown {
            let incident = self.incident_for(books, Class::AnsweredNotDurable, key, event);
            for NamedMessage { id, .. } in named {
                incident.add_id(id);
            }
        }
    }

    fn send_refused(&mut self, books: &Books, event: &Event) {
        let What::Refused { topic, code, one_way, count, ids, .. } = &event.what else { return };
        let key = format!("refused/{}/{}/{topic}/{code}/{one_way}", event.source, event.epoch);
        let text = format!("refused {count} sends to {topic} with code {code}");
        if self.has_cited(&key, event.at) {
            return;
        }
        let incident = self.incident_for(books, Class::SendRefused, key, event);
        incident.add_topic(topic);
        incident.add_count(*count);
        incident.cite(event, text);
        for id in ids {
            incident.add_id(id);
        }
    }

    fn stored_though_unacked(&mut self, books: &Books, event: &Event, span: Option<Span>, id: Option<&Name>) {
        let Some(span) = span else { return };
        let key = format!("unacked/{}/{}", event.source, event.epoch);
        let text = format!("the answer for offset {} could not be written", span.from);
        let about = About { class: Class::StoredThoughUnacked, key, group: "", span, text };
        if let (Some(incident), Some(id)) = (self.grow(books, event, about), id) {
            incident.add_id(id);
        }
    }

    /// A dead-letter copy failed: suspected until it is passed, taken back when a later copy succeeds.
    fn dlq_write_failing(
        &mut self,
        books: &Books,
        event: &Event,
        group: &Name,
        what: (MessageIdentity, CopyReason),
    ) {
        let (parent, reason) = what;
        if reason != CopyReason::DeadLetter {
            return;
        }
        let class = Class::DlqWriteFailed;
        let key = group_key(class, event, group, parent.queue.topic.0);
        let text = format!("the dead-letter copy of offset {} could not be stored", parent.queue_offset);
        // once some were passed, the incident tells of those; another one joins when it is passed too
        if let Some(incident) = self.growing(&key)
            && incident.verdict.due_wall_ms != NEVER
        {
            incident.cite(event, text);
            return;
        }
        if let Some(incident) =
            self.grow(books, event, About { class, key, group, span: Span::of(parent), text })
        {
            incident.verdict.due_wall_ms = NEVER;
        }
    }

    /// Its ranges are those of the dead letters; its first topic is the one they were sent to.
    fn dead_lettered(
        &mut self,
        books: &Books,
        event: &Event,
        group: &Name,
        what: (MessageIdentity, MessageIdentity, &Name),
    ) {
        let (copy, root, id) = what;
        let key = format!("dead-lettered/{}/{}/{group}", event.source, event.epoch);
        let text = format!("dead letter of group {group} at offset {}", copy.queue_offset);
        let about = About { class: Class::DeadLettered, key, group, span: Span::of(copy), text };
        let origin = topic_name(books, event, Span::of(root));
        if let Some(incident) = self.grow(books, event, about) {
            incident.add_topic(&origin);
            if !id.is_empty() {
                incident.add_id(id);
            }
        }
    }

    fn dlq_expired(&mut self, books: &Books, event: &Event, group: &Name, what: (Span, &[Name])) {
        let (span, ids) = what;
        let key = format!("dlq-expired/{}/{}/{group}", event.source, event.epoch);
        let text = format!("dead letters of group {group} deleted, {} to {}", span.from, span.to);
        self.close_span(&span, |v| v.class == Class::DeadLettered && v.broker == *event.source);
        if let Some(incident) =
            self.grow(books, event, About { class: Class::DlqExpired, key, group, span, text })
        {
            incident.add_ids(ids);
        }
    }

    fn unexpected_message(&mut self, books: &Books, event: &Event, group: &Name, span: Span) {
        let key = format!("unexpected/{}/{}/{group}", event.source, event.epoch);
        let text =
            format!("group {group} was handed offsets {} to {} that no frame stored", span.from, span.to);
        self.grow(books, event, About { class: Class::UnexpectedMessage, key, group, span, text });
    }

    fn re_driven(&mut self, event: &Event, spans: &[Span]) {
        for span in spans {
            self.close_span(span, |v| {
                v.broker == *event.source && (v.class.is_loss() || v.class == Class::DeadLettered)
            });
        }
    }

    fn operator_acted(&mut self, incident: Incarnation, action: OperatorAction, by: (&Name, &Name, u64)) {
        let (actor, note, wall_ms) = by;
        let Some(incident) = self.incident_mut(&Uuid::from_bytes(incident.0)) else { return };
        let state = match action {
            OperatorAction::Acknowledge => VerdictState::Acknowledged,
            OperatorAction::Accept => VerdictState::Accepted,
        };
        let now = incident.verdict.state;
        let may = now.is_open() || (now == VerdictState::Acknowledged && state == VerdictState::Accepted);
        if may {
            incident.turn(state, wall_ms, (actor, note));
        }
    }
}

/// The due time of a suspicion that only later evidence can confirm.
pub(super) const NEVER: u64 = u64::MAX;

/// What an incident grows by.
pub(super) struct About<'a> {
    pub(super) class: Class,
    pub(super) key: String,
    pub(super) group: &'a str,
    pub(super) span: Span,
    pub(super) text: String,
}

pub(super) fn lost_key(class: Class, event: &Event, closed_epoch: u64) -> String {
    let kind = if class == Class::StoredNotFlushedLost { "store-lost" } else { class.text() };
    format!("{kind}/{}/{closed_epoch}/{}", event.source, event.at.incarnation)
}

/// What to call a message that was taken when this epoch ended, as far as nothing else tells.
pub(super) fn lost_class(books: &Books, source: &str, closed_epoch: u64) -> Class {
    let promoted = books.brokers.get(source).and_then(|broker| broker.promoted_after(closed_epoch));
    promoted.map_or(Class::StoredNotFlushedLost, |_| Class::NotReplicatedAtFailover)
}

/// One incident per class, epoch, group and topic.
fn group_key(class: Class, event: &Event, group: &str, topic: u64) -> String {
    format!("{}/{}/{}/{group}/{topic:x}", class.text(), event.source, event.epoch)
}

fn copy_key(event: &Event, group: &Name, parent: MessageIdentity, reason: CopyReason) -> String {
    let MessageIdentity { queue, queue_offset, epoch_number } = parent;
    format!(
        "copy-lost/{}/{group}/{reason:?}/{:x}/{}/{queue_offset}/{epoch_number}",
        event.source, queue.topic.0, queue.queue_id
    )
}

/// An operator retired the group before this happened: it owes nothing.
fn is_retired(books: &Books, event: &Event, group: &str) -> bool {
    let broker = books.brokers.get(&event.source);
    let known = broker.and_then(|broker| broker.groups.get(group));
    let since = known.and_then(|known| books.retired_since(known, group));
    since.is_some_and(|since| since <= event.wall_ms)
}

fn topic_name(books: &Books, event: &Event, span: Span) -> String {
    let broker = books.brokers.get(&event.source);
    broker.map_or(String::new(), |broker| broker.topic_name(span.queue.topic).to_owned())
}
