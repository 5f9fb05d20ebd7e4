//! Owns what the fold tells the judge: things that may be wrong, or that set an earlier one right. Events are consequences of
//! facts, in order; they carry the frame they rest on. Never a judgement: deadlines and barriers are the judge's.

use crate::fold::class::Class;
use lifecycle::fact::{AnswerClass, OperatorAction, SentReported};
use lifecycle::identity::{CopyReason, Incarnation, MessageIdentity, Name, QueueKey};
use lifecycle::position::Position;

/// Client ids one event names; the rest is counted.
pub const EVENT_IDS_MAX: usize = 65_536;

/// Something the judge must hear of.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Whose books it happened in.
    pub source: Name,
    /// The frame it rests on.
    pub at: Position,
    /// The source's wall clock then.
    pub wall_ms: u64,
    /// The epoch that ran then.
    pub epoch: u64,
    /// What happened.
    pub what: What,
}

/// Consecutive offsets of one queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// The queue.
    pub queue: QueueKey,
    /// First offset.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The epoch that stored them; 0: not known.
    pub epoch: u64,
}

impl Span {
    /// One message.
    pub fn of(at: MessageIdentity) -> Span {
        Span { queue: at.queue, from: at.queue_offset, to: at.queue_offset + 1, epoch: at.epoch_number }
    }
}

/// A client id, and where it was stored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NamedMessage {
    /// The client's id.
    pub id: Name,
    /// Its identity.
    pub identity: MessageIdentity,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// Frames `from..=to` of a run were never received.
    Gap { incarnation: Incarnation, from: u64, to: u64 },
    /// Recovery found these gone. `unnamed` more may be gone without a name, each in one of `windows`.
    StoreLost {
        closed_epoch: u64,
        spans: Vec<Span>,
        named: Vec<NamedMessage>,
        lost: u64,
        unnamed: u64,
        windows: Vec<Span>,
        clean: bool,
    },
    /// Recovery found these gone for another reason than that they had not been flushed: `class` says which. `member` is the one
    /// that was promoted, if one was; `replicas` had said that they have all of it.
    Taken {
        class: Class,
        closed_epoch: u64,
        member: Name,
        replicas: Vec<Name>,
        spans: Vec<Span>,
        named: Vec<NamedMessage>,
    },
    /// Read back, and these records cannot be read any more; `unnamed` more may be among them. `replicas` had said that they have all
    /// of it: then it is a copy that is gone.
    Spoilt { spans: Vec<Span>, named: Vec<NamedMessage>, replicas: Vec<Name>, unnamed: u64 },
    /// Records that were spoilt in one member's copy can be read in that of the member that is master now.
    Whole { spans: Vec<Span> },
    /// Recovery took a copy: the broker must make it again, or its debt is lost.
    CopyLost { class: Class, group: Name, copy: Span, parent: MessageIdentity, reason: CopyReason },
    /// A copy was stored (only told while some are missing).
    CopyRemade { group: Name, parent: MessageIdentity, reason: CopyReason },
    /// A debt of a group ended without its getting the messages; `ids` are those still in memory.
    Lost { class: Class, group: Name, span: Span, actor: Name, ids: Vec<Name> },
    /// What had been lost to a group was settled after all, or is no longer known to be lost.
    Regained { group: Name, span: Span },
    /// What had been lost to a group is owed again.
    Reopened { group: Name, span: Span },
    /// Answered with less than the promise.
    AtRisk { class: AnswerClass, spans: Vec<Span>, named: Vec<NamedMessage> },
    /// Those are on disk now.
    RiskOver { spans: Vec<Span> },
    /// Sends were refused.
    Refused { topic: Name, code: i32, reason: Name, one_way: bool, count: u64, ids: Vec<Name> },
    /// The answer of a stored send could not be written.
    BrokenOff { span: Option<Span>, id: Option<Name> },
    /// A copy could not be stored.
    CopyFailed { group: Name, parent: MessageIdentity, reason: CopyReason, error: Name },
    /// A copy that had failed was stored.
    CopyMade { group: Name, parent: MessageIdentity, reason: CopyReason },
    /// A dead-letter copy arrived; `id` is the client's, empty where it has none.
    DeadLettered {
        group: Name,
        copy: MessageIdentity,
        parent: MessageIdentity,
        root: MessageIdentity,
        id: Name,
    },
    /// Retention took dead letters nobody had taken.
    DlqExpired { group: Name, span: Span, ids: Vec<Name> },
    /// Passed over by `filter` while other members had other `expressions`, and delivered to nobody of the group.
    ConflictFiltered { group: Name, topic: Name, span: Span, filter: Name, others: Vec<Name> },
    /// Delivered after having been passed over in a conflict.
    ConflictDelivered { group: Name, span: Span },
    /// Handed out, though never stored.
    Unexpected { group: Name, span: Span },
    /// A client id was stored again soon after: perhaps a producer's retry. To be confirmed by asking the source.
    DuplicateCandidate { id: Name, first: MessageIdentity, second: MessageIdentity },
    /// An operator sent lost or dead messages again.
    ReDriven { spans: Vec<Span> },
    /// A delayed message or retry left the schedule.
    TimerDone { span: Span },
    /// Retries lie unread in the retry topic; found by the judge, told by nobody.
    RetryUnread { group: Name, span: Span },
    /// A producer reported.
    Sent(SentReported),
    /// An operator acted.
    Operator { incident: Incarnation, action: OperatorAction, actor: Name, note: Name, wall_ms: u64 },
}
