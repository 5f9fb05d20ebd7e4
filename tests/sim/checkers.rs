//! Owns the comparison of what the agent said with what is true, and the broker's own promises at the end of a run. Pure reading:
//! never changes world or agent. Called once at the end of each plan.

use crate::matrix::{Cell, Matrix};
use crate::oracle::{Fate, Unit, is_users};
use crate::world::World;
use agent::fold::class::Class;
use agent::fold::marks::State;
use agent::fold::queue::Queue;
use agent::judge::verdict::{Verdict, VerdictSpan, VerdictState};
use std::collections::{BTreeMap, BTreeSet};

/// Everything the agent said, by fate.
#[derive(Default)]
struct Said {
    confirmed: BTreeMap<Fate, BTreeSet<Class>>,
    /// Suspected, and not confirmed by the end.
    suspected: BTreeMap<Fate, BTreeSet<Class>>,
    /// Undecided: where, and at most how many.
    windows: Vec<(Vec<(String, VerdictSpan)>, u64)>,
}

/// Compares at the end of a run; what is wrong, in words.
pub(crate) fn check(world: &mut World, matrix: &mut Matrix) -> Vec<String> {
    let mut wrong = std::mem::take(&mut world.broken);
    wrong.append(&mut world.agent.broken);
    let said = said(world, &mut wrong);
    let truth = world.oracle.expected.clone();
    let mut undecided: Vec<u64> = vec![0; said.windows.len()];
    for (fate, class) in &truth {
        let confirmed = said.confirmed.get(fate);
        if confirmed.is_some_and(|classes| classes.len() == 1 && classes.contains(class)) {
            matrix.add(*class, Cell::Said(*class));
            continue;
        }
        if let Some(classes) = confirmed {
            for other in classes.iter().filter(|other| *other != class) {
                matrix.add(*class, Cell::Said(*other));
            }
            let looks_like = world.looks_like.get(fate).is_some_and(|other| classes.iter().eq([other]));
            if !looks_like {
                wrong.push(format!("wrong class: {fate:?} is {}, said {classes:?}", class.text()));
            }
            continue;
        }
        let window = said.windows.iter().position(|(spans, _)| spans.iter().any(|span| covers(span, fate)));
        if let (Some(window), true) = (window, world.unseen.contains(&fate.1)) {
            undecided[window] += 1;
            matrix.add(*class, Cell::Undecided);
            continue;
        }
        let doubtful = world.may_be_read.get(&fate.1);
        let is_doubtful = doubtful.is_some_and(|while_| world.untold.iter().any(|at| while_.contains(at)));
        if is_doubtful && undecided_in_books(world, fate) {
            matrix.add(*class, Cell::Undecided);
            continue;
        }
        matrix.add(*class, Cell::Nothing);
        let suspected = said.suspected.get(fate);
        wrong.push(format!("missed: {fate:?} is {}, suspected {suspected:?}", class.text()));
    }
    for ((_, bound), count) in said.windows.iter().zip(undecided) {
        if count > *bound {
            wrong.push(format!("{count} messages are undecided, the stated bound is {bound}"));
        }
    }
    for (fate, classes) in &said.confirmed {
        if truth.contains_key(fate) || world.may_be_said.contains(fate) {
            continue;
        }
        for class in classes {
            matrix.add_invented(*class);
            wrong.push(format!("invented: {fate:?} said to be {}", class.text()));
        }
    }
    for (fate, classes) in &said.suspected {
        wrong.push(format!("still suspected at the end: {fate:?} {classes:?}"));
    }
    wrong
}

/// Whether a group's own books say that it is not known what became of a message that still exists.
fn undecided_in_books(world: &World, (group, what): &Fate) -> bool {
    let books = &world.agent.core().books;
    let Some(broker) = books.brokers.get(crate::world::BROKER) else { return false };
    let Some(owed) = broker.groups.get(group.as_str()) else { return false };
    owed.queues.iter().any(|(key, queue)| {
        let topic = broker.topic_name(key.topic);
        let known = broker.queues.get(key);
        let is_it = |offset: u64, of: &Queue| {
            let epoch = of.epoch_of(offset);
            format!("{topic}/{}/{offset}@{epoch}", key.queue_id) == *what && offset < of.untrusted_below
        };
        let below = known.map_or(0, |of| of.untrusted_below.min(queue.floor));
        (0..below)
            .any(|at| queue.ended.how(at) == Some(State::Undecided) && known.is_some_and(|of| is_it(at, of)))
    })
}

