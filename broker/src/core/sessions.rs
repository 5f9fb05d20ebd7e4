//! Who is connected: clients, their connections, the locks they hold. Lives in memory only: after a restart clients tell it
//! again. That somebody became or ceased to be a member of a group is a fact; heartbeats are not.

use super::Core;
use crate::api::{
    Answer, ConnectionId, ConsumerDeclaration, Heartbeat, LockQueues, LockedQueue, MemberInfo, Refusal,
    Unregister,
};
use lifecycle::clock::Now;
use lifecycle::fact::{ConsumeModel, Fact, LeaveReason};
use lifecycle::identity::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a queue lock lasts (RocketMQ: 60 s).
pub(crate) const LOCK_MS: u64 = 60_000;
/// How often silent clients are looked for, ms.
pub(crate) const SCAN_INTERVAL_MS: u64 = 5_000;
/// Most clients, and most groups a client may declare.
pub(crate) const CLIENTS_MAX: usize = 100_000;
/// Most groups one client may declare.
pub(crate) const GROUPS_PER_CLIENT_MAX: usize = 256;
/// Most subscriptions of one consumer.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1_024;

type Notify = Arc<dyn Fn(&Name) + Send + Sync>;

struct Client {
    connection: ConnectionId,
    language: Name,
    version: i32,
    producer_groups: BTreeSet<Name>,
    consumers: BTreeMap<Name, ConsumerDeclaration>,
    heard_at_ms: u64,
    notify: Option<Notify>,
}

/// Connected clients and their locks.
#[derive(Default)]
pub(super) struct Sessions {
    clients: BTreeMap<Name, Client>,
    locks: BTreeMap<(Name, Name, u32), (Name, u64)>,
    next_scan_ms: u64,
    /// Members that left since the last turn: leases bound to their life are over.
    pub(super) lost: Vec<(Name, Name)>,
}

impl Sessions {
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        match self.lost.is_empty() {
            true => (!self.clients.is_empty()).then_some(self.next_scan_ms),
            false => Some(0),
        }
    }

    /// Whether a client is still with us: its leases are renewed.
    pub(super) fn is_alive(&self, client: &str) -> bool {
        self.clients.contains_key(client)
    }

    /// What operators see of a member.
    pub(super) fn member(&self, client: &Name) -> Option<MemberInfo> {
        let info = self.clients.get(client)?;
        Some(MemberInfo {
            client: client.clone(),
            language: info.language.clone(),
            version: info.version,
            connection: info.connection,
            leases: false,
        })
    }

    /// Clients that declared to consume in a group, in the order of their ids.
    pub(super) fn consumers_of(&self, group: &str) -> impl Iterator<Item = &Name> {
        let declared = move |client: &&Client| client.consumers.contains_key(group);
        self.clients.iter().filter(move |(_, client)| declared(client)).map(|(id, _)| id)
    }

    /// A group's declaration, of any member.
    pub(super) fn declaration(&self, group: &str) -> Option<&ConsumerDeclaration> {
        self.clients.values().find_map(|client| client.consumers.get(group))
    }

    /// Who is told when the members of a group change.
    fn to_notify(&self, group: &str) -> Vec<Notify> {
        let members = self.clients.values().filter(|client| client.consumers.contains_key(group));
        members.filter_map(|client| client.notify.clone()).collect()
    }

    pub(super) fn lock_queues(&mut self, now: Now, lock: LockQueues) -> Vec<LockedQueue> {
        let mut held = Vec::new();
        for queue in lock.queues {
            let key = (lock.group.clone(), queue.topic.clone(), queue.queue_id);
            let free = match self.locks.get(&key) {
                Some((owner, until)) => *owner == lock.client || *until <= now.mono_ms,
                None => true,
            };
            if free {
                self.locks.insert(key, (lock.client.clone(), now.mono_ms + LOCK_MS));
                held.push(queue);
            }
        }
        held
    }

    pub(super) fn unlock_queues(&mut self, lock: &LockQueues) {
        for queue in &lock.queues {
            let key = (lock.group.clone(), queue.topic.clone(), queue.queue_id);
            if self.locks.get(&key).is_some_and(|(owner, _)| *owner == lock.client) {
                self.locks.remove(&key);
            }
        }
    }
}

