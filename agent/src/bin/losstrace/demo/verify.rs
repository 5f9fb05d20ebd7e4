//! Owns the comparison: what the injector destroyed against what the agent says, id by id, both ways. Whatever one side has and the
//! other has not is a difference, and one difference is a failure.

use super::remoting::Place;
use super::site::Site;
use super::truth::{Healthy, Key, Loss, Truth, ids};
use agent::report::views::{DlqRow, LossDetail};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};

/// The bound may be wider than the truth by this: what the broker reserves at least before it answers, and twice what it answers
/// between two flushes.
const BOUND_MAX: u64 = 512;
/// The class of what nobody can name.
const UNDECIDED: &str = "undecided";

/// What the agent says about one key: the union of its confirmed incidents.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) ids: BTreeSet<String>,
    /// Ranges, as text.
    pub(super) ranges: BTreeSet<String>,
    pub(super) cause: String,
    messages: u64,
    states: BTreeSet<String>,
    /// One line for each incident.
    incidents: Vec<String>,
}

/// What nobody can name, as the agent bounds it.
#[derive(Debug, Clone, Default)]
pub(super) struct Bound {
    pub(super) messages: u64,
    pub(super) ranges: BTreeSet<String>,
    covers: BTreeSet<String>,
    /// Wide enough, not wider than it may be, and in the right places.
    pub(super) holds: bool,
}

/// Both sides, and where they differ.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) said: BTreeMap<Key, Said>,
    pub(super) bound: Bound,
    /// Messages of which nothing may be said.
    pub(super) healthy: usize,
    pub(super) differences: Vec<String>,
}

/// Asks for everything the agent has to say, and compares.
pub(super) fn compare(truth: &Truth, site: &Site) -> Result<Findings> {
    let mut findings = Findings { differences: truth.complaints.clone(), ..Findings::default() };
    let letters = site.api.dead_letters()?;
    for incident in site.api.incidents()? {
        findings.hear(truth, &letters, &incident);
    }
    findings.match_losses(truth);
    findings.match_bound(truth);
    findings.check_sources(truth, site)?;
    for healthy in &truth.healthy {
        findings.check_healthy(healthy, site)?;
    }
    findings.check_messages(truth, site)?;
    findings.healthy =
        truth.settled.len() + truth.healthy.iter().map(|healthy| healthy.ids.len()).sum::<usize>();
    Ok(findings)
}

impl Findings {
    fn differ(&mut self, what: String) {
        self.differences.push(what);
    }

    /// Sorts one incident under its keys. Only what was never confirmed and has been taken back is no verdict.
    fn hear(&mut self, truth: &Truth, letters: &[DlqRow], incident: &LossDetail) {
        let item = &incident.item;
        if item.confirmed_wall_ms.is_none() && item.state == "withdrawn" {
            return;
        }
        if item.class == UNDECIDED {
            return self.hear_bound(truth, incident);
        }
        let mut topics: BTreeSet<&str> = incident.ranges.iter().map(|range| range.topic.as_str()).collect();
        if topics.is_empty() {
            topics.insert(&item.topic);
        }
        for topic in topics {
            let key = Key::new(&item.class, &item.broker, topic, &item.group);
            let said = self.said.entry(key).or_default();
            said.ids.extend(incident.ids.iter().cloned());
            for range in incident.ranges.iter().filter(|range| range.topic == topic) {
                said.ranges.insert(format!("queue {} [{}, {})", range.queue_id, range.from, range.to));
                for offset in range.from..range.to {
                    let place = Place { queue_id: range.queue_id, offset };
                    said.ids.insert(name_of(truth, letters, incident, (topic, &place)));
                }
            }
            let cause = &incident.cause;
            said.cause =
                [&cause.event, &cause.setting, &cause.actor].map(String::as_str).join(" ").trim().to_owned();
            said.messages += item.messages;
            said.states.insert(item.state.clone());
            let counts = (item.messages, incident.ids_total, incident.ranges.len());
            said.incidents.push(format!("{} {counts:?} {:?}", item.summary, incident.evidence));
        }
    }

