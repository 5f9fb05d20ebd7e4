//! Owns the faults of a replica group: each act injects one kind and leaves the group whole again. What must follow comes from the
//! scans of the disks and the clients' history, never from broker or agent.

use super::checks::{check_survivor, ids_in, log_bytes, survivors};
use crate::acts::Act;
use crate::clients::{Parcel, Reader, SendSlot};
use crate::oracle::{Unit, is_users};
use crate::world::World;
use agent::fold::class::Class;
use broker::api::{SendStatus, StartPolicy};
use broker::config::ReplicaAck;
use broker::replication::epochs::common_position;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::LogPosition;
use std::collections::BTreeSet;

/// The class of what a master alone held when another one took over.
pub(crate) const NOT_REPLICATED: Class = Class::NotReplicatedAtFailover;
/// Longer than any delay of feed and replication, and than a journal flush.
const SETTLE_MS: u64 = 4_000;

/// How the acting master ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Killed,
    PowerCut,
    /// It lives, and nobody hears it.
    CutOff,
    /// Machine and disk are gone; a new machine takes its place.
    Destroyed,
    /// With every other member at once.
    AllPowerCut,
    /// It lives, and is told to make way.
    HandedOver,
    /// And then whoever takes over dies at some effect of its promotion.
    KilledThenHeir,
    /// And then again, at some effect of its return.
    KilledTwice,
}

pub(super) const ALL: [Act; 12] = [
    Act { name: "master killed", run: |world, name| fail_over(world, name, Death::Killed) },
    Act { name: "master's power cut", run: |world, name| fail_over(world, name, Death::PowerCut) },
    Act { name: "promoted while the master lives", run: |world, name| fail_over(world, name, Death::CutOff) },
    Act { name: "master's disk destroyed", run: |world, name| fail_over(world, name, Death::Destroyed) },
    Act { name: "power cut of every member", run: |world, name| fail_over(world, name, Death::AllPowerCut) },
    Act { name: "handed over by hand", run: |world, name| fail_over(world, name, Death::HandedOver) },
    Act {
        name: "dies while it is promoted",
        run: |world, name| fail_over(world, name, Death::KilledThenHeir),
    },
    Act { name: "dies while it returns", run: |world, name| fail_over(world, name, Death::KilledTwice) },
    Act { name: "replica stopped for a while", run: replica_stopped },
    Act { name: "replica's disk full", run: replica_disk_full },
    Act { name: "replica killed", run: replica_killed },
    Act { name: "replica dies between two effects", run: replica_dies_between_effects },
];

/// Faults of every group, and those that need a third member.
pub(super) const SKELETON: Act = ALL[0];

fn owed(world: &mut World, name: &str) -> String {
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    let count = 1 + world.rng.below(5);
    world.send_many(Parcel::to(name, 0), count);
    world.pass(1_000);
    world.catch_up();
    group
}

fn scan(world: &mut World) {
    let (disk, run) = (world.disk.clone(), world.run);
    world.oracle.scan(&disk, run);
}

/// Cuts some replicas off the master, some of the time, and says what happened.
fn some_lag(world: &mut World) {
    let acting = world.group().acting;
    let how = match world.rng.below(6) {
        0 => return,
        4 | 5 => {
            // the others keep confirming
            let who = a_replica(world);
            world.oracle.count("one replica behind");
            world.note(format_args!("cut m{acting} -> m{who}"));
            return world.with_group(|group, _| group.link(acting, who).cut_down = true);
        }
        1 => (true, true),
        2 => (true, false),
        _ => (false, true),
    };
    world.oracle.count(["link cut one way", "link cut both ways"][usize::from(how == (true, true))]);
    world.note(format_args!("cut m{acting} {how:?}"));
    world.with_group(|group, _| group.cut(acting, how));
}

/// Sends whose answers are looked for later.
type Asked = Vec<(String, SendSlot)>;

fn ask_some(world: &mut World, topic: &str, count: u64) -> Asked {
    let mut asked = Asked::new();
    for _ in 0..count {
        asked.push(world.begin_send(Parcel::to(topic, 0)));
        let passed = 50 * world.rng.below(3);
        world.pass(passed);
    }
    asked
}

