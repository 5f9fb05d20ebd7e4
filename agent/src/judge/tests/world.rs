//! A small world for scenarios: one broker that states facts as the contract says, one evidence log, books and a judge.

use crate::fold::Books;
use crate::fold::class::Class;
use crate::judge::deadlines::Deadlines;
use crate::judge::verdict::{Verdict, VerdictEvent, VerdictState};
use crate::judge::{Answer, Heads, Judge, StepInput};
use lifecycle::clock::Now;
use lifecycle::fact::*;
use lifecycle::frame::Frame;
use lifecycle::identity::*;
use lifecycle::ids::IdColumn;
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use uuid::Uuid;

pub(crate) const ORDERS: u64 = 1;
pub(crate) const SCHEDULE: u64 = 2;
pub(crate) const RETRY: u64 = 3;
pub(crate) const DLQ: u64 = 4;

pub(crate) fn q(topic: u64) -> QueueKey {
    QueueKey { topic: TopicIncarnation(topic), queue_id: 0 }
}

pub(crate) fn at(topic: u64, queue_offset: u64, epoch_number: u64) -> MessageIdentity {
    MessageIdentity { queue: q(topic), queue_offset, epoch_number }
}

pub(crate) fn new_ids() -> crate::judge::NewIncident {
    let mut next = 0u128;
    Box::new(move || {
        next += 1;
        Uuid::from_u128(next)
    })
}

pub(crate) struct World {
    pub(crate) books: Books,
    pub(crate) judge: Judge,
    pub(crate) heads: Heads,
    pub(crate) told: Vec<VerdictEvent>,
    pub(crate) frames: Vec<(Name, Position, Frame)>,
    pub(crate) now: Now,
    pub(crate) ends: std::collections::BTreeMap<u64, u64>,
    run: u8,
    sequence: u64,
    reports: u64,
    ordinal: u64,
    pub(crate) log_end: u64,
    named: u64,
    settings: Vec<(&'static str, &'static str)>,
    flushed: u64,
}

impl World {
    /// One broker with topics and group `g`, which owes `orders` and its retry topic from 0 on.
    pub(crate) fn new() -> World {
        World::with(&[("flushDiskType", "ASYNC_FLUSH"), ("fileReservedTimeMs", "259200000")])
    }

    /// The same under other promises.
    pub(crate) fn with(settings: &[(&'static str, &'static str)]) -> World {
        let mut world = World {
            books: Books::default(),
            judge: Judge::new(Deadlines::default(), new_ids()),
            heads: Heads::new(),
            told: Vec::new(),
            frames: Vec::new(),
            now: Now { mono_ms: 0, wall_ms: 1_000_000 },
            ends: Default::default(),
            run: 1,
            sequence: 0,
            reports: 0,
            ordinal: 0,
            log_end: 0,
            named: 0,
            settings: settings.to_vec(),
            flushed: 0,
        };
        let mut facts = vec![Fact::Recovered(Recovered { clean: true, ..Default::default() }), world.epoch()];
        for (topic, name) in
            [(ORDERS, "orders"), (SCHEDULE, "SCHEDULE_TOPIC_XXXX"), (RETRY, "%RETRY%g"), (DLQ, "%DLQ%g")]
        {
            facts.push(Fact::TopicConfigured(TopicConfigured {
                topic: TopicIncarnation(topic),
                name: name.into(),
                read_queues: 1,
                write_queues: 1,
                perm: 6,
                message_type: "NORMAL".into(),
            }));
        }
        facts.push(Fact::MemberJoined {
            group: "g".into(),
            member: "m1".into(),
            model: ConsumeModel::Clustering,
        });
        facts.push(World::started("g", ORDERS, 0));
        facts.push(World::started("g", RETRY, 0));
        world.say(facts);
        world
    }

