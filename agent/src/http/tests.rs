//! The routes over a desk of cardboard, through a real socket.

use super::desk::*;
use super::problem::Problem;
use super::*;
use crate::metrics::observed::Observed;
use crate::report::views::*;
use lifecycle::fact::{OperatorAction, SendOutcome, SentReported};
use lifecycle::identity::Incarnation;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const INCIDENT: &str = "018f0000-0000-7000-8000-000000000001";

#[derive(Default)]
struct Cardboard {
    dead: AtomicBool,
    not_ready: AtomicBool,
    full: AtomicBool,
    losses: Vec<LossItem>,
    asked: Mutex<Vec<String>>,
    sent: Mutex<Vec<SentReported>>,
    decided: Mutex<Vec<Decision>>,
}

fn around<T>(data: T) -> Envelope<T> {
    let as_of = vec![AsOf { source: "broker-a".into(), incarnation: INCIDENT.into(), sequence: 7 }];
    Envelope { as_of, complete: false, sources_behind: vec!["broker-a".into()], undecided_messages: 3, data }
}

fn item(n: u64) -> LossItem {
    LossItem {
        incident: format!("018f0000-0000-7000-8000-{n:012}"),
        class: "never-stored".into(),
        loss: true,
        state: "confirmed".into(),
        open: n.is_multiple_of(2),
        hop: String::new(),
        broker: "broker-a".into(),
        epoch: 1,
        topic: if n < 3 { "orders".into() } else { "logs".into() },
        topics: 1,
        topic_names: Vec::new(),
        group: String::new(),
        messages: 1,
        undecided_messages: 0,
        first_seen_wall_ms: 1_000 * n,
        confirmed_wall_ms: None,
        summary: String::new(),
    }
}

fn detail(incident: &str) -> LossDetail {
    let cause = CauseView {
        hop: String::new(),
        broker: String::new(),
        epoch: 0,
        setting: String::new(),
        event: String::new(),
        actor: String::new(),
    };
    let item = LossItem { incident: incident.into(), ..item(1) };
    let (ranges, ids, evidence, history, next_steps) = Default::default();
    LossDetail { item, ranges, ids, ids_total: 0, cause, evidence, history, next_steps }
}

