//! Owns what the agent says about itself: how far each source has been folded, what is durable, whether it may be believed.
//! Never judges messages. Written by the loop, read by the judge (barriers), the HTTP routes and the metrics.

use lifecycle::identity::Name;
use lifecycle::position::Position;

/// Where the agent is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Reading the ledger and its own logs.
    #[default]
    Loading,
    /// Folding what was stated while it was away: answers and metrics would be of the past.
    Replaying,
    /// Up to date at least once.
    Serving,
    /// Stopped; see the error of the handle.
    Stopped,
}

/// What kind of source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceKind {
    /// A replica group's feed.
    Broker,
    /// The agent's own evidence log.
    EvidenceLog,
}

/// One source, now.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceStatus {
    /// Its name, the label of its metrics.
    pub name: Name,
    /// Its kind.
    pub kind: SourceKind,
    /// Whether its stream is open and speaking.
    pub up: bool,
    /// The last frame folded.
    pub position: Position,
    /// The last frame the source said is on its disk.
    pub flushed_sequence: u64,
    /// The newest frame the source said it has.
    pub head_sequence: u64,
    /// Wall time of the last folded frame, by its broker's clock; 0: none yet.
    pub last_frame_wall_ms: u64,
    /// Wall time (agent's) since when `position` equals the head, or the last time it did; 0: never.
    pub caught_up_wall_ms: u64,
    /// Whether nothing stated so far is waiting.
    pub caught_up: bool,
    /// Gaps in the evidence so far (counted in the ledger, never steps back).
    pub gaps: u64,
    /// Whether frames are missing right now that may still come.
    pub hole: bool,
    /// Why it is not up; empty: it is.
    pub error: String,
}

impl SourceStatus {
    /// A source that has said nothing yet.
    pub fn new(name: Name, kind: SourceKind) -> Self {
        SourceStatus {
            name,
            kind,
            up: false,
            position: Position::default(),
            flushed_sequence: 0,
            head_sequence: 0,
            last_frame_wall_ms: 0,
            caught_up_wall_ms: 0,
            caught_up: false,
            gaps: 0,
            hole: false,
            error: String::new(),
        }
    }

    /// Frames stated and not folded.
    pub fn lag_frames(&self) -> u64 {
        self.head_sequence.saturating_sub(self.position.sequence)
    }

    /// How old the newest evidence is while some is waiting; 0 when nothing is.
    pub fn lag_seconds(&self, now_wall_ms: u64) -> f64 {
        let since = self.last_frame_wall_ms.max(self.caught_up_wall_ms);
        let waiting = !self.up || self.lag_frames() > 0 || self.hole;
        if waiting && since > 0 { now_wall_ms.saturating_sub(since) as f64 / 1000.0 } else { 0.0 }
    }

    /// Whether "nothing" can be read as "none": up, nothing waiting, no gap ever.
    pub fn complete(&self) -> bool {
        self.up && self.caught_up && !self.hole && self.gaps == 0
    }
}

/// The last durable state.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CheckpointStatus {
    /// How many since this run started.
    pub count: u64,
    /// When the last one was durable, agent wall ms; 0: none yet.
    pub at_wall_ms: u64,
    /// How long it took, from the snapshot of the books to durable.
    pub took_ms: u64,
    /// Agent wall ms of the first change that is not durable yet; 0: everything is.
    pub unsaved_since_wall_ms: u64,
    /// Rows in the ledger.
    pub rows: u64,
    /// How often the ledger had to be rebuilt (kept in the verdict log, never steps back).
    pub rebuilds: u64,
    /// Records of the verdict log.
    pub verdict_records: u64,
    /// Damage found in the agent's own logs when they were opened, for people; empty: none.
    pub log_damage: Vec<String>,
}

/// Everything the agent says about itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Its sources, brokers first, the evidence log last.
    pub sources: Vec<SourceStatus>,
    /// What is durable.
    pub checkpoint: CheckpointStatus,
    /// Facts folded since this run started.
    pub facts: u64,
    /// Frames above a source's flushed position that could not be kept for want of room.
    pub raw_frames_dropped: u64,
}

impl Status {
    /// Whether answers and metrics may be served.
    pub fn ready(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Names of the sources that are down, behind, or have gaps.
    pub fn behind(&self) -> Vec<Name> {
        self.sources.iter().filter(|source| !source.complete()).map(|source| source.name.clone()).collect()
    }
}
