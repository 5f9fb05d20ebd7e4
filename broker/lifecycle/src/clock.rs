//! Owns the shape of time handed to the cores: a monotonic stamp for durations within one incarnation, and the wall clock
//! for display. Never reads a clock: only the binary does.

/// One reading of both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds since this incarnation started; never steps back.
    pub mono_ms: u64,
    /// Milliseconds since 1970; for display and for due times only.
    pub wall_ms: u64,
}
