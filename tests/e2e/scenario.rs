//! What several tests do in the same way: send, consume, dead-letter, and then ask the product about every message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::api::class;
use tests::clients::{Client, Events, Job, Sdk};
use tests::stand::Stand;
use tests::wait;

/// Start, route look-up and sending of some dozens of messages, on a busy machine.
const SEND_LIMIT: Duration = Duration::from_secs(60);
/// The slowest client looks for new queues every 20 s.
const CONSUME_LIMIT: Duration = Duration::from_secs(60);
/// Three deliveries with a second between them, after the slowest client has started.
const DEAD_LETTER_LIMIT: Duration = Duration::from_secs(90);

/// Sends `count` messages and returns body → id. Every send must be answered OK.
pub(crate) fn send(stand: &Stand, sdk: Sdk, job: &Job) -> Result<BTreeMap<String, String>> {
    let events = Client::start(stand, sdk, job)?.finish(SEND_LIMIT)?;
    let sent = events.sent();
    ensure!(events.send_failures().is_empty(), "failed sends: {:?}", events.send_failures());
    ensure!(sent.len() == job.count as usize, "{} of {} sent", sent.len(), job.count);
    let ids: BTreeSet<&String> = sent.values().collect();
    ensure!(ids.len() == sent.len(), "the client gave the same id twice: {sent:?}");
    Ok(sent)
}

/// Consumes until every one of these bodies was consumed, then shuts the client down properly.
pub(crate) fn consume(stand: &Stand, sdk: Sdk, job: &Job, bodies: &BTreeSet<String>) -> Result<Events> {
    let mut consumer = Client::start(stand, sdk, job)?;
    consumer.wait_for("all messages", CONSUME_LIMIT, |events| {
        let consumed = events.consumed();
        bodies.iter().all(|body| consumed.contains_key(body))
    })?;
    let events = consumer.stop()?;
    let strange: Vec<String> = events.consumed().into_keys().filter(|body| !bodies.contains(body)).collect();
    ensure!(strange.is_empty(), "consumed what nobody sent: {strange:?}");
    Ok(events)
}

pub(crate) fn bodies(sent: &BTreeMap<String, String>) -> BTreeSet<String> {
    sent.keys().cloned().collect()
}

/// One SDK sends, one consumes, each message once; then every id is traced through every stage and the books balance.
pub(crate) fn send_consume_balance(
    stand: &Stand,
    producer: Sdk,
    consumer: Sdk,
    consume_as: &'static str,
) -> Result<()> {
    const COUNT: u32 = 50;
    let (topic, group) = ("orders", "billing");
    let _product = stand.up()?;
    stand.create_topic(topic)?;

    let job = Job { tag: Some(String::from("paid")), ..Job::produce(topic, "order-", COUNT) };
    let sent = send(stand, producer, &job)?;
    let job = Job { consumer: consume_as, ..Job::consume(topic, group, 0) };
    let events = consume(stand, consumer, &job, &bodies(&sent))?;
    check_delivered_once(&events, &sent)?;

    let agent = stand.agent_api();
    agent.wait_complete()?;
    agent.wait_balance(topic, group, |balance| balance.check(sent.len(), 0))?;
    for (body, id) in &sent {
        agent.message(id)?.check_consumed(group).with_context(|| format!("{body} ({id})"))?;
    }
    check_found_by_key(stand, topic, &sent)?;
    ensure!(agent.losses()?.is_empty(), "losses where nothing was lost: {:?}", agent.losses()?);
    Ok(())
}

/// Nothing failed here, so nothing may be delivered twice, and what arrives is what was sent.
fn check_delivered_once(events: &Events, sent: &BTreeMap<String, String>) -> Result<()> {
    let more: Vec<(String, usize)> = events.consumed().into_iter().filter(|(_, times)| *times > 1).collect();
    ensure!(more.is_empty(), "delivered more than once without a cause: {more:?}");
    for event in events.0.iter().filter(|event| event.event == "received") {
        let body = event.body.as_deref().context("a delivery has a body")?;
        ensure!(event.keys == [body], "{body} arrived with keys {:?}", event.keys);
        ensure!(event.tag.as_deref() == Some("paid"), "{body} arrived with tag {:?}", event.tag);
        ensure!(event.attempt == Some(1), "{body} arrived as attempt {:?}", event.attempt);
        ensure!(sent.contains_key(body), "{body} was never sent");
    }
    Ok(())
}

/// A person who only knows a key finds the message.
fn check_found_by_key(stand: &Stand, topic: &str, sent: &BTreeMap<String, String>) -> Result<()> {
    let agent = stand.agent_api();
    for (key, id) in sent.iter().take(3) {
        let place = agent.message(id)?.place()?;
        let found = agent.find(topic, key)?;
        ensure!(found == BTreeSet::from([place]), "key {key} finds {found:?}, its message is at {place:?}");
    }
    Ok(())
}

