//! The product's HTTP API as tests read it: the only file that knows paths, field names and metric names. Answers
//! questions in the tests' words; a test never touches JSON itself. Reads raw JSON on purpose, as any other program
//! would, instead of the product's own types.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::http::{Answer, Http, encode};
use crate::metrics::Metrics;
use crate::wait;

/// How long the agent may take until its books show what has happened (its budget is p99 5 s; machines are busy).
pub const SETTLE_LIMIT: Duration = Duration::from_secs(30);

const PAGES_MAX: usize = 100;

/// Metric names that tests compare with the API.
pub mod metric {
    /// By topic and group; the topics of no group have group `__none__`.
    pub const OPEN_LOSSES: &str = "losstrace_open_losses";
    /// By verdict: the class.
    pub const MESSAGES_LOST_TOTAL: &str = "losstrace_messages_lost_total";
    /// By stage.
    pub const MESSAGES_TOTAL: &str = "losstrace_messages_total";
    /// By topic: stored.
    pub const TOPIC_MESSAGES_TOTAL: &str = "losstrace_topic_messages_total";
    pub const DLQ_ARRIVALS_TOTAL: &str = "losstrace_dlq_arrivals_total";
}

/// Stages that a message sent, stored and consumed has reached, over the store and the group.
pub const STAGES: [&str; 5] = ["stored", "answered", "flushed", "delivered", "acked"];

/// States of a message in a group's book.
pub mod state {
    pub const SETTLED: &str = "settled";
    pub const DEAD_LETTERED: &str = "dead-lettered";
    pub const MOVED: &str = "moved";
    pub const UNDECIDED: &str = "undecided";
}

/// Classes that tests expect by name.
pub mod class {
    pub const CORRUPTED_AT_REST: &str = "corrupted-at-rest";
    pub const DEAD_LETTERED: &str = "dead-lettered";
    pub const NEVER_STORED: &str = "never-stored";
    pub const OFFSET_REUSED: &str = "offset-reused";
    pub const STORED_NOT_FLUSHED_LOST: &str = "stored-not-flushed-lost";
    pub const NOT_REPLICATED_AT_FAILOVER: &str = "not-replicated-at-failover";
    pub const UNDECIDED: &str = "undecided";
}

/// The agent: API and metrics on one port.
#[derive(Debug)]
pub struct AgentApi {
    pub http: Http,
}

/// The broker: health and its own metrics.
#[derive(Debug)]
pub struct BrokerApi {
    pub http: Http,
}

impl BrokerApi {
    pub fn new(address: &str) -> BrokerApi {
        BrokerApi { http: Http::new(address) }
    }

    pub fn ready(&self) -> Result<()> {
        ready(&self.http)
    }

    pub fn metrics_text(&self) -> Result<String> {
        self.http.text("/metrics")
    }

    /// The part it plays, and whether it takes writes.
    pub fn role(&self) -> Result<(String, bool)> {
        let role = self.http.json("/role")?;
        let name = role["role"].as_str().context("a role")?.to_owned();
        Ok((name, role["is_master"].as_bool().context("is_master")?))
    }
}

impl AgentApi {
    pub fn new(address: &str) -> AgentApi {
        AgentApi { http: Http::new(address) }
    }

    pub fn ready(&self) -> Result<()> {
        ready(&self.http)
    }

