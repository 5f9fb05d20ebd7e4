//! The text of a receipt handle. Opaque to clients; all it names is checked against the state.

use crate::api::Refusal;
use lifecycle::identity::{QueueKey, TopicIncarnation};
use std::fmt;
use std::str::FromStr;

/// One lease of one message: a later lease of the same message has another handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) queue: QueueKey,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) until_ms: u64,
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handle { queue, offset, attempt, until_ms } = self;
        write!(f, "1 {:x} {} {offset} {attempt} {until_ms:x}", queue.topic.0, queue.queue_id)
    }
}

impl FromStr for Handle {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        parse(text).ok_or(Refusal::InvalidHandle("it is none of this broker's"))
    }
}

fn parse(text: &str) -> Option<Handle> {
    let mut parts = text.split(' ');
    let mut next = || parts.next();
    if next()? != "1" {
        return None;
    }
    let handle = Handle {
        queue: QueueKey {
            topic: TopicIncarnation(u64::from_str_radix(next()?, 16).ok()?),
            queue_id: next()?.parse().ok()?,
        },
        offset: next()?.parse().ok()?,
        attempt: next()?.parse().ok()?,
        until_ms: u64::from_str_radix(next()?, 16).ok()?,
    };
    next().is_none().then_some(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn handles_survive_their_text(topic: u64, queue_id: u32, offset: u64, attempt: u32, until_ms: u64) {
            let handle = Handle { queue: QueueKey { topic: TopicIncarnation(topic), queue_id }, offset, attempt, until_ms };
            prop_assert_eq!(handle.to_string().parse::<Handle>(), Ok(handle));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let parsed = text.parse::<Handle>();
            prop_assert!(parsed.is_err() || parsed.unwrap().to_string() == text);
        }
    }
}
