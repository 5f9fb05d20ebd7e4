//! Owns sending: what a client's message must be to be taken, and how it becomes ours. The limits are those of RocketMQ's proxy.

use super::GrpcConfig;
use super::body::{InflateError, gunzip};
use super::caller::Caller;
use super::message::{is_system_property, property_text};
use super::names;
use super::proto::{
    Code, Encoding, Message, MessageType as ProtoType, SendMessageRequest, SendMessageResponse,
    SendResultEntry, SystemProperties,
};
use super::status::{Refused, ok, refuse, status, together};
use super::time::timestamp_ms;
use crate::api::{ConnectionId, MessageType, NewMessage, QueueChoice, SendMessages, SendStatus, StoredAt};
use bytes::Bytes;
use lifecycle::identity::Name;

/// Most messages in one request.
pub(super) const MESSAGES_PER_SEND_MAX: usize = 1_024;
const MESSAGE_ID_MAX_BYTES: usize = 255;
const USER_PROPERTIES_MAX: usize = 128;
const PROPERTIES_MAX_BYTES: usize = 16 * 1024;
/// Of tag, keys and trace context together with everything else; below what the core takes, so that copies fit.
const PROPERTY_TEXT_MAX_BYTES: usize = 31 * 1024;
const MESSAGE_GROUP_MAX_BYTES: usize = 63;
const BORN_HOST_MAX_BYTES: usize = 255;

/// The request as the core takes it.
pub(super) fn read(
    request: SendMessageRequest,
    caller: &Caller,
    connection: ConnectionId,
    rules: Rules<'_>,
) -> Result<SendMessages, Refused> {
    if request.messages.len() > MESSAGES_PER_SEND_MAX {
        let count = request.messages.len();
        return refuse(
            Code::BadRequest,
            format!("{count} messages are over the limit of {MESSAGES_PER_SEND_MAX}"),
        );
    }
    let Some(first) = request.messages.first() else {
        return refuse(Code::BadRequest, "a send without a message");
    };
    let topic = names::topic(first.topic.as_ref())?;
    let queue = queue(first);
    for other in request.messages.iter().skip(1) {
        check_alike(other, &topic, queue)?;
    }
    let mut messages = Vec::with_capacity(request.messages.len());
    for message in request.messages {
        messages.push(rules.message(message, caller)?);
    }
    Ok(SendMessages {
        client: caller.client.clone(),
        connection,
        topic,
        queue,
        create_with_queues: rules.config.auto_create_queues,
        one_way: false,
        messages,
    })
}

/// Messages of one request are stored together, so they belong to one topic and one queue.
fn check_alike(message: &Message, topic: &Name, queue_of_first: QueueChoice) -> Result<(), Refused> {
    if names::topic(message.topic.as_ref())? != *topic {
        return refuse(Code::BadRequest, "messages of one request name different topics");
    }
    if queue(message) != queue_of_first {
        return refuse(Code::IllegalMessageGroup, "messages of one request have different message groups");
    }
    Ok(())
}

/// The request's queue id is not used: the Node SDK always says 0.
fn queue(message: &Message) -> QueueChoice {
    let group = message.system_properties.as_ref().and_then(|system| system.message_group.as_deref());
    match group {
        None | Some("") => QueueChoice::Any,
        Some(group) => QueueChoice::ByKey(key_of(group)),
    }
}

/// FNV-1a, 64 bit: the same queue for a group, after every restart and on every release.
fn key_of(message_group: &str) -> u64 {
    message_group.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What a message is checked against.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) config: &'a GrpcConfig,
    pub(super) now_ms: u64,
}

