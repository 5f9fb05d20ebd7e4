//! Who a client is: the heartbeat (34), the subscription check (46), the member list (38).
//!
//! Owns: these bodies and the tolerance they need: the C++ client writes enums as ordinals and versions as text, others leave
//! lists out or null. Called by: the edge.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{decode, encode};
use crate::{header::RequestError, lenient};

/// `HeartbeatData`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    #[serde(rename = "clientID")]
    pub client_id: String,
    #[serde(rename = "consumerDataSet", default, deserialize_with = "lenient::list")]
    pub consumers: Vec<Consumer>,
    #[serde(rename = "producerDataSet", default, deserialize_with = "lenient::list")]
    pub producers: Vec<Producer>,
}

impl Heartbeat {
    pub fn decode(body: &[u8]) -> Result<Heartbeat, RequestError> {
        decode("HEART_BEAT", body)
    }

    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `ProducerData`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Producer {
    pub group_name: String,
}

/// `ConsumerData`. An enum we cannot read is `None`: not known, which is not the same as the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "java_enum")]
    pub consume_from_where: Option<ConsumeFromWhere>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "java_enum")]
    pub consume_type: Option<ConsumeType>,
    pub group_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "java_enum")]
    pub message_model: Option<MessageModel>,
    #[serde(rename = "subscriptionDataSet", default, deserialize_with = "lenient::list")]
    pub subscriptions: Vec<Subscription>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    pub unit_mode: bool,
}

/// `SubscriptionData`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    #[serde(default, deserialize_with = "lenient::boolean")]
    pub class_filter_mode: bool,
    /// [`crate::message::tag_code`] of each tag.
    #[serde(rename = "codeSet", default, deserialize_with = "lenient::int_list")]
    pub codes: Vec<i64>,
    /// `TAG` or `SQL92`; empty means `TAG`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub expression_type: String,
    /// `*`, or tags separated by `||`, or an SQL expression.
    #[serde(default, deserialize_with = "lenient::text")]
    pub sub_string: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub sub_version: i64,
    #[serde(rename = "tagsSet", default, deserialize_with = "lenient::list")]
    pub tags: Vec<String>,
    pub topic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    LastOffset,
    /// Deprecated in Java, means `LastOffset` there.
    LastOffsetAndFromMinWhenBootFirst,
    /// Deprecated in Java, means `LastOffset` there.
    MinOffset,
    /// Deprecated in Java, means `LastOffset` there.
    MaxOffset,
    FirstOffset,
    Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeType {
    /// A pull consumer.
    Actively,
    /// A push consumer.
    Passively,
    Pop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageModel {
    Broadcasting,
    Clustering,
}

/// An enum by its Java names, in the order of their ordinals.
trait JavaEnum: Copy + PartialEq + 'static {
    const NAMES: &'static [(Self, &'static str)];

    fn name(self) -> &'static str {
        let entry = Self::NAMES.iter().find(|(value, _)| *value == self);
        entry.expect("NAMES lists every variant").1
    }
}

impl JavaEnum for ConsumeFromWhere {
    const NAMES: &'static [(ConsumeFromWhere, &'static str)] = &[
        (ConsumeFromWhere::LastOffset, "CONSUME_FROM_LAST_OFFSET"),
        (
            ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst,
            "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        ),
        (ConsumeFromWhere::MinOffset, "CONSUME_FROM_MIN_OFFSET"),
        (ConsumeFromWhere::MaxOffset, "CONSUME_FROM_MAX_OFFSET"),
        (ConsumeFromWhere::FirstOffset, "CONSUME_FROM_FIRST_OFFSET"),
        (ConsumeFromWhere::Timestamp, "CONSUME_FROM_TIMESTAMP"),
    ];
}

impl JavaEnum for ConsumeType {
    const NAMES: &'static [(ConsumeType, &'static str)] = &[
        (ConsumeType::Actively, "CONSUME_ACTIVELY"),
        (ConsumeType::Passively, "CONSUME_PASSIVELY"),
        (ConsumeType::Pop, "CONSUME_POP"),
    ];
}

impl JavaEnum for MessageModel {
    const NAMES: &'static [(MessageModel, &'static str)] =
        &[(MessageModel::Broadcasting, "BROADCASTING"), (MessageModel::Clustering, "CLUSTERING")];
}

/// By name or ordinal; null and what we do not know are `None`.
fn java_enum<'de, D: Deserializer<'de>, T: JavaEnum>(json: D) -> Result<Option<T>, D::Error> {
    let text = lenient::text(json)?;
    let by_name = || T::NAMES.iter().find(|(_, name)| *name == text);
    let entry = match text.parse::<usize>() {
        Ok(ordinal) => T::NAMES.get(ordinal),
        Err(_) => by_name(),
    };
    Ok(entry.map(|(value, _)| *value))
}

impl Serialize for ConsumeFromWhere {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(self.name())
    }
}

impl Serialize for ConsumeType {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(self.name())
    }
}

impl Serialize for MessageModel {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(self.name())
    }
}

/// `CheckClientRequestBody`, code 46: may this subscription be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckClient {
    pub client_id: String,
    pub group: String,
    #[serde(rename = "subscriptionData")]
    pub subscription: Subscription,
}

impl CheckClient {
    pub fn decode(body: &[u8]) -> Result<CheckClient, RequestError> {
        decode("CHECK_CLIENT_CONFIG", body)
    }
}

/// `GetConsumerListByGroupResponseBody`: the answer to 38. A client that does not find itself never rebalances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerIdList {
    pub consumer_id_list: Vec<String>,
}

impl ConsumerIdList {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}
