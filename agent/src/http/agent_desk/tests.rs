//! A real agent behind the real routes; only the broker is a script.

use super::*;
use crate::config::AgentConfig;
use crate::http;
use crate::ingest::{Batch, BatchStream, BoxFuture, Inspected, Located, Snapshot, Source, SourceError};
use crate::ledger::memory::MemoryLedger;
use crate::metrics::Metrics;
use crate::run::{Agent, Environment};
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::*;
use lifecycle::frame::FrameEncoder;
use lifecycle::identity::{Epoch, LogPosition, TopicIncarnation};
use lifecycle::ids::IdColumn;
use lifecycle::ranges::Ranges;
use serde_json::{Value, json};
use std::sync::Arc;
use store::disk_sim::SimDisk;
use tokio_stream::StreamExt;

const RUN: Incarnation = Incarnation([1; 16]);
const ORDERS: TopicIncarnation = TopicIncarnation(1 << 32);
const QUEUE: QueueKey = QueueKey { topic: ORDERS, queue_id: 0 };
/// Ten messages: five consumed, two delivered, three waiting; the first eight are on disk.
const STORED: u64 = 10;
const CONSUMED: u64 = 5;
const DELIVERED: u64 = 7;
const FLUSHED: u64 = 8;

fn facts() -> Vec<Vec<Fact>> {
    let (group, member) = (Name::from("billing"), Name::from("member-1"));
    let started = EpochStarted {
        epoch: Epoch { number: 1, incarnation: RUN },
        broker_name: "broker-a".into(),
        log_start: LogPosition(0),
        roster: vec![],
        settings: vec![("flushDiskType".into(), "ASYNC_FLUSH".into())],
    };
    let topic = TopicConfigured {
        topic: ORDERS,
        name: "orders".into(),
        read_queues: 1,
        write_queues: 1,
        perm: 6,
        message_type: "NORMAL".into(),
    };
    let ids: Vec<String> = (0..STORED).map(|n| format!("ID{n}")).collect();
    let stored = Stored {
        first_ordinal: 0,
        log_end: LogPosition(STORED * 100),
        store_wall_ms: 1_700_000_000_000,
        runs: vec![StoredRun { queue: QUEUE, queue_offset: 0, count: STORED }],
        kinds: vec![(STORED, StoredKind::Produced)],
        ids: ids.iter().map(|id| id.as_bytes()).collect::<IdColumn>(),
    };
    let delivered = Fact::Delivered {
        group: group.clone(),
        queue: QUEUE,
        ranges: Ranges::of(0, DELIVERED),
        member: member.clone(),
        attempt: 0,
        lease_until_ms: 0,
    };
    let moved = Fact::OffsetMoved {
        group: group.clone(),
        queue: QUEUE,
        from: 0,
        to: CONSUMED,
        reason: MoveReason::Commit,
        actor: member.clone(),
    };
    let last_flushed = Stored {
        first_ordinal: 0,
        log_end: LogPosition(FLUSHED * 100),
        runs: vec![StoredRun { queue: QUEUE, queue_offset: 0, count: FLUSHED }],
        kinds: vec![(FLUSHED, StoredKind::Produced)],
        ids: ids.iter().take(FLUSHED as usize).map(|id| id.as_bytes()).collect::<IdColumn>(),
        ..stored.clone()
    };
    let rest = Stored {
        first_ordinal: FLUSHED,
        runs: vec![StoredRun { queue: QUEUE, queue_offset: FLUSHED, count: STORED - FLUSHED }],
        kinds: vec![(STORED - FLUSHED, StoredKind::Produced)],
        ids: ids.iter().skip(FLUSHED as usize).map(|id| id.as_bytes()).collect::<IdColumn>(),
        ..stored
    };
    let answered = Fact::Answered { from_ordinal: 0, count: STORED, class: AnswerClass::Buffered };
    let joined =
        Fact::MemberJoined { group: group.clone(), member: member.clone(), model: ConsumeModel::Clustering };
    let group_started = Fact::GroupStarted { group, queue: QUEUE, offset: 0, reason: StartReason::First };
    vec![
        vec![
            Fact::Recovered(Recovered { clean: true, ..Recovered::default() }),
            Fact::EpochStarted(started),
            Fact::TopicConfigured(topic),
        ],
        vec![joined, group_started],
        vec![Fact::Stored(last_flushed), Fact::Stored(rest), answered],
        vec![Fact::Flushed { log_position: LogPosition(FLUSHED * 100) }, delivered, moved],
    ]
}

