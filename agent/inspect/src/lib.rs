//! Inspection of copies of RocketMQ store folders after the fact: what is lost, torn, missing on a copy, expired unread, and by
//! which id. Offline, stateless, read-only; knows nothing of the broker and the agent beside it.
//!
//! Owns: one run, from folders and lists to a [`report::Report`]. Never does: writing anywhere but in the scratch folder it was
//! given; a guess: what the bytes do not decide is called undecided, with its bound.
//!
//! ```text
//! folder -> scan (log), queue, config -> rows -> sorted by place -> places, progress -> rows -> sorted by id -> story -> report
//! ```
//!
//! Memory does not grow with the stores: rows are sorted through files in the scratch folder ([`spill`]), and what is kept grows
//! with queues, groups and findings only, each with a limit.

pub mod config;
pub mod files;
pub mod findings;
pub mod lineage;
pub mod lists;
pub mod places;
pub mod progress;
pub mod queue;
pub mod record;
pub mod report;
pub mod rows;
pub mod scan;
mod schedule;
pub mod spill;
pub mod store;
pub mod story;
pub mod trace;
pub mod window;

use findings::{Findings, IDS_MAX_DEFAULT};
use lists::{Entry, ListError};
use report::Report;
use rows::{AtPlace, OfId};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use store::{Rows, Store};

/// Stores of one run.
pub const STORES_MAX: usize = 64;
/// Topics remembered of the list of what was processed.
const PROCESSED_TOPICS_MAX: usize = 10_000;
/// Where rows of no store say they come from.
const NO_STORE: u8 = u8::MAX;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    pub stores: Vec<PathBuf>,
    /// Offsets of groups instead of those in the stores.
    pub offsets: Option<PathBuf>,
    pub sent: Option<PathBuf>,
    pub processed: Option<PathBuf>,
    /// The store that serves now: what it lacks and its copies have is lost.
    pub promoted: Option<PathBuf>,
    /// An existing folder for what does not fit into memory, outside every store; nothing stays there.
    pub scratch: PathBuf,
    /// Ids named in one finding.
    pub ids_max: usize,
}

