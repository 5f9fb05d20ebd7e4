//! Owns a replica group within a simulated world: its members, the links between them, who is spoken to as master, and how a member
//! becomes one. The rules of elections and of connections are production's; here is only what tokio does there, in one thread. The
//! world's clients, agent and oracle see the acting master as they see a single broker. Never judges; see [`checks`].

mod checks;
mod faults;
mod link;
mod member;
pub(crate) mod plan;

use crate::clients::{Parcel, message};
use crate::oracle::Sent;
use crate::world::World;
use broker::api::{Answer, Request, StoredAt};
use broker::config::{BrokerRole, Config, ReplicaAck};
use broker::core::Core;
use broker::replication::election::{Opening, Outcome, Rules};
use broker::replication::frame::Standing;
use broker::replication::mastership::Part;
use lifecycle::clock::Now;
use link::Link;
use member::Member;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use store::disk_sim::SimRng;

/// An ASYNC_MASTER goes on without the others after this time, as the server has it.
const PATIENCE_MS: u64 = 10_000;
/// A candidate asks again after this time.
const PAUSE_MS: u64 = 300;
/// Rounds a candidate stands before the world calls it stuck.
const ROUNDS_MAX: u64 = 60;

/// How a group begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupStart {
    pub(crate) members: usize,
    pub(crate) role: BrokerRole,
    pub(crate) in_sync: u32,
    pub(crate) ack: ReplicaAck,
    /// Longest delay of a replication message, ms.
    pub(crate) delay_max_ms: u64,
    /// A planted bug.
    pub(crate) mutant: Option<Mutant>,
}

/// Bugs planted in what carries the rules: each must be seen by some check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A candidate asks nobody for a promise, and copies nothing.
    ElectsItself,
    /// A replica confirms what was sent, not what it has.
    ConfirmsEarly,
}

/// See the module text.
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    pub(crate) links: Vec<Link>,
    /// Whom clients and agent speak to.
    pub(crate) acting: usize,
    pub(crate) start: GroupStart,
    rng: SimRng,
    runs: u64,
    /// What happened since the world last asked.
    said: String,
}

fn waits_for_disk(config: &Config) -> bool {
    config.broker_role == BrokerRole::SyncMaster && config.replica_ack == ReplicaAck::Flushed
}

impl Group {
    pub(crate) fn new(seed: u64, start: GroupStart, config: &Config) -> Group {
        let member = |number: usize| {
            let config = Config {
                broker_role: start.role,
                in_sync_replicas: start.in_sync,
                replica_ack: start.ack,
                replica_id: format!("m{number}"),
                ..config.clone()
            };
            Member::new(config, if number == 0 { Part::Master } else { Part::Slave })
        };
        let ends = (0..start.members).flat_map(|from| (0..start.members).map(move |to| (from, to)));
        Group {
            members: (0..start.members).map(member).collect(),
            links: ends
                .filter(|(from, to)| from != to)
                .map(|(from, to)| Link::new(from, to, start.delay_max_ms))
                .collect(),
            acting: 0,
            start,
            rng: SimRng(seed ^ 0x6409),
            runs: 0,
            said: String::new(),
        }
    }

    /// Every send that is answered OK has been confirmed by a replica.
    pub(crate) fn waits(&self) -> bool {
        self.start.role == BrokerRole::SyncMaster
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.said, "{line}").expect("text grows");
    }

    fn open(&mut self, who: usize, part: Part, now: Now) -> bool {
        self.runs += 1;
        let run = self.runs;
        let opened = self.members[who].open(part, run, now);
        self.say(format_args!("m{who} opens as {part:?} run {run}: {opened:?}"));
        opened.is_ok()
    }

    /// One turn of every member, and what passes between them; `requests` are for the acting master.
    fn step(&mut self, now: Now, requests: Vec<Request>) {
        let mut inboxes: Vec<Vec<Request>> = self.members.iter().map(|_| Vec::new()).collect();
        inboxes[self.acting] = requests;
        self.step_all(now, inboxes);
    }

    fn step_all(&mut self, now: Now, mut inboxes: Vec<Vec<Request>>) {
        for link in &mut self.links {
            link.arrive(now.mono_ms, &self.members, &mut inboxes);
        }
        for (who, inbox) in inboxes.iter_mut().enumerate() {
            if let Some(error) = self.members[who].turn(now, inbox) {
                self.say(format_args!("m{who} died: {error}"));
                self.died(who, now);
            }
            inbox.clear();
        }
        for at in 0..self.links.len() {
            let to = self.links[at].to;
            let is_busy =
                self.links.iter().enumerate().any(|(o, link)| o != at && link.to == to && link.stands());
            let link = &mut self.links[at];
            link.is_busy = is_busy;
            link.confirms_early = self.start.mutant == Some(Mutant::ConfirmsEarly);
            if let Some(line) = link.go_on(now.mono_ms, &self.members, &mut self.rng, &mut inboxes) {
                writeln!(self.said, "{line}").expect("text grows");
            }
        }
        for (who, inbox) in inboxes.iter_mut().enumerate().filter(|(_, inbox)| !inbox.is_empty()) {
            self.members[who].turn(now, inbox);
        }
    }

    fn has_core(&self, who: usize) -> bool {
        self.members[who].core.is_some()
    }

    /// The process is gone, and its connections with it.
    pub(crate) fn died(&mut self, who: usize, now: Now) {
        self.members[who].kill();
        self.lost_member(who, now.mono_ms);
    }

    /// A member's connections break; what it had sent arrives or not.
    fn lost_member(&mut self, who: usize, now_ms: u64) {
        for link in &mut self.links {
            if link.from == who {
                let arrives = self.rng.below(2) == 0;
                link.sender_gone(now_ms, arrives);
            } else if link.to == who {
                link.end(now_ms);
            }
        }
    }

    fn in_reach(&self, from: usize) -> Vec<usize> {
        let cut = |to: usize| {
            self.links.iter().any(|l| [(from, to), (to, from)].contains(&(l.from, l.to)) && l.is_cut())
        };
        (0..self.members.len())
            .filter(|to| *to != from && !cut(*to) && self.members[*to].standing().is_some())
            .collect()
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        self.links.iter_mut().find(|link| (link.from, link.to) == (from, to)).expect("every pair has one")
    }

    /// Cuts a member off from all others, one way or both, or gives it back.
    pub(crate) fn cut(&mut self, who: usize, (towards, away): (bool, bool)) {
        for link in &mut self.links {
            if link.to == who {
                (link.cut_down, link.cut_up) = (towards, away);
            } else if link.from == who {
                (link.cut_down, link.cut_up) = (away, towards);
            }
        }
    }
}

