//! Owns what people and programs are shown: pure functions from books and incidents to the answers of the HTTP API, the
//! command line and the page. Never reads a clock, never changes the books. Called by the HTTP routes.

pub mod balances;
pub mod coverage;
pub mod exposure;
pub mod lists;
pub mod losses;
pub mod numbers;
pub mod timeline;
pub mod times;
pub mod views;
pub mod windows;

use crate::fold::broker::BrokerBooks;
use lifecycle::identity::MessageIdentity;
use views::Identity;

/// An identity as it is shown.
pub(crate) fn identity(broker: &BrokerBooks, at: MessageIdentity) -> Identity {
    Identity {
        broker: broker.name.0.to_string(),
        topic: broker.topic_name(at.queue.topic).to_owned(),
        topic_incarnation: format!("{:x}", at.queue.topic.0),
        queue_id: at.queue.queue_id,
        queue_offset: at.queue_offset,
        epoch: at.epoch_number,
    }
}

/// Topics that hold only what brokers copy or keep for themselves.
pub(crate) fn is_system(topic: &str) -> bool {
    ["%RETRY%", "%DLQ%", "SCHEDULE_TOPIC", "RMQ_SYS"].iter().any(|prefix| topic.starts_with(prefix))
}
