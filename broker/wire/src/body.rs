//! Bodies that are JSON, or what Java's fastjson takes for JSON: some maps have numbers or objects as keys, unquoted.
//!
//! Owns: their field names and exact shape. Keys are written in alphabetical order, as Java writes them, so that an answer
//! can be compared with one of a real broker. Called by: the remoting edge.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::header::RequestError;

pub mod admin;
pub mod heartbeat;
pub mod lock;
pub mod route;

/// `MessageQueue`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    pub broker_name: String,
    #[serde(deserialize_with = "crate::lenient::int")]
    pub queue_id: i32,
    pub topic: String,
}

fn decode<T: DeserializeOwned>(request: &'static str, body: &[u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| RequestError::Body { request, reason: error.to_string() })
}

fn encode(value: &impl Serialize) -> Bytes {
    let mut out = Vec::new();
    put(&mut out, value);
    out.into()
}

fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("our bodies have text keys and a buffer takes any bytes");
}

/// A map as fastjson writes it: keys are whatever they are, numbers and objects too.
fn put_map<K: Serialize, V: Serialize>(out: &mut Vec<u8>, entries: impl IntoIterator<Item = (K, V)>) {
    out.push(b'{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put(out, &key);
        out.push(b':');
        put(out, &value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
