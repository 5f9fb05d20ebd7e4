//! A remoting client made of bytes, so that a test can write what no SDK would, and the product's own codec does not check
//! itself. JSON headers only; one request at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(10);
const FRAME_BYTES_MAX: usize = 64 << 20;

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    pub stream: TcpStream,
    opaque: u32,
}

/// An answer: its header and its body.
#[derive(Debug)]
pub struct RawAnswer {
    pub header: Value,
    pub body: Vec<u8>,
}

impl RawAnswer {
    pub fn code(&self) -> Option<u64> {
        self.header.get("code").and_then(Value::as_u64)
    }

    pub fn remark(&self) -> &str {
        self.header.get("remark").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.header.pointer("/extFields")?.get(name)?.as_str()
    }
}

impl RawClient {
    pub fn connect(address: &str) -> Result<RawClient> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(RawClient { stream, opaque: 0 })
    }

    /// The bytes of a request with a JSON header.
    pub fn request(&mut self, code: u32, fields: &Value, body: &[u8]) -> Result<Vec<u8>> {
        self.opaque += 1;
        let header = serde_json::to_vec(&json!({
            "code": code, "language": "JAVA", "version": 409, "opaque": self.opaque, "flag": 0,
            "extFields": fields,
        }))?;
        frame(&header, body)
    }

    pub fn call(&mut self, code: u32, fields: &Value, body: &[u8]) -> Result<RawAnswer> {
        let request = self.request(code, fields, body)?;
        self.stream.write_all(&request)?;
        // what the broker asks by itself in between is nobody's answer
        loop {
            let answer = self.read()?;
            if answer.header.get("opaque") == Some(&Value::from(self.opaque)) {
                return Ok(answer);
            }
        }
    }

    /// The next frame.
    pub fn read(&mut self) -> Result<RawAnswer> {
        let mut word = [0; 4];
        self.stream.read_exact(&mut word).context("no answer")?;
        let frame_bytes = usize::try_from(u32::from_be_bytes(word))?;
        ensure!((4..=FRAME_BYTES_MAX).contains(&frame_bytes), "an answer of {frame_bytes} bytes");
        let mut frame = vec![0; frame_bytes];
        self.stream.read_exact(&mut frame).context("the answer ends early")?;
        let (word, rest) = frame.split_at(4);
        let header_bytes = usize::try_from(u32::from_be_bytes(word.try_into()?) & 0x00ff_ffff)?;
        let header = rest.get(..header_bytes).context("the answer's header is longer than its frame")?;
        let body = rest.get(header_bytes..).unwrap_or_default().to_vec();
        Ok(RawAnswer { header: serde_json::from_slice(header)?, body })
    }

    /// Reads on until the other side closes; returns what came before. A reset counts as closed.
    pub fn until_closed(&mut self) -> Result<Vec<u8>> {
        let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(all),
                Ok(count) => all.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(all),
                Err(error) => bail!("not closed after {TIMEOUT:?}: {error}"),
            }
        }
    }

    /// Sends one message to queue 0 and returns the answer, whatever it is.
    pub fn send_message(&mut self, topic: &str, body: &[u8]) -> Result<RawAnswer> {
        self.send_with(topic, body, json!({}))
    }

    /// The same, with fields that differ from the ordinary ones.
    pub fn send_with(&mut self, topic: &str, body: &[u8], different: Value) -> Result<RawAnswer> {
        const SEND_MESSAGE: u32 = 10;
        let mut fields = json!({
            "producerGroup": "raw-producers", "topic": topic, "defaultTopic": "TBW102",
            "defaultTopicQueueNums": "4", "queueId": "0", "sysFlag": "0", "bornTimestamp": "1700000000000",
            "flag": "0", "properties": "", "reconsumeTimes": "0", "unitMode": "false", "batch": "false",
        });
        merge(&mut fields, different);
        self.call(SEND_MESSAGE, &fields, body)
    }

    /// Asks for what is in queue 0 at an offset, without waiting for more.
    pub fn pull(&mut self, topic: &str, group: &str, offset: &str) -> Result<RawAnswer> {
        const PULL_MESSAGE: u32 = 11;
        let fields = json!({
            "consumerGroup": group, "topic": topic, "queueId": "0", "queueOffset": offset, "maxMsgNums": "32",
            "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*",
            "subVersion": "0", "expressionType": "TAG",
        });
        self.call(PULL_MESSAGE, &fields, b"")
    }
}

fn merge(fields: &mut Value, different: Value) {
    if let (Value::Object(fields), Value::Object(different)) = (fields, different) {
        fields.extend(different);
    }
}

/// Length, header length with type 0 (JSON), header, body.
pub fn frame(header: &[u8], body: &[u8]) -> Result<Vec<u8>> {
    let header_bytes = u32::try_from(header.len())?;
    let mut frame = u32::try_from(4 + header.len() + body.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(&header_bytes.to_be_bytes());
    frame.extend_from_slice(header);
    frame.extend_from_slice(body);
    Ok(frame)
}