    pub fn metrics_text(&self) -> Result<String> {
        self.http.text("/metrics")
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.metrics_text()?)
    }

    /// The life of one message, by the id its client knows.
    pub fn message(&self, id: &str) -> Result<MessageLife> {
        Ok(MessageLife(self.get(&format!("/api/v1/messages/{}", encode(id)))?.data))
    }

    pub fn message_answer(&self, id: &str) -> Result<Answer> {
        self.http.get(&format!("/api/v1/messages/{}", encode(id)))
    }

    /// Where the messages of a topic that carry a key are stored.
    pub fn find(&self, topic: &str, key: &str) -> Result<BTreeSet<Place>> {
        let path = format!("/api/v1/messages?topic={}&key={}", encode(topic), encode(key));
        self.list(&path)?.iter().map(|item| place(item, "")).collect()
    }

    /// What a producer's outbox says: this id was sent to this topic, with this outcome.
    pub fn report_sent(&self, id: &str, topic: &str, outcome: &str) -> Result<Answer> {
        let body = json!({"sent": [{"id": id, "topic": topic, "outcome": outcome}]});
        self.http.post("/api/v1/sent", &body)
    }

    /// The same for many sends that were answered OK: ids, and when (seconds since 1970).
    pub fn report_all_sent(&self, sends: &[(String, f64)], topic: &str) -> Result<Answer> {
        let report = |(id, at): &(String, f64)| json!({"id": id, "topic": topic, "outcome": "ok", "sent_at": format!("{at:.3}")});
        let body = json!({"sent": sends.iter().map(report).collect::<Vec<_>>()});
        self.http.post("/api/v1/sent", &body)
    }

    /// An operator takes an incident in hand.
    pub fn acknowledge(&self, incident: &str) -> Result<()> {
        let body = json!({"operator": "tests", "note": "sent again"});
        let answer = self.http.post(&format!("/api/v1/losses/{incident}/acknowledge"), &body)?;
        ensure!(answer.status == 200, "acknowledge answers {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// The three books of one topic and one of its groups.
    pub fn balance(&self, topic: &str, group: &str) -> Result<Balance> {
        // The store's and the producers' books are on the topic's own row, a group's book on the group's.
        let rows = self.list(&format!("/api/v1/balance?topic={}", encode(topic)))?;
        let row = |pointer: &str, group: &str| -> Result<Value> {
            let wanted = |row: &&Value| {
                row.pointer("/topic") == Some(&Value::from(topic))
                    && (group.is_empty() || row.pointer("/group") == Some(&Value::from(group)))
                    && row.pointer(pointer).is_some_and(Value::is_object)
            };
            let found = rows.iter().find(wanted).and_then(|row| row.pointer(pointer));
            Ok(found
                .with_context(|| format!("no book {pointer} of {topic} and {group:?}: {rows:?}"))?
                .clone())
        };
        let (producer, store, consumer) =
            (row("/producer", "")?, row("/store", "")?, row("/consumer", group)?);
        Ok(Balance {
            balanced: [&producer, &store, &consumer].iter().all(|book| book["balanced"] == Value::Bool(true)),
            received: number(&producer, "/received")?,
            refused: number(&producer, "/refused")?,
            stored: number(&store, "/stored")?,
            flushed: number(&store, "/flushed")?,
            unflushed: number(&store, "/unflushed")?,
            store_lost: number(&store, "/lost")?,
            owed: number(&consumer, "/owed")?,
            settled: number(&consumer, "/settled")?,
            in_flight: number(&consumer, "/in_flight")?,
            undecided: number(&consumer, "/undecided")?,
            dead_lettered: number(&consumer, "/dead_lettered")?,
            moved: number(&consumer, "/moved")?,
            group_lost: number(&consumer, "/lost")?,
        })
    }

    /// All incidents, over as many pages as there are.
    pub fn incidents(&self) -> Result<Vec<Incident>> {
        let read = |item: &Value| {
            Ok(Incident {
                incident: text(item, "/incident")?,
                class: text(item, "/class")?,
                loss: flag(item, "/loss")?,
                open: flag(item, "/open")?,
                state: text(item, "/state")?,
                topic: text(item, "/topic")?,
                group: text(item, "/group")?,
                messages: number(item, "/messages")?,
                undecided: number(item, "/undecided_messages")?,
                summary: text(item, "/summary")?,
            })
        };
        self.list("/api/v1/losses")?.iter().map(read).collect()
    }

    /// What one incident is about, message by message as far as it can say.
    pub fn particulars(&self, incident: &str) -> Result<Particulars> {
        let data = self.get(&format!("/api/v1/losses/{}", encode(incident)))?.data;
        let ids = items(&data, "/ids")?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let range = |range: &Value| {
            let queue = number(range, "/queue_id")?;
            Ok((text(range, "/topic")?, queue, number(range, "/from")?..number(range, "/to")?))
        };
        let ranges = items(&data, "/ranges")?.iter().map(range).collect::<Result<_>>()?;
        Ok(Particulars { ids, ids_total: number(&data, "/ids_total")?, ranges })
    }

    /// Incidents of any class that counts as loss, whatever their state. Most tests want none.
    pub fn losses(&self) -> Result<Vec<Incident>> {
        Ok(self.incidents()?.into_iter().filter(|incident| incident.loss).collect())
    }

    /// Of each dead letter of a group: the message it began as.
    pub fn dead_letter_roots(&self, group: &str) -> Result<BTreeSet<Place>> {
        let rows = self.list(&format!("/api/v1/dlq?group={}", encode(group)))?;
        let of_group = rows.iter().filter(|row| row.pointer("/group") == Some(&Value::from(group)));
        of_group.map(|row| place(row, "/root")).collect()
    }

    /// Waits until every answer rests on all that the sources have: complete, nothing behind, nothing undecided.
    pub fn wait_complete(&self) -> Result<()> {
        wait::until_ok("the agent's answers to be complete", SETTLE_LIMIT, || {
            let answer = self.get("/api/v1/sources")?;
            ensure!(answer.complete, "sources behind: {:?}, {}", answer.sources_behind, answer.data);
            ensure!(answer.undecided == 0, "{} messages are undecided", answer.undecided);
            Ok(())
        })
    }

    /// Waits until the books of a topic and group satisfy `check`, which says what is missing.
    pub fn wait_balance(
        &self,
        topic: &str,
        group: &str,
        check: impl Fn(&Balance) -> Result<()>,
    ) -> Result<Balance> {
        wait::until(&format!("the books of {topic} and {group}"), SETTLE_LIMIT, || {
            let balance = self.balance(topic, group)?;
            check(&balance).with_context(|| format!("{balance:?}"))?;
            Ok(Some(balance))
        })
    }

    fn get(&self, path: &str) -> Result<Enveloped> {
        envelope(self.http.json(path)?).with_context(|| format!("GET {path}"))
    }

    /// Every item of a list, page by page.
    fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = if cursor.is_empty() {
                path.to_owned()
            } else {
                format!("{path}{separator}cursor={}", encode(&cursor))
            };
            let data = self.get(&page)?.data;
            if let Value::Array(items) = data {
                return Ok(items);
            }
            let items = data.pointer("/items").and_then(Value::as_array);
            all.extend_from_slice(items.with_context(|| format!("{path} is no list: {data}"))?);
            match data.pointer("/next").and_then(Value::as_str) {
                Some(next) => cursor = next.to_owned(),
                None => {
                    ensure!(number(&data, "/total")? == all.len() as u64, "{path} has not the total it says");
                    return Ok(all);
                }
            }
        }
        bail!("{path} has more than {PAGES_MAX} pages, or its cursor does not move")
    }
}

