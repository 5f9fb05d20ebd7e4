//! Owns one consumer group at one broker: its members and their subscriptions, its books per queue, its dead letters.
//! Never decides whether a difference between members is a fault.

use crate::fold::dead_letters::DeadLetters;
use crate::fold::group_queue::GroupQueue;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::{Name, QueueKey};
use std::collections::{BTreeMap, BTreeSet};

/// Members remembered per group; more are counted as strangers.
pub const MEMBERS_MAX: usize = 10_000;
/// Topics one member may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;

/// One member.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// How it shares messages.
    pub model: ConsumeModel,
    /// Topic → (expression, version).
    pub subscriptions: BTreeMap<Name, (Name, u64)>,
}

/// One group.
#[derive(Clone, Debug, Default)]
pub struct GroupBooks {
    /// Most attempts before the dead-letter topic.
    pub retry_max: u32,
    /// Whether consuming is allowed.
    pub consume_enabled: bool,
    /// How its members share messages; `None` while nobody ever joined.
    pub model: Option<ConsumeModel>,
    /// Live members.
    pub members: BTreeMap<Name, Member>,
    /// Topics whose subscriptions differ between live members now.
    pub conflicts: BTreeSet<Name>,
    /// Books per queue it owes.
    pub queues: BTreeMap<QueueKey, GroupQueue>,
    /// Its dead letters.
    pub dead_letters: DeadLetters,
    /// When it last showed life, wall ms.
    pub active_wall_ms: u64,
    /// When a member last joined, wall ms.
    pub joined_wall_ms: u64,
    /// Since when it has members without a break, wall ms; 0: it has none.
    pub members_since_wall_ms: u64,
    /// Whether its head row is out of date.
    pub dirty: bool,
}

impl GroupBooks {
    /// A client joined.
    pub fn joined(&mut self, member: &Name, model: ConsumeModel, wall_ms: u64) {
        if self.members.is_empty() {
            self.members_since_wall_ms = wall_ms;
        }
        self.joined_wall_ms = wall_ms;
        self.model = Some(model);
        if self.members.len() < MEMBERS_MAX || self.members.contains_key(member) {
            let entry = self.members.entry(member.clone());
            entry.or_insert_with(|| Member { model, subscriptions: BTreeMap::new() }).model = model;
        }
        self.dirty = true;
    }

    /// A client left.
    pub fn left(&mut self, member: &Name) {
        if let Some(gone) = self.members.remove(member) {
            for topic in gone.subscriptions.keys() {
                self.compare(topic);
            }
        }
        if self.members.is_empty() {
            self.members_since_wall_ms = 0;
        }
        self.dirty = true;
    }

    /// A member subscribed, or changed its subscription.
    pub fn subscribed(&mut self, member: &Name, topic: &Name, expression: &Name, version: u64) {
        let Some(member) = self.members.get_mut(member) else { return };
        if member.subscriptions.len() < SUBSCRIPTIONS_MAX || member.subscriptions.contains_key(topic) {
            member.subscriptions.insert(topic.clone(), (expression.clone(), version));
        }
        self.compare(topic);
        self.dirty = true;
    }

    /// The different expressions of live members for a topic.
    pub fn expressions(&self, topic: &Name) -> BTreeSet<Name> {
        let subscriptions = self.members.values().filter_map(|member| member.subscriptions.get(topic));
        subscriptions.map(|(expression, _)| expression.clone()).collect()
    }

    fn compare(&mut self, topic: &Name) {
        if self.expressions(topic).len() > 1 {
            self.conflicts.insert(topic.clone());
        } else {
            self.conflicts.remove(topic);
        }
    }

    /// Finds conflicts anew, after reading the members back from a row.
    pub fn compare_all(&mut self) {
        let topics: BTreeSet<Name> =
            self.members.values().flat_map(|member| member.subscriptions.keys().cloned()).collect();
        for topic in topics {
            self.compare(&topic);
        }
    }

    /// Whether nobody belongs to it and nothing moved for `idle_after_ms`.
    pub fn is_idle(&self, wall_ms: u64, idle_after_ms: u64) -> bool {
        self.members.is_empty() && wall_ms.saturating_sub(self.active_wall_ms) > idle_after_ms
    }
}