/// What a round of a campaign came to.
enum Round {
    Elected(u64),
    Follow,
    Again,
}

impl World {
    /// Lends the acting master's core to the group.
    pub(crate) fn with_group<T>(&mut self, what: impl FnOnce(&mut Group, Now) -> T) -> T {
        let now = self.now();
        let mut group = self.group.take().expect("this world has a group");
        group.members[group.acting].core = self.core.take();
        let out = what(&mut group, now);
        let acting = &mut group.members[group.acting];
        self.core = acting.core.take();
        self.disk = acting.disk.clone();
        let said = std::mem::take(&mut group.said);
        self.group = Some(group);
        for line in said.lines() {
            self.note(format_args!("group: {line}"));
        }
        out
    }

    pub(crate) fn group_step(&mut self, requests: Vec<Request>) {
        self.with_group(|group, now| group.step(now, requests));
    }

    /// Every member starts; the first one is to be master.
    pub(crate) fn open_group(&mut self) {
        let count = self.group().members.len();
        for who in 1..count {
            assert!(self.with_group(|group, now| group.open(who, Part::Slave, now)), "a new folder opens");
        }
        assert!(self.stand(0, false), "the first master is elected");
        // until the others follow
        self.pass(1_000);
    }

    pub(crate) fn group(&self) -> &Group {
        self.group.as_ref().expect("this world has a group")
    }

    /// A member that is down starts in the part its folder says. False: its disk failed.
    pub(crate) fn start_member(&mut self, who: usize) -> bool {
        let part = self.with_group(|group, _| group.members[who].mandate().map(|said| said.holds().part));
        match part {
            Err(_) => false,
            Ok(Part::Slave) => self.with_group(|group, now| group.open(who, Part::Slave, now)),
            Ok(Part::Master) => self.stand(who, false) || self.with_group(|g, _| g.has_core(who)),
        }
    }

    /// Sends to one member, whoever is master; `None`: no answer within the time that replicas are waited for.
    pub(crate) fn ask_member(
        &mut self,
        who: usize,
        parcel: Parcel<'_>,
        id: &str,
    ) -> Option<Answer<Vec<StoredAt>>> {
        self.oracle.sent.insert(id.to_owned(), Sent { topic: parcel.topic.to_owned(), ..Sent::default() });
        let slot = Arc::new(Mutex::new(None));
        let answer = slot.clone();
        let reply = Box::new(move |value| *answer.lock().expect("one thread") = Some(value));
        let send = Request::Send(message(parcel, id), reply);
        self.with_group(|group, now| {
            let mut inboxes: Vec<Vec<Request>> = group.members.iter().map(|_| Vec::new()).collect();
            inboxes[who].push(send);
            group.step_all(now, inboxes);
        });
        self.pass(self.config.replication_timeout_ms + 1_000);
        slot.lock().expect("one thread").take()
    }

