//! Owns the command that sends again what a fail-over took: reads the files the old master kept, leaves out what was consumed, and
//! hands the rest to the present master, which stores each message once. Without `--confirm` it only says what it would do.

use crate::cli::Format;
use crate::config::Settings;
use anyhow::{Context, Result, bail, ensure};
use broker::api::{REINJECT_MAX, Reinjected};
use broker::survivors::{Consumed, Files, Told};
use lifecycle::identity::{Name, QueueKey};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::commit_log::epoch_at;
use store::commit_log::survivor::{SurvivingRecord, Survivor};
use store::disk_os::OsDisk;
use wire::message::StoredMessage;
use wire::properties;

/// One answer; the master waits for its replicas.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one request, unless a single message is longer.
const REQUEST_BYTES: usize = 4 << 20;
/// Ids shown of each kind in a table.
const IDS_SHOWN: usize = 5;

#[derive(clap::Args, Debug)]
pub(crate) struct RecoverOptions {
    /// Files the old master kept, or folders of such files [default: broker/survivors in the data folder]
    #[arg(value_name = "FILE|DIR")]
    pub from: Vec<PathBuf>,
    /// The present master's address [default: http:// and listen.broker_http of the configuration]
    #[arg(long, value_name = "URL", env = "LOSSTRACE_SERVER")]
    pub server: Option<String>,
    /// Do it; without this the answer is what would be done
    #[arg(long)]
    pub confirm: bool,
    /// Messages a second at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Also what some group had consumed, or may have: it is delivered to all groups again
    #[arg(long)]
    pub even_if_consumed: bool,
    /// A table, or one JSON object a message
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// What happens, or would, to one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Fate {
    Left(Left),
    Asked(Reinjected),
}

/// Not handed to the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
enum Left {
    Consumed { groups: Vec<String> },
    ConsumptionNotKnown,
}

/// One line of `--output json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: &'a str,
    topic: &'a str,
    queue: i32,
    offset: u64,
    epoch: u64,
    #[serde(flatten)]
    fate: Fate,
}

/// A message on its way, with what is shown of it.
struct Held {
    record: SurvivingRecord,
    id: String,
    topic: String,
    queue: i32,
    offset: u64,
    /// The record can be read; of another one the master says what is wrong.
    is_message: bool,
}

/// How many messages of one topic had one fate, and some of them.
#[derive(Default)]
struct Tally {
    count: u64,
    ids: Vec<String>,
}

struct Recovery<'a> {
    options: &'a RecoverOptions,
    http: ureq::Agent,
    url: String,
    told: Told,
    tallies: BTreeMap<(String, String), Tally>,
    /// Messages that are lost still.
    left: u64,
    began: Instant,
    sent: u64,
}

/// 0: nothing is left to recover; 3: something is.
pub(crate) fn run(settings: &Settings, options: &RecoverOptions) -> Result<u8> {
    let files = find(settings, options)?;
    let base = options.server.clone();
    let base = base.unwrap_or_else(|| format!("http://{}", settings.listen.broker_http));
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    let mut recovery = Recovery {
        options,
        http: config.build().into(),
        url: format!("{}/reinject?dry_run={}", base.trim_end_matches('/'), !options.confirm),
        told: Told::read(&OsDisk, &files.frames)?,
        tallies: BTreeMap::new(),
        left: 0,
        began: Instant::now(),
        sent: 0,
    };
    let mut unreadable = 0;
    for path in &files.survivors {
        let survivor = Survivor::open(&OsDisk, path)?;
        let bytes = recovery.file(&survivor).with_context(|| format!("{}", path.display()))?;
        if bytes > 0 {
            eprintln!(
                "{}: {bytes} bytes cannot be read: messages in them cannot be sent again",
                path.display()
            );
        }
        unreadable += bytes;
    }
    if options.output == Format::Table {
        println!("{}", recovery.table());
        if !options.confirm && recovery.left > 0 {
            println!("\nnothing was done: --confirm does it");
        }
    }
    Ok(if recovery.left > 0 || unreadable > 0 { 3 } else { 0 })
}

fn find(settings: &Settings, options: &RecoverOptions) -> Result<Files> {
    let mut files = Files::default();
    let default = [settings.data_dir.join("broker").join(broker::replication::copy::SURVIVORS)];
    let from: &[PathBuf] = if options.from.is_empty() { &default } else { &options.from };
    for path in from {
        if path.is_dir() {
            files.in_dir(&OsDisk, path)?;
            continue;
        }
        ensure!(path.is_file(), "{}: no such file or folder", path.display());
        // who consumed what is told by the files beside it
        let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut all = Files::default();
        all.in_dir(&OsDisk, beside)?;
        files.survivors.push(path.clone());
        files.frames.extend(all.frames);
    }
    files.frames.sort();
    files.frames.dedup();
    ensure!(!files.survivors.is_empty(), "no survivor files in {from:?}: nothing was cut off a log there");
    Ok(files)
}