/// Writes down the answers that came. One that says less than OK is at risk until enough replicas have it; whether they had it by the
/// time of the answer, and whether the agent heard of it at all, no history of clients shows. So it may be said, and nothing else may.
fn answers(world: &mut World, asked: &mut Asked) {
    let promises = world.promises();
    for (id, slot) in std::mem::take(asked) {
        let Some(answer) = slot.lock().expect("one thread").take() else {
            asked.push((id, slot.clone()));
            continue;
        };
        world.note(format_args!("answer to {id}: {answer:?}"));
        let sent = world.oracle.sent.get_mut(&id).expect("it was sent");
        let Ok(stored) = answer else {
            sent.refused = true;
            continue;
        };
        let is_ok = stored[0].status == SendStatus::Ok;
        sent.answered = Some((stored[0].queue_id, stored[0].queue_offset, promises && is_ok));
        if !is_ok {
            world.may_be_said.insert((String::new(), format!("at risk:{id}")));
        }
    }
}

fn fail_over(world: &mut World, name: &str, death: Death) {
    let group = owed(world, name);
    let old = world.group().acting;
    let others: Vec<usize> = (0..world.group().members.len()).filter(|who| *who != old).collect();
    let behind = world.rng.below(2) == 0;
    world.agent.cut_off(behind);
    some_lag(world);
    let count = 1 + world.rng.below(6);
    let mut asked = ask_some(world, name, count);
    if world.rng.below(3) == 0 {
        // until nobody waits for replicas any more
        world.pass(4_000);
    }
    if !behind && world.rng.below(2) == 0 {
        world.catch_up();
    }
    let at = world.position(Reader::of(&group, name), 0).unwrap_or(0);
    world.pull(Reader::of(&group, name), 0, at, 32);
    let had = kept(world, old);
    let held: Vec<BTreeSet<String>> = (0..world.group().members.len()).map(|who| held(world, who)).collect();
    end(world, old, death);
    answers(world, &mut asked);
    let to = others[world.rng.below(others.len() as u64) as usize];
    if death == Death::KilledThenHeir {
        die_at_an_effect(world, to, |world| world.stand(to, true));
    }
    // it may have come so far that it is master already
    let is_master = world.group().acting == to && world.core.as_ref().is_some_and(|core| !core.is_slave());
    if !is_master && !world.stand(to, true) {
        world.broken.push(format!("m{to} cannot become master with every other member there"));
        return;
    }
    if death == Death::HandedOver {
        world.pass(SETTLE_MS);
    }
    answers(world, &mut asked);
    judge_loss(world, &group, death, &held[to]);
    world.agent.cut_off(false);
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    if death == Death::CutOff {
        ask_old_master(world, old, name);
    }
    come_back(world, old, death, &had);
    world.consume(Reader::of(&group, name), 1);
    rest(world);
    answers(world, &mut asked);
}

/// Does something with a disk that fails for good after some further effect; then the member starts on what its disk has.
fn die_at_an_effect(world: &mut World, who: usize, what: impl FnOnce(&mut World) -> bool) {
    let after = world.rng.below(40);
    world.note(format_args!("m{who} dies after {after} effects"));
    world.with_group(|group, _| group.members[who].die_after(after));
    let done = what(world);
    let died = world.with_group(|group, now| {
        let died = !done || group.members[who].standing().is_none();
        group.members[who].live_again();
        if died {
            group.died(who, now);
        }
        died
    });
    if died {
        world.oracle.count("died at an effect");
        assert!(world.start_member(who), "the disk works again");
    }
}

/// Ids of what lies in a member's log.
fn held(world: &World, who: usize) -> BTreeSet<String> {
    let member = &world.group().members[who];
    let Some(core) = &member.core else { return BTreeSet::new() };
    let all = (core.log_start(), core.log_view().end);
    ids_in(&log_bytes(&member.disk, core, all)).into_iter().collect()
}

fn kept(world: &World, who: usize) -> BTreeSet<String> {
    survivors(&world.group().members[who]).into_iter().map(|(name, _, _)| name).collect()
}

/// The master's part ends; what it holds then is written down.
fn end(world: &mut World, old: usize, death: Death) {
    scan(world);
    let head = world.core.as_ref().map(|core| core.journal_head().0);
    world.heard_all = head.is_none_or(|head| world.agent.has_read(head));
    world.note(format_args!("m{old} ends"));
    // what is lost with it may be what it had said of deliveries
    let now_ms = world.elapsed_ms();
    world.untold.push(now_ms);
    let seeds: Vec<u64> = (0..world.group().members.len()).map(|_| world.rng.next_u64()).collect();
    world.with_group(|group, now| {
        match death {
            Death::CutOff => return group.cut(old, (true, true)),
            Death::HandedOver => return group.cut(old, (false, false)),
            Death::Killed | Death::KilledThenHeir | Death::KilledTwice => group.members[old].kill(),
            Death::PowerCut => group.members[old].power_cut(seeds[old]),
            Death::Destroyed => {
                group.members[old].kill();
                group.members[old].is_gone = true;
            }
            Death::AllPowerCut => {
                for (who, seed) in seeds.iter().enumerate() {
                    group.members[who].power_cut(*seed);
                    group.lost_member(who, now.mono_ms);
                }
            }
        }
        group.lost_member(old, now.mono_ms);
        group.cut(old, (false, false));
    });
    if death != Death::HandedOver {
        world.agent.broker_gone(&mut world.rng);
    }
    if death == Death::AllPowerCut {
        let count = seeds.len();
        for who in (0..count).filter(|who| *who != old) {
            assert!(world.start_member(who), "its disk works");
        }
        // its own start: a replica for now, whoever is elected
        world.with_group(|group, now| {
            let part = broker::replication::mastership::Part::Slave;
            assert!(group.open(old, part, now), "it opens");
        });
    }
}

