//! Queue locks of orderly consumers: lock (41) and unlock (42).
//!
//! Owns: these bodies. Called by: the edge.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MessageQueue, decode, encode};
use crate::{header::RequestError, lenient};

/// `LockBatchRequestBody` and `UnlockBatchRequestBody`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockBatch {
    pub client_id: String,
    pub consumer_group: String,
    #[serde(rename = "mqSet", default, deserialize_with = "lenient::list")]
    pub queues: Vec<MessageQueue>,
}

impl LockBatch {
    /// The body of 41 or 42.
    pub fn decode(body: &[u8]) -> Result<LockBatch, RequestError> {
        decode("LOCK_BATCH_MQ or UNLOCK_BATCH_MQ", body)
    }

    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// `LockBatchResponseBody`: the answer to 41, the queues the client now holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedQueues {
    #[serde(rename = "lockOKMQSet")]
    pub queues: Vec<MessageQueue>,
}

impl LockedQueues {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}
