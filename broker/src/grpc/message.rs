//! Owns the two forms of a message: system properties of the protocol on one side, RocketMQ's property text and record on the
//! other. What one side wrote is read back the same on either. Called by `send` and `receive`.

use super::body::Outgoing;
use super::names;
use super::proto::{DeadLetterQueue, Message, MessageType, SystemProperties};
use super::time::{duration, timestamp};
use bytes::Bytes;
use lifecycle::identity::Name;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use wire::ids::OffsetMessageId;
use wire::message::{RecordError, StoredMessage};
use wire::properties::{self as property, Properties};

/// Property names with a meaning to RocketMQ. A user may not set them, and is not shown them as properties of the user.
const SYSTEM_PROPERTIES: [&str; 44] = [
    property::KEYS,
    property::TAGS,
    property::WAIT,
    property::DELAY,
    property::RETRY_TOPIC,
    property::REAL_TOPIC,
    property::REAL_QID,
    property::TRAN_MSG,
    property::PGROUP,
    property::MIN_OFFSET,
    property::MAX_OFFSET,
    property::ORIGIN_MESSAGE_ID,
    property::RECONSUME_TIME,
    property::MAX_RECONSUME_TIMES,
    property::MSG_REGION,
    property::TRACE_ON,
    property::UNIQ_KEY,
    property::CONSUME_START_TIME,
    property::CHECK_IMMUNITY_TIME_IN_SECONDS,
    property::TRANSACTION_ID,
    property::TRANSACTION_CHECK_TIMES,
    property::TRAN_PREPARED_QUEUE_OFFSET,
    property::CLUSTER,
    property::INSTANCE_ID,
    property::POP_CK,
    property::FIRST_POP_TIME,
    property::SHARDING_KEY,
    property::TIMER_DELAY_SEC,
    property::TIMER_DELAY_MS,
    property::TIMER_DELIVER_MS,
    property::TIMER_OUT_MS,
    property::BORN_HOST,
    property::BORN_TIMESTAMP,
    property::TRACE_CONTEXT,
    property::DLQ_ORIGIN_TOPIC,
    property::DLQ_ORIGIN_MESSAGE_ID,
    property::INNER_NUM,
    property::CORRELATION_ID,
    property::REPLY_TO_CLIENT,
    property::TTL,
    property::MSG_TYPE,
    // of RocketMQ's broker, without a name of ours
    "TIMER_ROLL_TIMES",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
];

pub(super) fn is_system_property(name: &str) -> bool {
    SYSTEM_PROPERTIES.contains(&name)
}

/// Room for the property text of a usual message.
const USUAL_TEXT_LEN: usize = 256;

/// The property text of a message that `send` has checked: no name or value is empty or has control characters in it.
pub(super) fn property_text(
    user: &BTreeMap<String, String>,
    system: &SystemProperties,
    deliver_at_ms: Option<u64>,
) -> String {
    let mut text = String::with_capacity(USUAL_TEXT_LEN);
    for (name, value) in user {
        push(&mut text, name, value);
    }
    push(&mut text, property::UNIQ_KEY, &system.message_id);
    let optional = [
        (property::TAGS, &system.tag),
        (property::SHARDING_KEY, &system.message_group),
        (property::TRACE_CONTEXT, &system.trace_context),
    ];
    for (name, value) in optional {
        push(&mut text, name, value.as_deref().unwrap_or_default());
    }
    push(&mut text, property::KEYS, &system.keys.join(" "));
    push(&mut text, property::BORN_HOST, &system.born_host);
    if let Some(ms) = deliver_at_ms {
        push(&mut text, property::TIMER_DELIVER_MS, &ms.to_string());
    }
    text
}

fn push(text: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push(property::PROPERTY_SEPARATOR);
    }
    text.push_str(name);
    text.push(property::NAME_VALUE_SEPARATOR);
    text.push_str(value);
}