/// What the new master does not hold is gone for clients: the agent has to say so, and no promise may have covered it.
fn judge_loss(world: &mut World, group: &str, death: Death, held: &BTreeSet<String>) {
    let (disk, run) = (world.disk.clone(), world.run);
    let destroyed = world.oracle.destroyed_by(NOT_REPLICATED, &disk, run);
    for unit in destroyed.iter().filter(|unit| is_users(&unit.topic)) {
        // the new master had it, and lost it from its own disk
        if world.oracle.ever.get(unit).is_some_and(|id| held.contains(id)) {
            if death != Death::AllPowerCut {
                world.broken.push(format!("the new master had {unit}, and no power cut took it"));
            }
            world.oracle.expect("", unit, Class::StoredNotFlushedLost);
            // that it had received it may not have been told any more
            world.looks_like.insert((String::new(), unit.to_string()), NOT_REPLICATED);
        }
    }
    let count = destroyed.len();
    world.note(format_args!("destroyed {count}"));
    if world.group().waits() && death != Death::AllPowerCut {
        // nobody reads what is not confirmed, but what was answered with less than OK: nobody is waited for there any more
        let shown: Vec<String> = destroyed
            .iter()
            .filter(|unit| {
                let place = Unit { epoch: 0, ..(*unit).clone() };
                let id = world.oracle.ever.get(*unit);
                let answered =
                    id.and_then(|id| world.oracle.sent.get(id)).is_some_and(|s| s.answered.is_some());
                !answered && world.oracle.handed.get(group).is_some_and(|handed| handed.contains(&place))
            })
            .map(|unit| format!("shown, then vanished: {unit}"))
            .collect();
        world.broken.extend(shown);
    }
    if count > 0 {
        world.oracle.count("something was not replicated");
    }
    if !world.heard_all {
        world.unseen.extend(destroyed.iter().map(ToString::to_string));
    }
    let start = world.group().start;
    let keeps = match death {
        Death::AllPowerCut => world.group().waits() && world.is_sync() && start.ack == ReplicaAck::Flushed,
        _ => world.group().waits(),
    };
    let wrong = world.oracle.lost_writes(&destroyed, |durable| durable && keeps);
    world.broken.extend(wrong);
}

/// A client that still speaks to the old master gets no OK from it where replicas are waited for.
fn ask_old_master(world: &mut World, old: usize, name: &str) {
    let id = world.oracle.new_id();
    let answer = world.ask_member(old, Parcel::to(name, 0), &id);
    world.note(format_args!("the old master answers {answer:?}"));
    let is_ok = answer.is_some_and(|answer| answer.is_ok_and(|at| at[0].status == SendStatus::Ok));
    if is_ok && world.group().waits() {
        world.broken.push(format!("two masters: m{old} confirmed {id} after another one was elected"));
    }
    world.oracle.count("sent to a master that lost");
}

/// The old master's folder is there again, or a new machine in its place.
fn come_back(world: &mut World, old: usize, death: Death, had: &BTreeSet<String>) {
    match death {
        Death::CutOff => world.with_group(|group, now| {
            // it is told by an operator, or started anew
            group.members[old].kill();
            group.lost_member(old, now.mono_ms);
        }),
        Death::Destroyed => world.with_group(|group, _| group.members[old].replace()),
        _ => {}
    }
    world.with_group(|group, _| group.cut(old, (false, false)));
    if death != Death::AllPowerCut && death != Death::HandedOver {
        assert!(world.start_member(old), "its disk works");
    }
    let alone = alone(world, old);
    let lost = ids_in(&alone.1);
    world.note(format_args!("m{old} alone holds {} bytes from {}: {lost:?}", alone.1.len(), alone.0.0));
    if !lost.is_empty() {
        world.oracle.count("survivor file");
    }
    if death == Death::KilledTwice {
        die_at_an_effect(world, old, |world| {
            world.pass(SETTLE_MS);
            true
        });
    }
    world.pass(SETTLE_MS);
    if ![Death::AllPowerCut, Death::Destroyed, Death::HandedOver].contains(&death) {
        let wrong = check_survivor(had, alone, &world.group().members[old]);
        world.broken.extend(wrong);
    }
}

