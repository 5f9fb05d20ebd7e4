//! Membership: heartbeat answers, unregister (35), the members of a group (38) and the notice that they changed (40).
//!
//! Owns: their fields; the heartbeat itself is a body ([`crate::body::heartbeat`]). Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::request, command::Command};

/// `UnregisterClientRequestHeader`, code 35.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnregisterClient<'a> {
    pub client_id: &'a str,
    pub producer_group: Option<&'a str>,
    pub consumer_group: Option<&'a str>,
}

impl<'a> UnregisterClient<'a> {
    pub fn decode(command: &'a Command) -> Result<UnregisterClient<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(UnregisterClient {
            client_id: fields.text("clientID")?,
            producer_group: fields.optional("producerGroup"),
            consumer_group: fields.optional("consumerGroup"),
        })
    }
}

/// Requests that name one consumer group: 38 (members) and 203 (connections).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupQuery<'a> {
    pub consumer_group: &'a str,
}

impl<'a> GroupQuery<'a> {
    pub fn decode(command: &'a Command) -> Result<GroupQuery<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(GroupQuery { consumer_group: fields.text("consumerGroup")? })
    }
}

/// `NotifyConsumerIdsChangedRequestHeader`, code 40, broker to client, one-way: rebalance now.
pub fn notify_consumer_ids_changed(opaque: i32, consumer_group: &str) -> Command {
    Command::oneway(request::NOTIFY_CONSUMER_IDS_CHANGED, opaque).with_field("consumerGroup", consumer_group)
}