    fn hear_bound(&mut self, truth: &Truth, incident: &LossDetail) {
        self.bound.messages += incident.item.undecided_messages;
        for range in &incident.ranges {
            self.bound
                .ranges
                .insert(format!("{} queue {} [{}, {})", range.topic, range.queue_id, range.from, range.to));
            let inside = truth.nameless.iter().filter(|sent| {
                sent.broker == incident.item.broker
                    && sent.topic == range.topic
                    && sent.place.queue_id == range.queue_id
                    && (range.from..range.to).contains(&sent.place.offset)
            });
            self.bound.covers.extend(inside.map(|sent| sent.id.clone()));
        }
    }

    fn match_losses(&mut self, truth: &Truth) {
        let expected = truth.expected();
        let mut differences = Vec::new();
        for (key, loss) in &expected {
            match self.said.get(*key) {
                Some(said) => differences.extend(loss_differences(loss, said)),
                None => differences.push(format!("missed: {key:?}")),
            }
        }
        for (key, said) in &self.said {
            if !expected.contains_key(key) {
                differences.push(format!("false alarm: {key:?}: {said:?}"));
            }
        }
        self.differences.append(&mut differences);
    }

    /// The rest: at least as many as are gone, in ranges that hold all of them.
    fn match_bound(&mut self, truth: &Truth) {
        let (bound, gone) = (self.bound.messages, truth.nameless.len() as u64);
        let fits = (gone..=BOUND_MAX).contains(&bound);
        if !fits {
            self.differ(format!(
                "undecided: {gone} messages have no name, the bound is {bound} (at most {BOUND_MAX})"
            ));
        }
        let uncovered: Vec<String> = ids(&truth.nameless).difference(&self.bound.covers).cloned().collect();
        self.bound.holds = fits && uncovered.is_empty();
        if !uncovered.is_empty() {
            let ranges = &self.bound.ranges;
            self.differ(format!("undecided: {uncovered:?} are in none of the ranges {ranges:?}"));
        }
    }

    fn check_sources(&mut self, truth: &Truth, site: &Site) -> Result<()> {
        let (sources, undecided) = site.api.sources()?;
        for source in sources.iter().filter(|source| !source.up || source.lag_frames > 0) {
            self.differ(format!("behind: {} ({} frames)", source.source, source.lag_frames));
        }
        if undecided < truth.nameless.len() as u64 {
            self.differ(format!("answers say that at most {undecided} messages are undecided"));
        }
        Ok(())
    }

    /// No verdict names the group (that would be a false alarm by its key), and its book is closed.
    fn check_healthy(&mut self, healthy: &Healthy, site: &Site) -> Result<()> {
        let Healthy { broker, topic, group, .. } = healthy;

        let rows = site.api.balance()?;
        let of_group = |row: &&_| {
            let row: &agent::report::views::BalanceRow = row;
            row.broker == *broker && row.topic == *topic && row.group == *group
        };
        let book = rows.iter().find(of_group).and_then(|row| row.consumer.as_ref());
        let closed = book.is_some_and(|book| {
            let open = book.in_flight + book.dead_lettered + book.moved + book.undecided;
            let settled = healthy.ids.len() as u64;
            book.balanced && open == 0 && book.settled == settled && book.lost == healthy.lost_in_store
        });
        if !closed {
            self.differ(format!("the book of {group} in {topic} is not closed: {book:?}"));
        }
        Ok(())
    }

