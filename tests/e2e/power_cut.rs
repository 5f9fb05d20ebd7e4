//! The power fails under broker and agent together, under load from real SDKs and reports. Each process runs on a disk that notes
//! what was not synced; after `kill -9` of both that is taken back, in the broker's folder, in the agent's logs and in its ledger.
//!
//! What was destroyed is read from the bytes of the commit log before and after, which the product never sees. Against that:
//! nothing that was flushed is lost; what is lost has a name where a producer had reported it, and is within a stated range
//! and bound otherwise; nothing else is reported; no counter steps back; everything starts again.
//!
//! `LOSSTRACE_TEST_SEED` sets the seed, `LOSSTRACE_TEST_CUTS` how many cuts there are (the clients of a test live long enough
//! for 15).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::Duration;

use agent::ledger::sled::power_cut::cut_power;
use anyhow::{Context, Result, bail, ensure};
use store::disk_sim::SimRng;
use store::disk_undo::UndoDisk;
use tests::api::{Incident, Particulars, SETTLE_LIMIT, class, state};
use tests::clients::Sdk::{PythonGrpc, PythonRemoting};
use tests::clients::{Client, Job};
use tests::config::Options;
use tests::process::Process;
use tests::stand::{self, Role, Stand};
use tests::wait;
use wire::message::StoredMessage;

use crate::load::{Load, check_counters};

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

/// Topic, queue, offsets.
type Place = (String, u64, std::ops::Range<u64>);

impl Stored {
    fn is_within(&self, places: &[Place]) -> bool {
        places.iter().any(|(topic, queue, offsets)| {
            *topic == self.topic && *queue == self.queue && offsets.contains(&self.offset)
        })
    }
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
    /// By this cut and all before it.
    destroyed_ever: BTreeSet<Stored>,
}

/// An incident.
struct Said {
    /// Opened since the cut before.
    is_new: bool,
    incident: Incident,
    particulars: Particulars,
}

impl Display for Said {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Said { is_new, incident, particulars } = self;
        write!(f, "new: {is_new}, {incident:?}, {} ids, {:?}", particulars.ids_total, particulars.ranges)
    }
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
    /// By all cuts.
    destroyed: BTreeSet<Stored>,
}