/// What a consumer is told beside the record itself.
#[derive(Debug, Clone)]
pub(super) struct Handout {
    /// The topic to name, as stored.
    pub(super) topic: Name,
    /// The namespace the consumer lives in.
    pub(super) namespace: String,
    pub(super) receipt_handle: String,
    pub(super) attempt: u32,
    pub(super) invisible_ms: u64,
    /// See [`Outgoing::of`].
    pub(super) body_plain_max: usize,
}

/// A stored record as a consumer receives it.
pub(super) fn from_record(record: &Bytes, handout: Handout) -> Result<Message, RecordError> {
    let (stored, _) = StoredMessage::decode(record)?;
    let body = Outgoing::of(record.slice_ref(stored.body), stored.sys_flag, handout.body_plain_max);
    let properties = stored.properties;
    let user_properties = properties.iter().filter(|(name, _)| !is_system_property(name));
    Ok(Message {
        topic: Some(names::resource(&handout.topic, &handout.namespace)),
        user_properties: user_properties.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        system_properties: Some(SystemProperties {
            body_digest: Some(body.digest),
            body_encoding: body.encoding.into(),
            receipt_handle: Some(handout.receipt_handle),
            delivery_attempt: Some(i32::try_from(handout.attempt).unwrap_or(i32::MAX)),
            invisible_duration: Some(duration(handout.invisible_ms)),
            ..system_properties(&stored)
        }),
        body: body.body,
    })
}

/// What the record itself says.
fn system_properties(stored: &StoredMessage<'_>) -> SystemProperties {
    let properties = stored.properties;
    let owned = |name| properties.get(name).map(str::to_owned);
    SystemProperties {
        tag: owned(property::TAGS),
        keys: properties.keys().map(str::to_owned).collect(),
        message_id: owned(property::UNIQ_KEY).unwrap_or_else(|| offset_message_id(stored)),
        message_type: message_type(properties).into(),
        born_timestamp: Some(timestamp(stored.born_timestamp_ms.try_into().unwrap_or_default())),
        born_host: owned(property::BORN_HOST).unwrap_or_else(|| host(stored.born_host)),
        store_timestamp: Some(timestamp(stored.store_timestamp_ms.try_into().unwrap_or_default())),
        store_host: host(stored.store_host),
        delivery_timestamp: deliver_at_ms(properties).map(timestamp),
        queue_id: stored.queue_id,
        queue_offset: Some(stored.queue_offset.try_into().unwrap_or(i64::MAX)),
        message_group: owned(property::SHARDING_KEY),
        trace_context: owned(property::TRACE_CONTEXT),
        dead_letter_queue: dead_letter_queue(properties),
        ..SystemProperties::default()
    }
}

/// What a message without an id of its client is called, as by remoting clients.
fn offset_message_id(stored: &StoredMessage<'_>) -> String {
    OffsetMessageId { host: stored.store_host, commitlog_offset: stored.commitlog_offset }.to_string()
}

fn host(address: SocketAddr) -> String {
    address.to_string()
}

fn message_type(properties: Properties<'_>) -> MessageType {
    if properties.get(property::TRAN_MSG) == Some("true") {
        MessageType::Transaction
    } else if properties.get(property::DELAY).is_some() || deliver_at_ms(properties).is_some() {
        MessageType::Delay
    } else if properties.get(property::SHARDING_KEY).is_some() {
        MessageType::Fifo
    } else {
        MessageType::Normal
    }
}

fn deliver_at_ms(properties: Properties<'_>) -> Option<u64> {
    [property::TIMER_DELIVER_MS, property::TIMER_OUT_MS]
        .into_iter()
        .find_map(|name| properties.get(name)?.parse().ok())
}

fn dead_letter_queue(properties: Properties<'_>) -> Option<DeadLetterQueue> {
    Some(DeadLetterQueue {
        topic: properties.get(property::DLQ_ORIGIN_TOPIC)?.to_owned(),
        message_id: properties.get(property::DLQ_ORIGIN_MESSAGE_ID).unwrap_or_default().to_owned(),
    })
}
