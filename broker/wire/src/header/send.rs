//! Sending: codes 10, 310, 320 (and 324, 325 of request-reply), and sending back, 36.
//!
//! Owns: the two spellings of a send's fields and the answer's. The message is the command's body. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{
    code::{request, response},
    command::Command,
    fields::Fields,
    lenient::is_true,
    properties::Properties,
    sys_flag::SysFlag,
};

/// `SendMessageRequestHeader` and `SendMessageRequestHeaderV2`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendMessage<'a> {
    pub producer_group: &'a str,
    pub topic: &'a str,
    /// The topic whose route the client used because it found none for its own: from it an unknown topic is created.
    pub default_topic: &'a str,
    pub default_topic_queues: i32,
    /// Negative: the broker chooses.
    pub queue_id: i32,
    pub sys_flag: SysFlag,
    pub born_timestamp_ms: i64,
    pub flag: i32,
    pub properties: Properties<'a>,
    pub reconsume_times: i32,
    pub unit_mode: bool,
    /// Absent: the group's own limit.
    pub max_reconsume_times: Option<i32>,
    /// The body holds several messages, see [`crate::message::batch_items`].
    pub batch: bool,
}

/// The fields in the order of the letters `a` to `m`, with the names of code 10.
const LONG_NAMES: [&str; 13] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
];

impl<'a> SendMessage<'a> {
    /// Reads either spelling, in one pass: this is the hottest request.
    pub fn decode(command: &'a Command) -> Result<SendMessage<'a>, RequestError> {
        let mut values = [None; LONG_NAMES.len()];
        for (name, value) in command.fields.iter().flat_map(Fields::iter) {
            if let Some(index) = field_index(name) {
                values[index] = Some(value);
            }
        }
        let reader = FieldReader::new(command);
        let text = |index: usize| values[index].ok_or(reader.missing(LONG_NAMES[index]));
        let int = |index: usize| reader.parse::<i32>(LONG_NAMES[index], text(index)?);
        let optional_int = |index: usize| match values[index] {
            Some(value) => reader.parse::<i32>(LONG_NAMES[index], value).map(Some),
            None => Ok(None),
        };
        Ok(SendMessage {
            producer_group: text(0)?,
            topic: text(1)?,
            default_topic: text(2)?,
            default_topic_queues: int(3)?,
            queue_id: int(4)?,
            sys_flag: SysFlag(int(5)?),
            born_timestamp_ms: reader.parse(LONG_NAMES[6], text(6)?)?,
            flag: int(7)?,
            properties: Properties(values[8].unwrap_or_default()),
            reconsume_times: optional_int(9)?.unwrap_or(0),
            unit_mode: values[10].is_some_and(is_true),
            max_reconsume_times: optional_int(11)?,
            batch: command.code == request::SEND_BATCH_MESSAGE || values[12].is_some_and(is_true),
        })
    }
}

fn field_index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'm'] => Some(usize::from(letter - b'a')),
        _ => LONG_NAMES.iter().position(|known| *known == name),
    }
}

/// `SendMessageResponseHeader`: the answer to a stored message, under one of the four send statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendMessageResponse<'a> {
    /// The `offsetMsgId`; of a batch, all of them, separated by commas.
    pub msg_id: &'a str,
    pub queue_id: i32,
    pub queue_offset: u64,
    pub transaction_id: Option<&'a str>,
}

