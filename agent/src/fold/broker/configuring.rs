//! Owns what the broker's books do with facts about epochs and topics.

use super::{BrokerBooks, EPOCHS_MAX, QUEUES_PER_ROW, Stale, Topic};
use crate::fold::slots::Slots;
use lifecycle::fact::{EpochStarted, TopicConfigured};
use lifecycle::identity::{QueueKey, TopicIncarnation};

impl BrokerBooks {
    pub(super) fn epoch_started(&mut self, started: &EpochStarted) {
        self.epoch = started.epoch.number;
        if self.epochs.last().is_some_and(|last| last.epoch == started.epoch) {
            return;
        }
        if self.epochs.len() >= EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.replication.begin_epoch(started);
        self.epochs.push(started.clone());
    }

    pub(super) fn topic_configured(&mut self, configured: &TopicConfigured) {
        match self.topics.get_mut(&configured.topic) {
            Some(topic) => {
                topic.configured = configured.clone();
                topic.dirty = true;
            }
            None => {
                let configured = configured.clone();
                let slots = Slots::default();
                let (stored, produced, refused) = (0, 0, 0);
                let topic = Topic { configured, stored, produced, refused, slots, dirty: true };
                self.topics.insert(topic.configured.topic, topic);
            }
        }
        self.names.insert(configured.name.clone(), configured.topic);
        self.stale.insert(Stale::Topic(configured.topic));
    }

    pub(super) fn topic_deleted(&mut self, topic: TopicIncarnation) {
        let keys: Vec<QueueKey> = self.queues_of(topic).map(|(key, _)| key).collect();
        for key in keys {
            let owners = self.queues.remove(&key).map(|queue| queue.owners).unwrap_or_default();
            self.stale.insert(Stale::Queues(key.topic, key.queue_id / QUEUES_PER_ROW));
            self.slots_touched.insert((key.topic, Some(key.queue_id)));
            for owner in owners {
                if let Some(group) = self.groups.get_mut(&owner)
                    && group.queues.remove(&key).is_some()
                {
                    self.pairs_changed(0, 1);
                }
                self.stale.insert(Stale::QueueGone(owner.clone(), key));
                self.stale.insert(Stale::GroupQueues(owner, key.topic, key.queue_id / QUEUES_PER_ROW));
            }
        }
        if let Some(gone) = self.topics.remove(&topic) {
            self.names.retain(|name, named| *name != gone.configured.name || *named != topic);
        }
        self.stale.insert(Stale::Topic(topic));
        self.slots_touched.insert((topic, None));
    }
}
