//! What an operator does before traffic starts: creates topics, over the remoting protocol and with bytes made here,
//! so that the product's own codec does not check itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const UPDATE_AND_CREATE_TOPIC: u32 = 17;
const TIMEOUT: Duration = Duration::from_secs(5);
const FRAME_BYTES_MAX: usize = 1 << 20;

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
    let answer = call(remoting, UPDATE_AND_CREATE_TOPIC, &fields)?;
    match answer.get("code").and_then(Value::as_u64) {
        Some(0) => Ok(()),
        _ => bail!("create topic {topic} answered {answer}"),
    }
}

/// One request without a body; returns the answer's header.
fn call(remoting: &str, code: u32, fields: &Value) -> Result<Value> {
    let header = serde_json::to_vec(&json!({
        "code": code, "language": "JAVA", "version": 409, "opaque": 1, "flag": 0, "extFields": fields,
    }))?;
    let header_bytes = u32::try_from(header.len())?;
    let mut stream = TcpStream::connect(remoting).with_context(|| format!("connect to {remoting}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&(header_bytes + 4).to_be_bytes())?;
    stream.write_all(&header_bytes.to_be_bytes())?; // the top byte is the header type: 0, JSON
    stream.write_all(&header)?;

    let mut word = [0; 4];
    stream.read_exact(&mut word).context("no answer")?;
    let frame_bytes = usize::try_from(u32::from_be_bytes(word))?;
    ensure!((4..=FRAME_BYTES_MAX).contains(&frame_bytes), "an answer of {frame_bytes} bytes");
    let mut frame = vec![0; frame_bytes];
    stream.read_exact(&mut frame).context("the answer ends early")?;
    let (word, rest) = frame.split_at(4);
    let header_bytes = usize::try_from(u32::from_be_bytes(word.try_into()?) & 0x00ff_ffff)?;
    let header = rest.get(..header_bytes).context("the answer's header is longer than its frame")?;
    Ok(serde_json::from_slice(header)?)
}