/// What is around every answer.
#[derive(Debug)]
struct Enveloped {
    complete: bool,
    sources_behind: Vec<Value>,
    undecided: u64,
    data: Value,
}

/// Where a message is stored: queue and offset.
pub type Place = (u64, u64);

/// `messages/{id}`.
#[derive(Debug)]
pub struct MessageLife(Value);

impl MessageLife {
    /// The stages this message has reached: in the store, or in this group.
    pub fn reached(&self, group: &str) -> Result<BTreeSet<String>> {
        let in_group = items(self.group(group)?, "/stages")?;
        let stages = items(&self.0, "/stages")?.iter().chain(in_group);
        let reached = stages.filter(|stage| stage.pointer("/reached") == Some(&Value::from("yes")));
        reached.map(|stage| text(stage, "/stage")).collect()
    }

    /// Every stage of a consumed message was reached, and nothing broke.
    pub fn check_consumed(&self, group: &str) -> Result<()> {
        self.check_state(group, &[state::SETTLED])?;
        let reached = self.reached(group)?;
        let missing: Vec<&str> = STAGES.into_iter().filter(|stage| !reached.contains(*stage)).collect();
        ensure!(missing.is_empty(), "stages not reached: {missing:?} in {}", self.0);
        ensure!(self.first_break().is_none(), "a consumed message has a break: {}", self.0);
        Ok(())
    }

    /// A message that nobody could consume ended in the dead-letter queue, and says so.
    pub fn check_dead_lettered(&self, group: &str) -> Result<()> {
        // A client that sends failures back moves the debt to a copy; the last copy is dead-lettered.
        self.check_state(group, &[state::DEAD_LETTERED, state::MOVED])?;
        let mut copies = items(&self.0, "/copies")?.iter();
        let dead_letter = |copy: &Value| {
            copy.pointer("/reason") == Some(&Value::from("dead-letter"))
                && copy.pointer("/group") == Some(&Value::from(group))
        };
        ensure!(copies.any(dead_letter), "no dead-letter copy: {}", self.0);
        Ok(())
    }

    pub fn check_state(&self, group: &str, allowed: &[&str]) -> Result<()> {
        let found = text(self.group(group)?, "/state")?;
        ensure!(allowed.contains(&found.as_str()), "{group} has it as {found}, not {allowed:?}: {}", self.0);
        Ok(())
    }

    /// The first stage that broke, when one did.
    pub fn first_break(&self) -> Option<&str> {
        self.0.pointer("/first_break").and_then(Value::as_str)
    }

    /// What the group has suffered from it, when it has.
    pub fn class_in(&self, group: &str) -> Result<Option<&str>> {
        Ok(self.group(group)?.pointer("/class").and_then(Value::as_str))
    }

    /// Where it is stored.
    pub fn place(&self) -> Result<Place> {
        place(&self.0, "/identity")
    }