/// What a member holds above the place where its log parts from the master's.
fn alone(world: &World, who: usize) -> (LogPosition, Vec<u8>) {
    let member = &world.group().members[who];
    let (Some(core), Some(master)) = (&member.core, &world.core) else { return (LogPosition(0), Vec::new()) };
    let view = core.log_view();
    let Ok(fork) = common_position(&master.log_view(), &view) else { return (view.end, Vec::new()) };
    (fork, log_bytes(&member.disk, core, (fork, view.end)))
}

/// Until everybody has everything; then the copies are compared.
pub(super) fn rest(world: &mut World) {
    world.pass(SETTLE_MS);
    let mut wrong = world.with_group(|group, _| group.differences());
    for _ in 0..20 {
        if wrong.is_empty() {
            return;
        }
        world.pass(500);
        wrong = world.with_group(|group, _| group.differences());
    }
    world.broken.extend(wrong);
}

/// Everybody has everything, every send was answered, and the group has read on.
fn whole_again(world: &mut World, (group, topic): (&str, &str), asked: &mut Asked) {
    rest(world);
    answers(world, asked);
    world.consume(Reader::of(group, topic), 1);
}

fn a_replica(world: &mut World) -> usize {
    let acting = world.group().acting;
    let others: Vec<usize> = (0..world.group().members.len()).filter(|who| *who != acting).collect();
    others[world.rng.below(others.len() as u64) as usize]
}

/// Nothing is lost by a replica's death: the master goes on, the replica catches up.
fn replica_killed(world: &mut World, name: &str) {
    let group = owed(world, name);
    let who = a_replica(world);
    let (power, seed) = (world.rng.below(2) == 0, world.rng.next_u64());
    let mut asked = ask_some(world, name, 1);
    world.note(format_args!("m{who} dies, power cut {power}"));
    world.with_group(|group, now| {
        match power {
            true => group.members[who].power_cut(seed),
            false => group.members[who].kill(),
        }
        group.lost_member(who, now.mono_ms);
    });
    let count = world.rng.below(4);
    asked.extend(ask_some(world, name, count));
    assert!(world.start_member(who), "its disk works");
    whole_again(world, (&group, name), &mut asked);
}

/// Stopped, not dead: its connection stands until somebody finds the silence too long.
fn replica_stopped(world: &mut World, name: &str) {
    let group = owed(world, name);
    let who = a_replica(world);
    let ms = 1_000 + world.rng.below(14_000);
    world.note(format_args!("m{who} is stopped for {ms} ms"));
    world.with_group(|group, _| group.members[who].is_paused = true);
    let mut asked = ask_some(world, name, 4);
    world.pass(ms);
    asked.extend(ask_some(world, name, 2));
    world.with_group(|group, _| group.members[who].is_paused = false);
    whole_again(world, (&group, name), &mut asked);
}

/// The replica cannot keep more: it stops where it is, and goes on from there once it can.
fn replica_disk_full(world: &mut World, name: &str) {
    let group = owed(world, name);
    let who = a_replica(world);
    let bytes = world.rng.below(2_000);
    world.note(format_args!("the disk of m{who} is full after {bytes} bytes"));
    world.with_group(|group, _| group.members[who].full_after(bytes));
    let mut asked = ask_some(world, name, 8);
    world.pass(1_000);
    world.with_group(|group, _| group.members[who].live_again());
    if world.group().members[who].core.is_none() {
        world.oracle.count("died of a full disk");
        assert!(world.start_member(who), "its disk works");
    }
    whole_again(world, (&group, name), &mut asked);
}

/// The replica's disk dies after some further effect, wherever that is: in its log, its journal, a flush or a slot.
fn replica_dies_between_effects(world: &mut World, name: &str) {
    let group = owed(world, name);
    let who = a_replica(world);
    let after = world.rng.below(24);
    world.note(format_args!("m{who} dies after {after} effects"));
    world.with_group(|group, _| group.members[who].die_after(after));
    let mut asked = ask_some(world, name, 8);
    let died = world.with_group(|group, now| {
        let died = group.members[who].core.is_none();
        group.members[who].kill();
        group.members[who].live_again();
        group.lost_member(who, now.mono_ms);
        died
    });
    if died {
        world.oracle.count("died at an effect");
    }
    assert!(world.start_member(who), "its disk works");
    whole_again(world, (&group, name), &mut asked);
}