impl Options {
    /// Nothing but stores, and a scratch folder.
    pub fn new(stores: Vec<PathBuf>, scratch: PathBuf) -> Options {
        let (offsets, sent, processed, promoted) = (None, None, None, None);
        Options { stores, offsets, sent, processed, promoted, scratch, ids_max: IDS_MAX_DEFAULT }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{path}: {error}")]
    Path { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    List { path: PathBuf, error: ListError },
    #[error("{path}: {error}")]
    Offsets { path: PathBuf, error: serde_json::Error },
    #[error("scratch folder: {0}")]
    Scratch(io::Error),
    #[error("{0}")]
    Options(String),
}

/// Looks at everything; `progress` is told the bytes of logs read so far, and how many there are.
///
/// # Errors
/// When a folder is no store, a list is not understood, or the scratch folder cannot be written. Damage in a store is no error.
pub fn inspect(options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, InspectError> {
    check(options)?;
    let mut findings = Findings::new(options.ids_max);
    let mut rows = Rows::new(&options.scratch);
    let mut stores = open(options, &mut findings)?;
    let lists = take_lists(options, &mut rows)?;
    let all: u64 = stores.iter().map(|store| store.log.len()).sum();
    let mut done = 0;
    for store in &mut stores {
        let scanned = store.scan(&mut rows, &mut findings, &mut |bytes| progress(done + bytes, all));
        scanned.map_err(InspectError::Scratch)?;
        store.read_queues(&mut rows, &mut findings).map_err(InspectError::Scratch)?;
        done += store.log.len();
    }
    let lineages = lineage::Lineages::find(&mut stores);
    replace_offsets(options, &mut stores)?;
    let watches = progress::judge(&stores, &lineages, &mut findings);
    let Rows { places, mut ids, .. } = rows;
    let mut spilled = places.spilled;
    let (row, stores) = (Vec::new(), stores);
    let mut judge = places::Judge {
        stores: &stores,
        lineages: &lineages,
        watches: &watches,
        findings: &mut findings,
        ids: &mut ids,
        row,
    };
    judge.run(places).map_err(InspectError::Scratch)?;
    spilled += ids.spilled;
    let lists = story::Lists { is_unnamed_lost: findings.has_unnamed_loss(), ..lists };
    let (findings_of, watches_of) = (&mut findings, &watches);
    let mut judge = story::Judge {
        stores: &stores,
        lineages: &lineages,
        watches: watches_of,
        lists: &lists,
        findings: findings_of,
        schedules: Default::default(),
    };
    judge.run(ids).map_err(InspectError::Scratch)?;
    Ok(Report::new(&stores, findings, spilled))
}

fn check(options: &Options) -> Result<(), InspectError> {
    if options.stores.is_empty() || options.stores.len() > STORES_MAX {
        return Err(InspectError::Options(format!(
            "between 1 and {STORES_MAX} stores can be inspected at once"
        )));
    }
    let scratch = canonical(&options.scratch)?;
    let mut seen = BTreeSet::new();
    for path in &options.stores {
        let store = canonical(path)?;
        if scratch.starts_with(&store) {
            let what =
                format!("the scratch folder {} is inside the store {}", scratch.display(), store.display());
            return Err(InspectError::Options(format!("{what}: nothing is ever written there")));
        }
        if !seen.insert(store) {
            return Err(InspectError::Options(format!("{} is given twice", path.display())));
        }
    }
    if let Some(promoted) = &options.promoted
        && !seen.contains(&canonical(promoted)?)
    {
        let what = format!("{} is said to be promoted, and is none of the stores", promoted.display());
        return Err(InspectError::Options(what));
    }
    Ok(())
}

fn canonical(path: &Path) -> Result<PathBuf, InspectError> {
    path.canonicalize().map_err(|error| InspectError::Path { path: path.to_owned(), error })
}

fn open(options: &Options, findings: &mut Findings) -> Result<Vec<Store>, InspectError> {
    let mut stores: Vec<Store> = Vec::new();
    let promoted = options.promoted.as_deref().map(canonical).transpose()?;
    for path in &options.stores {
        let mut name = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        if options.stores.iter().filter(|other| other.file_name() == path.file_name()).count() > 1 {
            name = path.display().to_string();
        }
        let opened = Store::open(path, stores.len() as u8, name, findings);
        let mut store = opened.map_err(|error| InspectError::Path { path: path.clone(), error })?;
        store.is_promoted = promoted.as_ref() == Some(&canonical(path)?);
        stores.push(store);
    }
    Ok(stores)
}

/// Offsets belong to one broker's queues, so they can stand for the stores' own only when these are copies of one log.
fn replace_offsets(options: &Options, stores: &mut [Store]) -> Result<(), InspectError> {
    let Some(path) = &options.offsets else { return Ok(()) };
    if stores.iter().any(|store| store.lineage != 0) {
        let what = "--offsets is for one broker's queues, and these stores are not all copies of one log";
        return Err(InspectError::Options(what.to_owned()));
    }
    let text = files::text(path).map_err(|error| InspectError::Path { path: path.clone(), error })?;
    let missing = || InspectError::Path { path: path.clone(), error: io::ErrorKind::NotFound.into() };
    let offsets = config::group_offsets(&text.ok_or_else(missing)?);
    let offsets = offsets.map_err(|error| InspectError::Offsets { path: path.clone(), error })?;
    stores.iter_mut().for_each(|store| store.offsets.clone_from(&offsets));
    Ok(())
}

fn take_lists(options: &Options, rows: &mut Rows) -> Result<story::Lists, InspectError> {
    let mut lists = story::Lists::default();
    if let Some(path) = &options.sent {
        lists.has_sent = true;
        read_list(path, &mut |line, entry| {
            if let (Some(topic), Some(queue), Some(offset)) = (&entry.topic, entry.queue, entry.offset) {
                let what = AtPlace::Sent { id: entry.id.clone().into_bytes() };
                rows.place((topic.as_bytes(), queue, offset), NO_STORE, &what)?;
            }
            rows.id(entry.id.as_bytes(), NO_STORE, &OfId::Sent { line, ok: entry.is_ok() })
        })?;
    }
    if let Some(path) = &options.processed {
        lists.has_processed = true;
        let topics = &mut lists.processed_topics;
        read_list(path, &mut |line, entry| {
            if let Some(topic) = entry.topic.filter(|_| topics.len() < PROCESSED_TOPICS_MAX) {
                topics.insert(topic);
            }
            rows.id(entry.id.as_bytes(), NO_STORE, &OfId::Processed { line })
        })?;
    }
    Ok(lists)
}

fn read_list(path: &Path, each: &mut dyn FnMut(u64, Entry) -> io::Result<()>) -> Result<(), InspectError> {
    let list = files::list(path).map_err(|error| InspectError::Path { path: path.to_owned(), error })?;
    let read = lists::read(list, each);
    read.map(|_| ()).map_err(|error| InspectError::List { path: path.to_owned(), error })
}