/// Some bodies are never consumed: they are delivered as often as configured, end in the dead-letter queue, and the
/// product says so of each; the others are consumed beside them.
pub(crate) fn dead_letter(stand: &Stand, sdk: Sdk) -> Result<()> {
    let (topic, group) = ("payments", "ledger");
    let _product = stand.up()?;
    stand.create_topic(topic)?;
    let job = Job {
        fail_bodies: Some(String::from("bad-")),
        max_reconsume: Some(stand.options.retry_max),
        ..Job::consume(topic, group, 0)
    };
    let mut consumer = Client::start(stand, sdk, &job)?;
    consumer.wait_ready()?;
    let good = send(stand, sdk, &Job::produce(topic, "good-", 5))?;
    consumer.wait_for("the good messages", CONSUME_LIMIT, |events| events.consumed().len() == good.len())?;

    let agent = stand.agent_api();
    let mut bad = BTreeMap::new();
    // This core sends a whole pull back when one message of it is refused, without showing the rest to the listener:
    // only one refused message at a time has a number of deliveries that a test can know.
    let batches: &[(&str, u32)] = match sdk {
        Sdk::PythonRemoting => &[("bad-a", 1), ("bad-b", 1)],
        _ => &[("bad-", 3)],
    };
    for (prefix, count) in batches {
        bad.extend(send(stand, sdk, &Job::produce(topic, prefix, *count))?);
        wait::until_ok("the dead letters", DEAD_LETTER_LIMIT, || {
            let found = agent.dead_letter_roots(group)?.len();
            ensure!(found == bad.len(), "{found} of {}", bad.len());
            Ok(())
        })?;
    }
    let events = consumer.stop()?;
    let deliveries = stand.options.deliveries_max() as usize;
    let wanted: BTreeMap<String, usize> = bad.keys().map(|body| (body.clone(), deliveries)).collect();
    ensure!(events.refused() == wanted, "deliveries of {:?}, not {wanted:?}", events.refused());

    agent.wait_complete()?;
    agent.wait_balance(topic, group, |balance| balance.check(good.len(), bad.len()))?;
    for id in good.values() {
        agent.message(id)?.check_consumed(group)?;
    }
    let mut roots = BTreeSet::new();
    for id in bad.values() {
        let life = agent.message(id)?;
        life.check_dead_lettered(group)?;
        roots.insert(life.place()?);
    }
    ensure!(agent.dead_letter_roots(group)? == roots, "the dead letters are not those that were refused");
    check_dead_letter_incident(stand, topic, group, bad.len())
}

/// From complete evidence to what is said of it; twice the 5 s that are promised, for a loaded machine.
const VERDICT_LIMIT: Duration = Duration::from_secs(10);

/// There soon is an incident that says so, over exactly these messages, and no other loss.
fn check_dead_letter_incident(stand: &Stand, topic: &str, group: &str, messages: usize) -> Result<()> {
    let mut others = Vec::new();
    wait::until_ok("the incident of the dead letters", VERDICT_LIMIT, || {
        let (dead, rest): (Vec<_>, Vec<_>) =
            stand.agent_api().incidents()?.into_iter().partition(|i| i.class == class::DEAD_LETTERED);
        let of_group = dead.iter().filter(|incident| incident.topic == topic && incident.group == group);
        let counted: u64 = of_group.map(|incident| incident.messages).sum();
        ensure!(counted == messages as u64, "dead-lettered over {counted} messages: {dead:?}");
        others = rest;
        Ok(())
    })?;
    ensure!(!others.iter().any(|incident| incident.loss), "other losses: {others:?}");
    Ok(())
}

/// Two tags, a consumer of one: the other is passed over, and the books say that this was meant.
pub(crate) fn filter_by_tag(stand: &Stand, sdk: Sdk) -> Result<()> {
    let (topic, group) = ("events", "alerts");
    let _product = stand.up()?;
    stand.create_topic(topic)?;
    let tagged =
        |tag: &str, prefix: &str| Job { tag: Some(tag.to_owned()), ..Job::produce(topic, prefix, 10) };
    let wanted = send(stand, sdk, &tagged("red", "red-"))?;
    let passed = send(stand, sdk, &tagged("blue", "blue-"))?;

    let job = Job { tag: Some(String::from("red")), ..Job::consume(topic, group, 0) };
    let mut consumer = Client::start(stand, sdk, &job)?;
    consumer.wait_for("the red messages", CONSUME_LIMIT, |events| events.consumed().len() == wanted.len())?;
    let agent = stand.agent_api();
    agent.wait_balance(topic, group, |balance| balance.check(wanted.len() + passed.len(), 0))?;
    let events = consumer.stop()?;
    ensure!(
        events.consumed().into_keys().collect::<BTreeSet<_>>() == bodies(&wanted),
        "not only red was consumed"
    );
    for id in passed.values() {
        let life = agent.message(id)?;
        ensure!(life.reached(group)?.contains("filtered"), "a blue message was not filtered: {life:?}");
    }
    ensure!(agent.losses()?.is_empty(), "a filter is not a loss: {:?}", agent.losses()?);
    Ok(())
}
