//! What each consumer was last answered, by its attempt id: SDKs that lost an answer ask again with the same id, and hold nothing
//! of the first. They are given the same leases again, instead of waiting until those end. Lives in memory only: after a restart
//! leases bound to a member's life are over.

use super::handle::Handle;
use super::handout::leased_message;
use crate::api::{LeasedMessage, ReceiveMessages};
use crate::core::Core;
use lifecycle::clock::Now;
use lifecycle::identity::Name;
use std::collections::BTreeMap;

/// Most answers remembered, over all clients; further ones are only given again once their lease is over.
pub(crate) const ATTEMPTS_MAX: usize = 100_000;

/// A consumer asks with one attempt at a time for each place: client, group, topic, queue.
type Place = (Name, Name, Name, Option<u32>);

struct Attempt {
    id: Name,
    handles: Vec<Handle>,
}

#[derive(Default)]
pub(super) struct Attempts {
    last: BTreeMap<Place, Attempt>,
}

fn place(receive: &ReceiveMessages) -> Place {
    (receive.client.clone(), receive.group.clone(), receive.topic.clone(), receive.queue_id)
}

impl Attempts {
    /// Notes what an attempt is answered. A new id says that the answer before it arrived.
    pub(super) fn remember(&mut self, receive: &ReceiveMessages, messages: &[LeasedMessage]) {
        let place = place(receive);
        if receive.attempt_id.is_empty()
            || (self.last.len() >= ATTEMPTS_MAX && !self.last.contains_key(&place))
        {
            return;
        }
        let handles = messages.iter().filter_map(|message| message.handle.parse().ok()).collect();
        self.last.insert(place, Attempt { id: receive.attempt_id.clone(), handles });
    }

    /// The client is gone.
    pub(super) fn forget(&mut self, client: &Name) {
        let none = Name::from("");
        let first: Place = (client.clone(), none.clone(), none, None);
        let places: Vec<Place> = self
            .last
            .range(first..)
            .take_while(|(place, _)| place.0 == *client)
            .map(|(p, _)| p.clone())
            .collect();
        for place in places {
            self.last.remove(&place);
        }
    }

    fn handles(&self, receive: &ReceiveMessages) -> Vec<Handle> {
        let attempt = self.last.get(&place(receive)).filter(|attempt| attempt.id == receive.attempt_id);
        attempt.map(|attempt| attempt.handles.clone()).unwrap_or_default()
    }
}

impl Core {
    /// The same again, for a retry of an attempt that was answered: whatever of it is still leased to the client. These are the
    /// leases stated then, so nothing new is stated. `None`: it is a new attempt, or nothing of it is left.
    pub(super) fn answer_again(&mut self, now: Now, receive: &ReceiveMessages) -> Option<Vec<LeasedMessage>> {
        if receive.attempt_id.is_empty() {
            return None;
        }
        let retry = self.retry_topic(&receive.group);
        let mut messages = Vec::new();
        for handle in self.leases.attempts.handles(receive) {
            let held =
                self.group_queue(&receive.group, handle.queue).and_then(|at| at.leases.get(&handle.offset));
            let still = held.is_some_and(|lease| {
                lease.held
                    && lease.member == receive.client
                    && (lease.attempt, lease.until_ms) == (handle.attempt, handle.until_ms)
                    && lease.until_ms > now.wall_ms
            });
            if !still {
                continue;
            }
            match self.record_at(handle.queue, handle.offset) {
                Ok(Some(logged)) => {
                    let retry = retry == Some(handle.queue.topic);
                    messages.push(leased_message(logged.record, handle, receive, retry));
                }
                Ok(None) => {}
                Err(error) => drop(self.read_failed(error)),
            }
        }
        if messages.is_empty() {
            return None;
        }
        tracing::debug!(group = %receive.group, client = %receive.client, count = messages.len(), "an answer that was lost is given again");
        Some(messages)
    }
}
