//! The name server's question: where is a topic (105). The answer is a body ([`crate::body::route`]).
//!
//! Owns: its fields. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::response, command::Command};

/// Requests that name one topic: 105 (route), 202 (statistics), 215 and 216 (delete), 300 (who consumes), 351 (config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicQuery<'a> {
    pub topic: &'a str,
}

impl<'a> TopicQuery<'a> {
    pub fn decode(command: &'a Command) -> Result<TopicQuery<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(TopicQuery { topic: fields.text("topic")? })
    }
}

/// No such topic. Clients act on the code alone.
pub fn topic_not_exist(request: &Command, topic: &str) -> Command {
    Command::error_to(
        request,
        response::TOPIC_NOT_EXIST,
        format!("no topic route info in name server for the topic: {topic}"),
    )
}
