//! Offsets: a group's position (14, 15) and a queue's (29 to 32).
//!
//! Owns: their fields. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::response, command::Command};

/// `QueryConsumerOffsetRequestHeader`, code 14; answered by [`offset_response`], or QUERY_NOT_FOUND for no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryConsumerOffset<'a> {
    pub consumer_group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    /// 5.x clients: answer 0 rather than not found.
    pub set_zero_if_not_found: Option<bool>,
}

impl<'a> QueryConsumerOffset<'a> {
    pub fn decode(command: &'a Command) -> Result<QueryConsumerOffset<'a>, RequestError> {
        let fields = FieldReader::new(command);
        let name = "setZeroIfNotFound";
        Ok(QueryConsumerOffset {
            consumer_group: fields.text("consumerGroup")?,
            topic: fields.text("topic")?,
            queue_id: fields.number("queueId")?,
            set_zero_if_not_found: fields.optional(name).map(|_| fields.boolean(name)),
        })
    }
}

/// `UpdateConsumerOffsetRequestHeader`, code 15; mostly one-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateConsumerOffset<'a> {
    pub consumer_group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    pub commit_offset: i64,
}

impl<'a> UpdateConsumerOffset<'a> {
    pub fn decode(command: &'a Command) -> Result<UpdateConsumerOffset<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(UpdateConsumerOffset {
            consumer_group: fields.text("consumerGroup")?,
            topic: fields.text("topic")?,
            queue_id: fields.number("queueId")?,
            commit_offset: fields.number("commitOffset")?,
        })
    }
}

/// The headers of 30 (max offset), 31 (min offset) and 32 (earliest store time), which differ only in their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueQuery<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
}

impl<'a> QueueQuery<'a> {
    pub fn decode(command: &'a Command) -> Result<QueueQuery<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(QueueQuery { topic: fields.text("topic")?, queue_id: fields.number("queueId")? })
    }
}

/// `SearchOffsetRequestHeader`, code 29.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchOffset<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub timestamp_ms: i64,
    /// 5.x: of several messages of that time, the last instead of the first.
    pub upper_boundary: bool,
}

impl<'a> SearchOffset<'a> {
    pub fn decode(command: &'a Command) -> Result<SearchOffset<'a>, RequestError> {
        let fields = FieldReader::new(command);
        let boundary = fields.optional("boundaryType").unwrap_or_default();
        Ok(SearchOffset {
            topic: fields.text("topic")?,
            queue_id: fields.number("queueId")?,
            timestamp_ms: fields.number("timestamp")?,
            upper_boundary: boundary.eq_ignore_ascii_case("upper"),
        })
    }
}

/// The answer to 14, 29, 30, 31.
pub fn offset_response(request: &Command, offset: u64) -> Command {
    Command::response_to(request, response::SUCCESS).with_field("offset", offset)
}

/// The answer to 32; -1 for a queue without messages.
pub fn timestamp_response(request: &Command, timestamp_ms: i64) -> Command {
    Command::response_to(request, response::SUCCESS).with_field("timestamp", timestamp_ms)
}
