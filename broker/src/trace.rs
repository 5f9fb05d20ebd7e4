//! States facts at the points they become true, and is the only writer of the journal. One frame per turn; a frame reaches
//! the operating system before anything it says can be seen outside.

use crate::state::State;
use lifecycle::clock::Now;
use lifecycle::fact::{AnswerClass, Fact, Stored, StoredKind, StoredRun};
use lifecycle::frame::FrameEncoder;
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use store::error::{Result, StoreError};
use store::journal::{Journal, JournalSync, JournalView};

/// With nothing to state, a frame of no facts says after this long what time it is: what an agent waits for in vain (a retry
/// that is due, a client that reads again) is judged by the broker's clock.
const SILENCE_MAX_MS: u64 = 5_000;

/// The journal's writing side.
pub struct Trace {
    journal: Option<Journal>,
    view: JournalView,
    encoder: FrameEncoder,
    facts: Vec<Fact>,
    /// Facts that are worth no frame of their own: they ride in front of the next one.
    riders: Vec<Fact>,
    stored: Stored,
    next_ordinal: u64,
    /// A frame that could not be appended (disk full while opening a segment).
    stuck: Option<(Vec<u8>, bool)>,
    position: Position,
    /// When the last frame was written, monotonic.
    spoke_ms: u64,
    /// The disk is full, and frames live on what the journal had reserved.
    is_tight: bool,
}

impl Trace {
    /// Traces into `journal`; `enabled` false keeps the folder's history but writes nothing (for measuring only).
    pub fn new(journal: Journal, enabled: bool) -> Self {
        Trace {
            view: journal.view(),
            position: journal.last_position(),
            journal: enabled.then_some(journal),
            encoder: FrameEncoder::new(),
            facts: Vec::new(),
            riders: Vec::new(),
            stored: Stored::default(),
            next_ordinal: 0,
            stuck: None,
            spoke_ms: 0,
            is_tight: false,
        }
    }

    /// Whether the disk is full: what is left of the journal's reserve is for reads and refusals.
    pub fn is_tight(&self) -> bool {
        self.is_tight
    }

    /// For the feed.
    pub fn view(&self) -> JournalView {
        self.view.clone()
    }

    /// The last frame written.
    pub fn position(&self) -> Position {
        self.position
    }

    /// States a fact and folds it into the state.
    pub fn state(&mut self, state: &mut State, fact: Fact) {
        self.close_stored();
        state.apply(&fact);
        self.facts.push(fact);
    }

    /// States a fact that changes nothing of the state.
    pub fn note(&mut self, fact: Fact) {
        self.close_stored();
        self.facts.push(fact);
    }

    /// States something that can wait for the next frame.
    pub fn state_later(&mut self, fact: Fact) {
        self.riders.retain(|rider| std::mem::discriminant(rider) != std::mem::discriminant(&fact));
        self.riders.push(fact);
    }

    /// States that a message was stored; neighbours become one fact. Answers its ordinal.
    pub fn stored(&mut self, state: &mut State, message: StoredMessageFact<'_>) -> u64 {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let one = StoredRun { queue: message.queue, queue_offset: message.queue_offset, count: 1 };
        state.message_stored(one, &message.kind, message.log_end);
        let stored = &mut self.stored;
        if stored.runs.is_empty() {
            stored.first_ordinal = ordinal;
            stored.store_wall_ms = message.store_wall_ms;
        }
        stored.log_end = message.log_end;
        match stored.runs.last_mut() {
            Some(last) if last.queue == one.queue && last.queue_offset + last.count == one.queue_offset => {
                last.count += 1
            }
            _ => stored.runs.push(one),
        }
        match stored.kinds.last_mut() {
            Some((count, kind)) if *kind == message.kind => *count += 1,
            _ => stored.kinds.push((1, message.kind)),
        }
        stored.ids.push(message.id);
        ordinal
    }

    /// States that sends are about to be answered; neighbours of one class become one fact.
    pub fn answered(&mut self, state: &mut State, from_ordinal: u64, count: u64, class: AnswerClass) {
        if self.stored.runs.is_empty()
            && let Some(Fact::Answered { from_ordinal: first, count: so_far, class: last }) =
                self.facts.last_mut()
            && *last == class
            && *first + *so_far == from_ordinal
        {
            *so_far += count;
            return;
        }
        self.state(state, Fact::Answered { from_ordinal, count, class });
    }