impl Core {
    pub(super) fn heartbeat(&mut self, now: Now, heartbeat: Heartbeat) -> Answer<()> {
        if heartbeat.consumers.len() > GROUPS_PER_CLIENT_MAX {
            return Err(Refusal::BadParameter(format!(
                "a client consumes in at most {GROUPS_PER_CLIENT_MAX} groups"
            )));
        }
        if self.sessions.clients.len() >= CLIENTS_MAX && !self.sessions.is_alive(&heartbeat.client) {
            return Err(Refusal::Busy("too many clients"));
        }
        for consumer in &heartbeat.consumers {
            self.check_consumer(consumer, &heartbeat.client)?;
        }
        let first = self.sessions.clients.is_empty();
        if first {
            self.sessions.next_scan_ms = now.mono_ms + SCAN_INTERVAL_MS;
        }
        let before = self.sessions.clients.remove(&heartbeat.client);
        if let Some(other) = before.as_ref().filter(|client| client.connection != heartbeat.connection) {
            tracing::debug!(client = %heartbeat.client, old = other.connection.0, new = heartbeat.connection.0, "client moved to another connection");
        }
        let declared: BTreeSet<&Name> = heartbeat.consumers.iter().map(|consumer| &consumer.group).collect();
        let gone: Vec<Name> = before
            .iter()
            .flat_map(|client| client.consumers.keys())
            .filter(|group| !declared.contains(group))
            .cloned()
            .collect();
        let client = Client {
            connection: heartbeat.connection,
            language: heartbeat.language,
            version: heartbeat.version,
            producer_groups: heartbeat.producer_groups.into_iter().collect(),
            consumers: heartbeat.consumers.iter().map(|c| (c.group.clone(), c.clone())).collect(),
            heard_at_ms: now.mono_ms,
            notify: heartbeat.notify,
        };
        self.sessions.clients.insert(heartbeat.client.clone(), client);
        for group in gone {
            self.leave(&group, &heartbeat.client, LeaveReason::Unregistered);
        }
        for consumer in heartbeat.consumers {
            if self.state.group(&consumer.group).is_none() && !self.config.auto_create_groups {
                // as RocketMQ: the client is known and told of its fellows, its pulls are refused; a group that is not there owes
                // nothing, so there is nothing to state
                let known = before.as_ref().is_some_and(|c| c.consumers.contains_key(&consumer.group));
                if !known {
                    self.notify_members(&consumer.group);
                }
                continue;
            }
            self.join(&heartbeat.client, consumer)?;
        }
        Ok(())
    }

    fn check_consumer(&self, consumer: &ConsumerDeclaration, client: &Name) -> Answer<()> {
        super::groups::check_group_name(&consumer.group)?;
        if consumer.subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Err(Refusal::BadParameter(format!("at most {SUBSCRIPTIONS_MAX} subscriptions")));
        }
        for subscription in &consumer.subscriptions {
            super::pull::Filter::parse(subscription)?;
        }
        let leases = |model: ConsumeModel| model == ConsumeModel::Lease;
        let members = self.state.group(&consumer.group).into_iter().flat_map(|group| &group.members);
        let other_kind = members
            .filter(|(member, known)| *member != client && leases(known.model) != leases(consumer.model))
            .find(|(_, known)| {
                consumer.subscriptions.iter().any(|s| known.subscriptions.contains_key(&s.topic))
            });
        let Some((_, known)) = other_kind else { return Ok(()) };
        let how = if leases(known.model) { "leases" } else { "offsets" };
        Err(Refusal::WrongConsumeModel(consumer.group.to_string(), how))
    }

    /// Tells every member's connection that the membership changed.
    pub(super) fn notify_members(&mut self, group: &Name) {
        let notify = self.sessions.to_notify(group);
        if !notify.is_empty() {
            let group = group.clone();
            self.replies.push(Box::new(move || notify.iter().for_each(|notify| notify(&group))));
        }
    }

    pub(super) fn unregister(&mut self, unregister: Unregister) {
        let Some(client) = self.sessions.clients.get_mut(&unregister.client) else { return };
        let all = unregister.producer_group.is_empty() && unregister.consumer_group.is_empty();
        let groups: Vec<Name> = match all {
            true => client.consumers.keys().cloned().collect(),
            false => client
                .consumers
                .contains_key(&unregister.consumer_group)
                .then_some(unregister.consumer_group)
                .into_iter()
                .collect(),
        };
        client.producer_groups.remove(&unregister.producer_group);
        for group in &groups {
            client.consumers.remove(group);
        }
        if all || (client.consumers.is_empty() && client.producer_groups.is_empty()) {
            self.sessions.clients.remove(&unregister.client);
        }
        for group in groups {
            self.leave(&group, &unregister.client, LeaveReason::Unregistered);
        }
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        self.waiting.drop_connection(connection);
        self.drop_clients(LeaveReason::Disconnected, |client| client.connection == connection);
    }

    /// Looks for clients that fell silent.
    pub(super) fn sessions_due(&mut self, now: Now) {
        if self.sessions.clients.is_empty() || now.mono_ms < self.sessions.next_scan_ms {
            return;
        }
        self.sessions.next_scan_ms = now.mono_ms + SCAN_INTERVAL_MS;
        let timeout = self.config.client_timeout_ms;
        self.drop_clients(LeaveReason::HeartbeatTimeout, |client| client.heard_at_ms + timeout < now.mono_ms);
    }

    fn drop_clients(&mut self, reason: LeaveReason, is_gone: impl Fn(&Client) -> bool) {
        let gone: Vec<Name> = self
            .sessions
            .clients
            .iter()
            .filter(|(_, client)| is_gone(client))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let Some(client) = self.sessions.clients.remove(&id) else { continue };
            for group in client.consumers.keys() {
                self.leave(group, &id, reason);
            }
        }
    }

    fn leave(&mut self, group: &Name, client: &Name, reason: LeaveReason) {
        self.sessions.locks.retain(|(locked, _, _), (owner, _)| locked != group || owner != client);
        if self.state.group(group).is_some_and(|group| group.members.contains_key(client)) {
            self.state(Fact::MemberLeft { group: group.clone(), member: client.clone(), reason });
            self.sessions.lost.push((group.clone(), client.clone()));
            self.notify_members(group);
        } else if self.state.group(group).is_none() {
            self.notify_members(group);
        }
    }
}