impl Cardboard {
    fn give<'a, T: Send + 'a>(&'a self, asked: String, data: T) -> Answer<'a, T> {
        self.asked.lock().unwrap().push(asked);
        let full = self.full.load(Ordering::Relaxed);
        Box::pin(async move { if full { Err(Problem::busy("full")) } else { Ok(data) } })
    }
}

impl Desk for Cardboard {
    fn alive(&self) -> Result<(), String> {
        if self.dead.load(Ordering::Relaxed) { Err("the agent has stopped: disk".into()) } else { Ok(()) }
    }
    fn ready(&self) -> Result<(), String> {
        if self.not_ready.load(Ordering::Relaxed) { Err("replaying broker-a".into()) } else { Ok(()) }
    }
    fn observed(&self) -> Answer<'_, Observed> {
        let observed = Observed { messages: vec![("stored", 5)], ..Default::default() };
        self.give("observed".into(), observed)
    }
    fn message(&self, id: String) -> Answer<'_, Envelope<MessageTimeline>> {
        let timeline = MessageTimeline {
            asked: id.clone(),
            id: id.clone(),
            identity: None,
            stages: vec![],
            groups: vec![],
            copies: vec![],
            incidents: vec![],
            first_break: None,
            explanation: "never reached this broker".into(),
            rests_on: vec!["broker-a to frame 7".into()],
        };
        self.give(format!("message {id}"), around(timeline))
    }
    fn find(&self, key: String, topic: String) -> Answer<'_, Envelope<Vec<FoundMessage>>> {
        let found = FoundMessage {
            id: "ID1".into(),
            broker: "broker-a".into(),
            topic: topic.clone(),
            queue_id: 0,
            queue_offset: 4,
            keys: key.clone(),
            tags: String::new(),
            stored_wall_ms: 1,
        };
        self.give(format!("find {key} {topic}"), around(vec![found]))
    }
    fn losses(&self, filter: LossFilter) -> Answer<'_, Envelope<Vec<LossItem>>> {
        let found = self.losses.iter().filter(|item| filter.matches(item)).cloned().collect();
        self.give(format!("losses {filter:?}"), around(found))
    }
    fn loss(&self, incident: Incarnation) -> Answer<'_, Option<Envelope<LossDetail>>> {
        let id = incident.to_string();
        let found = (id == INCIDENT).then(|| around(detail(&id)));
        self.give(format!("loss {id}"), found)
    }
    fn decide(&self, decision: Decision) -> Answer<'_, Option<Envelope<LossDetail>>> {
        let id = decision.incident.to_string();
        let found = (id == INCIDENT).then(|| around(detail(&id)));
        self.decided.lock().unwrap().push(decision);
        self.give(format!("decide {id}"), found)
    }
    fn balance(&self, scope: Scope) -> Answer<'_, Envelope<Vec<BalanceRow>>> {
        self.give(format!("balance {scope:?}"), around(vec![]))
    }
    fn gaps(&self) -> Answer<'_, Envelope<Vec<GapRow>>> {
        self.give("gaps".into(), around(vec![]))
    }
    fn dlq(&self, group: Option<String>) -> Answer<'_, Envelope<Vec<DlqRow>>> {
        self.give(format!("dlq {group:?}"), around(vec![]))
    }
    fn topics(&self) -> Answer<'_, Envelope<Vec<TopicRow>>> {
        let row = |topic: &str, retained: u64| TopicRow {
            broker: "broker-a".into(),
            topic: topic.into(),
            topic_incarnation: "1".into(),
            message_type: "NORMAL".into(),
            queues: 4,
            stored: 9,
            retained,
            unflushed: 0,
            expired: 0,
            groups: 1,
            open_losses: 2,
            deleted: false,
        };
        self.give("topics".into(), around(vec![row("orders", 8), row("logs", 1)]))
    }
    fn groups(&self) -> Answer<'_, Envelope<Vec<GroupRow>>> {
        let topic = GroupTopicRow {
            topic: "orders".into(),
            book: GroupBookView { owed: 6, ..Default::default() },
            lag: 5,
            retention_margin_seconds: None,
            open_losses: 0,
            filter_conflict: false,
        };
        let row = GroupRow {
            broker: "broker-a".into(),
            group: "billing".into(),
            model: "offsets".into(),
            members: vec![],
            retry_max: 16,
            topics: vec![topic],
            dead_letters: 0,
            oldest_dead_letter_wall_ms: None,
            open_losses: 0,
            retired: false,
        };
        self.give("groups".into(), around(vec![row]))
    }
    fn retire(&self, group: String, operator: String) -> Answer<'_, Retired> {
        let outcome = match group.as_str() {
            "billing" => Retired::Done(around(vec![])),
            "busy" => Retired::InUse,
            _ => Retired::Unknown,
        };
        self.give(format!("retire {group} by {operator}"), outcome)
    }
    fn exposure(&self) -> Answer<'_, Envelope<ExposureReport>> {
        self.give("exposure".into(), around(ExposureReport::default()))
    }
    fn coverage(&self) -> Answer<'_, Envelope<Vec<CoverageRow>>> {
        self.give("coverage".into(), around(vec![]))
    }
    fn sources(&self) -> Answer<'_, Envelope<Vec<SourceRow>>> {
        self.give("sources".into(), around(vec![]))
    }
    fn sent(&self, reports: Vec<SentReported>) -> Answer<'_, Envelope<()>> {
        let answer = self.give(format!("sent {}", reports.len()), around(()));
        if !self.full.load(Ordering::Relaxed) {
            self.sent.lock().unwrap().extend(reports);
        }
        answer
    }
    fn wall_ms(&self) -> u64 {
        42
    }
}

/// The server on a free port, for as long as the test lives.
struct Stand {
    desk: Arc<Cardboard>,
    base: String,
    http: ureq::Agent,
    runtime: tokio::runtime::Runtime,
}