impl Rules<'_> {
    fn message(&self, message: Message, caller: &Caller) -> Result<NewMessage, Refused> {
        let system = message.system_properties.unwrap_or_default();
        check_message_id(&system.message_id)?;
        let deliver_at_ms = self.deliver_at_ms(&system)?;
        let message_type = message_type(&system, deliver_at_ms)?;
        check_user_properties(&message.user_properties)?;
        let system = checked_system_properties(system)?;
        let properties = property_text(&message.user_properties, &system, deliver_at_ms);
        if properties.len() > PROPERTY_TEXT_MAX_BYTES {
            return too_many_properties(properties.len(), PROPERTY_TEXT_MAX_BYTES);
        }
        let born = system.born_timestamp.as_ref().and_then(timestamp_ms);
        Ok(NewMessage {
            body: self.body(message.body, system.body_encoding())?,
            properties: properties.into(),
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: born.unwrap_or(self.now_ms),
            born_host: caller.address,
            reconsume_times: 0,
            max_reconsume_times: None,
            deliver_at_ms,
            message_type: Some(message_type),
        })
    }

    /// Stored plain: remoting consumers cannot read GZIP, whatever flag it has.
    fn body(&self, body: Bytes, encoding: Encoding) -> Result<Bytes, Refused> {
        let limit = self.config.body_max_bytes;
        let too_large = |size: String| {
            refuse(
                Code::MessageBodyTooLarge,
                format!("message body of {size} bytes is over the limit of {limit}"),
            )
        };
        if body.is_empty() {
            return refuse(Code::MessageBodyEmpty, "message body is empty");
        }
        if body.len() > limit {
            return too_large(body.len().to_string());
        }
        if encoding != Encoding::Gzip {
            return Ok(body);
        }
        match gunzip(&body, limit) {
            Ok(plain) if plain.is_empty() => refuse(Code::MessageBodyEmpty, "message body is empty"),
            Ok(plain) => Ok(plain.into()),
            Err(InflateError::TooLarge { .. }) => too_large(format!("more than {limit}")),
            Err(error) => refuse(Code::MessageCorrupted, format!("message body is not GZIP: {error}")),
        }
    }

    fn deliver_at_ms(&self, system: &SystemProperties) -> Result<Option<u64>, Refused> {
        let Some(timestamp) = &system.delivery_timestamp else { return Ok(None) };
        let Some(at_ms) = timestamp_ms(timestamp) else {
            return refuse(Code::IllegalDeliveryTime, "delivery time is before 1970 or out of range");
        };
        let latest_ms = self.now_ms.saturating_add(self.config.delay_max_ms);
        if at_ms > latest_ms {
            let limit = self.config.delay_max_ms;
            return refuse(Code::IllegalDeliveryTime, format!("delivery time is more than {limit} ms away"));
        }
        Ok(Some(at_ms))
    }
}

fn check_message_id(id: &str) -> Result<(), Refused> {
    if id.trim().is_empty() || id.len() > MESSAGE_ID_MAX_BYTES || has_control(id) {
        let what = format!("message id is blank, longer than {MESSAGE_ID_MAX_BYTES} bytes or unprintable");
        return refuse(Code::IllegalMessageId, what);
    }
    Ok(())
}

/// The type follows from the fields; one that contradicts them is refused.
fn message_type(system: &SystemProperties, deliver_at_ms: Option<u64>) -> Result<MessageType, Refused> {
    let has_group = system.message_group.as_deref().is_some_and(|group| !group.is_empty());
    let conflict = |what: &str| refuse(Code::MessagePropertyConflictWithType, what);
    match system.message_type() {
        ProtoType::Transaction => {
            return refuse(Code::NotImplemented, "transactional messages are not supported");
        }
        ProtoType::Lite | ProtoType::Priority => {
            return refuse(Code::Unsupported, "lite and priority messages are not supported");
        }
        ProtoType::Fifo if !has_group => {
            return refuse(Code::IllegalMessageGroup, "a FIFO message needs a message group");
        }
        ProtoType::Delay if deliver_at_ms.is_none() => {
            return refuse(Code::IllegalDeliveryTime, "a delayed message needs a delivery time");
        }
        ProtoType::Normal if has_group => return conflict("a normal message has no message group"),
        ProtoType::Normal if deliver_at_ms.is_some() => {
            return conflict("a normal message has no delivery time");
        }
        _ => {}
    }
    match (has_group, deliver_at_ms) {
        (false, None) => Ok(MessageType::Normal),
        (true, None) => Ok(MessageType::Fifo),
        (false, Some(_)) => Ok(MessageType::Delay),
        (true, Some(_)) => conflict("a message has a message group or a delivery time, not both"),
    }
}

fn check_user_properties(properties: &std::collections::BTreeMap<String, String>) -> Result<(), Refused> {
    if properties.len() > USER_PROPERTIES_MAX {
        let count = properties.len();
        let what = format!("{count} user properties are over the limit of {USER_PROPERTIES_MAX}");
        return refuse(Code::MessagePropertiesTooLarge, what);
    }
    for (name, value) in properties {
        let illegal = |what: &str| {
            refuse(Code::IllegalMessagePropertyKey, format!("property {}: {what}", name.escape_debug()))
        };
        if is_system_property(name) {
            return illegal("the name is reserved");
        }
        // an empty value would be dropped on the way to the consumer
        if name.trim().is_empty() || value.is_empty() {
            return illegal("name or value is blank");
        }
        if has_control(name) || has_control(value) {
            return illegal("name or value has control characters");
        }
    }
    let bytes = properties.iter().map(|(name, value)| name.len() + value.len()).sum();
    match bytes > PROPERTIES_MAX_BYTES {
        true => too_many_properties(bytes, PROPERTIES_MAX_BYTES),
        false => Ok(()),
    }
}

