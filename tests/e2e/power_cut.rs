//! The power fails under broker and agent together, under load from real SDKs and reports. Each process runs on a disk that notes
//! what was not synced; after `kill -9` of both that is taken back, in the broker's folder, in the agent's logs and in its ledger.
//!
//! What was destroyed is read from the bytes of the commit log before and after, which the product never sees. Against that:
//! nothing that was flushed is lost; what is lost has a name where a producer had reported it, and is within a stated range
//! and bound otherwise; nothing else is reported; no counter steps back; everything starts again.
//!
//! `cargo nextest run --release -p tests --test e2e power_cut --run-ignored all` runs them: not yet right in every run.
//! `LOSSTRACE_TEST_SEED` sets the seed, `LOSSTRACE_TEST_CUTS` how many cuts there are (the clients of a test live long enough
//! for 15).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use agent::ledger::sled::power_cut::cut_power;
use anyhow::{Context, Result, bail, ensure};
use store::disk_sim::SimRng;
use store::disk_undo::UndoDisk;
use tests::api::{Incident, Particulars, SETTLE_LIMIT, class};
use tests::clients::Sdk::{PythonGrpc, PythonRemoting};
use tests::clients::{Client, Events, Job};
use tests::config::Options;
use tests::process::Process;
use tests::stand::{self, Role, Stand};
use tests::wait;
use wire::message::StoredMessage;

use crate::load::{Load, check_counters};

const GROUP: &str = "cut-readers";
const TOPICS: [&str; 2] = ["cut-grpc", "cut-remoting"];
/// Cuts per test where nothing else is said: few enough for every run, each at another moment.
const CUTS: u64 = 3;
/// Until the clients, which wait for seconds before they connect again, have consumed everything.
const CONSUME_LIMIT: Duration = Duration::from_secs(45);
/// The smallest reservation of the broker: fewer are not worth an own flush.
const RESERVED_MIN: u64 = 256;
/// The journal is flushed at least so often, and a reservation covers two of these.
const JOURNAL_FLUSH_MS: i64 = 100;

/// One message in the commit log's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    topic: String,
    queue: u64,
    offset: u64,
    id: String,
    body: String,
    at_ms: i64,
}

/// Every message in the commit log as it is on the disk now, without asking the broker's recovery.
fn stored(stand: &Stand) -> Result<BTreeSet<Stored>> {
    let folder = stand.data_dir().join("broker/commitlog");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let bytes = fs::read(entry?.path())?;
        let magic = &wire::message::MAGIC_V1.to_be_bytes();
        for at in 4..bytes.len().saturating_sub(4) {
            let record = bytes.get(at - 4..).unwrap_or_default();
            if record.get(4..8) != Some(magic) {
                continue;
            }
            let Ok((message, _)) = StoredMessage::decode(record) else { continue };
            if TOPICS.contains(&message.topic) && message.body_is_intact() {
                found.insert(Stored {
                    topic: message.topic.to_owned(),
                    queue: u64::try_from(message.queue_id)?,
                    offset: message.queue_offset,
                    id: message.properties.get("UNIQ_KEY").unwrap_or_default().to_owned(),
                    body: String::from_utf8_lossy(message.body).into_owned(),
                    at_ms: message.store_timestamp_ms,
                });
            }
        }
    }
    Ok(found)
}

fn ids<'a>(messages: impl IntoIterator<Item = &'a Stored>) -> BTreeSet<String> {
    messages.into_iter().map(|message| message.id.clone()).collect()
}

/// What one cut did.
struct Cut {
    kept: BTreeSet<Stored>,
    destroyed: BTreeSet<Stored>,
    /// Most messages stored in any 100 ms of the last second.
    busiest: u64,
    /// Sends that producers had reported, each answered 200 before the cut.
    reported: BTreeSet<String>,
}

struct Site<'a> {
    stand: &'a Stand,
    rng: SimRng,
    /// Broker and agent.
    pair: Option<[Process; 2]>,
    loads: Vec<Load>,
    answered: Vec<usize>,
    reported: BTreeSet<String>,
    /// Incidents of earlier cuts.
    known: BTreeSet<String>,
}