impl<'a> Site<'a> {
    fn start(stand: &'a Stand, seed: u64) -> Result<Site<'a>> {
        let pair = Some([stand.start(Role::Broker)?, stand.start(Role::Agent)?]);
        let sdks = [PythonGrpc, PythonRemoting].into_iter().zip(TOPICS);
        let loads: Vec<Load> = sdks
            .map(|(sdk, topic)| Load::start(stand, sdk, (topic, &format!("{topic}-readers"))))
            .collect::<Result<_>>()?;
        let (answered, rng) = (vec![0; loads.len()], SimRng(seed));
        let (reported, known, destroyed) = Default::default();
        Ok(Site { stand, rng, pair, loads, answered, reported, known, destroyed })
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
            let events = load.producer.events();
            let even = events.sent_when().filter(|(body, ..)| body.ends_with(['0', '2', '4', '6', '8']));
            let news = even.filter(|(_, id, _)| !self.reported.contains(*id));
            let news: Vec<(String, f64)> = news.map(|(_, id, at)| (id.to_owned(), at)).collect();
            for some in news.chunks(500) {
                let answer = self.stand.agent_api().report_all_sent(some, load.topic)?;
                ensure!(answer.status == 200, "a report is answered {}: {}", answer.status, answer.body);
                self.reported.extend(some.iter().map(|(id, _)| id.clone()));
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
        let destroyed: BTreeSet<Stored> = before.difference(&kept).cloned().collect();
        self.destroyed.extend(destroyed.iter().cloned());
        let (busiest, reported) = (busiest(&before), self.reported.clone());
        Ok(Cut { kept, destroyed, busiest, reported, destroyed_ever: self.destroyed.clone() })
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

    /// All that the agent says, and whether it says so since this cut.
    fn said(&self) -> Result<Vec<Said>> {
        let agent = self.stand.agent_api();
        let said = |incident: Incident| -> Result<Said> {
            let particulars = agent.particulars(&incident.incident)?;
            Ok(Said { is_new: !self.known.contains(&incident.incident), incident, particulars })
        };
        agent.incidents()?.into_iter().map(said).collect()
    }

    /// Waits until the agent has said all it has to say, and it is right.
    fn check_cut(&mut self, cut: &Cut) -> Result<()> {
        wait::until_ok("the truth about the cut", SETTLE_LIMIT, || {
            let said = self.said()?;
            check_said(cut, &said).with_context(|| describe(cut, &said))
        })?;
        // and nothing is added when the agent has heard all that came after the cut
        let said = self.said()?;
        check_said(cut, &said).with_context(|| describe(cut, &said))?;
        self.known.extend(said.into_iter().map(|said| said.incident.incident));
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

fn describe(cut: &Cut, said: &[Said]) -> String {
    let said: Vec<String> = said.iter().map(Said::to_string).collect();
    let (kept, destroyed) = (cut.kept.len(), cut.destroyed.len());
    format!("kept {kept}, destroyed {destroyed}, busiest 100 ms {}; said:\n{}", cut.busiest, said.join("\n"))
}

/// Every destroyed message has a name or is within a range and the bound; no other message has a part in it. The last sends are
/// reported only after their cut, so that an incident of an earlier cut may name more by now: it must, and nothing else.
fn check_said(cut: &Cut, said: &[Said]) -> Result<()> {
    let (mut named, mut counted) = (BTreeSet::new(), 0);
    let (mut bound, mut ranges) = (0, Vec::new());
    for Said { is_new, incident, particulars } in said {
        match incident.class.as_str() {
            class::STORED_NOT_FLUSHED_LOST => {
                counted += incident.messages;
                named.extend(particulars.ids.iter().cloned());
                ensure!(particulars.ids_total == particulars.ids.len() as u64, "not all ids are listed");
            }
            class::UNDECIDED if *is_new => {
                bound += incident.undecided;
                ranges.extend_from_slice(&particulars.ranges);
            }
            // judged in the end, when it is clear what the group did not get
            class::UNDECIDED | class::OFFSET_REUSED => {}
            other => bail!("an incident of class {other}: {incident:?}"),
        }
    }
    let destroyed = ids(&cut.destroyed_ever);
    let innocent: Vec<&String> = named.difference(&destroyed).collect();
    ensure!(innocent.is_empty(), "named, but not destroyed: {innocent:?}");
    let most = cut.destroyed_ever.len() as u64;
    ensure!(counted <= most, "counts {counted} lost messages of {most}");
    // an SDK that sends again with the same id may have stored it since
    let kept = ids(&cut.kept);
    let is_due = |id: &&String| cut.reported.contains(*id) && !kept.contains(*id) && !named.contains(*id);
    let reported: Vec<&String> = destroyed.iter().filter(is_due).collect();
    ensure!(reported.is_empty(), "reported by their producers, and not named: {reported:?}");

    let nameless: Vec<&Stored> = cut.destroyed.iter().filter(|gone| !named.contains(&gone.id)).collect();
    let truth = nameless.len() as u64;
    ensure!(bound >= truth, "{truth} messages are gone without a name, the bound is {bound}");
    let most = RESERVED_MIN + 2 * cut.busiest;
    ensure!(bound <= most, "the bound is {bound}, more than {most}");
    let outside: Vec<&&Stored> = nameless.iter().filter(|gone| !gone.is_within(&ranges)).collect();
    ensure!(outside.is_empty(), "in none of the stated ranges: {outside:?}");
    Ok(())
}

/// What is in the log in the end is consumed, but for what the group had passed before it was there: it read on to an offset that
/// the cut took back, and that later messages have now. Those are named, or undecided, and nothing that was consumed is named.
fn check_consumed(stand: &Stand, loads: Vec<Load>) -> Result<()> {
    for load in loads {
        load.producer.stop()?;
        let here: Vec<Stored> =
            stored(stand)?.into_iter().filter(|message| message.topic == load.topic).collect();
        let group = format!("{}-readers", load.topic);
        let check = |consumed: &BTreeMap<String, usize>| {
            let (got, missing): (Vec<&Stored>, Vec<&Stored>) =
                here.iter().partition(|message| consumed.contains_key(&message.body));
            for message in missing {
                let life = stand.agent_api().message(&message.id)?;
                let named = life.class_in(&group)? == Some(class::OFFSET_REUSED);
                // another cut came before the group's commit, and took what would have told of deliveries
                let undecided = life.check_state(&group, &[state::UNDECIDED]).is_ok();
                ensure!(named || undecided, "never consumed, and not named: {message:?}, {life:?}");
            }
            let ranges = reused(stand)?;
            for message in got.into_iter().filter(|message| message.is_within(&ranges)) {
                let life = stand.agent_api().message(&message.id)?;
                let named = life.class_in(&group)? == Some(class::OFFSET_REUSED);
                ensure!(!named, "named as passed over, and consumed: {message:?}, {life:?}");
            }
            Ok(())
        };
        let waited =
            wait::until_ok("what survived", CONSUME_LIMIT, || check(&load.consumer.events().consumed()));
        let mut consumed = load.consumer.stop()?.consumed();
        if waited.is_err() && load.topic == TOPICS[1] {
            // this SDK's queues may stay locked for ever after a pull that got no answer: the next member of its group gets them
            let next = Client::start(stand, PythonRemoting, &Job::consume(load.topic, &group, 0))?;
            wait::until_ok("what survived, by the next member", CONSUME_LIMIT, || {
                consumed.extend(next.events().consumed());
                check(&consumed)
            })?;
            next.stop()?;
        } else {
            waited?;
        }
    }
    Ok(())
}

/// Where messages stand of which the agent says that their group was beyond their offset before they were stored.
fn reused(stand: &Stand) -> Result<Vec<Place>> {
    let agent = stand.agent_api();
    let mut ranges = Vec::new();
    for incident in agent.incidents()?.iter().filter(|incident| incident.class == class::OFFSET_REUSED) {
        ranges.extend(agent.particulars(&incident.incident)?.ranges);
    }
    Ok(ranges)
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
fn a_power_cut_of_both_under_async_flush_is_bounded_and_told() -> Result<()> {
    cut_power_repeatedly("ASYNC_FLUSH", 1)
}

#[test]
fn a_power_cut_of_both_under_sync_flush_loses_nothing_answered() -> Result<()> {
    cut_power_repeatedly("SYNC_FLUSH", 2)
}
