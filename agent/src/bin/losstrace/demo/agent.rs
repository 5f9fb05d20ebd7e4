//! Owns the demo's questions to the agent: its public HTTP API and nothing else.

use agent::report::views::{
    BalanceRow, DlqRow, Envelope, LossDetail, LossItem, MessageTimeline, Page, SourceRow, TopicRow,
};
use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT: usize = 1_000;

/// A producer's word about one send.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) id: String,
    pub(super) topic: String,
    /// Broker, queue and offset of the answer, where the producer kept them.
    pub(super) answer: Option<(String, u32, u64)>,
}

/// The agent's API.
pub(super) struct Api {
    base: String,
    http: ureq::Agent,
}

impl Api {
    pub(super) fn new(address: SocketAddr) -> Api {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        Api { base: format!("http://{address}"), http: config.build().into() }
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("{}{path}", self.base);
        let mut answer = self.http.get(&url).call().with_context(|| format!("GET {path}"))?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status().is_success(), "GET {path} answers {}: {text}", answer.status());
        serde_json::from_str(&text).with_context(|| format!("GET {path} answers {text}"))
    }

    fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let page: Envelope<Page<T>> = self.read(&format!("{path}?limit={LIMIT}"))?;
        ensure!(page.data.next.is_none(), "{path} has more rows than this demo can cause");
        Ok(page.data.items)
    }

    /// Follows every source, and has caught up.
    pub(super) fn ready(&self) -> Result<()> {
        let mut answer = self.http.get(format!("{}/readyz", self.base)).call()?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status().is_success(), "GET /readyz answers {}: {text}", answer.status());
        Ok(())
    }

    /// Every incident, whatever its class and state.
    pub(super) fn incidents(&self) -> Result<Vec<LossDetail>> {
        let items: Vec<LossItem> = self.list("/api/v1/losses")?;
        let detail = |item: LossItem| {
            let detail: Envelope<LossDetail> = self.read(&format!("/api/v1/losses/{}", item.incident))?;
            Ok(detail.data)
        };
        items.into_iter().map(detail).collect()
    }

    pub(super) fn dead_letters(&self) -> Result<Vec<DlqRow>> {
        self.list("/api/v1/dlq")
    }

    pub(super) fn topics(&self) -> Result<Vec<TopicRow>> {
        self.list("/api/v1/topics")
    }

    pub(super) fn balance(&self) -> Result<Vec<BalanceRow>> {
        self.list("/api/v1/balance")
    }

    pub(super) fn message(&self, id: &str) -> Result<MessageTimeline> {
        let found: Envelope<MessageTimeline> = self.read(&format!("/api/v1/messages/{id}"))?;
        Ok(found.data)
    }

    /// Sources of facts, and the bound of what is undecided.
    pub(super) fn sources(&self) -> Result<(Vec<SourceRow>, u64)> {
        let found: Envelope<Vec<SourceRow>> = self.read("/api/v1/sources")?;
        Ok((found.data, found.undecided_messages))
    }

    /// What producers' outboxes say.
    pub(super) fn report(&self, reports: &[Report]) -> Result<()> {
        let item = |report: &Report| {
            let mut item = json!({"id": report.id, "topic": report.topic, "outcome": "ok"});
            if let (Some((broker, queue_id, offset)), Value::Object(fields)) = (&report.answer, &mut item) {
                fields.insert("broker".into(), json!(broker));
                fields.insert("queue_id".into(), json!(queue_id));
                fields.insert("queue_offset".into(), json!(offset));
            }
            item
        };
        let body = json!({"sent": reports.iter().map(item).collect::<Vec<_>>()});
        let mut answer = self.http.post(format!("{}/api/v1/sent", self.base)).send_json(&body)?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status().is_success(), "POST /api/v1/sent answers {}: {text}", answer.status());
        Ok(())
    }
}