impl<'a> Site<'a> {
    fn start(stand: &'a Stand, seed: u64) -> Result<Site<'a>> {
        let pair = Some([stand.start(Role::Broker)?, stand.start(Role::Agent)?]);
        let sdks = [PythonGrpc, PythonRemoting].into_iter().zip(TOPICS);
        let loads: Vec<Load> =
            sdks.map(|(sdk, topic)| Load::start(stand, sdk, (topic, GROUP))).collect::<Result<_>>()?;
        let (answered, reported, known) = (vec![0; loads.len()], BTreeSet::new(), BTreeSet::new());
        Ok(Site { stand, rng: SimRng(seed), pair, loads, answered, reported, known })
    }

    /// Load, with an outbox beside it that reports every second send, until a moment that the seed chooses.
    fn run_load(&mut self) -> Result<()> {
        for (load, answered) in self.loads.iter_mut().zip(&mut self.answered) {
            *answered = load.wait_flow(*answered)?;
        }
        let steps = 6 + self.rng.below(8);
        for _ in 0..steps {
            self.report()?;
            wait::for_load(Duration::from_millis(20 + self.rng.below(80)));
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        for load in &self.loads {
            let sent = load.producer.events().sent();
            let even = sent.iter().filter(|(body, _)| body.ends_with(['0', '2', '4', '6', '8']));
            let news: Vec<String> =
                even.map(|(_, id)| id.clone()).filter(|id| !self.reported.contains(id)).collect();
            for some in news.chunks(500) {
                let answer = self.stand.agent_api().report_all_sent(some, load.topic)?;
                ensure!(answer.status == 200, "a report is answered {}: {}", answer.status, answer.body);
                self.reported.extend(some.iter().cloned());
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<Cut> {
        let seen = self.stand.agent_api().metrics()?;
        let mut pair = self.pair.take().context("nothing runs")?;
        if self.rng.below(2) == 0 {
            pair.reverse();
        }
        for process in pair {
            process.kill()?;
        }
        let before = stored(self.stand)?;
        self.take_back()?;
        let kept = stored(self.stand)?;
        self.pair = Some([self.stand.start(Role::Broker)?, self.stand.start(Role::Agent)?]);
        check_counters(&seen, &self.stand.agent_api().metrics()?)?;
        let destroyed = before.difference(&kept).cloned().collect();
        let busiest = busiest(&before);
        let reported = self.reported.clone();
        Ok(Cut { kept, destroyed, busiest, reported })
    }

    /// What was not synced is gone, in everything that either process keeps.
    fn take_back(&mut self) -> Result<()> {
        let data = self.stand.data_dir();
        UndoDisk::undo(&data.join("broker"), &self.stand.undo_log(Role::Broker))?;
        let (agent, notes) = (data.join("agent"), self.stand.undo_log(Role::Agent));
        UndoDisk::undo(&agent, &notes)?;
        // of the ledger's unsynced pages: none, all, or some survive
        let kind = self.rng.below(3);
        let rng = &mut self.rng;
        let survives = || kind == 1 || (kind == 2 && rng.below(2) == 0);
        cut_power(&agent.join("ledger"), &notes.join("ledger"), survives)?;
        Ok(())
    }

    fn new_incidents(&self) -> Result<Vec<(Incident, Particulars)>> {
        let agent = self.stand.agent_api();
        let news = agent.incidents()?.into_iter().filter(|i| !self.known.contains(&i.incident));
        news.map(|incident| Ok((agent.particulars(&incident.incident)?, incident)))
            .map(|pair| pair.map(|(particulars, incident)| (incident, particulars)))
            .collect()
    }

    /// Waits until the agent has said all it has to say, and it is right.
    fn check_cut(&mut self, cut: &Cut) -> Result<()> {
        wait::until_ok("the truth about the cut", SETTLE_LIMIT, || {
            let said = self.new_incidents()?;
            check_said(cut, &said).with_context(|| describe(cut, &said))
        })?;
        // and nothing is added when the agent has heard all that came after the cut
        let said = self.new_incidents()?;
        check_said(cut, &said).with_context(|| describe(cut, &said))?;
        self.known.extend(said.into_iter().map(|(incident, _)| incident.incident));
        let agent = self.stand.agent_api();
        for message in cut.kept.iter().rev().step_by(cut.kept.len().div_ceil(20).max(1)) {
            let life = agent.message(&message.id)?;
            ensure!(
                life.place()? == (message.queue, message.offset),
                "{message:?} survived, and is {life:?}"
            );
        }
        Ok(())
    }
}

fn busiest(stored: &BTreeSet<Stored>) -> u64 {
    let mut times: Vec<i64> = stored.iter().map(|message| message.at_ms).collect();
    times.sort_unstable();
    let last = times.last().copied().unwrap_or(0);
    let recent: Vec<i64> = times.into_iter().filter(|at| *at > last - 1_000).collect();
    let within =
        |from: &i64| recent.iter().filter(|at| (*from..*from + JOURNAL_FLUSH_MS).contains(*at)).count();
    recent.iter().map(within).max().unwrap_or(0) as u64
}

fn describe(cut: &Cut, said: &[(Incident, Particulars)]) -> String {
    let said: Vec<String> =
        said.iter().map(|(i, p)| format!("{i:?}, {} ids, {:?}", p.ids_total, p.ranges)).collect();
    let (kept, destroyed) = (cut.kept.len(), cut.destroyed.len());
    format!("kept {kept}, destroyed {destroyed}, busiest 100 ms {}; said:\n{}", cut.busiest, said.join("\n"))
}

/// Every destroyed message has a name or is within a range and the bound; no other message has a part in it.
fn check_said(cut: &Cut, said: &[(Incident, Particulars)]) -> Result<()> {
    let mut named = BTreeSet::new();
    let (mut counted, mut bound, mut ranges) = (0, 0, Vec::new());
    for (incident, particulars) in said {
        match incident.class.as_str() {
            class::STORED_NOT_FLUSHED_LOST => {
                named.extend(particulars.ids.iter().cloned());
                counted += incident.messages;
                ensure!(particulars.ids_total == particulars.ids.len() as u64, "not all ids are listed");
            }
            class::UNDECIDED => {
                bound += incident.undecided;
                ranges.extend_from_slice(&particulars.ranges);
            }
            other => bail!("an incident of class {other}: {incident:?}"),
        }
    }
    let destroyed = ids(&cut.destroyed);
    let innocent: Vec<&String> = named.difference(&destroyed).collect();
    ensure!(innocent.is_empty(), "named, but not destroyed: {innocent:?}");
    ensure!(counted <= cut.destroyed.len() as u64, "counts {counted} lost messages");
    let reported: Vec<&String> =
        destroyed.intersection(&cut.reported).filter(|id| !named.contains(*id)).collect();
    ensure!(reported.is_empty(), "reported by their producers, and not named: {reported:?}");

    let nameless: Vec<&Stored> = cut.destroyed.iter().filter(|gone| !named.contains(&gone.id)).collect();
    let truth = nameless.len() as u64;
    ensure!(bound >= truth, "{truth} messages are gone without a name, the bound is {bound}");
    let most = RESERVED_MIN + 2 * cut.busiest;
    ensure!(bound <= most, "the bound is {bound}, more than {most}");
    let covers = |gone: &Stored| {
        let here = |(topic, queue, offsets): &(String, u64, std::ops::Range<u64>)| {
            *topic == gone.topic && *queue == gone.queue && offsets.contains(&gone.offset)
        };
        ranges.iter().any(here)
    };
    let outside: Vec<&&Stored> = nameless.iter().filter(|gone| !covers(gone)).collect();
    ensure!(outside.is_empty(), "in none of the stated ranges: {outside:?}");
    Ok(())
}

/// What is in the log in the end is consumed, all of it. An SDK whose connection broke often enough may have given up a queue: then
/// the next member of its group gets what it did not.
fn check_consumed(stand: &Stand, loads: Vec<Load>) -> Result<()> {
    for load in loads {
        load.producer.stop()?;
        let here = stored(stand)?.into_iter().filter(|message| message.topic == load.topic);
        let mut missing: BTreeMap<String, Stored> =
            here.map(|message| (message.body.clone(), message)).collect();
        let sdk = load.sdk;
        let mut consumer = load.consumer;
        for member in 0..2 {
            let all_consumed = |events: &Events| {
                let consumed = events.consumed();
                missing.keys().all(|body| consumed.contains_key(body))
            };
            let waited = consumer.wait_for("what survived", CONSUME_LIMIT, all_consumed);
            let consumed = consumer.stop()?.consumed();
            missing.retain(|body, _| !consumed.contains_key(body));
            if missing.is_empty() {
                break;
            }
            let lives: Vec<_> = missing.values().map(|m| stand.agent_api().message(&m.id)).collect();
            ensure!(member == 0, "never consumed: {missing:?}, says the agent: {lives:?}, {waited:?}");
            consumer = Client::start(stand, sdk, &Job::consume(load.topic, GROUP, 0))?;
        }
    }
    Ok(())
}

fn setting(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(otherwise),
    }
}

fn cut_power_repeatedly(flush_disk_type: &'static str, seed: u64) -> Result<()> {
    let (seed, cuts) = (setting("LOSSTRACE_TEST_SEED", seed)?, setting("LOSSTRACE_TEST_CUTS", CUTS)?);
    let options = Options { flush_disk_type, power_cuts: true, ..Options::default() };
    stand::with(options, |stand| {
        let mut site = Site::start(stand, seed)?;
        let mut destroyed = 0;
        for number in 0..cuts {
            let about = || format!("seed {seed}, cut {number}");
            site.run_load().with_context(about)?;
            let cut = site.cut().with_context(about)?;
            site.check_cut(&cut).with_context(about)?;
            check_answered(&site, &cut, flush_disk_type).with_context(about)?;
            destroyed += cut.destroyed.len();
            say(&cut, number);
        }
        ensure!(
            flush_disk_type == "SYNC_FLUSH" || destroyed > 20,
            "only {destroyed} messages were destroyed"
        );
        check_consumed(stand, site.loads)?;
        for process in site.pair.into_iter().flatten() {
            process.terminate(Duration::from_secs(20))?;
        }
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "the measure of each cut, shown with --no-capture")]
fn say(cut: &Cut, number: u64) {
    let (kept, destroyed, busiest) = (cut.kept.len(), cut.destroyed.len(), cut.busiest);
    eprintln!("cut {number}: kept {kept}, destroyed {destroyed}, busiest 100 ms {busiest}");
}

/// SYNC_FLUSH: what was answered before the cut is in the log after it.
fn check_answered(site: &Site<'_>, cut: &Cut, flush_disk_type: &str) -> Result<()> {
    if flush_disk_type != "SYNC_FLUSH" {
        return Ok(());
    }
    let mut answered = BTreeSet::new();
    for load in &site.loads {
        answered.extend(load.producer.events().sent().into_values());
    }
    let gone = ids(&cut.destroyed);
    let broken: Vec<&String> = answered.intersection(&gone).collect();
    // a send that was stored, cut off and stored again is answered, and not gone
    let now = ids(&stored(site.stand)?);
    let broken: Vec<&&String> = broken.iter().filter(|id| !now.contains(**id)).collect();
    ensure!(broken.is_empty(), "answered under SYNC_FLUSH, and gone: {broken:?}");
    Ok(())
}

#[test]
#[ignore = "not met yet: seen once, an id is named lost that was not destroyed; run with --run-ignored all"]
fn a_power_cut_of_both_under_async_flush_is_bounded_and_told() -> Result<()> {
    cut_power_repeatedly("ASYNC_FLUSH", 1)
}

#[test]
#[ignore = "not met yet: seen once, a survivor did not reach its consumer in time; run with --run-ignored all"]
fn a_power_cut_of_both_under_sync_flush_loses_nothing_answered() -> Result<()> {
    cut_power_repeatedly("SYNC_FLUSH", 2)
}
