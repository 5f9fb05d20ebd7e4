//! Messages of a real store, made into ones that did not come out of the schedule.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use inspect::findings::State;
use inspect::report::Report;
use inspect::{Options, inspect};
use tempfile::TempDir;
use wire::message::StoredMessage;

use crate::Scenario;

const SCHEDULE: &str = "SCHEDULE_TOPIC_XXXX";
/// Where a record's time of birth stands.
const BORN_AT: usize = 40;

/// A copy that came out: where it is in the file, and where its id is.
struct Copy {
    id: String,
    at: usize,
    id_at: usize,
}

struct Record {
    at: usize,
    len: usize,
    topic: String,
    id: String,
    real_topic: String,
}

fn records(log: &[u8]) -> Vec<Record> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((message, len)) = log.get(at..).and_then(|bytes| StoredMessage::decode(bytes).ok()) {
        let property = |name| message.properties.get(name).unwrap_or_default().to_owned();
        let (id, real_topic) = (property("UNIQ_KEY"), property("REAL_TOPIC"));
        found.push(Record { at, len, topic: message.topic.to_owned(), id, real_topic });
        at += len;
    }
    found
}

/// The copy of a message that was sent back once, and stored no more.
fn retry_copy(log: &[u8]) -> Result<Copy> {
    let records = records(log);
    let is_wanted = |copy: &&Record| {
        let of_id: Vec<&Record> = records.iter().filter(|record| record.id == copy.id).collect();
        let waited = of_id.iter().filter(|record| record.topic == SCHEDULE).count();
        copy.topic.starts_with("%RETRY%") && waited == 1 && of_id.iter().all(|record| record.at <= copy.at)
    };
    let Record { at, len, id, .. } = records.iter().find(is_wanted).context("somebody sent one back")?;
    let record = log.get(*at..at + len).context("it was just read")?;
    let id_at =
        record.windows(id.len()).rposition(|window| window == id.as_bytes()).context("its id is in it")?;
    Ok(Copy { id: id.clone(), at: *at, id_at: at + id_at })
}

fn told(report: &Report, class: &str, id: &str) -> Vec<State> {
    let findings = report.findings.iter().filter(|finding| finding.key.class == class);
    findings.filter(|f| f.ids.iter().any(|of| of == id)).map(|finding| finding.key.state).collect()
}

#[test]
fn what_was_sent_back_and_did_not_come_out_is_lost_unless_its_copy_may_be_the_damaged_one() -> Result<()> {
    const CLASS: &str = "send-back-failed-then-passed";
    let scenario = Scenario::open("healthy-single")?;
    let store = scenario.store("store");
    let path = store.join("commitlog/00000000000000000000");
    let mut log = fs::read(&path)?;
    let copy = retry_copy(&log)?;
    let scratch = TempDir::new()?;
    let options = Options::new(vec![store], scratch.path().to_owned());
    let report = inspect(&options, &mut |_, _| ())?;
    ensure!(told(&report, CLASS, &copy.id).is_empty(), "it came out");

    // the id alone, which no checksum covers: nobody knows which of the two records is the damaged one
    let last = log.get_mut(copy.id_at + 31).context("32 digits")?;
    *last = if *last == b'0' { b'1' } else { b'0' };
    fs::write(&path, &log)?;
    let report = inspect(&options, &mut |_, _| ())?;
    ensure!(told(&report, CLASS, &copy.id).is_empty(), "its copy may be damaged");
    ensure!(told(&report, "undecided", &copy.id) == [State::Undecided], "{:?}", report.findings);

    // and its birth: it is another message
    *log.get_mut(copy.at + BORN_AT + 7).context("a record has a birth")? ^= 1;
    fs::write(&path, &log)?;
    let report = inspect(&options, &mut |_, _| ())?;
    ensure!(told(&report, CLASS, &copy.id) == [State::Confirmed], "{:?}", report.findings);
    Ok(())
}

/// The store's delayed messages wait still; its schedule is made to have passed them.
#[test]
fn what_was_delayed_and_did_not_come_out_is_lost() -> Result<()> {
    let scenario = Scenario::open("healthy-single")?;
    let store = scenario.store("store");
    let log = fs::read(store.join("commitlog/00000000000000000000"))?;
    let delayed = |record: &&Record| record.topic == SCHEDULE && record.real_topic == "Orders";
    let ids: BTreeSet<String> =
        records(&log).iter().filter(delayed).map(|record| record.id.clone()).collect();
    ensure!(!ids.is_empty(), "nothing is delayed");
    // they wait for the longest level; RocketMQ does not quote these keys
    let path = store.join("config/delayOffset.json");
    let passed = fs::read_to_string(&path)?.replacen("\"offsetTable\":{", "\"offsetTable\":{18:99,", 1);
    ensure!(passed.contains("{18:99,"), "{passed}");
    fs::write(&path, passed)?;
    let scratch = TempDir::new()?;
    let report = inspect(&Options::new(vec![store], scratch.path().to_owned()), &mut |_, _| ())?;
    let lost =
        report.findings.iter().filter(|f| f.key.class == "timer-lost" && f.key.state == State::Confirmed);
    let lost: BTreeSet<String> = lost.flat_map(|finding| finding.ids.iter().cloned()).collect();
    ensure!(lost == ids, "{:?}", report.findings);
    Ok(())
}
