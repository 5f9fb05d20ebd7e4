//! Pulling: code 11.
//!
//! Owns: the request's fields, and an answer's status and offsets. Records are the answer's body. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::response, command::Command, sys_flag::PullSysFlag};

/// `PullMessageRequestHeader`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullMessage<'a> {
    pub consumer_group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    pub queue_offset: i64,
    pub max_msg_nums: i32,
    pub sys_flag: PullSysFlag,
    /// Only meant when `sys_flag` says so; -1 when the client has none yet.
    pub commit_offset: i64,
    pub suspend_timeout_ms: i64,
    pub subscription: Option<&'a str>,
    pub sub_version: i64,
    /// `TAG` when absent.
    pub expression_type: Option<&'a str>,
    /// 5.x clients: most bytes wanted.
    pub max_msg_bytes: Option<i32>,
}

impl<'a> PullMessage<'a> {
    pub fn decode(command: &'a Command) -> Result<PullMessage<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(PullMessage {
            consumer_group: fields.text("consumerGroup")?,
            topic: fields.text("topic")?,
            queue_id: fields.number("queueId")?,
            queue_offset: fields.number("queueOffset")?,
            max_msg_nums: fields.number("maxMsgNums")?,
            sys_flag: PullSysFlag(fields.number("sysFlag")?),
            commit_offset: fields.number("commitOffset")?,
            suspend_timeout_ms: fields.number("suspendTimeoutMillis")?,
            subscription: fields.optional("subscription"),
            sub_version: fields.number("subVersion")?,
            expression_type: fields.optional("expressionType"),
            max_msg_bytes: fields.optional_number("maxMsgBytes")?,
        })
    }
}

/// How a pull ended: the remark an Apache broker writes (`GetMessageStatus`) and the code the client acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    NoMatchedMessage,
    MessageWasRemoving,
    OffsetFoundNull,
    OffsetOverflowBadly,
    OffsetOverflowOne,
    OffsetTooSmall,
    NoMatchedLogicQueue,
    NoMessageInQueue,
    /// 5.x: an operator's reset is waiting for this group.
    OffsetReset,
}

impl PullStatus {
    pub fn remark(self) -> &'static str {
        match self {
            PullStatus::Found => "FOUND",
            PullStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            PullStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            PullStatus::OffsetFoundNull => "OFFSET_FOUND_NULL",
            PullStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            PullStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            PullStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
            PullStatus::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
            PullStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            PullStatus::OffsetReset => "OFFSET_RESET",
        }
    }

    /// What the client is told to do. It must move off a queue that has nothing unless it asked for the very start.
    pub fn code(self, queue_offset: i64) -> i32 {
        match self {
            PullStatus::Found => response::SUCCESS,
            PullStatus::NoMatchedMessage | PullStatus::MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
            PullStatus::OffsetFoundNull | PullStatus::OffsetOverflowOne => response::PULL_NOT_FOUND,
            PullStatus::NoMatchedLogicQueue | PullStatus::NoMessageInQueue if queue_offset == 0 => {
                response::PULL_NOT_FOUND
            }
            PullStatus::NoMatchedLogicQueue | PullStatus::NoMessageInQueue => response::PULL_OFFSET_MOVED,
            PullStatus::OffsetOverflowBadly | PullStatus::OffsetTooSmall | PullStatus::OffsetReset => {
                response::PULL_OFFSET_MOVED
            }
        }
    }
}

/// `PullMessageResponseHeader`: on every answer that has a status, with or without records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullMessageResponse {
    pub status: PullStatus,
    /// 0 is the master.
    pub suggest_which_broker_id: u64,
    pub next_begin_offset: u64,
    pub min_offset: u64,
    pub max_offset: u64,
}

impl PullMessageResponse {
    /// `queue_offset` is the one the request asked for.
    pub fn encode(&self, request: &Command, queue_offset: i64) -> Command {
        Command::response_to(request, self.status.code(queue_offset))
            .with_remark(self.status.remark())
            .with_field("suggestWhichBrokerId", self.suggest_which_broker_id)
            .with_field("nextBeginOffset", self.next_begin_offset)
            .with_field("maxOffset", self.max_offset)
            .with_field("minOffset", self.min_offset)
    }
}
