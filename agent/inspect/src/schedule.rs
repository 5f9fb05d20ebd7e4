//! Owns what is judged of messages that waited in the schedule: delayed ones, and those that their consumers sent back. That a copy came
//! out of it is known by the id, which stands among the properties, and no checksum covers those: before a message is called lost,
//! everything is asked that may mean that its copy is there and damaged.

use crate::findings::State;
use crate::rows::{self, Role, Stored};
use crate::scan::Wrong;
use crate::store::Store;
use crate::story::{Judge, Story, text};
use std::collections::HashSet;

/// Most messages, and most copies, that are remembered until all ids were seen. Where there are more, nothing is confirmed.
const KEPT_MAX: usize = 65_536;

const TOO_MANY: &str =
    "the schedule has passed it; too many like it to look for its copy by anything but its id";

/// What has no counterpart of the same id.
#[derive(Debug, Default)]
pub struct Schedules {
    /// Store, id and record of messages that are not known to have come out.
    waiting: Vec<(u8, Vec<u8>, Stored)>,
    /// Store, birth and checksum of the body of copies that came out of a schedule, and were never in one.
    orphans: HashSet<(u8, i64, u32)>,
    is_full: bool,
}

impl Judge<'_> {
    pub(crate) fn schedule(&mut self, story: &Story<'_>, store: &Store) {
        let mut has_waited = false;
        for waiting in story.of(store.index, Role::Schedule) {
            has_waited = true;
            let is_delivered = story.records().any(|(of, stored)| {
                of == store.index
                    && stored.topic == waiting.other_topic
                    && stored.reconsume_times == waiting.reconsume_times
                    && stored.position > waiting.position
            });
            if is_delivered {
                continue;
            }
            if !waiting.is_passed {
                let cause = "in the schedule, not yet delivered".to_owned();
                self.of_schedule(store, ("delayed-pending", State::Note, cause), (story.id, waiting));
            } else if let Some(cause) = doubt(story, store, waiting) {
                self.of_schedule(
                    store,
                    ("undecided", State::Undecided, cause.to_owned()),
                    (story.id, waiting),
                );
            } else if !self.schedules.wait(store.index, story.id, waiting) {
                let told = ("undecided", State::Undecided, TOO_MANY.to_owned());
                self.of_schedule(store, told, (story.id, waiting));
            }
        }
        if !has_waited {
            let copies = story.records().filter(|(of, stored)| *of == store.index && came_out(stored));
            copies.for_each(|(of, stored)| self.schedules.orphan(of, stored));
        }
    }

    /// After the last id: what is missing everywhere.
    pub(crate) fn finish_schedules(&mut self) {
        let Schedules { waiting, orphans, is_full } = std::mem::take(&mut self.schedules);
        for (of, id, waiting) in &waiting {
            let Some(store) = self.stores.get(usize::from(*of)) else { continue };
            let is_retry = waiting.other_topic.starts_with(rows::RETRY_PREFIX);
            let (class, state, cause) = if is_full {
                ("undecided", State::Undecided, TOO_MANY)
            } else if orphans.contains(&(*of, waiting.born_ms, waiting.body_crc)) {
                (
                    "undecided",
                    State::Undecided,
                    "the schedule has passed it, and a copy of its birth and body has another id: one of them is damaged",
                )
            } else if is_retry {
                (
                    "send-back-failed-then-passed",
                    State::Confirmed,
                    "sent back by its consumer, the schedule has passed it, and there is no retry record",
                )
            } else {
                (
                    "timer-lost",
                    State::Confirmed,
                    "delayed, the schedule has passed it, and it was not delivered",
                )
            };
            self.of_schedule(store, (class, state, cause.to_owned()), (id, waiting));
        }
    }

    fn of_schedule(
        &mut self,
        store: &Store,
        (class, state, cause): (&'static str, State, String),
        (id, waiting): (&[u8], &Stored),
    ) {
        let mut key = store.key(class, state, state == State::Confirmed, cause);
        key.topic = text(&waiting.topic);
        if let Some(group) = waiting.other_topic.strip_prefix(rows::RETRY_PREFIX) {
            key.group = text(group);
        }
        self.findings.add(key, Some(id), Some((waiting.queue, waiting.offset)));
    }
}

impl Schedules {
    /// False: there is no room.
    fn wait(&mut self, store: u8, id: &[u8], waiting: &Stored) -> bool {
        self.is_full |= self.waiting.len() >= KEPT_MAX;
        if !self.is_full {
            self.waiting.push((store, id.to_vec(), waiting.clone()));
        }
        !self.is_full
    }

    fn orphan(&mut self, store: u8, copy: &Stored) {
        self.is_full |= self.orphans.len() >= KEPT_MAX;
        if !self.is_full {
            self.orphans.insert((store, copy.born_ms, copy.body_crc));
        }
    }
}

fn came_out(stored: &Stored) -> bool {
    let is_delayed = stored.role == Role::Normal && !stored.other_topic.is_empty() && !stored.is_committed;
    stored.role == Role::Retry || is_delayed
}

/// Why the copy that is not seen may have been, or be, in the log.
fn doubt(story: &Story<'_>, store: &Store, waiting: &Stored) -> Option<&'static str> {
    let is_behind = |to: u64| to > waiting.position;
    let mut damages = store.summary.damages.iter();
    if store.has_abort {
        Some("the schedule has passed it and its copy is not in the log, which may have been copied before")
    } else if damages.any(|damage| is_behind(damage.to) && damage.wrong != Wrong::Leftover) {
        Some("the schedule has passed it, and its copy may have been in a damaged range of the log")
    } else if store.queues.values().any(|queue| queue.written > queue.max) {
        Some(
            "the schedule has passed it, and its copy may have been behind the log's end, where queues still point",
        )
    } else if story.records().any(|(of, stored)| {
        of == store.index
            && is_behind(stored.position)
            && (stored.born_ms, stored.body_crc) == (waiting.born_ms, waiting.body_crc)
    }) {
        Some(
            "the schedule has passed it, and a later record of its id, birth and body goes elsewhere: one of them is damaged",
        )
    } else {
        None
    }
}