    fn epoch(&self) -> Fact {
        let incarnation = Incarnation([self.run; 16]);
        Fact::EpochStarted(EpochStarted {
            epoch: Epoch { number: u64::from(self.run), incarnation },
            broker_name: "b".into(),
            log_start: LogPosition(self.log_end),
            roster: vec!["b".into()],
            settings: self.settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        })
    }

    pub(crate) fn started(group: &str, topic: u64, offset: u64) -> Fact {
        Fact::GroupStarted { group: group.into(), queue: q(topic), offset, reason: StartReason::First }
    }

    /// One frame of the broker, judged at once.
    pub(crate) fn say(&mut self, facts: Vec<Fact>) {
        self.sequence += 1;
        self.now.mono_ms += 10;
        self.now.wall_ms += 10;
        let position = Position { incarnation: Incarnation([self.run; 16]), sequence: self.sequence };
        let frame = Frame { reset: self.sequence == 1, snapshot: false, now: self.now, facts };
        self.frames.push(("b".into(), position, frame.clone()));
        self.books.apply(&"b".into(), position, &frame);
        assert_eq!(self.books.imbalance(), None);
        self.heads.insert("b".into(), Some(position));
        self.step(Vec::new());
    }

    pub(crate) fn step(&mut self, answers: Vec<Answer>) {
        let events = self.books.take_events();
        let input = StepInput { events, now: self.now, heads: &self.heads, answers };
        let told = self.judge.step(&self.books, input);
        self.told.extend(told);
    }

