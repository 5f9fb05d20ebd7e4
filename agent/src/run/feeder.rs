//! Owns one source as the loop sees it: its intake, its pump, and what it says about itself. Turns events of the pump into
//! frames to fold and orders to give. Never blocks.

use super::core::Core;
use super::status::SourceStatus;
use crate::ingest::intake::{Gap, Intake, Step, UNKNOWN_END, Want};
use crate::ingest::pump::{EventKind, Order};
use crate::ingest::{Snapshot, SourceError};
use lifecycle::clock::Now;
use lifecycle::frame::FrameDecoder;
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use tokio::sync::mpsc;

/// How long frames of an ended run are held for the judge, beside what the books know.
const OLD_RUN_HELD_MS: u64 = 600_000;

/// One source.
pub struct Feeder {
    /// What it says about itself.
    pub status: SourceStatus,
    /// The order of its frames.
    pub intake: Intake,
    orders: mpsc::Sender<Order>,
    generation: u64,
    /// An order the pump had no room for.
    unsent: Option<Order>,
    run_ended_ms: Option<u64>,
    steps: Vec<Step>,
}

impl Feeder {
    /// A source whose pump listens on `orders`.
    pub fn new(status: SourceStatus, intake: Intake, orders: mpsc::Sender<Order>) -> Self {
        Feeder { status, intake, orders, generation: 0, unsent: None, run_ended_ms: None, steps: Vec::new() }
    }

    /// Begins where the last run of the agent ended.
    pub fn start(&mut self) {
        if self.intake.position().incarnation == Incarnation::NONE {
            self.order(Order::Snapshot);
        } else {
            self.read();
        }
    }

    /// Takes one event in; returns how many facts were folded.
    pub fn take(&mut self, kind: EventKind, core: &mut Core, now: Now) -> u64 {
        let mut facts = 0;
        match kind {
            EventKind::Batch { generation, .. } if generation != self.generation => {}
            EventKind::Batch { batch, .. } => {
                self.status.up = true;
                self.status.error.clear();
                let mut steps = std::mem::take(&mut self.steps);
                let want = self.intake.take(batch, now.mono_ms, &mut steps);
                facts = self.fold(&mut steps, core, now);
                self.steps = steps;
                if want == Want::Again {
                    self.read();
                }
            }
            EventKind::Snapshot(snapshot) => facts = self.take_snapshot(snapshot, core),
            EventKind::Down(error) => self.down(error),
        }
        self.refresh(core, now);
        facts
    }

    /// Time passes: holes are given up, orders repeated.
    pub fn tick(&mut self, core: &mut Core, now: Now) -> u64 {
        if let Some(order) = self.unsent.take() {
            self.order(order);
        }
        let mut steps = std::mem::take(&mut self.steps);
        let want = self.intake.tick(now.mono_ms, &mut steps);
        let facts = self.fold(&mut steps, core, now);
        self.steps = steps;
        if want == Want::Again {
            self.read();
        }
        if self.run_ended_ms.is_some_and(|at| now.mono_ms.saturating_sub(at) >= OLD_RUN_HELD_MS) {
            self.intake.held.release_old(self.intake.position().incarnation);
            self.run_ended_ms = None;
        }
        self.refresh(core, now);
        facts
    }

    /// Everything up to here is durable.
    pub fn confirm(&self, position: Position) {
        if position.incarnation != Incarnation::NONE {
            // a full queue only delays it: the next checkpoint confirms more
            self.orders.try_send(Order::Confirm(position)).ok();
        }
    }

    fn down(&mut self, error: SourceError) {
        if self.status.up || self.status.error.is_empty() {
            tracing::warn!(source = %self.status.name, %error, "source is down");
        }
        self.status.up = false;
        self.status.error = error.to_string();
        let fresh = self.intake.position().incarnation == Incarnation::NONE;
        if fresh || error == SourceError::PositionGone {
            self.intake.restart();
            self.order(Order::Snapshot);
        } else {
            self.read();
        }
    }

    fn take_snapshot(&mut self, snapshot: Snapshot, core: &mut Core) -> u64 {
        let fresh = self.intake.position().incarnation == Incarnation::NONE;
        let mut facts = 0;
        if !fresh {
            tracing::error!(source = %self.status.name, "position is gone, beginning again from a snapshot");
            let Position { incarnation, sequence } = self.intake.position();
            let same_run = incarnation == snapshot.position.incarnation;
            let to = if same_run { snapshot.position.sequence } else { UNKNOWN_END };
            let text = "the source does not keep them any more";
            core.lose(&self.status.name, &Gap { incarnation, from: sequence + 1, to, text });
            facts += 1;
        }
        if snapshot.history_complete {
            self.intake.advance(snapshot.oldest);
            self.read();
            return facts;
        }
        let mut decoder = FrameDecoder::new();
        for payload in &snapshot.frames {
            match decoder.decode(payload) {
                Ok(frame) => {
                    facts += frame.facts.len() as u64;
                    core.apply(&self.status.name, snapshot.position, &frame);
                }
                Err(error) => {
                    // later frames of the snapshot lean on it: begin again
                    self.down(SourceError::Protocol(format!("snapshot: {error}")));
                    return facts;
                }
            }
        }
        self.intake.advance(snapshot.position);
        self.read();
        facts
    }

    fn fold(&mut self, steps: &mut Vec<Step>, core: &mut Core, now: Now) -> u64 {
        let mut facts = 0;
        for step in steps.drain(..) {
            match step {
                Step::Frame { position, frame } => {
                    facts += frame.facts.len() as u64;
                    self.status.last_frame_wall_ms = frame.now.wall_ms;
                    core.apply(&self.status.name, position, &frame);
                }
                Step::Gap(gap) => {
                    core.lose(&self.status.name, &gap);
                    facts += 1;
                    tracing::error!(source = %self.status.name, ?gap, "evidence is missing");
                }
                Step::RunEnded { .. } => self.run_ended_ms = Some(now.mono_ms),
            }
        }
        facts
    }

    fn refresh(&mut self, core: &Core, now: Now) {
        let status = &mut self.status;
        status.position = self.intake.position();
        status.head_sequence = self.intake.head_sequence;
        status.flushed_sequence = self.intake.flushed_sequence;
        status.gaps = core.gaps(&status.name);
        status.hole = self.intake.has_hole();
        status.caught_up = self.intake.caught_up();
        if status.caught_up {
            status.caught_up_wall_ms = now.wall_ms;
        }
    }

    fn read(&mut self) {
        self.generation += 1;
        self.intake.restart();
        self.order(Order::Read { after: self.intake.position(), generation: self.generation });
    }

    fn order(&mut self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(order)) = self.orders.try_send(order) {
            self.unsent = Some(order);
        }
    }
}