fn too_many_properties<T>(bytes: usize, limit: usize) -> Result<T, Refused> {
    let what = format!("properties of {bytes} bytes are over the limit of {limit}");
    refuse(Code::MessagePropertiesTooLarge, what)
}

fn checked_system_properties(mut system: SystemProperties) -> Result<SystemProperties, Refused> {
    if let Some(tag) = &system.tag
        && (tag.trim().is_empty() || tag.contains('|') || has_control(tag))
    {
        return refuse(Code::IllegalMessageTag, "tag is blank, or has | or control characters in it");
    }
    if system.keys.iter().any(|key| key.trim().is_empty() || has_control(key)) {
        return refuse(Code::IllegalMessageKey, "a key is blank, or has control characters in it");
    }
    if let Some(group) = &system.message_group
        && !group.is_empty()
        && (group.trim().is_empty() || group.len() > MESSAGE_GROUP_MAX_BYTES || has_control(group))
    {
        let what = format!("message group is blank, over {MESSAGE_GROUP_MAX_BYTES} bytes or unprintable");
        return refuse(Code::IllegalMessageGroup, what);
    }
    if system.trace_context.as_deref().is_some_and(has_control) {
        return refuse(Code::BadRequest, "trace context has control characters in it");
    }
    // only informative, so not worth a refusal
    if system.born_host.len() > BORN_HOST_MAX_BYTES || has_control(&system.born_host) {
        system.born_host.clear();
    }
    Ok(system)
}

/// The separators of the property text are among them.
fn has_control(text: &str) -> bool {
    match text.is_ascii() {
        true => text.bytes().any(|byte| byte.is_ascii_control()),
        false => text.chars().any(char::is_control),
    }
}

/// The client's own ids, for the answer.
pub(super) fn message_ids(request: &SendMessageRequest) -> Vec<String> {
    let id = |message: &Message| message.system_properties.as_ref().map(|system| system.message_id.clone());
    request.messages.iter().map(|message| id(message).unwrap_or_default()).collect()
}

/// One entry for each message, in order: the Python SDK wants as many as it sent, the Node SDK reads the status of the first
/// that is not OK, the others the one outside.
pub(super) fn answer(ids: Vec<String>, stored: Vec<StoredAt>, caller: &Caller) -> SendMessageResponse {
    assert_eq!(ids.len(), stored.len(), "the core answers for every message");
    let entries: Vec<_> =
        ids.into_iter().zip(stored).map(|(id, stored)| entry(id, &stored, caller)).collect();
    let statuses: Vec<_> = entries.iter().filter_map(|entry| entry.status.clone()).collect();
    SendMessageResponse { status: Some(together(&statuses, caller.language)), entries }
}

fn entry(message_id: String, stored: &StoredAt, caller: &Caller) -> SendResultEntry {
    let code = Code::try_from(stored.status.grpc_code()).unwrap_or(Code::InternalServerError);
    let status = match stored.status {
        SendStatus::Ok => ok(),
        SendStatus::FlushDiskTimeout => status(code, "stored, but not on disk in time", caller.language),
        SendStatus::FlushSlaveTimeout => {
            status(code, "stored, but not with the replicas in time", caller.language)
        }
        SendStatus::SlaveNotAvailable => status(code, "stored, but no replica is in reach", caller.language),
    };
    SendResultEntry {
        status: Some(status),
        message_id,
        offset: i64::try_from(stored.queue_offset).unwrap_or(i64::MAX),
        ..SendResultEntry::default()
    }
}

/// The same refusal for all messages: they are stored together or not at all. The Rust SDK reads the first entry unasked.
pub(super) fn refusal(ids: Vec<String>, refused: &Refused, caller: &Caller) -> SendMessageResponse {
    let status = refused.status(caller.language);
    let entry = |message_id| SendResultEntry {
        status: Some(status.clone()),
        message_id,
        ..SendResultEntry::default()
    };
    let entries = ids.into_iter().take(MESSAGES_PER_SEND_MAX).map(entry).collect();
    SendMessageResponse { status: Some(status.clone()), entries }
}