fn covers((topic, span): &(String, VerdictSpan), (_, what): &Fate) -> bool {
    let Some((place, epoch)) = what.rsplit_once('@') else { return false };
    let mut parts = place.rsplitn(3, '/');
    let (offset, queue, of) = (parts.next(), parts.next(), parts.next());
    let offset = offset.and_then(|text| text.parse::<u64>().ok());
    let in_epoch = span.epoch == 0 || epoch == span.epoch.to_string();
    of == Some(topic)
        && queue == Some(&span.queue_id.to_string())
        && in_epoch
        && offset.is_some_and(|at| (span.from..span.to).contains(&at))
}

fn topic_of(world: &World, span: &VerdictSpan) -> String {
    let core = world.core.as_ref().expect("it runs");
    let topic = core.state_view().topic_of(span.queue().topic);
    // a power cut may have taken the topic with its messages
    topic.map_or_else(|| format!("topic {:x}", span.topic_incarnation), |topic| topic.config.name.to_string())
}

fn units(world: &World, spans: &[VerdictSpan]) -> Vec<Unit> {
    let mut units = Vec::new();
    for span in spans {
        let topic = topic_of(world, span);
        for offset in span.from..span.to {
            units.push(Unit { topic: topic.clone(), queue: span.queue_id, offset, epoch: span.epoch });
        }
    }
    units
}

fn said(world: &World, wrong: &mut Vec<String>) -> Said {
    let mut said = Said::default();
    for verdict in world.agent.verdicts() {
        if verdict.class == Class::Undecided && verdict.key.ends_with("/spoilt") {
            wrong.push(format!(
                "up to {} rotten records have no name, and the queues have all",
                verdict.undecided
            ));
        }
        if verdict.class == Class::Undecided && verdict.state != VerdictState::Withdrawn {
            let windows = verdict.windows.iter().map(|span| (topic_of(world, span), *span)).collect();
            said.windows.push((windows, verdict.undecided));
            continue;
        }
        let into = match verdict.state {
            VerdictState::Confirmed | VerdictState::Recovered if verdict.confirmed_messages > 0 => {
                &mut said.confirmed
            }
            VerdictState::Confirmed if verdict.class == Class::EvidenceGap => &mut said.confirmed,
            VerdictState::Suspected => &mut said.suspected,
            VerdictState::Acknowledged | VerdictState::Accepted => {
                wrong.push(format!("nobody acted on {verdict:?}"));
                continue;
            }
            _ => continue,
        };
        // a known outcome has replaced the question, and whoever was to be dead-lettered is judged by what came of it
        if verdict.class == Class::SendUnknown && verdict.open_messages() == 0 {
            continue;
        }
        for fate in fates(world, &verdict) {
            into.entry(fate).or_default().insert(verdict.class);
        }
    }
    said
}

/// Whom a verdict is about.
fn fates(world: &World, verdict: &Verdict) -> Vec<Fate> {
    let group = verdict.group.clone();
    let id_of = |unit: &Unit| world.oracle.ever.get(unit).cloned().unwrap_or_default();
    match verdict.class {
        Class::EvidenceGap => vec![(String::new(), "evidence".into())],
        Class::AnsweredNotDurable => {
            let spans = units(world, &verdict.spans);
            spans.iter().map(|unit| (String::new(), format!("at risk:{}", id_of(unit)))).collect()
        }
        Class::NeverStored | Class::SendRefused | Class::SendUnknown | Class::StoredThoughUnacked => {
            verdict.ids.iter().map(|id| (String::new(), format!("id:{id}"))).collect()
        }
        Class::StoredNotFlushedLost | Class::NotReplicatedAtFailover => {
            let mut fates: BTreeSet<Fate> = units(world, &verdict.open_spans)
                .iter()
                .map(|unit| (group.clone(), unit.to_string()))
                .collect();
            for id in &verdict.ids {
                let places: Vec<&Unit> = world
                    .oracle
                    .destroyed
                    .iter()
                    .filter(|unit| id_of(unit) == *id && is_users(&unit.topic))
                    .collect();
                fates.extend(places.iter().map(|unit| (group.clone(), unit.to_string())));
                if places.is_empty() {
                    fates.insert((group.clone(), format!("id:{id}")));
                }
            }
            fates.into_iter().collect()
        }
        _ => units(world, &verdict.open_spans).iter().map(|unit| (group.clone(), unit.to_string())).collect(),
    }
}