    /// What is still in the store is asked for by id: every message says the same as its incident.
    fn check_messages(&mut self, truth: &Truth, site: &Site) -> Result<()> {
        for loss in &truth.losses {
            for id in loss.ids.iter().filter(|_| is_answered_by_id(&loss.key.class)) {
                let found = site.api.message(id)?;
                let in_group = found.groups.iter().find(|entry| entry.group == loss.key.group);
                let class = in_group.and_then(|entry| entry.class.as_deref());
                let names_class =
                    found.first_break.as_ref().is_some_and(|broken| broken.contains(&loss.key.class));
                if !names_class || (in_group.is_some() && class != Some(loss.key.class.as_str())) {
                    self.differ(format!(
                        "messages/{id} does not say {}: {:?}",
                        loss.key.class, found.first_break
                    ));
                }
            }
        }
        let kept = truth.healthy.iter().filter(|healthy| healthy.broker == "demo-a");
        let whole = kept.flat_map(|healthy| healthy.ids.iter().map(move |id| (id, &healthy.group)));
        for (id, group) in whole.chain(truth.settled.iter().map(|(id, group)| (id, group))) {
            let found = site.api.message(id)?;
            let state =
                found.groups.iter().find(|entry| entry.group == *group).map(|entry| entry.state.as_str());
            if state != Some("settled") || found.first_break.is_some() {
                self.differ(format!(
                    "messages/{id} is {state:?}, not settled, breaks at {:?}",
                    found.first_break
                ));
            }
        }
        Ok(())
    }
}

/// Classes whose messages can be asked for by id: expired ones are in no index any more, and dead letters are alive as copies.
fn is_answered_by_id(class: &str) -> bool {
    matches!(
        class,
        "never-stored" | "stored-not-flushed-lost" | "skipped-by-offset-reset" | "acked-without-delivery"
    )
}

/// The name of what an incident places at an offset: for a dead letter, of the message it began as.
fn name_of(
    truth: &Truth,
    letters: &[DlqRow],
    incident: &LossDetail,
    (topic, place): (&str, &Place),
) -> String {
    let broker = &incident.item.broker;
    let letter = letters.iter().find(|row| {
        let at = &row.identity;
        at.broker == *broker
            && at.topic == topic
            && at.queue_id == place.queue_id
            && at.queue_offset == place.offset
    });
    let known = match letter {
        Some(row) => {
            let root = Place { queue_id: row.root.queue_id, offset: row.root.queue_offset };
            truth.at(broker, &row.root.topic, &root)
        }
        None => truth.at(broker, topic, place),
    };
    // an offset that was used twice: the incident says by id which of the two it means
    let named = known.iter().find(|sent| incident.ids.contains(&sent.id));
    let name = named.or(known.last()).map(|sent| sent.id.clone());
    name.unwrap_or_else(|| format!("unknown message at {topic}/{}/{}", place.queue_id, place.offset))
}

/// Ids, numbers, cause and state: whatever of one loss is not as it is.
pub(super) fn loss_differences(loss: &Loss, said: &Said) -> Vec<String> {
    let mut differences = Vec::new();
    let about = format!("{} in {}", loss.key.class, loss.key.topic);
    let missed: Vec<&String> = loss.ids.difference(&said.ids).collect();
    if !missed.is_empty() {
        differences.push(format!("{about}: missed {missed:?}"));
    }
    let invented: Vec<&String> = said.ids.difference(&loss.ids).collect();
    if !invented.is_empty() {
        differences.push(format!("{about}: not destroyed: {invented:?}"));
    }
    if said.messages != loss.ids.len() as u64 {
        let (counted, incidents) = (said.messages, said.incidents.join("; "));
        differences.push(format!("{about}: counts {counted} messages, not {}: {incidents}", loss.ids.len()));
    }
    if !said.cause.contains(&loss.cause) {
        differences.push(format!("{about}: the cause is `{}`, without `{}`", said.cause, loss.cause));
    }
    let state = if loss.superseded { "recovered" } else { "confirmed" };
    if said.states != BTreeSet::from([state.to_owned()]) {
        differences.push(format!("{about}: is {:?}, not {state}", said.states));
    }
    differences
}
