//! Owns what waits too long on a group's way: records in the schedule beyond their due time, and retries in the retry topic
//! that no member fetches. Looked for, because nothing is stated when nothing happens.

use super::Judge;
use super::classes::About;
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::class::Class;
use crate::fold::event::{Event, Span, What};
use crate::fold::group::GroupBooks;
use crate::fold::group_queue::GroupQueue;
use lifecycle::identity::{Name, QueueKey};
use lifecycle::ranges::Ranges;

/// How often retry topics are looked at, ms of the source's clock.
const RETRIES_EVERY_MS: u64 = 1_000;
/// First part of the keys of incidents about unread retries.
const UNREAD: &str = "retry-unread/";

impl Judge {
    /// What waits in a schedule beyond its due time, by the source's own clock.
    pub(super) fn look_at_schedules(&mut self, books: &Books) {
        for (source, broker) in &books.brokers {
            let slack = self.deadlines.timer_slack_ms;
            let overdue = broker.timers.overdue(broker.now.wall_ms.saturating_sub(slack));
            let mut late: std::collections::BTreeMap<_, Ranges> = std::collections::BTreeMap::new();
            for (queue, offset, timer) in overdue {
                let epoch = broker.queues.get(&queue).map_or(0, |q| q.epoch_of(offset));
                late.entry((queue, epoch, timer.group.clone())).or_default().insert(offset, offset + 1);
            }
            let Some(at) = books.position_of(source) else { continue };
            for ((queue, epoch, group), ranges) in late {
                let key = format!("stuck/{source}/{epoch}/{group}/{:x}", queue.topic.0);
                let text = format!("still in the schedule more than {slack} ms after it was due");
                for (from, to) in ranges.iter() {
                    let span = Span { queue, from, to, epoch };
                    let what = What::TimerDone { span };
                    let wall_ms = broker.now.wall_ms;
                    let event = Event { source: source.clone(), at, wall_ms, epoch, what };
                    let about = About {
                        class: Class::StuckInRetry,
                        key: key.clone(),
                        group: &group,
                        span,
                        text: text.clone(),
                    };
                    self.grow(books, &event, about);
                }
            }
        }
    }

    /// What lies in a retry topic longer than the threshold, while the group has members and none of them fetches from that
    /// queue. What is fetched after all was not stuck.
    pub(super) fn look_at_retries(&mut self, books: &Books) {
        for (source, broker) in &books.brokers {
            let now = broker.now.wall_ms;
            let looked = self.retries_looked_ms.get(source).copied().unwrap_or(0);
            let Some(at) = books.position_of(source) else { continue };
            if now < looked.saturating_add(RETRIES_EVERY_MS) {
                continue;
            }
            self.retries_looked_ms.insert(source.clone(), now);
            self.close_fetched(source, broker);
            let threshold = self.deadlines.retry_unread_ms;
            for (name, group) in &broker.groups {
                for span in unread_retries(broker, (name, group), threshold) {
                    let key = format!("{UNREAD}{source}/{}/{name}", broker.epoch);
                    let text = format!(
                        "in the retry topic for more than {threshold} ms, and no member of {name} fetches from queue {}",
                        span.queue.queue_id
                    );
                    let what = What::RetryUnread { group: name.clone(), span };
                    let event = Event { source: source.clone(), at, wall_ms: now, epoch: broker.epoch, what };
                    self.grow(
                        books,
                        &event,
                        About { class: Class::StuckInRetry, key, group: name, span, text },
                    );
                }
            }
        }
    }

    fn close_fetched(&mut self, source: &Name, broker: &BrokerBooks) {
        for incident in self.all_mut() {
            let verdict = &incident.verdict;
            if !verdict.state.is_open() || verdict.broker != **source || !verdict.key.starts_with(UNREAD) {
                continue;
            }
            let group = broker.groups.get(verdict.group.as_str());
            let mut fetched = Vec::new();
            for (queue, epoch, ranges) in incident.open_ranges() {
                let books = group.and_then(|group| group.queues.get(&queue));
                for (from, to) in ranges.iter() {
                    let unread = books.map_or(Ranges::new(), |books| books.unhanded(from, to));
                    let gone = unread.missing(from, to);
                    fetched.extend(gone.iter().map(|(from, to)| Span { queue, from, to, epoch }));
                }
            }
            for span in fetched {
                incident.close_span(&span);
            }
        }
    }
}

fn unread_retries(broker: &BrokerBooks, group: (&Name, &GroupBooks), threshold: u64) -> Vec<Span> {
    let (name, group) = group;
    let now = broker.now.wall_ms;
    let is_over = |since: u64| now.saturating_sub(since) > threshold;
    // without a member nobody could fetch; a new one is given its time
    if group.members.is_empty() || !is_over(group.members_since_wall_ms) {
        return Vec::new();
    }
    let Some(topic) = broker.topic_named(&format!("%RETRY%{name}")) else { return Vec::new() };
    let keys = QueueKey { topic, queue_id: 0 }..=QueueKey { topic, queue_id: u32::MAX };
    let mut out = Vec::new();
    for (key, books) in group.queues.range(keys).filter(|(_, books)| is_over(books.read_wall_ms)) {
        let Some(queue) = broker.queues.get(key) else { continue };
        let late = |books: &GroupQueue| {
            let end = queue.stored_before_wall_ms(now.saturating_sub(threshold)).min(queue.max);
            books.unhanded(books.floor.max(queue.min), end)
        };
        for (from, to) in late(books).iter() {
            let spans = queue.by_epoch(from, to).into_iter();
            out.extend(spans.map(|(from, to, epoch)| Span { queue: *key, from, to, epoch }));
        }
    }
    out
}
