//! Owns the agent's start: opens its stores, takes over the last checkpoint, and catches up with its own logs. Never talks to a
//! source. Called once, on the agent's thread.

use super::core::Core;
use super::status::{SourceKind, SourceStatus};
use crate::config::AgentConfig;
use crate::ingest::held::Held;
use crate::ingest::intake::{Intake, Step};
use crate::ledger::checkpoint::{Stores, WITNESS_KEY};
use crate::ledger::evidence_log::{self, EvidenceLog};
use crate::ledger::raw_frames::{RawFrames, RawSource};
use crate::ledger::verdict_log::{Opening, Record, RecordKind, VerdictLog, Witness};
use crate::ledger::{Change, LedgerError, OpenedLedger};
use lifecycle::identity::{Incarnation, Name};
use std::sync::Arc;
use store::disk::Disk;
use store::error::StoreError;
use thiserror::Error;

/// Opens the ledger; on the agent's thread, since it blocks.
pub type OpenLedger = Box<dyn FnOnce() -> Result<OpenedLedger, LedgerError> + Send>;

/// Why the agent cannot start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// One of its logs.
    #[error("agent's logs: {0}")]
    Logs(#[from] StoreError),
}

/// Everything a run starts with.
pub struct Loaded {
    /// Books and judge.
    pub core: Core,
    /// Where checkpoints go.
    pub stores: Stores,
    /// Where evidence goes.
    pub evidence: EvidenceLog,
    /// One per source, in their order.
    pub intakes: Vec<Intake>,
    /// The evidence log as a source.
    pub evidence_status: SourceStatus,
    /// Facts of it that were folded and are not in the ledger yet.
    pub facts: u64,
    /// Rows of a ledger that could not be used, to be removed with the first checkpoint.
    pub stale: Vec<Change>,
    /// To be said with the first checkpoint.
    pub records: Vec<Record>,
    /// How often the ledger was rebuilt, ever.
    pub rebuilds: u64,
    /// What is wrong with the agent's own logs.
    pub damage: Vec<String>,
}

/// Where the agent's files are.
pub struct Place<'a> {
    /// Settings.
    pub config: &'a AgentConfig,
    /// The disk its logs are on.
    pub disk: Arc<dyn Disk>,
    /// This run.
    pub incarnation: Incarnation,
}

/// Opens and reads everything.
pub fn load(place: &Place<'_>, ledger: OpenLedger, sources: &[Name]) -> Result<Loaded, LoadError> {
    let Place { config, disk, incarnation } = place;
    let opened = ledger()?;
    let witness = opened.rows.iter().find(|(key, _)| key == WITNESS_KEY);
    let witness = witness.and_then(|(_, value)| Witness::decode(value));
    let folder = |name: &str| config.data_dir.join(name);
    let (raw, raw_sources) = RawFrames::open(disk.clone(), folder("raw"))?;
    let evidence =
        EvidenceLog::open(disk.clone(), folder("evidence"), *incarnation, config.logs.evidence_bytes_max)?;

    let mut rebuilt = opened.rebuilt;
    let mut stale = Vec::new();
    let mut core = Core::import(&opened.rows, config).unwrap_or_else(|error| {
        rebuilt = Some(error);
        stale = opened.rows.iter().map(|(key, _)| (key.clone(), None)).collect();
        Core::new(config)
    });
    let mut unknown = 0u64;
    let mut rebuilds = 0;
    let opening = Opening { disk: disk.clone(), dir: folder("verdicts"), incarnation: *incarnation, witness };
    let (verdicts, mut damage) = VerdictLog::open(opening, |record| {
        rebuilds += u64::from(record.kind == RecordKind::LedgerRebuilt);
        unknown += u64::from(core.restore(&record).is_err());
    })?;
    if unknown > 0 {
        damage.push(format!("verdict log: {unknown} verdicts are not understood"));
    }
    let mut records = Vec::new();
    if let Some(reason) = rebuilt {
        tracing::error!(%reason, "ledger could not be used, building it again");
        rebuilds += 1;
        records.push(Record { kind: RecordKind::LedgerRebuilt, body: reason.into_bytes() });
    }
    for text in &damage {
        tracing::error!(damage = %text, "the agent's own log is damaged");
    }
    let intakes = sources.iter().map(|name| intake(&core, name, &raw_sources, config)).collect();
    let (evidence_status, facts) = replay_evidence(&mut core, &evidence)?;
    let stores = Stores { raw, verdicts, ledger: opened.ledger };
    Ok(Loaded { core, stores, evidence, intakes, evidence_status, facts, stale, records, rebuilds, damage })
}

fn intake(core: &Core, name: &Name, raw: &[RawSource], config: &AgentConfig) -> Intake {
    let position = core.position_of(name);
    let mut held = Held::new(usize::try_from(config.logs.raw_frames_bytes_max).unwrap_or(usize::MAX));
    for source in raw.iter().filter(|source| source.name == *name) {
        held.load(source.frames.clone());
    }
    Intake::new(position.unwrap_or_default(), held)
}

fn replay_evidence(core: &mut Core, log: &EvidenceLog) -> Result<(SourceStatus, u64), StoreError> {
    let name: Name = evidence_log::SOURCE_NAME.into();
    let mut status = SourceStatus::new(name.clone(), SourceKind::EvidenceLog);
    let mut facts = 0;
    evidence_log::replay(&log.view(), core.position_of(&name), |step| match step {
        Step::Frame { position, frame } => {
            core.apply(&name, position, &frame);
            facts += frame.facts.len() as u64;
            status.position = position;
            status.last_frame_wall_ms = frame.now.wall_ms;
        }
        Step::Gap(gap) => {
            core.lose(&name, &gap);
            facts += 1;
            tracing::error!(?gap, "reports of producers are gone");
        }
        Step::RunEnded { .. } => {}
    })?;
    status.position = core.position_of(&name).unwrap_or(status.position);
    status.gaps = core.gaps(&name);
    status.head_sequence = status.position.sequence;
    status.flushed_sequence = status.position.sequence;
    (status.up, status.caught_up) = (true, true);
    Ok((status, facts))
}