    /// Stands for master, as the server does: opens as a SLAVE, asks, copies, and opens as a master. False: it follows, or no
    /// majority is in reach.
    pub(crate) fn stand(&mut self, who: usize, forced: bool) -> bool {
        let opened = self.with_group(|group, now| {
            let closed = group.members[who].close(now);
            group.lost_member(who, now.mono_ms);
            closed.is_ok() && group.open(who, Part::Slave, now)
        });
        if !opened {
            return false;
        }
        let begun = self.elapsed_ms();
        for _ in 0..ROUNDS_MAX {
            if !self.with_group(|group, _| group.has_core(who)) {
                return false;
            }
            let out_of_patience = !self.group().waits() && self.elapsed_ms() >= begun + PATIENCE_MS;
            match self.round(who, forced, out_of_patience) {
                Round::Elected(number) => return self.become_master(who, number),
                Round::Follow => {
                    let mandate = self.with_group(|group, _| group.members[who].mandate());
                    let kept = mandate.and_then(|said| said.change(|mandate| mandate.part = Part::Slave));
                    if kept.is_err() {
                        self.with_group(|group, now| group.died(who, now));
                    }
                    return false;
                }
                Round::Again => self.pass(PAUSE_MS),
            }
        }
        false
    }

    fn round(&mut self, who: usize, forced: bool, out_of_patience: bool) -> Round {
        let (rules, mine, others) = self.with_group(|group, _| {
            let k = if group.waits() { group.start.in_sync as usize } else { 1 };
            let alone = group.start.mutant == Some(Mutant::ElectsItself);
            let needed = if alone { 1 } else { (group.members.len() + 1).saturating_sub(k).max(1) };
            let standings: Vec<Standing> =
                group.in_reach(who).into_iter().filter_map(|other| group.members[other].standing()).collect();
            (Rules { needed, forced, out_of_patience }, group.members[who].standing(), standings)
        });
        let Some(mine) = mine else { return Round::Again };
        let number = match rules.open(&mine, &others.iter().collect::<Vec<_>>()) {
            Opening::Follow => return Round::Follow,
            Opening::TooFew(_) => return Round::Again,
            Opening::Promise(number) => number,
        };
        let answers = self.with_group(|group, _| {
            group.members[who].promise(number)?;
            let alone = group.start.mutant == Some(Mutant::ElectsItself);
            let reach = if alone { Vec::new() } else { group.in_reach(who) };
            Some(
                reach
                    .into_iter()
                    .filter_map(|o| Some((o, group.members[o].promise(number)?)))
                    .collect::<Vec<_>>(),
            )
        });
        let Some(answers) = answers else { return Round::Again };
        for (other, _) in answers.iter().filter(|(_, (_, was_master))| *was_master) {
            self.make_way(*other);
        }
        let answers: Vec<_> = answers.into_iter().map(|(other, (standing, _))| (other, standing)).collect();
        match rules.count(&mine, number, &answers) {
            Outcome::TooFew(_) => Round::Again,
            Outcome::Elected => Round::Elected(number),
            Outcome::CopyFirst((other, _)) => match self.copy_first(*other, who) {
                true => Round::Elected(number),
                false => Round::Again,
            },
        }
    }

    /// A master that has promised a later epoch opens its folder as a replica.
    fn make_way(&mut self, who: usize) {
        self.pass(20);
        self.with_group(|group, now| {
            group.members[who].close(now).expect("its disk works");
            group.lost_member(who, now.mono_ms);
            assert!(group.open(who, Part::Slave, now), "it opens");
        });
    }

    /// Copies what another member has; whether it is all there.
    fn copy_first(&mut self, other: usize, who: usize) -> bool {
        self.with_group(|group, _| group.link(other, who).copies = true);
        let mut is_whole = false;
        for _ in 0..200 {
            self.pass(50);
            is_whole = self.with_group(|group, _| {
                match (group.members[who].standing(), group.members[other].standing()) {
                    (Some(here), Some(there)) => {
                        here.log.end >= there.log.end && here.journal == there.journal
                    }
                    _ => false,
                }
            });
            if is_whole {
                break;
            }
        }
        self.with_group(|group, now| {
            group.link(other, who).end(now.mono_ms);
            group.link(other, who).copies = false;
        });
        self.note(format_args!("m{who} copied m{other}: {is_whole}"));
        self.oracle.count("another member is copied first");
        is_whole
    }

    fn become_master(&mut self, who: usize, number: u64) -> bool {
        let opened = self.with_group(|group, now| {
            let member = &mut group.members[who];
            let closed = member.close(now);
            let kept = closed.and_then(|()| member.mandate()).and_then(|mandate| {
                mandate.change(|mandate| {
                    mandate.part = Part::Master;
                    mandate.promised = mandate.promised.max(number);
                })
            });
            group.lost_member(who, now.mono_ms);
            let opened = kept.is_ok() && group.open(who, Part::Master, now);
            if opened {
                // the member that acted keeps its core: it lives, or is dead
                group.acting = who;
            }
            opened
        });
        // whoever read the feed of another member reads this one's now
        self.agent.broker_gone(&mut self.rng);
        self.run = self.core.as_ref().map_or(self.run, Core::epoch_number);
        opened
    }
}