/// A broker that says `facts()` and then only that it lives.
struct Script(Vec<Bytes>);

impl Script {
    fn new() -> Script {
        let mut encoder = FrameEncoder::new();
        let frames = facts().into_iter().enumerate().map(|(index, facts)| {
            let mut out = Vec::new();
            let mono_ms = index as u64;
            let now = Now { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms };
            encoder.encode(now, index == 0, &facts, &mut out);
            Bytes::from(out)
        });
        Script(frames.collect())
    }
}

impl Source for Script {
    fn name(&self) -> Name {
        "broker-a".into()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        let oldest = Position { incarnation: RUN, sequence: 0 };
        let snapshot = Snapshot {
            broker_name: "broker-a".into(),
            oldest,
            history_complete: true,
            ..Snapshot::default()
        };
        Box::pin(async move { Ok(snapshot) })
    }

    fn read(&self, after: Position) -> BoxFuture<'_, Result<BatchStream, SourceError>> {
        let head = self.0.len() as u64;
        let batch = |first_sequence: u64, frames: Vec<Bytes>| Batch {
            broker_name: "broker-a".into(),
            incarnation: RUN,
            first_sequence,
            frames,
            flushed_sequence: head,
            head_sequence: head,
            run_end: None,
        };
        let all = if after.sequence < head { vec![batch(1, self.0.clone())] } else { vec![] };
        let beat = batch(head + 1, vec![]);
        Box::pin(async move {
            let ticks = tokio::time::interval(Duration::from_millis(100));
            let beats = tokio_stream::wrappers::IntervalStream::new(ticks).map(move |_| Ok(beat.clone()));
            Ok(Box::pin(tokio_stream::iter(all).map(Ok).chain(beats)) as BatchStream)
        })
    }

    fn confirm(&self, _: Position) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }

    fn locate(&self, query: LocateQuery) -> BoxFuture<'_, Result<Located, SourceError>> {
        let offset = match &query.what {
            LocateBy::Id(id) => id.strip_prefix("ID"),
            LocateBy::Key(key) => key.strip_prefix("key-").filter(|_| query.topic == "orders"),
        };
        let offset = offset.and_then(|n| n.parse().ok()).filter(|offset| *offset < STORED);
        let places = offset.map(|queue_offset: u64| Place {
            identity: MessageIdentity { queue: QUEUE, queue_offset, epoch_number: 1 },
            topic: "orders".into(),
            unique_id: format!("ID{queue_offset}"),
            keys: format!("key-{queue_offset}"),
            store_wall_ms: 1_700_000_000_000,
            ..Place::default()
        });
        let as_of = Position { incarnation: RUN, sequence: self.0.len() as u64 };
        let located = Located { places: places.into_iter().collect(), as_of, complete: true };
        Box::pin(async move { Ok(located) })
    }

    fn inspect(&self, _: MessageIdentity) -> BoxFuture<'_, Result<Option<Inspected>, SourceError>> {
        Box::pin(async { Ok(None) })
    }
}

struct Stand {
    base: String,
    http: ureq::Agent,
    agent: AgentHandle,
    runtime: tokio::runtime::Runtime,
}