    /// States that a member settled a message; neighbours in one queue become one fact.
    pub fn acked(
        &mut self,
        state: &mut State,
        group: &Name,
        (queue, offset): (QueueKey, u64),
        member: &Name,
    ) {
        let one = Fact::Acked {
            group: group.clone(),
            queue,
            ranges: Ranges::of(offset, offset + 1),
            member: member.clone(),
        };
        if self.stored.runs.is_empty()
            && let Some(Fact::Acked { group: g, queue: q, ranges, member: m }) = self.facts.last_mut()
            && (&*g, &*q, &*m) == (group, &queue, member)
        {
            ranges.insert(offset, offset + 1);
            state.apply(&one);
            return;
        }
        self.state(state, one);
    }

    /// Ordinal of the next stored message.
    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// Whether this turn has stated anything.
    pub fn has_facts(&self) -> bool {
        !self.facts.is_empty() || !self.stored.runs.is_empty() || self.stuck.is_some()
    }

    /// When a turn must run so that the journal is not silent for too long.
    pub fn next_due_ms(&self) -> Option<u64> {
        // on a full disk what is left is for those who still read
        (self.journal.is_some() && !self.is_tight).then_some(self.spoke_ms + SILENCE_MAX_MS)
    }

    /// Writes the turn's frame; nothing happens when nothing was stated, and the last frame is young.
    ///
    /// Errors: on a full disk everything is kept and the call may be repeated; effects must stay invisible until it succeeds.
    pub fn end_turn(&mut self, now: Now) -> Result<()> {
        self.close_stored();
        let silent_for_long = self.next_due_ms().is_some_and(|due| now.mono_ms >= due);
        let Some(journal) = &mut self.journal else {
            self.facts.clear();
            self.riders.clear();
            return Ok(());
        };
        if let Some((payload, reset)) = self.stuck.take() {
            append(journal, payload, reset, &mut self.stuck)?;
        }
        if !self.facts.is_empty() || silent_for_long {
            self.spoke_ms = now.mono_ms;
            journal.set_wall_ms(now.wall_ms);
            let is_idle = self.facts.is_empty();
            let mut facts = std::mem::take(&mut self.riders);
            facts.append(&mut self.facts);
            // after a pause every name is cheap to say again, and whoever reads from here need not read what lies before
            let reset = is_idle || journal.needs_reset() || self.encoder.wants_reset();
            let mut payload = Vec::with_capacity(256);
            self.encoder.encode(now, reset, &facts, &mut payload);
            append(journal, payload, reset, &mut self.stuck)?;
        }
        self.position = journal.write()?;
        self.is_tight = !journal.reserve()?;
        Ok(())
    }

    /// What a flush must sync.
    pub fn take_sync_batch(&mut self) -> Option<JournalSync> {
        let batch = self.journal.as_mut()?.take_sync_batch();
        (!batch.files.is_empty()).then_some(batch)
    }

    /// Deletes whole segments before `position`.
    pub fn remove_before(&mut self, position: Position) -> Result<u64> {
        self.journal.as_mut().map_or(Ok(0), |journal| journal.remove_before(position))
    }

    fn close_stored(&mut self) {
        if !self.stored.runs.is_empty() {
            self.facts.push(Fact::Stored(std::mem::take(&mut self.stored)));
        }
    }
}

/// One stored message as the journal tells of it.
pub struct StoredMessageFact<'a> {
    /// Its queue.
    pub queue: QueueKey,
    /// Its offset there.
    pub queue_offset: u64,
    /// End of the log after it.
    pub log_end: LogPosition,
    /// When.
    pub store_wall_ms: u64,
    /// How it came.
    pub kind: StoredKind,
    /// Its client id; empty when it has none.
    pub id: &'a [u8],
}

fn append(
    journal: &mut Journal,
    payload: Vec<u8>,
    reset: bool,
    stuck: &mut Option<(Vec<u8>, bool)>,
) -> std::result::Result<(), StoreError> {
    if let Err(error) = journal.append(&payload, reset) {
        *stuck = Some((payload, reset));
        return Err(error);
    }
    Ok(())
}
