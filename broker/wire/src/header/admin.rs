//! The admin tool's requests that carry fields. Those that name only a topic or a group are [`super::route::TopicQuery`] and
//! [`super::client::GroupQuery`]; 28, 106 and 206 carry none.
//!
//! Owns: their fields. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::request, command::Command};

/// `CreateTopicRequestHeader`, code 17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateTopic<'a> {
    pub topic: &'a str,
    pub default_topic: Option<&'a str>,
    pub read_queues: i32,
    pub write_queues: i32,
    /// 4 read, 2 write, 6 both; +1 inherit.
    pub perm: i32,
    pub topic_filter_type: Option<&'a str>,
    pub topic_sys_flag: i32,
    pub order: bool,
    /// 5.x: `+message.type=FIFO,…`
    pub attributes: Option<&'a str>,
}

impl<'a> CreateTopic<'a> {
    pub fn decode(command: &'a Command) -> Result<CreateTopic<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(CreateTopic {
            topic: fields.text("topic")?,
            default_topic: fields.optional("defaultTopic"),
            read_queues: fields.number("readQueueNums")?,
            write_queues: fields.number("writeQueueNums")?,
            perm: fields.number("perm")?,
            topic_filter_type: fields.optional("topicFilterType"),
            topic_sys_flag: fields.optional_number("topicSysFlag")?.unwrap_or(0),
            order: fields.boolean("order"),
            attributes: fields.optional("attributes"),
        })
    }
}

/// `GetConsumeStatsRequestHeader`, code 208.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumeStatsQuery<'a> {
    pub consumer_group: &'a str,
    /// Empty or absent: every topic of the group.
    pub topic: Option<&'a str>,
}

impl<'a> ConsumeStatsQuery<'a> {
    pub fn decode(command: &'a Command) -> Result<ConsumeStatsQuery<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(ConsumeStatsQuery {
            consumer_group: fields.text("consumerGroup")?,
            topic: fields.optional("topic").filter(|topic| !topic.is_empty()),
        })
    }
}

/// `DeleteSubscriptionGroupRequestHeader`, code 207.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteGroup<'a> {
    pub group: &'a str,
    pub remove_offset: bool,
}

impl<'a> DeleteGroup<'a> {
    pub fn decode(command: &'a Command) -> Result<DeleteGroup<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(DeleteGroup { group: fields.text("groupName")?, remove_offset: fields.boolean("removeOffset") })
    }
}

/// `ResetOffsetRequestHeader`: 222 from the admin tool, and 220 which the broker then sends to the group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetOffset<'a> {
    pub topic: &'a str,
    pub group: &'a str,
    /// -1: to the end of each queue.
    pub timestamp_ms: i64,
    /// Backwards too.
    pub force: bool,
}

impl<'a> ResetOffset<'a> {
    pub fn decode(command: &'a Command) -> Result<ResetOffset<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(ResetOffset {
            topic: fields.text("topic")?,
            group: fields.text("group")?,
            timestamp_ms: fields.number("timestamp")?,
            force: fields.boolean("isForce"),
        })
    }

    /// Code 220, one-way; the body is a [`crate::body::admin::offset_table`].
    pub fn to_client(&self, opaque: i32) -> Command {
        Command::oneway(request::RESET_CONSUMER_CLIENT_OFFSET, opaque)
            .with_field("topic", self.topic)
            .with_field("isForce", self.force)
            .with_field("group", self.group)
            .with_field("timestamp", self.timestamp_ms)
    }
}

/// `GetConsumerRunningInfoRequestHeader`, code 307: the broker passes it on to one client and its answer back, body unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerRunningInfo<'a> {
    pub consumer_group: &'a str,
    pub client_id: &'a str,
    pub jstack_enable: bool,
}

impl<'a> ConsumerRunningInfo<'a> {
    pub fn decode(command: &'a Command) -> Result<ConsumerRunningInfo<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(ConsumerRunningInfo {
            consumer_group: fields.text("consumerGroup")?,
            client_id: fields.text("clientId")?,
            jstack_enable: fields.boolean("jstackEnable"),
        })
    }
}