    fn group(&self, group: &str) -> Result<&Value> {
        let mut groups = items(&self.0, "/groups")?.iter();
        let found = groups.find(|entry| entry.pointer("/group") == Some(&Value::from(group)));
        found.with_context(|| format!("group {group} is not in {}", self.0))
    }
}

/// The three books of one topic and one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// Each book says of itself that its two sides are equal.
    pub balanced: bool,
    pub received: u64,
    pub refused: u64,
    pub stored: u64,
    pub flushed: u64,
    pub unflushed: u64,
    pub store_lost: u64,
    pub owed: u64,
    pub settled: u64,
    pub in_flight: u64,
    pub undecided: u64,
    pub dead_lettered: u64,
    pub moved: u64,
    pub group_lost: u64,
}

impl Balance {
    /// Nothing lost, open or undecided, and every sum is right; checked here again, not only believed.
    pub fn check_closed(&self) -> Result<()> {
        ensure!(self.balanced, "a book says that it does not balance");
        ensure!(self.received == self.stored + self.refused, "the producers' book does not add up");
        ensure!(
            self.stored == self.flushed + self.unflushed + self.store_lost,
            "the store's does not add up"
        );
        ensure!(self.owed == self.settled + self.dead_lettered + self.moved, "the group's does not add up");
        ensure!(self.in_flight + self.undecided == 0, "something is open or undecided");
        ensure!(self.store_lost + self.group_lost == 0, "something is lost");
        Ok(())
    }

    /// Closed, with this many messages consumed and this many dead-lettered, and no others.
    pub fn check(&self, settled: usize, dead_lettered: usize) -> Result<()> {
        self.check_closed()?;
        let (settled, dead_lettered) = (settled as u64, dead_lettered as u64);
        ensure!(self.stored == settled + dead_lettered, "not all that was sent is stored");
        ensure!(self.settled == settled, "not all that was consumed is settled");
        ensure!(self.dead_lettered + self.moved == dead_lettered, "not all dead letters are in the book");
        Ok(())
    }
}

/// One row of `losses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    pub incident: String,
    pub class: String,
    /// Whether the class counts as loss.
    pub loss: bool,
    pub open: bool,
    pub state: String,
    pub topic: String,
    pub group: String,
    pub messages: u64,
    pub undecided: u64,
    pub summary: String,
}

/// The messages of one incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Particulars {
    /// Client ids.
    pub ids: BTreeSet<String>,
    /// How many ids it has; more than `ids` when it names only the first.
    pub ids_total: u64,
    /// Topic, queue, offsets.
    pub ranges: Vec<(String, u64, Range<u64>)>,
}

/// Messages per (topic, group) that incidents count as open losses: what the metric must say too.
pub fn open_losses(incidents: &[Incident]) -> BTreeMap<(String, String), u64> {
    let mut open = BTreeMap::new();
    for incident in incidents.iter().filter(|incident| incident.loss && incident.open) {
        *open.entry((incident.topic.clone(), incident.group.clone())).or_default() += incident.messages;
    }
    open
}

fn ready(http: &Http) -> Result<()> {
    let answer = http.get("/readyz")?;
    ensure!(answer.status == 200, "/readyz answers {}: {}", answer.status, answer.body);
    Ok(())
}

/// Every answer says what it rests on.
fn envelope(json: Value) -> Result<Enveloped> {
    let as_of = items(&json, "/as_of")?;
    ensure!(!as_of.is_empty(), "an answer that rests on no source: {json}");
    Ok(Enveloped {
        complete: flag(&json, "/complete")?,
        sources_behind: items(&json, "/sources_behind")?.clone(),
        undecided: number(&json, "/undecided_messages")?,
        data: json.pointer("/data").with_context(|| format!("no /data in {json}"))?.clone(),
    })
}

fn place(json: &Value, pointer: &str) -> Result<Place> {
    let identity = json.pointer(pointer).with_context(|| format!("no {pointer} in {json}"))?;
    Ok((number(identity, "/queue_id")?, number(identity, "/queue_offset")?))
}

fn items<'a>(json: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    json.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no list {pointer} in {json}"))
}

fn text(json: &Value, pointer: &str) -> Result<String> {
    let found = json.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no text {pointer} in {json}"))?.to_owned())
}

fn number(json: &Value, pointer: &str) -> Result<u64> {
    json.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no number {pointer} in {json}"))
}

fn flag(json: &Value, pointer: &str) -> Result<bool> {
    json.pointer(pointer).and_then(Value::as_bool).with_context(|| format!("no flag {pointer} in {json}"))
}