    /// Time passes; the broker says nothing new but its clock.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.say(Vec::new());
    }

    pub(crate) fn stored(&mut self, topic: u64, kind: StoredKind, count: u64) -> Fact {
        let end = self.ends.entry(topic).or_insert(0);
        let run = StoredRun { queue: q(topic), queue_offset: *end, count };
        *end += count;
        let ids: Vec<String> = (0..count).map(|n| format!("id-{}", self.named + n)).collect();
        self.named += count;
        self.log_end += 100 * count;
        let first_ordinal = self.ordinal;
        self.ordinal += count;
        Fact::Stored(Stored {
            first_ordinal,
            log_end: LogPosition(self.log_end),
            store_wall_ms: self.now.wall_ms,
            runs: vec![run],
            kinds: vec![(count, kind)],
            ids: ids.iter().map(|id| id.as_bytes()).collect::<IdColumn>(),
        })
    }

    /// `count` messages sent to `orders`, answered, not flushed.
    pub(crate) fn send(&mut self, count: u64) {
        let from_ordinal = self.ordinal;
        let stored = self.stored(ORDERS, StoredKind::Produced, count);
        self.say(vec![stored, Fact::Answered { from_ordinal, count, class: AnswerClass::Buffered }]);
    }

    pub(crate) fn flush(&mut self) {
        let flushed = self.flushed();
        self.say(vec![flushed]);
    }

    /// What says that all of it is on disk.
    pub(crate) fn flushed(&mut self) -> Fact {
        self.flushed = self.log_end;
        Fact::Flushed { log_position: LogPosition(self.log_end) }
    }

    pub(crate) fn deliver(&mut self, topic: u64, from: u64, to: u64) {
        self.say(vec![delivered("g", topic, from, to, 0)]);
    }

    pub(crate) fn commit(&mut self, topic: u64, from: u64, to: u64) {
        self.say(vec![moved("g", topic, from, to, MoveReason::Commit)]);
    }

    pub(crate) fn consume(&mut self, topic: u64, from: u64, to: u64) {
        self.deliver(topic, from, to);
        self.commit(topic, from, to);
    }

    /// A copy of `parent`, stored in `topic`.
    pub(crate) fn copy(&mut self, topic: u64, parent: MessageIdentity, reason: CopyReason, due_wall_ms: u64) {
        let lineage = Lineage { parent, root: parent, reason };
        let stored = self.stored(topic, StoredKind::Copy { group: "g".into(), lineage, due_wall_ms }, 1);
        self.say(vec![stored]);
    }

    /// The broker restarts. `ends`: what recovery kept, per topic (others keep everything).
    pub(crate) fn restart(&mut self, clean: bool, ends: &[(u64, u64)], unnamed_max: u64) {
        self.restart_after(clean, ends, unnamed_max, 0);
    }

    /// A frame that was to come will never be received.
    pub(crate) fn lose_next_frame(&mut self) {
        self.sequence += 1;
        self.books.note_gap(&"b".into(), Incarnation([self.run; 16]), self.sequence, self.sequence);
        self.step(Vec::new());
    }

    /// The same, when the journal on the disk ends some frames before what was heard.
    pub(crate) fn restart_after(
        &mut self,
        clean: bool,
        ends: &[(u64, u64)],
        unnamed_max: u64,
        torn_frames: u64,
    ) {
        let closed = vec![(Incarnation([self.run; 16]), self.sequence - torn_frames)];
        for (topic, end) in ends {
            self.ends.insert(*topic, *end);
        }
        let min = |topic: &u64| {
            self.books.brokers.get("b").and_then(|b| b.queues.get(&q(*topic))).map_or(0, |q| q.min)
        };
        let queues = self.ends.iter().map(|(topic, end)| (q(*topic), min(topic).min(*end), *end)).collect();
        self.run += 1;
        self.sequence = 0;
        self.ordinal = 0;
        let log_end = LogPosition(self.flushed);
        let recovered = Recovered { clean, queues, closed, unnamed_max, log_end, ..Default::default() };
        self.say(vec![Fact::Recovered(recovered), self.epoch()]);
    }

    /// The broker starts again, and says this of what it found.
    pub(crate) fn begin_run(&mut self, recovered: Recovered) {
        let closed = vec![(Incarnation([self.run; 16]), self.sequence)];
        (self.run, self.sequence, self.ordinal) = (self.run + 1, 0, 0);
        self.say(vec![Fact::Recovered(Recovered { closed, ..recovered }), self.epoch()]);
    }

    /// Another member is promoted, whose log has so many messages of `orders`, the only topic with any.
    pub(crate) fn promote(&mut self, member: &'static str, end: u64, unnamed_max: u64) {
        self.settings.retain(|(name, _)| *name != EpochStarted::MEMBER);
        self.settings.push((EpochStarted::MEMBER, member));
        self.ends.insert(ORDERS, end);
        self.log_end = 100 * end;
        let log_end = LogPosition(self.log_end);
        let queues = vec![(q(ORDERS), 0, end)];
        self.begin_run(Recovered { queues, log_end, unnamed_max, ..Default::default() });
    }

    /// A replica has everything up to this message of `orders`.
    pub(crate) fn replicated(&mut self, replica: &str, end: u64) {
        let log_position = LogPosition(100 * end);
        self.say(vec![Fact::Replicated { replica: replica.into(), log_position, durable: false }]);
    }

    /// A producer's report, through the evidence log.
    pub(crate) fn report(&mut self, id: &str, outcome: SendOutcome, offset: Option<u64>) {
        self.report_of(id, outcome, offset, 0);
    }

    /// The same, of a send at a time that the producer tells (0: it does not).
    pub(crate) fn report_of(
        &mut self,
        id: &str,
        outcome: SendOutcome,
        offset: Option<u64>,
        sent_wall_ms: u64,
    ) {
        self.reports += 1;
        let position = Position { incarnation: Incarnation([99; 16]), sequence: self.reports };
        let report = SentReported {
            id: id.into(),
            topic: "orders".into(),
            outcome,
            broker: "b".into(),
            queue_id: offset.map(|_| 0),
            queue_offset: offset,
            sent_wall_ms,
            reported_wall_ms: self.now.wall_ms,
        };
        self.evidence(position, Fact::SentReported(report));
    }

    pub(crate) fn operator(&mut self, incident: Uuid, action: OperatorAction) {
        self.reports += 1;
        let position = Position { incarnation: Incarnation([99; 16]), sequence: self.reports };
        let fact = Fact::OperatorActed {
            incident: Incarnation::from_uuid(incident),
            action,
            actor: "ann".into(),
            note: "seen".into(),
            wall_ms: self.now.wall_ms,
        };
        self.evidence(position, fact);
    }

    fn evidence(&mut self, position: Position, fact: Fact) {
        let frame =
            Frame { reset: position.sequence == 1, snapshot: false, now: self.now, facts: vec![fact] };
        self.frames.push(("evidence-log".into(), position, frame.clone()));
        self.books.apply(&"evidence-log".into(), position, &frame);
        self.heads.insert("evidence-log".into(), Some(position));
        self.step(Vec::new());
    }

    /// Answers every question: `found` says where an id is.
    pub(crate) fn answer(&mut self, found: impl Fn(&str) -> Vec<MessageIdentity>) -> usize {
        let questions = self.judge.take_questions(100);
        let answers = questions
            .iter()
            .map(|question| Answer {
                number: question.number,
                places: found(&question.id).into_iter().map(|at| ("b".into(), at)).collect(),
                tag: None,
                complete: true,
            })
            .collect();
        self.step(answers);
        questions.len()
    }

    /// Answers every question about a tag: `tag` says which one a message has.
    pub(crate) fn answer_tags(&mut self, tag: impl Fn(MessageIdentity) -> Option<String>) -> usize {
        let questions = self.judge.take_questions(100);
        let asked =
            questions.iter().filter_map(|question| Some((question.number, question.place.clone()?.1)));
        let answers: Vec<Answer> = asked
            .map(|(number, at)| Answer { number, places: Vec::new(), tag: tag(at), complete: true })
            .collect();
        let count = answers.len();
        self.step(answers);
        count
    }

    /// An operator retires a group.
    pub(crate) fn retire(&mut self, group: &str) {
        self.reports += 1;
        let position = Position { incarnation: Incarnation([99; 16]), sequence: self.reports };
        self.now.wall_ms += 1;
        self.evidence(position, Fact::GroupDeleted { group: group.into(), actor: "ann".into() });
    }

    pub(crate) fn verdicts(&self) -> Vec<&Verdict> {
        self.judge.incidents().map(|incident| &incident.verdict).collect()
    }

    /// The only verdict there is.
    #[track_caller]
    pub(crate) fn only(&self, class: Class, state: VerdictState) -> &Verdict {
        let all = self.verdicts();
        assert_eq!(all.len(), 1, "{all:#?}");
        assert_eq!((all[0].class, all[0].state), (class, state), "{:#?}", all[0]);
        all[0]
    }

    #[track_caller]
    pub(crate) fn silent(&self) {
        assert!(self.told.is_empty(), "{:#?}", self.told);
    }
}

pub(crate) fn delivered(group: &str, topic: u64, from: u64, to: u64, attempt: u32) -> Fact {
    Fact::Delivered {
        group: group.into(),
        queue: q(topic),
        ranges: Ranges::of(from, to),
        member: "m1".into(),
        attempt,
        lease_until_ms: if attempt > 0 { 9_000_000 } else { 0 },
    }
}

pub(crate) fn moved(group: &str, topic: u64, from: u64, to: u64, reason: MoveReason) -> Fact {
    Fact::OffsetMoved { group: group.into(), queue: q(topic), from, to, reason, actor: "ann".into() }
}

pub(crate) fn expired(topic: u64, from: u64, to: u64) -> Fact {
    Fact::Expired { queue: q(topic), from, to, reason: ExpiryReason::Age }
}

/// The offsets a verdict names: (topic, from, to, epoch).
pub(crate) fn spans(verdict: &Verdict) -> Vec<(u64, u64, u64, u64)> {
    verdict.spans.iter().map(|s| (s.topic_incarnation, s.from, s.to, s.epoch)).collect()
}
