//! What the admin tool is answered: statistics (202, 208), connections (203), configuration (17, 21, 200, 201, 351), runtime
//! numbers (28), groups of a topic (300), offsets after a reset (220, 222).
//!
//! Owns: these bodies. Called by: the edge.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    MessageQueue, decode, encode,
    heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel, Subscription},
    put, put_map,
};
use crate::{header::RequestError, lenient};

/// A value of [`topic_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicOffset {
    #[serde(rename = "lastUpdateTimestamp")]
    pub last_update_timestamp_ms: i64,
    pub max_offset: u64,
    pub min_offset: u64,
}

/// `TopicStatsTable`, the answer to 202.
pub fn topic_stats(queues: &BTreeMap<MessageQueue, TopicOffset>) -> Bytes {
    let mut out = b"{\"offsetTable\":".to_vec();
    put_map(&mut out, queues);
    out.push(b'}');
    out.into()
}

/// A value of [`consume_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumeOffset {
    pub broker_offset: u64,
    pub consumer_offset: u64,
    #[serde(rename = "lastTimestamp")]
    pub last_timestamp_ms: i64,
    /// 5.x tools: how far the group has fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_offset: Option<u64>,
}

/// `ConsumeStats`, the answer to 208.
pub fn consume_stats(queues: &BTreeMap<MessageQueue, ConsumeOffset>, consume_tps: f64) -> Bytes {
    let mut out = b"{\"consumeTps\":".to_vec();
    put(&mut out, &consume_tps);
    out.extend_from_slice(b",\"offsetTable\":");
    put_map(&mut out, queues);
    out.push(b'}');
    out.into()
}

/// `ResetOffsetBody`: the body of 220 and the answer to 222.
pub fn offset_table(queues: &BTreeMap<MessageQueue, u64>) -> Bytes {
    let mut out = b"{\"offsetTable\":".to_vec();
    put_map(&mut out, queues);
    out.push(b'}');
    out.into()
}

/// `ConsumerConnection`, the answer to 203.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerConnection {
    #[serde(rename = "connectionSet")]
    pub connections: Vec<Connection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consume_from_where: Option<ConsumeFromWhere>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consume_type: Option<ConsumeType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_model: Option<MessageModel>,
    /// By topic.
    #[serde(rename = "subscriptionTable")]
    pub subscriptions: BTreeMap<String, Subscription>,
}

impl ConsumerConnection {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub client_addr: String,
    pub client_id: String,
    /// [`crate::command::Language::name`]
    pub language: String,
    pub version: i32,
}

/// `GroupList`, the answer to 300.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupList {
    pub group_list: Vec<String>,
}

impl GroupList {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `KVTable`, the answer to 28: every value is text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvTable {
    pub table: BTreeMap<String, String>,
}

impl KvTable {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `TopicConfig`, the answer to 351.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicConfig {
    /// 5.x: `message.type` and others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    pub order: bool,
    pub perm: i32,
    #[serde(rename = "readQueueNums")]
    pub read_queues: i32,
    /// `SINGLE_TAG` or `MULTI_TAG`
    pub topic_filter_type: String,
    pub topic_name: String,
    pub topic_sys_flag: i32,
    #[serde(rename = "writeQueueNums")]
    pub write_queues: i32,
}

impl TopicConfig {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `DataVersion`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataVersion {
    pub counter: u64,
    #[serde(rename = "timestamp")]
    pub timestamp_ms: i64,
}

/// `TopicConfigSerializeWrapper`, the answer to 21.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicConfigTable {
    pub data_version: DataVersion,
    #[serde(rename = "topicConfigTable")]
    pub topics: BTreeMap<String, TopicConfig>,
}

impl TopicConfigTable {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `SubscriptionGroupConfig`: the body of 200. What a tool leaves out has the default of Java's class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupConfig {
    #[serde(deserialize_with = "lenient::int")]
    pub broker_id: i64,
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_broadcast_enable: bool,
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_enable: bool,
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_from_min_enable: bool,
    pub group_name: String,
    #[serde(deserialize_with = "lenient::boolean")]
    pub notify_consumer_ids_changed_enable: bool,
    #[serde(deserialize_with = "lenient::int")]
    pub retry_max_times: i32,
    #[serde(rename = "retryQueueNums", deserialize_with = "lenient::int")]
    pub retry_queues: i32,
    #[serde(deserialize_with = "lenient::int")]
    pub which_broker_when_consume_slowly: i64,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            group_name: String::new(),
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queues: 1,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl GroupConfig {
    /// The body of 200; a group without a name is refused.
    pub fn decode(body: &[u8]) -> Result<GroupConfig, RequestError> {
        let request = "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP";
        let config: GroupConfig = decode(request, body)?;
        match config.group_name.is_empty() {
            true => Err(RequestError::Missing { request, field: "groupName" }),
            false => Ok(config),
        }
    }

    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `SubscriptionGroupWrapper`, the answer to 201.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupConfigTable {
    pub data_version: DataVersion,
    #[serde(rename = "subscriptionGroupTable")]
    pub groups: BTreeMap<String, GroupConfig>,
}

impl GroupConfigTable {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}
