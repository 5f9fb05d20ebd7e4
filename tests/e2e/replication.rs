//! A SYNC_MASTER and two replicas as processes, under load from a real SDK: what an answer says is true, whichever replica dies, and
//! in the end all three logs are the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::clients::Sdk::NodeRemoting;
use tests::clients::{Client, Events, Job};
use tests::config::Options;
use tests::ports::Port;
use tests::raw::RawClient;
use tests::stand::{self, Role, Stand};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(40);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "replicated";
/// Answers per phase that make a load.
const ANSWERS: usize = 30;

/// Log files by name.
pub(crate) fn log_files(stand: &Stand) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = stand.data_dir().join("broker/commitlog");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    Ok(files)
}

pub(crate) fn wait_same(master: &Stand, replica: &Stand) -> Result<()> {
    wait::until_ok("the replica's log to be the master's", CATCH_UP_LIMIT, || {
        let (ours, theirs) = (log_files(master)?, log_files(replica)?);
        let bytes = |files: &BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
        ensure!(ours == theirs, "master {} bytes, replica {} bytes", bytes(&ours), bytes(&theirs));
        ensure!(bytes(&ours) > 0, "the logs are empty");
        Ok(())
    })
}

/// Answers with this status, since the first `from` events.
fn statuses(events: &Events, from: usize, status: &str) -> usize {
    let later = events.0.iter().skip(from);
    later.filter(|line| line.event == "sent" && line.status.as_deref() == Some(status)).count()
}

pub(crate) fn wait_status(producer: &mut Client, status: &str) -> Result<()> {
    let from = producer.events().0.len();
    producer.wait_for(&format!("answers {status}"), LIMIT, |events| statuses(events, from, status) >= ANSWERS)
}

fn replica(number: u32, master: &Port) -> Result<Stand> {
    let options = Options {
        broker: format!(
            "broker_role = \"SLAVE\"\nreplica_id = \"replica-{number}\"\nmaster_address = \"{}\"",
            master.address()
        ),
        ..Options::default()
    };
    Stand::new(options)
}

/// Every body that was answered OK is in the log's bytes.
pub(crate) fn check_holds(stand: &Stand, events: &Events) -> Result<()> {
    let bytes: Vec<u8> = log_files(stand)?.into_values().flatten().collect();
    let text = String::from_utf8_lossy(&bytes);
    for body in events.sent().keys() {
        // bodies are also keys: the property text ends the key with a separator
        ensure!(text.contains(&format!("KEYS\u{1}{body}\u{2}")), "{body} was answered OK and is not there");
    }
    Ok(())
}

/// Sends a signal to a process that we started.
pub(crate) fn send_signal(pid: u32, signal: &str) -> Result<()> {
    let command = format!("kill -{signal} {pid}");
    ensure!(std::process::Command::new("sh").arg("-c").arg(command).status()?.success(), "kill -{signal}");
    Ok(())
}

#[test]
fn answers_tell_the_truth_about_replicas_and_logs_end_up_the_same() -> Result<()> {
    let port = Port::claim()?;
    let options = Options {
        replication: Some(port.address()),
        broker: "broker_role = \"SYNC_MASTER\"\nreplication_timeout_ms = 700".to_owned(),
        ..Options::default()
    };
    stand::with(options, |master| {
        let (one, two) = (replica(1, &port)?, replica(2, &port)?);
        run(master, &one, &two).with_context(|| format!("{}\n{}", one.story(), two.story()))
    })
}

fn run(master: &Stand, one: &Stand, two: &Stand) -> Result<()> {
    let master_process = master.start(Role::Broker)?;
    master.create_topic(TOPIC)?;
    let job = Job { interval_ms: 4, timeout_s: 200, attempts: 1, ..Job::produce(TOPIC, "m-", 1_000_000) };
    let mut producer = Client::start(master, NodeRemoting, &job)?;
    wait_status(&mut producer, "SLAVE_NOT_AVAILABLE").context("no replica yet")?;
    let first = one.start(Role::Broker)?;
    let second = two.start(Role::Broker)?;
    wait_status(&mut producer, "OK").context("both replicas follow")?;
    first.kill()?;
    wait_status(&mut producer, "OK").context("one replica is enough: k is 2")?;
    // the other one stands still: it is connected, and says nothing
    send_signal(second.pid(), "STOP")?;
    let from = producer.events().0.len();
    producer.wait_for("answers FLUSH_SLAVE_TIMEOUT", LIMIT, |events| {
        statuses(events, from, "FLUSH_SLAVE_TIMEOUT") >= 3
    })?;
    send_signal(second.pid(), "CONT")?;
    wait_status(&mut producer, "OK").context("it goes on")?;
    second.kill()?;
    wait_status(&mut producer, "SLAVE_NOT_AVAILABLE").context("both are dead")?;
    let first = one.start(Role::Broker)?;
    let second = two.start(Role::Broker)?;
    wait_status(&mut producer, "OK").context("both are back")?;
    let events = producer.stop()?;
    wait_same(master, one)?;
    wait_same(master, two)?;
    check_slave(one)?;
    for stand in [master, one, two] {
        check_holds(stand, &events)?;
    }
    // the master is gone for good: a replica serves what there is
    master_process.kill()?;
    let pulled = pull(one, 0)?;
    ensure!(pulled > 0, "the replica serves nothing without its master");
    for process in [first, second] {
        process.terminate(Duration::from_secs(20))?;
    }
    ensure!(survivors(one)?.is_none() && survivors(two)?.is_none(), "nothing was cut");
    Ok(())
}

fn survivors(stand: &Stand) -> Result<Option<PathBuf>> {
    let folder = stand.data_dir().join("broker/survivors");
    if !folder.exists() {
        return Ok(None);
    }
    Ok(fs::read_dir(&folder)?.next().transpose()?.map(|entry| entry.path()))
}

/// A SLAVE refuses a send, and tells its role.
fn check_slave(stand: &Stand) -> Result<()> {
    let mut client = RawClient::connect(&stand.ports.remoting.address())?;
    let fields = json!({
        "producerGroup": "p", "topic": TOPIC, "defaultTopic": "TBW102", "defaultTopicQueueNums": "4",
        "queueId": "0", "sysFlag": "0", "bornTimestamp": "1", "flag": "0", "properties": "",
        "reconsumeTimes": "0", "unitMode": "false", "batch": "false",
    });
    let answer = client.call(10, &fields, b"not here")?;
    ensure!(
        answer.code() == Some(14),
        "a send to a SLAVE is answered {:?}: {}",
        answer.code(),
        answer.remark()
    );
    let route = client.call(105, &json!({ "topic": TOPIC }), b"")?;
    let text = String::from_utf8_lossy(&route.body).into_owned();
    let broker_id = format!("\"1\":\"{}\"", stand.ports.remoting.address());
    ensure!(text.contains(&broker_id), "the route does not say broker id 1: {text}");
    ensure!(pull(stand, 0)? > 0, "a SLAVE serves pulls");
    Ok(())
}

/// Bytes of the first messages of a queue.
fn pull(stand: &Stand, queue: u32) -> Result<usize> {
    let mut client = RawClient::connect(&stand.ports.remoting.address())?;
    let fields = json!({
        "consumerGroup": "readers", "topic": TOPIC, "queueId": queue.to_string(), "queueOffset": "0",
        "maxMsgNums": "32", "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0",
        "subscription": "*", "subVersion": "0", "expressionType": "TAG",
    });
    let answer = client.call(11, &fields, b"")?;
    ensure!(answer.code() == Some(0), "a pull is answered {:?}: {}", answer.code(), answer.remark());
    Ok(answer.body.len())
}
