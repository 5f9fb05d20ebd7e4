//! Consumer groups: joining, subscriptions, and where a group starts. All queues of a subscribed topic are pinned in one turn, so
//! "what does this group owe" has one answer from the first heartbeat on.

use super::Core;
use crate::api::{Answer, ConsumerDeclaration, Refusal, StartPolicy};
use crate::state::RETRY_PREFIX;
use lifecycle::fact::{ConsumeModel, Fact, StartReason};
use lifecycle::identity::{Name, QueueKey};
use std::collections::BTreeMap;

/// Longest group name (RocketMQ: 255); retry and dead-letter topics are named after it and end at 127.
pub(crate) const GROUP_LEN_MAX: usize = 120;
/// Most groups.
pub(crate) const GROUPS_MAX: usize = 20_000;

/// Checks a group's name.
pub(crate) fn check_group_name(name: &str) -> Answer<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-');
    if name.is_empty() || name.len() > GROUP_LEN_MAX || !name.bytes().all(allowed) {
        let what = format!("group name must be 1 to {GROUP_LEN_MAX} characters of [%|a-zA-Z0-9_-]");
        return Err(Refusal::BadParameter(what));
    }
    Ok(())
}

impl Core {
    /// Makes sure the group exists, when it may.
    pub(super) fn ensure_group(&mut self, group: &Name) -> Answer<()> {
        if self.state.group(group).is_some() {
            return Ok(());
        }
        check_group_name(group)?;
        if !self.config.auto_create_groups {
            return Err(Refusal::GroupNotFound(group.to_string()));
        }
        if self.state.groups().count() >= GROUPS_MAX {
            return Err(Refusal::Busy("too many groups"));
        }
        let retry_max = self.config.retry_max;
        self.state(Fact::GroupConfigured { group: group.clone(), retry_max, consume_enabled: true });
        Ok(())
    }

    /// A client consumes in a group: states what is new about that.
    pub(super) fn join(&mut self, client: &Name, consumer: ConsumerDeclaration) -> Answer<()> {
        self.ensure_group(&consumer.group)?;
        let group = consumer.group.clone();
        if consumer.model == ConsumeModel::Clustering {
            let retry: Name = format!("{RETRY_PREFIX}{group}").into();
            self.own_topic(&retry, 1, super::topics::PERM_READ_WRITE)?;
        }
        let wanted: BTreeMap<Name, (Name, u64)> = consumer
            .subscriptions
            .iter()
            .map(|s| (s.topic.clone(), (s.expression.clone(), s.version)))
            .collect();
        let known = self.state.group(&group).and_then(|g| g.members.get(client)).cloned();
        let joined = known.as_ref().is_none_or(|member| member.model != consumer.model);
        let dropped =
            known.as_ref().is_some_and(|m| m.subscriptions.keys().any(|topic| !wanted.contains_key(topic)));
        if joined || dropped {
            // joining anew forgets the old subscriptions
            self.state(Fact::MemberJoined {
                group: group.clone(),
                member: client.clone(),
                model: consumer.model,
            });
        }
        for (topic, (expression, version)) in wanted {
            let same = !joined
                && !dropped
                && known.as_ref().and_then(|m| m.subscriptions.get(&topic))
                    == Some(&(expression.clone(), version));
            if !same {
                self.state(Fact::Subscribed {
                    group: group.clone(),
                    member: client.clone(),
                    topic: topic.clone(),
                    expression,
                    version,
                });
            }
            self.pin(&group, &topic, consumer.start, consumer.model);
        }
        self.pin_retry_topic(&group, consumer.model);
        if joined {
            self.notify_members(&group);
        }
        Ok(())
    }

    fn pin_retry_topic(&mut self, group: &Name, model: ConsumeModel) {
        if model == ConsumeModel::Clustering
            && let Some(queue) = self.state.queue_key(&format!("{RETRY_PREFIX}{group}"), 0)
        {
            self.start_group(group, queue, 0, StartReason::RetryTopic);
        }
    }

    /// Pins every queue of a topic the group has not started yet.
    pub(super) fn pin(&mut self, group: &Name, topic: &str, start: StartPolicy, model: ConsumeModel) {
        let Some(known) = self.state.topic(topic) else { return };
        if model == ConsumeModel::Broadcasting || start == StartPolicy::FirstPull {
            return;
        }
        let (topic, count) = (known.config.topic, known.queue_count);
        // once a group has started in a topic, its further queues were added later
        let started =
            self.state.group(group).is_some_and(|g| g.queues.keys().any(|queue| queue.topic == topic));
        for queue_id in 0..count {
            let queue = QueueKey { topic, queue_id };
            let bounds = self.state.bounds(queue);
            let (offset, reason) = match start {
                _ if started => (bounds.min_offset, StartReason::QueueAdded),
                StartPolicy::First => (bounds.min_offset, StartReason::First),
                // a queue that starts at 0 and never lost anything is consumed whole, as RocketMQ does while it is in memory
                _ if bounds.min_offset == 0 => (0, StartReason::First),
                _ => (bounds.max_offset, StartReason::Last),
            };
            self.start_group(group, queue, offset, reason);
        }
    }

    /// Groups that subscribe to a topic owe its new queues whole.
    pub(super) fn pin_new_queues(&mut self, topic: &Name) {
        let Some(known) = self.state.topic(topic) else { return };
        let (incarnation, count) = (known.config.topic, known.queue_count);
        let groups: Vec<Name> = self
            .state
            .groups()
            .filter(|(_, group)| {
                let subscribed = group.members.values().any(|member| {
                    member.model != ConsumeModel::Broadcasting && member.subscriptions.contains_key(topic)
                });
                subscribed || group.queues.keys().any(|queue| queue.topic == incarnation)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for group in groups {
            for queue_id in 0..count {
                let queue = QueueKey { topic: incarnation, queue_id };
                let offset = self.state.bounds(queue).min_offset;
                self.start_group(&group, queue, offset, StartReason::QueueAdded);
            }
        }
    }

    /// The group owes the queue from `offset` on, unless it already started there.
    pub(super) fn start_group(&mut self, group: &Name, queue: QueueKey, offset: u64, reason: StartReason) {
        if self.state.group(group).is_some_and(|group| !group.queues.contains_key(&queue)) {
            self.leases.look_anew(group, queue);
            self.state(Fact::GroupStarted { group: group.clone(), queue, offset, reason });
        }
    }
}