impl Recovery<'_> {
    /// All messages of a file; answers how many bytes of it cannot be read.
    fn file(&mut self, survivor: &Survivor) -> Result<u64> {
        let (mut batch, mut bytes) = (Vec::<Held>::new(), 0);
        let mut failed = None;
        let unreadable = survivor.records(|record| {
            if failed.is_some() {
                return Ok(());
            }
            let held = hold(record);
            let fate = self.leave(survivor, &held);
            // a request holds neighbours: what lies between would have to be sent too
            let full = batch.len() >= REINJECT_MAX || bytes + held.record.bytes.len() > REQUEST_BYTES;
            let gap = batch.last().is_some_and(|last| end_of(last) != held.record.position.0);
            if full || gap || fate.is_some() {
                failed = self.flush(survivor, &mut batch).err();
                bytes = 0;
            }
            match fate {
                Some(fate) => failed = failed.take().or(self.note(&held, fate).err()),
                None => {
                    bytes += held.record.bytes.len();
                    batch.push(held);
                }
            }
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None => self.flush(survivor, &mut batch).map(|()| unreadable),
        }
    }

    /// Why a message is not handed to the master; `None`: it is.
    fn leave(&self, survivor: &Survivor, held: &Held) -> Option<Fate> {
        let is_copy = held.record.record.lineage.is_some();
        if self.options.even_if_consumed || is_copy || !held.is_message {
            return None;
        }
        let epoch = epoch_at(survivor.epochs(), held.record.position)?;
        let queue = QueueKey { topic: held.record.record.topic, queue_id: held.queue as u32 };
        match self.told.consumed(epoch.incarnation, queue, held.offset) {
            Consumed::No => None,
            Consumed::NotKnown => Some(Fate::Left(Left::ConsumptionNotKnown)),
            Consumed::By(groups) => {
                let groups = groups.iter().map(Name::to_string).collect();
                Some(Fate::Left(Left::Consumed { groups }))
            }
        }
    }

    fn flush(&mut self, survivor: &Survivor, batch: &mut Vec<Held>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = batch.iter().map(|held| held.record.clone()).collect();
        let answer = self.http.post(&self.url).send(&survivor.part(&records)[..]);
        let mut answer =
            answer.with_context(|| format!("no answer from {} (is the master running?)", self.url))?;
        let text = answer.body_mut().read_to_string()?;
        if answer.status() != 200 {
            bail!("the master refuses ({}): {}", answer.status().as_u16(), text.trim());
        }
        let outcomes: Vec<Reinjected> = serde_json::from_str(&text)?;
        ensure!(outcomes.len() == batch.len(), "{} outcomes of {} messages", outcomes.len(), batch.len());
        self.sent += batch.len() as u64;
        for (held, outcome) in batch.drain(..).zip(outcomes) {
            self.note(&held, Fate::Asked(outcome))?;
        }
        if self.options.confirm {
            let due = Duration::from_secs_f64(self.sent as f64 / f64::from(self.options.rate));
            std::thread::sleep(due.saturating_sub(self.began.elapsed()));
        }
        Ok(())
    }

    fn note(&mut self, held: &Held, fate: Fate) -> Result<()> {
        let (text, left) = told(&fate);
        self.left += u64::from(left);
        if self.options.output == Format::Json {
            let Held { id, topic, queue, offset, .. } = held;
            let epoch = held.record.record.epoch_number;
            let line = Line { id, topic, queue: *queue, offset: *offset, epoch, fate };
            return writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)
                .context("standard output");
        }
        let tally = self.tallies.entry((held.topic.clone(), text)).or_default();
        tally.count += 1;
        if tally.ids.len() < IDS_SHOWN {
            tally.ids.push(held.id.clone());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut table = crate::tables::table(&["TOPIC", "MESSAGES", "OUTCOME", "IDS"]);
        for ((topic, outcome), tally) in &self.tallies {
            let more = if tally.count > tally.ids.len() as u64 { " …" } else { "" };
            let ids = format!("{}{more}", tally.ids.join(" "));
            table.add_row([topic.clone(), tally.count.to_string(), outcome.clone(), ids]);
        }
        crate::tables::print(&table, "the files hold no messages")
    }
}

fn end_of(held: &Held) -> u64 {
    held.record.position.0 + held.record.bytes.len() as u64
}

fn hold(record: SurvivingRecord) -> Held {
    let message = StoredMessage::decode(&record.record.record).map(|(message, _)| message);
    let Ok(message) = message else {
        let (id, topic) = (String::new(), "?".to_owned());
        return Held { record, id, topic, queue: 0, offset: 0, is_message: false };
    };
    let property = |name| message.properties.get(name).map(str::to_owned);
    let topic = property(properties::REAL_TOPIC).unwrap_or_else(|| message.topic.to_owned());
    let id = property(properties::UNIQ_KEY).unwrap_or_default();
    let (queue, offset) = (message.queue_id, message.queue_offset);
    Held { id, topic, queue, offset, record, is_message: true }
}

/// A fate in words, and whether the message is lost still.
fn told(fate: &Fate) -> (String, bool) {
    match fate {
        Fate::Left(Left::Consumed { groups }) => {
            (format!("left out: consumed by {}", groups.join(", ")), false)
        }
        Fate::Left(Left::ConsumptionNotKnown) => {
            ("left out: whether it was consumed is not known (--even-if-consumed sends it)".into(), true)
        }
        Fate::Asked(Reinjected::Stored { .. }) => ("sent again".into(), false),
        Fate::Asked(Reinjected::WouldStore) => ("would be sent again".into(), true),
        Fate::Asked(Reinjected::AlreadyStored) => ("was sent again before".into(), false),
        Fate::Asked(Reinjected::NotLost) => ("not lost: the master has it".into(), false),
        Fate::Asked(Reinjected::Copy) => ("a copy: its original counts".into(), false),
        Fate::Asked(Reinjected::NoTopic { topic }) => {
            (format!("topic {topic} is not there: make it first"), true)
        }
        Fate::Asked(Reinjected::Refused { why }) => (format!("refused: {why}"), true),
    }
}