fn stand(desk: Cardboard) -> Stand {
    let desk = Arc::new(desk);
    let metrics = Metrics::new(prometheus::Registry::new(), "1").unwrap();
    let router = router(desk.clone(), Arc::new(metrics));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(serve(listener, router, std::future::pending()));
    let http = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    Stand { desk, base, http, runtime }
}

struct Got {
    status: u16,
    kind: String,
    text: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

impl Stand {
    fn get(&self, path: &str) -> Got {
        got(self.http.get(format!("{}{path}", self.base)).call().unwrap())
    }

    fn post(&self, path: &str, kind: &str, body: &str) -> Got {
        got(self.http.post(format!("{}{path}", self.base)).header("content-type", kind).send(body).unwrap())
    }

    fn post_json(&self, path: &str, body: &Value) -> Got {
        self.post(path, "application/json", &body.to_string())
    }

    fn last_asked(&self) -> String {
        self.desk.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn got(mut response: ureq::http::Response<ureq::Body>) -> Got {
    let kind = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    Got { status: response.status().as_u16(), kind, text: response.body_mut().read_to_string().unwrap() }
}

fn check_problem(got: &Got, status: u16, detail: &str) {
    assert_eq!(got.status, status, "{}", got.text);
    assert_eq!(got.kind, "application/problem+json", "{}", got.text);
    let json = got.json();
    assert_eq!(json["status"], status);
    assert_eq!(json["type"], "about:blank");
    assert!(json["detail"].as_str().unwrap().contains(detail), "{json} lacks {detail}");
}

#[test]
fn every_answer_says_what_it_rests_on() {
    let stand = stand(Cardboard { losses: vec![item(1)], ..Default::default() });
    for path in [
        "/api/v1/messages/ID1",
        "/api/v1/messages?key=k&topic=t",
        "/api/v1/losses",
        &format!("/api/v1/losses/{INCIDENT}"),
        "/api/v1/balance",
        "/api/v1/gaps",
        "/api/v1/dlq",
        "/api/v1/topics",
        "/api/v1/groups",
        "/api/v1/exposure",
        "/api/v1/coverage",
        "/api/v1/sources",
    ] {
        let got = stand.get(path);
        assert_eq!((got.status, got.kind.as_str()), (200, "application/json"), "{path}: {}", got.text);
        let json = got.json();
        assert_eq!(json["as_of"][0]["sequence"], 7, "{path}");
        assert_eq!(json["complete"], false, "{path}");
        assert_eq!(json["sources_behind"], json!(["broker-a"]), "{path}");
        assert_eq!(json["undecided_messages"], 3, "{path}");
        assert!(json.get("data").is_some(), "{path}");
    }
}

#[test]
fn ids_and_filters_reach_the_desk_as_they_were_meant() {
    let stand = stand(Cardboard::default());
    stand.get("/api/v1/messages/%25DLQ%25a%2Fb");
    assert_eq!(stand.last_asked(), "message %DLQ%a/b");
    stand.get("/api/v1/messages?key=order+1&topic=%25RETRY%25g");
    assert_eq!(stand.last_asked(), "find order 1 %RETRY%g");
    stand.get("/api/v1/dlq?group=g");
    assert_eq!(stand.last_asked(), "dlq Some(\"g\")");
    stand.get("/api/v1/balance?topic=t&group=g");
    assert!(stand.last_asked().contains("topic: Some(\"t\"), group: Some(\"g\"), window: None"));
    stand.get("/api/v1/balance?from=1&to=1970-01-01T00:00:02Z");
    assert!(stand.last_asked().contains("window: Some((1000, 2000))"));
    check_problem(&stand.get("/api/v1/balance?from=2&to=1"), 400, "from");
    stand.get("/api/v1/losses?verdict=never-stored&state=confirmed&open=true&from=1&to=1970-01-01T00:00:02Z");
    let asked = stand.last_asked();
    for part in ["never-stored", "confirmed", "open: Some(true)", "from_wall_ms: Some(1000)", "Some(2000)"] {
        assert!(asked.contains(part), "{asked} lacks {part}");
    }
}

#[test]
fn a_group_is_retired_by_name_only_when_nobody_uses_it() {
    let stand = stand(Cardboard::default());
    let by_ann = json!({"operator": "ann"});
    assert_eq!(stand.post_json("/api/v1/groups/billing/retire", &by_ann).status, 200);
    assert_eq!(stand.last_asked(), "retire billing by ann");
    check_problem(&stand.post_json("/api/v1/groups/busy/retire", &by_ann), 409, "has members");
    check_problem(&stand.post_json("/api/v1/groups/nobody/retire", &by_ann), 404, "nobody");
    check_problem(
        &stand.post_json("/api/v1/groups/billing/retire", &json!({"operator": " "})),
        400,
        "operator",
    );
}

#[test]
fn losses_are_filtered_and_paged_by_cursor() {
    let stand = stand(Cardboard { losses: (1..=5).rev().map(item).collect(), ..Default::default() });
    let incidents = |json: &Value| -> Vec<u64> {
        let items = json["data"]["items"].as_array().unwrap();
        let tail = |item: &Value| item["incident"].as_str().unwrap()[24..].parse().unwrap();
        items.iter().map(tail).collect()
    };
    let mut all = Vec::new();
    let mut path = "/api/v1/losses?limit=2".to_owned();
    for _ in 0..5 {
        let json = stand.get(&path).json();
        assert_eq!(json["data"]["total"], 5);
        all.extend(incidents(&json));
        match json["data"]["next"].as_str() {
            Some(next) => path = format!("/api/v1/losses?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(all, [1, 2, 3, 4, 5], "oldest first, each once");
    for (query, wanted) in [
        ("topic=orders", vec![1, 2]),
        ("topic=nothing", vec![]),
        ("open=true", vec![2, 4]),
        ("from=2&to=4", vec![2, 3]),
        ("verdict=duplicate", vec![]),
        ("verdict=never-stored&topic=logs&open=false", vec![3, 5]),
    ] {
        assert_eq!(incidents(&stand.get(&format!("/api/v1/losses?{query}")).json()), wanted, "{query}");
    }
}

#[test]
fn wrong_questions_get_a_problem_that_says_what_is_wrong() {
    let stand = stand(Cardboard::default());
    for (path, status, detail) in [
        ("/api/v1/losses?verdikt=never-stored", 400, "verdikt"),
        ("/api/v1/losses?verdict=lost", 400, "verdict: must be one of never-stored"),
        ("/api/v1/losses?state=open", 400, "state: must be one of"),
        ("/api/v1/losses?limit=0", 400, "limit: must be 1 to 1000"),
        ("/api/v1/losses?limit=1001", 400, "limit: must be 1 to 1000"),
        ("/api/v1/losses?limit=many", 400, "limit"),
        ("/api/v1/losses?cursor=xyz", 400, "cursor"),
        ("/api/v1/losses?from=yesterday", 400, "from: `yesterday` must be RFC 3339"),
        ("/api/v1/losses?from=2&to=2", 400, "from: must be before"),
        ("/api/v1/losses?topic=", 400, "topic: must have 1 to"),
        ("/api/v1/losses/7", 400, "uuid"),
        ("/api/v1/losses/018f0000-0000-7000-8000-00000000000f", 404, "018f0000-0000-7000-8000-00000000000f"),
        ("/api/v1/messages?key=k", 400, "topic"),
        ("/api/v1/messages?key=&topic=t", 400, "key: must have"),
        ("/api/v1/messages/%00", 400, "control"),
        ("/api/v1/nothing", 404, "/api/v1/nothing"),
        ("/metrics/topics", 400, "name at least one"),
        ("/api/v1/sent", 405, "another method"),
    ] {
        check_problem(&stand.get(path), status, detail);
    }
    check_problem(&stand.get(&format!("/api/v1/messages/{}", "x".repeat(1025))), 400, "1024");
    check_problem(&stand.get(&format!("/api/v1/messages/{}", "x".repeat(9000))), 414, "8192");
    assert_eq!(stand.desk.asked.lock().unwrap().len(), 1, "only the unknown incident reached the desk");
}

#[test]
fn a_decision_needs_a_name() {
    let stand = stand(Cardboard::default());
    let path = format!("/api/v1/losses/{INCIDENT}/acknowledge");
    for (body, detail) in [
        (json!({}), "operator"),
        (json!({"operator": "  "}), "operator: must have"),
        (json!({"operator": "ann", "why": "x"}), "why"),
        (json!({"operator": "ann", "note": "a\u{0}b"}), "note: must not contain control"),
    ] {
        check_problem(&stand.post_json(&path, &body), 400, detail);
    }
    check_problem(&stand.post(&path, "text/plain", "{}"), 415, "application/json");
    check_problem(&stand.post(&path, "application/json", "{"), 400, "JSON");
    assert!(stand.desk.decided.lock().unwrap().is_empty());

    assert_eq!(stand.post_json(&path, &json!({"operator": "ann", "note": "sent again"})).status, 200);
    let accept = format!("/api/v1/losses/{INCIDENT}/accept");
    assert_eq!(stand.post_json(&accept, &json!({"operator": "bob"})).status, 200);
    let unknown = "/api/v1/losses/018f0000-0000-7000-8000-00000000000f/accept";
    check_problem(&stand.post_json(unknown, &json!({"operator": "bob"})), 404, "no incident");
    let decided = stand.desk.decided.lock().unwrap();
    let short: Vec<_> = decided.iter().map(|d| (d.action, d.operator.as_str(), d.note.as_str())).collect();
    assert_eq!(
        short[..2],
        [(OperatorAction::Acknowledge, "ann", "sent again"), (OperatorAction::Accept, "bob", ""),]
    );
}

#[test]
fn reports_are_taken_whole_or_not_at_all() {
    let stand = stand(Cardboard::default());
    let sent = |items: Value| stand.post_json("/api/v1/sent", &json!({ "sent": items }));
    let good = json!({"id": "A", "topic": "t", "outcome": "ok", "broker": "b", "queue_id": 1, "queue_offset": 9,
        "sent_at": "1970-01-01T00:00:01Z"});
    for (bad, status, detail) in [
        (json!([]), 400, "at least one"),
        (json!([good, {"id": "A", "topic": "t", "outcome": "fine"}]), 400, "sent[1].outcome: must be ok"),
        (json!([good, {"id": "", "topic": "t", "outcome": "ok"}]), 400, "sent[1].id"),
        (json!([{"id": "A", "topic": "t", "outcome": "ok", "queue_offset": 1}]), 400, "sent[0].queue_id"),
        (json!([{"id": "A", "topic": "t", "outcome": "ok", "queue_offset": -1}]), 400, "queue_offset"),
        (json!([{"id": "A", "topic": "t", "outcome": "ok", "sent_at": "now"}]), 400, "sent[0].sent_at"),
        (json!([{"id": "A", "topic": "t", "outcome": "ok", "body": "secret"}]), 400, "body"),
        (Value::from(vec![good.clone(); writes::REPORTS_MAX + 1]), 413, "at most 1000"),
    ] {
        check_problem(&sent(bad), status, detail);
    }
    // a client that writes all of it before it reads gets the answer, too
    for bytes in [BODY_BYTES_MAX + 1, 4 * BODY_BYTES_MAX] {
        let huge = "x".repeat(bytes);
        check_problem(&stand.post("/api/v1/sent", "application/json", &huge), 413, "a body may have");
    }
    assert!(stand.desk.sent.lock().unwrap().is_empty());

    let got = sent(json!([good, {"id": "B", "topic": "t", "outcome": "unknown"}]));
    assert_eq!((got.status, &got.json()["data"]["accepted"]), (200, &json!(2)), "{}", got.text);
    let taken = stand.desk.sent.lock().unwrap().clone();
    assert_eq!(
        taken[0],
        SentReported {
            id: "A".into(),
            topic: "t".into(),
            outcome: SendOutcome::Ok,
            broker: "b".into(),
            queue_id: Some(1),
            queue_offset: Some(9),
            sent_wall_ms: 1_000,
            reported_wall_ms: 42,
        }
    );
    assert_eq!(taken[1].outcome, SendOutcome::Unknown);

    stand.desk.full.store(true, Ordering::Relaxed);
    check_problem(&sent(json!([good])), 503, "full");
}

#[test]
fn metrics_and_readiness_wait_for_replay_and_health_does_not() {
    let stand = stand(Cardboard::default());
    stand.desk.not_ready.store(true, Ordering::Relaxed);
    for path in ["/metrics", "/readyz", "/-/ready", "/metrics/topics?topic=orders"] {
        check_problem(&stand.get(path), 503, "replaying broker-a");
    }
    for path in ["/healthz", "/-/healthy"] {
        assert_eq!(stand.get(path).status, 200);
        stand.desk.dead.store(true, Ordering::Relaxed);
        check_problem(&stand.get(path), 503, "the agent has stopped: disk");
        stand.desk.dead.store(false, Ordering::Relaxed);
    }
    stand.desk.not_ready.store(false, Ordering::Relaxed);
    assert_eq!(stand.get("/readyz").status, 200);
    let got = stand.get("/metrics");
    assert_eq!(got.kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(got.text.contains("losstrace_messages_total{stage=\"stored\"} 5\n"), "{}", got.text);
    let got = stand.get("/metrics/topics?topic=orders");
    assert!(got.text.contains("losstrace_topic_retained_messages{topic=\"orders\"} 8\n"), "{}", got.text);
    assert!(got.text.contains("losstrace_group_lag_messages{group=\"billing\",topic=\"orders\"} 5\n"));
    assert!(!got.text.contains("logs"), "only what was asked for");
    assert!(!got.text.contains("margin"), "unknown is not zero");
}

#[test]
fn too_many_requests_at_once_are_told_to_come_back() {
    let desk: Arc<dyn Desk> = Arc::new(Cardboard::default());
    let metrics = Arc::new(Metrics::new(prometheus::Registry::new(), "1").unwrap());
    let door = Arc::new(Door { desk, metrics, room: Semaphore::new(0) });
    let router = Router::new()
        .route("/healthz", get(plain::healthz))
        .route("/readyz", get(plain::readyz))
        .route("/metrics", get(plain::metrics))
        .layer(middleware::from_fn_with_state(door.clone(), guard))
        .with_state(door);
    let stand = stand(Cardboard::default());
    let listener = stand.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    stand.runtime.spawn(serve(listener, router, std::future::pending()));
    let fetch = |path: &str| got(stand.http.get(format!("{base}{path}")).call().unwrap());
    check_problem(&fetch("/metrics"), 503, "too many requests");
    assert_eq!(fetch("/healthz").status, 200);
    assert_eq!(fetch("/readyz").status, 200);
}

#[test]
fn the_description_names_every_path() {
    let stand = stand(Cardboard::default());
    let json = stand.get("/api/v1/openapi.json").json();
    assert!(json["openapi"].as_str().unwrap().starts_with("3."));
    let paths: Vec<&String> = json["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/api/v1/balance",
            "/api/v1/coverage",
            "/api/v1/dlq",
            "/api/v1/exposure",
            "/api/v1/gaps",
            "/api/v1/groups",
            "/api/v1/groups/{group}/retire",
            "/api/v1/losses",
            "/api/v1/losses/{id}",
            "/api/v1/losses/{id}/accept",
            "/api/v1/losses/{id}/acknowledge",
            "/api/v1/messages",
            "/api/v1/messages/{id}",
            "/api/v1/sent",
            "/api/v1/sources",
            "/api/v1/topics",
        ]
    );
    // every reference is defined
    let text = json.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(json["components"]["schemas"].get(name).is_some(), "{name} is not defined");
    }
}
