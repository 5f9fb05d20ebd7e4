//! Receives that wait for messages of a topic.

use super::Core;
use crate::api::{Answer, ConnectionId, LeasedMessage, ReceiveMessages, Refusal, ReplyFn};
use crate::core::pull::{SUSPEND_MAX_MS, WAITING_MAX};
use lifecycle::clock::Now;
use lifecycle::identity::{Name, QueueKey, TopicIncarnation};
use std::collections::{BTreeMap, BTreeSet};

struct Waiting {
    /// What it waits for: the topic asked for, and the group's retry topic.
    topics: Vec<TopicIncarnation>,
    deadline_ms: u64,
    receive: ReceiveMessages,
    reply: ReplyFn<Answer<Vec<LeasedMessage>>>,
}

/// By topic, first come first served.
#[derive(Default)]
pub(in crate::core) struct WaitingReceives {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    by_topic: BTreeMap<TopicIncarnation, BTreeSet<u64>>,
    by_attempt: BTreeMap<(Name, Name), u64>,
    deadlines: BTreeSet<(u64, u64)>,
}

impl WaitingReceives {
    pub(in crate::core) fn waits_for(&self, queue: QueueKey) -> bool {
        self.by_topic.contains_key(&queue.topic)
    }

    pub(in crate::core) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(in crate::core) fn drop_connection(&mut self, connection: ConnectionId) {
        let gone: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.receive.connection == connection)
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.take(number);
        }
    }

    /// The client has given its earlier call with this attempt id up: messages are not to be leased to it.
    pub(super) fn drop_attempt(&mut self, receive: &ReceiveMessages) {
        if let Some(number) = self.by_attempt.get(&attempt(receive)).copied() {
            self.take(number);
        }
    }

    fn add(&mut self, number: u64, waiting: Waiting) {
        for topic in &waiting.topics {
            self.by_topic.entry(*topic).or_default().insert(number);
        }
        if !waiting.receive.attempt_id.is_empty() {
            self.by_attempt.insert(attempt(&waiting.receive), number);
        }
        self.deadlines.insert((waiting.deadline_ms, number));
        self.waiting.insert(number, waiting);
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.deadlines.remove(&(waiting.deadline_ms, number));
        for topic in &waiting.topics {
            if let Some(numbers) = self.by_topic.get_mut(topic) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_topic.remove(topic);
                }
            }
        }
        let attempt = attempt(&waiting.receive);
        if self.by_attempt.get(&attempt) == Some(&number) {
            self.by_attempt.remove(&attempt);
        }
        Some(waiting)
    }
}

fn attempt(receive: &ReceiveMessages) -> (Name, Name) {
    (receive.client.clone(), receive.attempt_id.clone())
}

impl Core {
    pub(super) fn wait_to_receive(
        &mut self,
        now: Now,
        receive: ReceiveMessages,
        reply: ReplyFn<Answer<Vec<LeasedMessage>>>,
    ) {
        let Some(topic) = self.state.topic(&receive.topic).map(|topic| topic.config.topic) else {
            return self.answer(reply, Err(Refusal::TopicNotFound(receive.topic.to_string())));
        };
        let topics = [Some(topic), self.retry_topic(&receive.group)].into_iter().flatten().collect();
        let receives = &mut self.waiting.receives;
        if receives.waiting.len() >= WAITING_MAX {
            return self.answer(reply, Err(Refusal::Busy("too many waiting receives")));
        }
        receives.next += 1;
        let deadline_ms = now.mono_ms + receive.wait_ms.min(SUSPEND_MAX_MS);
        receives.add(receives.next, Waiting { topics, deadline_ms, receive, reply });
        self.go_on_looking();
    }

    /// What one scan did not get through is news for those who wait.
    fn go_on_looking(&mut self) {
        for queue in std::mem::take(&mut self.leases.unfinished) {
            self.waiting.touch(queue);
        }
    }

    pub(in crate::core) fn serve_waiting_receives(&mut self, now: Now, queue: QueueKey) {
        let numbers: Vec<u64> =
            self.waiting.receives.by_topic.get(&queue.topic).into_iter().flatten().copied().collect();
        for number in numbers {
            let Some(waiting) = self.waiting.receives.take(number) else { continue };
            match self.try_receive(now, &waiting.receive) {
                Ok(messages) if messages.is_empty() => {
                    self.waiting.receives.add(number, waiting);
                    self.go_on_looking();
                }
                answer => self.answer(waiting.reply, answer),
            }
        }
    }

    pub(in crate::core) fn end_overdue_receives(&mut self, now: Now) {
        while let Some((deadline, number)) = self.waiting.receives.deadlines.first().copied() {
            if deadline > now.mono_ms {
                break;
            }
            let Some(waiting) = self.waiting.receives.take(number) else { break };
            self.answer(waiting.reply, Ok(Vec::new()));
        }
    }
}
