//! Owns the shape of what the metrics show, taken at one moment. Never computes anything; filled by the desk over the running
//! agent.

/// Numbers by a label of a closed set. A label outside the set is a bug of the caller.
pub type ByLabel = Vec<(&'static str, u64)>;

/// Everything the metrics show, taken at one moment. Rows with open labels (topics, groups) come in the order in which they
/// were first known, the same after a restart: the first ones get series of their own.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By [`STAGES`](super::STAGES).
    pub messages: ByLabel,
    /// Stored messages by topic.
    pub topics: Vec<(String, u64)>,
    /// Confirmed lost messages by [`LOSSES`](super::LOSSES).
    pub lost: ByLabel,
    /// Topic, group (empty: none) and messages of open losses, for every pair that is owed, most of them 0.
    pub open_losses: Vec<(String, String, u64)>,
    /// Open incidents by [`VERDICTS`](super::VERDICTS).
    pub incidents_open: ByLabel,
    /// Verdicts that ever reached a state, by [`VERDICTS`](super::VERDICTS) and [`STATES`](super::STATES).
    pub verdicts: Vec<(&'static str, &'static str, u64)>,
    /// Upper bound.
    pub undecided_messages: u64,
    /// Each source of facts.
    pub sources: Vec<ObservedSource>,
    /// By [`IN_FLIGHT`](super::IN_FLIGHT).
    pub in_flight: ByLabel,
    /// 0 when everything is settled.
    pub oldest_unsettled_age_seconds: f64,
    /// Dead letters ever stored.
    pub dlq_arrivals: u64,
    /// Dead letters that could not be stored.
    pub dlq_write_failures: u64,
    /// Dead letters nobody has taken, by group.
    pub dlq_messages: Vec<(String, u64)>,
    /// Messages passed by an offset reset without delivery.
    pub skipped: u64,
    /// By [`DUPLICATE_CAUSES`](super::DUPLICATE_CAUSES).
    pub duplicates: ByLabel,
    /// By [`DURABILITIES`](super::DURABILITIES).
    pub answers: ByLabel,
    /// Topic, group, seconds until retention takes the oldest unread message.
    pub retention_margins: Vec<(String, String, f64)>,
    /// A margin below this is near its end.
    pub near_expiry_seconds: f64,
    /// 0 while nothing waits to be saved.
    pub checkpoint_age_seconds: f64,
    /// Damaged ledgers built again.
    pub ledger_rebuilds: u64,
    /// Rows in the ledger.
    pub ledger_rows: u64,
    /// By [`RISKS`](super::RISKS).
    pub exposed: ByLabel,
    /// By [`FINDINGS`](super::FINDINGS).
    pub findings: ByLabel,
}

/// One source of facts.
#[derive(Clone, Debug, Default)]
pub struct ObservedSource {
    pub source: String,
    pub up: bool,
    pub complete: bool,
    pub lag_seconds: f64,
    pub lag_frames: u64,
    pub gaps: u64,
}
