//! A disk that rots under a running product: the scrubber finds it, the agent names the message, a reader is led past it, and a
//! restart says nothing new.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::api::{Incident, SETTLE_LIMIT, class};
use tests::config::Options;
use tests::metrics::Metrics;
use tests::raw::RawClient;
use tests::stand::{self, Stand};
use tests::wait;

const TOPIC: &str = "rot";
const COUNT: u64 = 20;
const ROTTEN: u64 = 7;
/// PULL_MESSAGE: found; and: nothing here, go on at once where the answer says.
const FOUND: u64 = 0;

fn send(client: &mut RawClient, n: u64) -> Result<()> {
    let properties = format!("UNIQ_KEY\u{1}ROT{n:02}\u{2}");
    let answer = client.send_with(TOPIC, body(n).as_bytes(), json!({ "properties": properties }))?;
    ensure!(answer.code() == Some(0), "send {n}: {:?}", answer.header);
    Ok(())
}

fn body(n: u64) -> String {
    format!("the body of message {n:02}, as it was sent")
}

/// The log's only file, and where a body is in it.
fn place(stand: &Stand, body: &str) -> Result<(PathBuf, u64)> {
    let folder = stand.data_dir().join("broker/commitlog");
    let file = fs::read_dir(&folder)?.next().context("a log has a file")??.path();
    let bytes = fs::read(&file)?;
    let at = bytes.windows(body.len()).position(|window| window == body.as_bytes());
    Ok((file, at.context("the body is in the log")? as u64))
}

fn broker_metric(stand: &Stand, name: &str) -> Result<f64> {
    Ok(Metrics::parse(&stand.broker_api().metrics_text()?)?.sum(name, &[]))
}

fn rot(stand: &Stand) -> Result<Vec<Incident>> {
    let all = stand.agent_api().incidents()?;
    Ok(all.into_iter().filter(|incident| incident.class == class::CORRUPTED_AT_REST).collect())
}

#[test]
fn what_rots_under_a_running_broker_is_named_and_passed_over() -> Result<()> {
    let options = Options { broker: "scrub_interval_ms = 1000".to_owned(), ..Options::default() };
    stand::with(options, |stand| {
        let product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let mut client = RawClient::connect(&stand.ports.remoting.address())?;
        (0..COUNT).try_for_each(|n| send(&mut client, n))?;
        wait::until("a round over all of it", SETTLE_LIMIT, || {
            let rounds = broker_metric(stand, "losstrace_broker_scrub_rounds_total")?;
            Ok((rounds >= 2.0).then_some(()))
        })?;
        ensure!(broker_metric(stand, "losstrace_broker_scrub_bad_records_total")? == 0.0, "all is whole");
        ensure!(rot(stand)?.is_empty(), "all is whole");

        let (path, at) = place(stand, &body(ROTTEN))?;
        OpenOptions::new().write(true).open(path)?.write_all_at(b"?", at + 3)?;
        let found = wait::until("the agent to name it", SETTLE_LIMIT, || {
            Ok(rot(stand)?.into_iter().find(|incident| incident.state == "confirmed"))
        })?;
        ensure!((found.loss, found.messages) == (true, 1), "{found:?}");
        let what = stand.agent_api().particulars(&found.incident)?;
        ensure!(what.ids.iter().eq([&format!("ROT{ROTTEN:02}")]), "{what:?}");
        ensure!(what.ranges == [(TOPIC.to_owned(), 0, ROTTEN..ROTTEN + 1)], "{what:?}");
        ensure!(broker_metric(stand, "losstrace_broker_scrub_bad_records_total")? == 1.0, "one record");

        let answer = client.pull(TOPIC, "readers", &ROTTEN.to_string())?;
        ensure!(answer.code() == Some(FOUND), "{:?}", answer.header);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(!text.contains("message 07"), "a torn message was handed out");
        ensure!((ROTTEN + 1..COUNT).all(|n| text.contains(&body(n))), "what is behind is handed out");
        let next = answer.field("nextBeginOffset").context("where to go on")?;
        ensure!(next == COUNT.to_string(), "{next}");

        product.terminate(Duration::from_secs(20))?;
        let _product = stand.up()?;
        wait::until("a round of the new run", SETTLE_LIMIT, || {
            let rounds = broker_metric(stand, "losstrace_broker_scrub_rounds_total")?;
            Ok((rounds >= 2.0).then_some(()))
        })?;
        ensure!(broker_metric(stand, "losstrace_broker_scrub_bad_records_total")? == 0.0, "told once");
        stand.agent_api().wait_complete()?;
        ensure!(rot(stand)?.len() == 1, "{:?}", rot(stand)?);
        let others: Vec<_> = stand.agent_api().incidents()?;
        ensure!(others.len() == 1, "nothing else happened: {others:?}");
        Ok(())
    })
}
