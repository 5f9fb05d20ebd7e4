//! What Prometheus sees: a real one scrapes agent and broker, promtool has no complaint, and every value agrees with
//! the API at the same moment.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::api::{AgentApi, metric, open_losses};
use tests::clients::Sdk::PythonRemoting;
use tests::clients::{Client, Job};
use tests::config::Options;
use tests::metrics::Metrics;
use tests::prometheus::{Prometheus, lint};
use tests::stand::{self, Stand};
use tests::{checkout, wait};

use crate::scenario::{bodies, consume, send};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const SENT: usize = 20;
/// A scrape every second, and one more to be sure that it began after the traffic ended.
pub(crate) const SCRAPE_LIMIT: Duration = Duration::from_secs(20);

/// Traffic with an ordinary end: consumed, and its books closed.
pub(crate) fn traffic(stand: &Stand) -> Result<()> {
    stand.create_topic(TOPIC)?;
    let sent = send(stand, PythonRemoting, &Job::produce(TOPIC, "order-", 20))?;
    consume(stand, PythonRemoting, &Job::consume(TOPIC, GROUP, 0), &bodies(&sent))?;
    stand.agent_api().wait_balance(TOPIC, GROUP, |balance| balance.check(SENT, 0))?;
    Ok(())
}

pub(crate) fn prometheus(stand: &Stand) -> Result<Prometheus> {
    let targets =
        [("losstrace", stand.ports.agent_http.address()), ("broker", stand.ports.broker_http.address())];
    let rules = ["rules.yml", "alerts.yml"].map(|file| checkout().join("dashboards/prometheus").join(file));
    Prometheus::start(stand.folder(), &targets, &rules)
}

#[test]
fn promtool_accepts_agent_and_broker_metrics() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        // Before any traffic, and after it: series that only appear later are linted too.
        lint(&stand.agent_api().metrics_text()?).context("agent, without traffic")?;
        lint(&stand.broker_api().metrics_text()?).context("broker, without traffic")?;
        traffic(stand)?;
        lint(&stand.agent_api().metrics_text()?).context("agent")?;
        lint(&stand.broker_api().metrics_text()?).context("broker")
    })
}

#[test]
fn loss_totals_exist_at_zero_before_anything_is_lost() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        let metrics = stand.agent_api().metrics()?;
        let totals: Vec<_> = metrics.family(metric::MESSAGES_LOST_TOTAL).collect();
        ensure!(totals.len() >= 10, "one series per class of loss, not {totals:?}");
        ensure!(totals.iter().all(|(_, value)| *value == 0.0), "lost before any traffic: {totals:?}");
        traffic(stand)?;
        let open = stand.agent_api().metrics()?;
        let labels = [("topic", TOPIC), ("group", GROUP)];
        let series =
            open.family(metric::OPEN_LOSSES).filter(|(key, _)| key.contains(TOPIC) && key.contains(GROUP));
        ensure!(series.count() == 1, "an owed topic and group has its series from the start");
        ensure!(open.sum(metric::OPEN_LOSSES, &labels) == 0.0, "open losses where nothing was lost");
        Ok(())
    })
}

#[test]
fn prometheus_shows_what_the_api_says() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        let prometheus = prometheus(stand)?;
        traffic(stand)?;
        let agent = stand.agent_api();

        wait::until_ok("Prometheus to agree with /metrics", SCRAPE_LIMIT, || {
            check_scraped(&prometheus, "losstrace", || agent.metrics())
        })?;
        check_against_api(&prometheus, &agent)?;
        ensure!(prometheus.firing()?.is_empty(), "alerts on a healthy product: {:?}", prometheus.firing()?);
        Ok(())
    })
}

/// A dead letter is a ticket, and the counters of Prometheus and of the API agree on it.
#[test]
fn prometheus_sees_a_dead_letter() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        let prometheus = prometheus(stand)?;
        stand.create_topic(TOPIC)?;
        send(stand, PythonRemoting, &Job::produce(TOPIC, "bad-", 1))?;
        let job = Job { fail_bodies: Some(String::from("bad-")), ..Job::consume(TOPIC, GROUP, 0) };
        let consumer = Client::start(stand, PythonRemoting, &job)?;
        wait::until_ok("the dead letter in Prometheus", Duration::from_secs(90), || {
            let arrived = prometheus.scalar(&format!("sum({})", metric::DLQ_ARRIVALS_TOTAL))?;
            ensure!(arrived == 1.0, "{arrived} arrivals");
            Ok(())
        })?;
        consumer.stop()?;
        ensure!(stand.agent_api().dead_letter_roots(GROUP)?.len() == 1, "the API has it too");
        Ok(())
    })
}

/// Every series of ours that stood still during the comparison has the same value in Prometheus.
fn check_scraped(prometheus: &Prometheus, job: &str, metrics: impl Fn() -> Result<Metrics>) -> Result<()> {
    let before = metrics()?;
    let scraped: BTreeMap<String, f64> = prometheus
        .query(&format!("{{__name__=~\"losstrace_.+\",job=\"{job}\"}}"))?
        .into_iter()
        .map(|mut sample| {
            let name = sample.labels.remove("__name__").unwrap_or_default();
            sample.labels.remove("job");
            sample.labels.remove("instance");
            (series_name(&name, &sample.labels), sample.value)
        })
        .collect();
    let after = metrics()?;
    let ours = before.series.iter().filter(|(key, _)| key.starts_with("losstrace_"));
    let steady: Vec<_> = ours.filter(|(key, value)| after.series.get(*key) == Some(*value)).collect();
    ensure!(steady.len() > 10, "only {} series stand still", steady.len());
    for (key, value) in steady {
        let found =
            scraped.get(&sorted_labels(key)).with_context(|| format!("{key} is not in Prometheus"))?;
        ensure!(found == value, "{key}: {found} in Prometheus, {value} in /metrics");
    }
    Ok(())
}

fn check_against_api(prometheus: &Prometheus, agent: &AgentApi) -> Result<()> {
    let balance = agent.balance(TOPIC, GROUP)?;
    let stored = prometheus.scalar(&format!("sum({}{{topic=\"{TOPIC}\"}})", metric::TOPIC_MESSAGES_TOTAL))?;
    ensure!(stored == balance.stored as f64, "stored: {stored} in Prometheus, {} in the API", balance.stored);
    let lost = prometheus.scalar(&format!("sum({})", metric::MESSAGES_LOST_TOTAL))?;
    let incidents = agent.incidents()?;
    let named: u64 =
        incidents.iter().filter(|incident| incident.loss).map(|incident| incident.messages).sum();
    ensure!(lost == named as f64, "lost: {lost} in Prometheus, {named} in the API");
    let open = prometheus.scalar(&format!("sum({})", metric::OPEN_LOSSES))?;
    let open_api: u64 = open_losses(&incidents).values().sum();
    ensure!(open == open_api as f64, "open: {open} in Prometheus, {open_api} in the API");
    Ok(())
}

fn series_name(name: &str, labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return name.to_owned();
    }
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

/// The exposition's own order of labels is not Prometheus's; the values in these tests hold no commas.
fn sorted_labels(key: &str) -> String {
    let Some((name, labels)) = key.trim_end_matches('}').split_once('{') else { return key.to_owned() };
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}
