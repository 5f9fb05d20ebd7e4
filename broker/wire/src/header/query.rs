//! Finding single messages: by key (12) and by offset id (33).
//!
//! Owns: their fields. Answers carry records as body. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::response, command::Command};

/// `QueryMessageRequestHeader`, code 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryMessage<'a> {
    pub topic: &'a str,
    pub key: &'a str,
    pub max_num: i32,
    pub begin_timestamp_ms: i64,
    pub end_timestamp_ms: i64,
    /// The key is a `UNIQ_KEY` and not one of the message's own keys.
    pub unique_key: bool,
}

impl<'a> QueryMessage<'a> {
    pub fn decode(command: &'a Command) -> Result<QueryMessage<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(QueryMessage {
            topic: fields.text("topic")?,
            key: fields.text("key")?,
            max_num: fields.number("maxNum")?,
            begin_timestamp_ms: fields.number("beginTimestamp")?,
            end_timestamp_ms: fields.number("endTimestamp")?,
            unique_key: fields.boolean("_UNIQUE_KEY_QUERY"),
        })
    }
}

/// `QueryMessageResponseHeader`; on QUERY_NOT_FOUND too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryMessageResponse {
    pub index_last_update_timestamp_ms: i64,
    pub index_last_update_commitlog_offset: u64,
}

impl QueryMessageResponse {
    /// `found`: the body will hold at least one record.
    pub fn encode(&self, request: &Command, found: bool) -> Command {
        let response = match found {
            true => Command::response_to(request, response::SUCCESS),
            false => Command::error_to(
                request,
                response::QUERY_NOT_FOUND,
                "no message with this key in this time range",
            ),
        };
        response
            .with_field("indexLastUpdatePhyoffset", self.index_last_update_commitlog_offset)
            .with_field("indexLastUpdateTimestamp", self.index_last_update_timestamp_ms)
    }
}

/// `ViewMessageRequestHeader`, code 33: from a client, so the offset may point anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewMessage {
    pub commitlog_offset: i64,
}

impl ViewMessage {
    pub fn decode(command: &Command) -> Result<ViewMessage, RequestError> {
        let fields = FieldReader::new(command);
        Ok(ViewMessage { commitlog_offset: fields.number("offset")? })
    }
}