impl SendMessageResponse<'_> {
    /// `code` is one of SUCCESS, FLUSH_DISK_TIMEOUT, SLAVE_NOT_AVAILABLE, FLUSH_SLAVE_TIMEOUT: the client reads these
    /// fields with each of them, and fails without `MSG_REGION`.
    pub fn encode(&self, request: &Command, code: i32, trace: Trace<'_>) -> Command {
        let response = Command::response_to(request, code).with_field("queueId", self.queue_id);
        let response =
            trace.put(response).with_field("msgId", self.msg_id).with_field("queueOffset", self.queue_offset);
        match self.transaction_id {
            Some(id) => response.with_field("transactionId", id),
            None => response,
        }
    }

    /// Appends the frame of what [`SendMessageResponse::encode`] makes.
    pub fn append_to(&self, out: &mut Vec<u8>, request: &Command, code: i32, trace: Trace<'_>) {
        Command::response_to(request, code).encode_head_with(0, true, out, |fields| {
            match u64::try_from(self.queue_id) {
                Ok(queue_id) => fields.put_number("queueId", queue_id),
                Err(_) => fields.put("queueId", &self.queue_id.to_string()),
            }
            fields.put_plain("TRACE_ON", if trace.on { b"true" } else { b"false" });
            fields.put("MSG_REGION", trace.region);
            fields.put("msgId", self.msg_id);
            fields.put_number("queueOffset", self.queue_offset);
            if let Some(id) = self.transaction_id {
                fields.put("transactionId", id);
            }
        });
    }
}

/// What the broker tells a producer about message tracing, on every answer to a send, errors too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace<'a> {
    /// `MSG_REGION`
    pub region: &'a str,
    /// `TRACE_ON`
    pub on: bool,
}

impl Trace<'_> {
    pub fn put(self, response: Command) -> Command {
        response.with_field("TRACE_ON", self.on).with_field("MSG_REGION", self.region)
    }
}

/// Whether a send's answer with this code means that the message is stored.
pub fn is_send_status(code: i32) -> bool {
    matches!(
        code,
        response::SUCCESS
            | response::FLUSH_DISK_TIMEOUT
            | response::SLAVE_NOT_AVAILABLE
            | response::FLUSH_SLAVE_TIMEOUT
    )
}

/// `ConsumerSendMsgBackRequestHeader`: a consumer could not handle a message. No body; the answer has no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendBack<'a> {
    /// Commit-log offset of the record that was consumed: from a client, so to be checked.
    pub commitlog_offset: i64,
    pub group: &'a str,
    /// 0: by the number of attempts; negative: straight to the dead letters.
    pub delay_level: i32,
    /// The unique key, not an offset id.
    pub origin_msg_id: Option<&'a str>,
    pub origin_topic: Option<&'a str>,
    pub unit_mode: bool,
    pub max_reconsume_times: Option<i32>,
}

impl<'a> SendBack<'a> {
    pub fn decode(command: &'a Command) -> Result<SendBack<'a>, RequestError> {
        let fields = FieldReader::new(command);
        Ok(SendBack {
            commitlog_offset: fields.number("offset")?,
            group: fields.text("group")?,
            delay_level: fields.number("delayLevel")?,
            origin_msg_id: fields.optional("originMsgId"),
            origin_topic: fields.optional("originTopic"),
            unit_mode: fields.boolean("unitMode"),
            max_reconsume_times: fields.optional_number("maxReconsumeTimes")?,
        })
    }
}

/// `ReplyMessageRequestHeader`, code 326: the broker hands an answer of request-reply to the client that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushReply<'a> {
    pub send: SendMessage<'a>,
    pub born_host: &'a str,
    pub store_host: &'a str,
    pub store_timestamp_ms: i64,
}

impl PushReply<'_> {
    pub fn encode(&self, opaque: i32) -> Command {
        let send = &self.send;
        Command::request(request::PUSH_REPLY_MESSAGE_TO_CLIENT, opaque)
            .with_field("bornHost", self.born_host)
            .with_field("storeHost", self.store_host)
            .with_field("storeTimestamp", self.store_timestamp_ms)
            .with_field("producerGroup", send.producer_group)
            .with_field("topic", send.topic)
            .with_field("defaultTopic", send.default_topic)
            .with_field("defaultTopicQueueNums", send.default_topic_queues)
            .with_field("queueId", send.queue_id)
            .with_field("sysFlag", send.sys_flag.0)
            .with_field("bornTimestamp", send.born_timestamp_ms)
            .with_field("flag", send.flag)
            .with_field("properties", send.properties.0)
            .with_field("reconsumeTimes", send.reconsume_times)
            .with_field("unitMode", send.unit_mode)
    }
}
