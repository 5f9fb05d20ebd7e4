//! Plain HTTP for tests: status, text or JSON, with a time-out. Never retries; `wait` does that.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;

const TIMEOUT: Duration = Duration::from_secs(10);

/// One answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// A client for one base address.
#[derive(Debug)]
pub struct Http {
    base: String,
    agent: Agent,
}

impl Http {
    pub fn new(address: &str) -> Http {
        let config =
            Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        Http { base: format!("http://{address}"), agent: config.into() }
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self.agent.get(&url).call().with_context(|| format!("GET {url}"))?;
        answer(response)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self.agent.post(&url).send_json(body).with_context(|| format!("POST {url}"))?;
        answer(response)
    }

    /// POST of bytes that need not be JSON.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(&url).content_type("application/json");
        answer(request.send(body).with_context(|| format!("POST {url}"))?)
    }

    /// GET that must be answered 200.
    pub fn text(&self, path: &str) -> Result<String> {
        let answer = self.get(path)?;
        if answer.status != 200 {
            bail!("GET {path} answered {}: {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// GET that must be answered 200 with JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.text(path)?).with_context(|| format!("GET {path} is not JSON"))
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    Ok(Answer {
        status: response.status().as_u16(),
        content_type,
        body: response.body_mut().with_config().limit(64 << 20).read_to_string()?,
    })
}

/// Percent-encodes a path segment or query value.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn encodes_what_topics_may_hold() {
        assert_eq!(super::encode("%DLQ%group-1"), "%25DLQ%25group-1");
    }
}