fn stand() -> Stand {
    let origin = tokio::time::Instant::now();
    let clock: Clock = Arc::new(move || {
        let mono_ms = origin.elapsed().as_millis() as u64;
        Now { mono_ms, wall_ms: 1_700_000_001_000 + mono_ms }
    });
    let ledger = MemoryLedger::new();
    let environment = Environment {
        clock: clock.clone(),
        disk: Arc::new(SimDisk::new()),
        incarnation: Incarnation([7; 16]),
        sources: vec![Arc::new(Script::new())],
        ledger: Some(Box::new(move || Ok(ledger.open()))),
    };
    let config = AgentConfig { data_dir: "/agent".into(), ..AgentConfig::default() };
    let agent = Agent::start(config, environment).unwrap();
    let desk = Arc::new(AgentDesk::new(agent.clone(), clock));
    let metrics = Arc::new(Metrics::new(prometheus::Registry::new(), "1").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(http::serve(listener, http::router(desk, metrics), std::future::pending()));
    let http = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let stand = Stand { base, http, agent, runtime };
    stand.until("ready", || stand.try_get("/readyz").0 == 200);
    stand.until("complete", || stand.get("/api/v1/sources")["complete"] == true);
    stand
}

impl Stand {
    fn try_get(&self, path: &str) -> (u16, String) {
        let mut response = self.http.get(format!("{}{path}", self.base)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn get(&self, path: &str) -> Value {
        let (status, text) = self.try_get(path);
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn items(&self, path: &str) -> Vec<Value> {
        self.get(path)["data"]["items"].as_array().unwrap().clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let mut response = self.http.post(format!("{}{path}", self.base)).send_json(body).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.try_get("/metrics");
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
        let line = line.unwrap_or_else(|| panic!("{series} is not in\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if done() {
                return;
            }
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        }
        panic!("never: {what}; {:?} {:?}", self.agent.status(), self.agent.failure());
    }

    fn end(self) {
        self.agent.stop();
        let stopped = async { tokio::time::timeout(Duration::from_secs(20), self.agent.stopped()).await };
        self.runtime.block_on(stopped).unwrap();
    }
}

#[test]
fn books_lists_and_metrics_say_the_same() {
    let stand = stand();
    let books = stand.items("/api/v1/balance?topic=orders");
    let store = books.iter().find(|row| row["store"].is_object()).unwrap();
    assert_eq!(
        (&store["store"]["stored"], &store["store"]["flushed"], &store["store"]["unflushed"]),
        (&json!(STORED), &json!(FLUSHED), &json!(STORED - FLUSHED))
    );
    let group = books.iter().find(|row| row["group"] == "billing").unwrap();
    assert_eq!(
        (&group["consumer"]["owed"], &group["consumer"]["settled"], &group["consumer"]["in_flight"]),
        (&json!(STORED), &json!(CONSUMED), &json!(STORED - CONSUMED))
    );
    assert!(books.iter().all(|row| row["balanced"] == true), "{books:#?}");
    assert_eq!(stand.items("/api/v1/balance?group=billing").len(), 1);
    assert!(stand.items("/api/v1/balance?topic=nothing").is_empty());

    let topics = stand.items("/api/v1/topics");
    assert_eq!((&topics[0]["topic"], &topics[0]["stored"]), (&json!("orders"), &json!(STORED)));
    let groups = stand.items("/api/v1/groups");
    assert_eq!((&groups[0]["group"], &groups[0]["model"]), (&json!("billing"), &json!("offsets")));
    let exposure = stand.get("/api/v1/exposure");
    assert_eq!(exposure["data"]["answered_unflushed_messages"], STORED - FLUSHED, "{exposure}");
    assert!(!stand.get("/api/v1/coverage")["data"].as_array().unwrap().is_empty());
    for empty in ["/api/v1/losses", "/api/v1/gaps", "/api/v1/dlq"] {
        assert!(stand.items(empty).is_empty(), "{empty}");
    }

    for (series, value) in [
        ("losstrace_messages_total{stage=\"stored\"}", STORED),
        ("losstrace_messages_total{stage=\"received\"}", STORED),
        ("losstrace_messages_total{stage=\"flushed\"}", FLUSHED),
        ("losstrace_messages_total{stage=\"delivered\"}", DELIVERED),
        ("losstrace_messages_total{stage=\"acked\"}", CONSUMED),
        ("losstrace_topic_messages_total{topic=\"orders\"}", STORED),
        ("losstrace_open_losses{group=\"billing\",topic=\"orders\"}", 0),
        ("losstrace_in_flight_messages{stage=\"unflushed\"}", STORED - FLUSHED),
        ("losstrace_in_flight_messages{stage=\"undelivered\"}", STORED - DELIVERED),
        ("losstrace_in_flight_messages{stage=\"unacked\"}", DELIVERED - CONSUMED),
        ("losstrace_dlq_messages{group=\"billing\"}", 0),
        ("losstrace_source_up{source=\"broker-a\"}", 1),
        ("losstrace_evidence_complete{source=\"broker-a\"}", 1),
    ] {
        assert_eq!(stand.metric(series), value as f64, "{series}");
    }
    let (_, details) = stand.try_get("/metrics/topics?topic=orders");
    assert!(
        details.contains("losstrace_group_settled_messages{group=\"billing\",topic=\"orders\"} 5\n"),
        "{details}"
    );
    stand.end();
}

#[test]
fn a_message_is_found_by_id_by_key_and_by_place() {
    let stand = stand();
    let by_id = stand.get("/api/v1/messages/ID2");
    let data = &by_id["data"];
    assert_eq!(
        (&data["identity"]["queue_offset"], &data["first_break"]),
        (&json!(2), &Value::Null),
        "{by_id}"
    );
    assert_eq!(data["groups"][0]["state"], "settled");
    let reached = |data: &Value, stage: &str| {
        let stages =
            data["stages"].as_array().unwrap().iter().chain(data["groups"][0]["stages"].as_array().unwrap());
        stages.into_iter().any(|row| row["stage"] == stage && row["reached"] == "yes")
    };
    for stage in ["stored", "answered", "flushed", "delivered", "acked"] {
        assert!(reached(data, stage), "{stage}: {data}");
    }
    let answered = data["stages"].as_array().unwrap().iter().find(|row| row["stage"] == "answered").unwrap();
    let receipt = "that was heard of: when it was in the operating system's memory only";
    assert!(answered["text"].as_str().unwrap().contains(receipt), "{answered}");
    let waiting = stand.get("/api/v1/messages/ID9")["data"].clone();
    assert!(!reached(&waiting, "flushed") && !reached(&waiting, "delivered"), "{waiting}");

    let by_place = stand.get("/api/v1/messages/broker-a%2Forders%2F0%2F2")["data"].clone();
    assert_eq!(by_place["identity"], data["identity"]);
    let found = stand.items("/api/v1/messages?topic=orders&key=key-2");
    assert_eq!(
        (found.len(), &found[0]["id"], &found[0]["stored_at"]),
        (1, &json!("ID2"), &json!("2023-11-14T22:13:20.000Z"))
    );
    assert!(stand.items("/api/v1/messages?topic=orders&key=nothing").is_empty());

    let ghost = stand.get("/api/v1/messages/GHOST")["data"].clone();
    assert_eq!(ghost["identity"], Value::Null);
    assert!(!ghost["rests_on"].as_array().unwrap().is_empty(), "{ghost}");
    stand.end();
}

#[test]
fn a_reported_send_that_is_nowhere_is_open_until_a_named_operator_acts() {
    let stand = stand();
    let sent = json!({"sent": [
        {"id": "ID3", "topic": "orders", "outcome": "ok"},
        {"id": "GHOST", "topic": "orders", "outcome": "ok"},
    ]});
    assert_eq!(stand.post("/api/v1/sent", &sent)["data"]["accepted"], 2);
    stand
        .until("the ghost is an incident", || !stand.items("/api/v1/losses?verdict=never-stored").is_empty());
    let losses = stand.items("/api/v1/losses?open=true");
    assert_eq!(losses.len(), 1, "{losses:#?}");
    assert_eq!((&losses[0]["messages"], &losses[0]["loss"]), (&json!(1), &json!(true)));
    let id = losses[0]["incident"].as_str().unwrap();
    let detail = stand.get(&format!("/api/v1/losses/{id}"));
    assert_eq!(detail["data"]["ids"], json!(["GHOST"]));
    let ghost = stand.get("/api/v1/messages/GHOST")["data"].clone();
    assert_eq!(ghost["incidents"], json!([id]));
    assert_ne!(ghost["first_break"], Value::Null, "{ghost}");
    let open = "losstrace_open_losses{group=\"__none__\",topic=\"orders\"}";
    assert_eq!(stand.metric(open), 1.0);
    let lost = "losstrace_messages_lost_total{verdict=\"never-stored\"}";
    assert_eq!(stand.metric(lost), 1.0);

    let decision = json!({"operator": "ann", "note": "sent again"});
    let after = stand.post(&format!("/api/v1/losses/{id}/acknowledge"), &decision);
    assert_eq!(
        (&after["data"]["item"]["state"], &after["data"]["item"]["open"]),
        (&json!("acknowledged"), &json!(false))
    );
    let history = after["data"]["history"].as_array().unwrap();
    let last = history.last().unwrap();
    assert_eq!((&last["actor"], &last["note"]), (&json!("ann"), &json!("sent again")), "{history:#?}");
    assert_eq!((stand.metric(open), stand.metric(lost)), (0.0, 1.0), "seen, and still in the books");
    assert!(stand.items("/api/v1/losses?open=true").is_empty());
    stand.end();
}
