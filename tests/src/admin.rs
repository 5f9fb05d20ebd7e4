//! What an operator does before traffic starts: creates topics, over the remoting protocol.

use anyhow::{Result, bail};
use serde_json::json;

use crate::raw::RawClient;

const UPDATE_AND_CREATE_TOPIC: u32 = 17;

/// Creates a topic with this many read and write queues, as `mqadmin updateTopic` does.
pub fn create_topic(remoting: &str, topic: &str, queues: u32) -> Result<()> {
    let fields = json!({
        "topic": topic,
        "defaultTopic": "TBW102",
        "readQueueNums": queues.to_string(),
        "writeQueueNums": queues.to_string(),
        "perm": "6",
        "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": "0",
        "order": "false",
    });
    let answer = RawClient::connect(remoting)?.call(UPDATE_AND_CREATE_TOPIC, &fields, b"")?;
    match answer.code() {
        Some(0) => Ok(()),
        _ => bail!("create topic {topic} answered {answer:?}"),
    }
}
