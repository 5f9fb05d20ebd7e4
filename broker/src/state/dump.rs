//! The state as facts: what a snapshot holds. Applying them to an empty state gives the same state.

use super::State;
use lifecycle::fact::*;
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ids::IdColumn;
use lifecycle::ranges::Ranges;

impl State {
    /// Facts that rebuild this state, in an order that can be folded. `started` restates the present epoch.
    pub fn dump(&self, started: &EpochStarted) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (epoch, log_start) in &self.epochs {
            let row = EpochStarted { epoch: *epoch, log_start: *log_start, ..started.clone() };
            let row = if *epoch == started.epoch { row } else { row.of_another_member() };
            facts.push(Fact::EpochStarted(row));
        }
        facts.extend(self.topics.values().map(|topic| Fact::TopicConfigured(topic.config.clone())));
        self.dump_timers(&mut facts);
        facts.push(Fact::Flushed { log_position: self.flushed });
        facts.extend(self.queues.iter().map(|(queue, bounds)| Fact::QueueState {
            queue: *queue,
            min_offset: bounds.min_offset,
            max_offset: bounds.max_offset,
        }));
        facts.extend(self.re_driven.iter().map(|((queue, epoch_number), ranges)| Fact::ReDriven {
            queue: *queue,
            epoch_number: *epoch_number,
            ranges: ranges.clone(),
        }));
        for (name, group) in &self.groups {
            facts.push(Fact::GroupConfigured {
                group: name.clone(),
                retry_max: group.retry_max,
                consume_enabled: group.consume_enabled,
            });
            for (member, details) in &group.members {
                facts.push(Fact::MemberJoined {
                    group: name.clone(),
                    member: member.clone(),
                    model: details.model,
                });
                for (topic, (expression, version)) in &details.subscriptions {
                    facts.push(Fact::Subscribed {
                        group: name.clone(),
                        member: member.clone(),
                        topic: topic.clone(),
                        expression: expression.clone(),
                        version: *version,
                    });
                }
            }
            for (queue, at) in &group.queues {
                dump_queue(name, *queue, at, &mut facts);
            }
        }
        facts
    }

    fn dump_timers(&self, facts: &mut Vec<Fact>) {
        let mut stored = Stored { log_end: self.log_end, ..Default::default() };
        for (due_wall_ms, queue, queue_offset) in self.timers.iter() {
            stored.runs.push(StoredRun { queue, queue_offset, count: 1 });
            stored.kinds.push((1, StoredKind::Delayed { due_wall_ms, destination: "".into() }));
        }
        stored.ids = IdColumn::new();
        facts.push(Fact::Stored(stored));
    }

    /// Where the log ended when this was the state.
    pub fn log_end(&self) -> LogPosition {
        self.log_end
    }
}

fn dump_queue(group: &Name, queue: QueueKey, at: &super::GroupQueue, facts: &mut Vec<Fact>) {
    facts.push(Fact::GroupStarted {
        group: group.clone(),
        queue,
        offset: at.start,
        reason: StartReason::First,
    });
    facts.push(Fact::GroupState {
        group: group.clone(),
        queue,
        position: at.position,
        delivered: Ranges::of(at.position, at.next),
        settled: at.settled.clone(),
    });
    for (offset, lease) in &at.leases {
        facts.push(Fact::Delivered {
            group: group.clone(),
            queue,
            ranges: Ranges::of(*offset, offset + 1),
            member: lease.member.clone(),
            attempt: lease.attempt,
            // an expired one bound to its member's life has no time left (0)
            lease_until_ms: if matches!(lease.until_ms, 0 | u64::MAX) {
                super::WHILE_MEMBER_LIVES
            } else {
                lease.until_ms
            },
        });
        if !lease.held {
            facts.push(Fact::LeaseExpired {
                group: group.clone(),
                queue,
                ranges: Ranges::of(*offset, offset + 1),
            });
        }
    }
    // the leases above say how the queue was consumed last, unless there are none, or an offset consumer came after them
    if at.by_leases == at.leases.is_empty() {
        facts.push(Fact::Delivered {
            group: group.clone(),
            queue,
            ranges: Ranges::new(),
            member: "".into(),
            attempt: u32::from(at.by_leases),
            lease_until_ms: if at.by_leases { super::WHILE_MEMBER_LIVES } else { 0 },
        });
    }
}
