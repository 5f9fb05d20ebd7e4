//! Owns the faults: each act injects one kind, on topics and groups of its own, and writes down from the clients' history and the
//! scan which verdicts must follow. Never reads the agent. Called by a plan, in seeded order.

use crate::clients::{Handed, Parcel, Reader};
use crate::oracle::Unit;
use crate::world::World;
use agent::fold::class::Class;
use broker::api::{Answer, ReplyFn, Request, StartPolicy};
use lifecycle::fact::{ConsumeModel, SendOutcome};
use store::disk_sim::SimFaults;

/// Longer than any delay of the feed, and than a journal flush.
const SETTLE_MS: u64 = 2_500;

/// One kind of fault, or of healthy churn.
#[derive(Clone, Copy)]
pub(crate) struct Act {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut World, &str),
}

/// Faults that concern only their own topic; any order.
pub(crate) const LOCAL: [Act; 12] = [
    NEVER_ARRIVED,
    Act { name: "early commit", run: early_commit },
    Act { name: "offset reset", run: offset_reset },
    Act { name: "filter conflict", run: filter_conflict },
    Act { name: "one-way send refused", run: one_way_refused },
    Act { name: "answer lost", run: answer_lost },
    Act { name: "producer retry", run: producer_retry },
    Act { name: "full disk at a send-back", run: send_back_fails },
    Act { name: "full disk at a dead letter", run: dead_letter_fails },
    OUT_OF_ATTEMPTS,
    Act { name: "consumer death", run: consumer_death },
    Act { name: "full disk at a send", run: full_disk_at_send },
];

pub(crate) const NEVER_ARRIVED: Act = Act { name: "report of a send that never arrived", run: never_arrived };
pub(crate) const OUT_OF_ATTEMPTS: Act = Act { name: "out of attempts", run: out_of_attempts };

/// Faults of the machine; any order.
pub(crate) const MACHINE: [Act; 6] = [
    Act { name: "power cut", run: power_cut },
    Act { name: "power cut, feed behind", run: power_cut_behind },
    Act { name: "kill", run: kill },
    Act { name: "bit flip below the flushed mark", run: bit_flip },
    Act { name: "slow flush", run: slow_flush },
    Act { name: "flushes that keep nothing", run: flushes_lie },
];

/// What ends a plan: these concern everything that lies about.
pub(crate) const ENDS: [Act; 3] = [
    Act { name: "retention by age", run: retention_by_age },
    Act { name: "retention by size", run: retention_by_size },
    Act { name: "retry topic not read", run: retry_not_read },
];

/// Evidence itself is destroyed.
pub(crate) const JOURNAL_LOST: Act = Act { name: "lost journal segment", run: journal_lost };

fn some(world: &mut World) -> u64 {
    2 + world.rng.below(5)
}

/// A topic of one queue and a group that owes it from the start.
fn owed(world: &mut World, name: &str, count: u64) -> (String, Vec<String>) {
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    world.join(Reader::of(&group, name), ConsumeModel::Clustering, StartPolicy::First);
    let ids = world.send_many(Parcel::to(name, 0), count);
    (group, ids)
}

fn unit(world: &mut World, topic: &str, queue: u32, offset: u64) -> Unit {
    world.oracle.unit(topic, queue, offset).expect("it is in the log")
}

fn scan(world: &mut World) -> Vec<Unit> {
    let (disk, run) = (world.disk.clone(), world.run);
    world.oracle.scan(&disk, run)
}

fn expect_range(world: &mut World, group: &str, topic: &str, range: std::ops::Range<u64>, class: Class) {
    scan(world);
    for offset in range {
        let unit = unit(world, topic, 0, offset);
        world.oracle.expect(group, unit, class);
    }
}

fn early_commit(world: &mut World, name: &str) {
    let (count, lost) = (some(world), some(world));
    let (group, _) = owed(world, name, count + lost);
    let reader = Reader::of(&group, name);
    world.pull(reader, 0, 0, count as u32);
    assert_eq!(world.set_offset(reader, 0, count + lost), Ok(()));
    expect_range(world, &group, name, count..count + lost, Class::AckedWithoutDelivery);
}

fn offset_reset(world: &mut World, name: &str) {
    let (count, lost) = (some(world), some(world));
    let (group, _) = owed(world, name, count + lost + 2);
    let reader = Reader::of(&group, name);
    world.pull(reader, 0, 0, count as u32);
    assert_eq!(world.set_offset(reader, 0, count), Ok(()));
    let operator = Reader { client: "operator", ..reader };
    assert_eq!(world.set_offset(operator, 0, count + lost), Ok(()));
    world.consume(reader, 1);
    expect_range(world, &group, name, count..count + lost, Class::SkippedByOffsetReset);
}

fn filter_conflict(world: &mut World, name: &str) {
    world.create(name, 2, 6);
    let group = format!("g-{name}");
    let members = ["a", "b"].map(|tag| (format!("{group}-{tag}"), tag));
    for (client, tag) in &members {
        let reader = Reader { group: &group, client, topic: name, expression: tag };
        world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
    }
    let mut tags = Vec::new();
    for queue in 0..2 {
        for offset in 0..some(world) {
            let tag = ["a", "b", "c"][world.rng.below(3) as usize];
            world.send(Parcel { tag, ..Parcel::to(name, queue) });
            tags.push((queue, offset, tag));
        }
    }
    for (queue, (client, tag)) in members.iter().enumerate() {
        let reader = Reader { group: &group, client, topic: name, expression: tag };
        let (_, next) = world.pull(reader, queue as u32, 0, 32);
        assert_eq!(world.set_offset(reader, queue as u32, next), Ok(()));
    }
    scan(world);
    for (queue, offset, tag) in tags {
        let (_, wanted) = members[queue as usize];
        if tag != "c" && tag != wanted {
            let unit = unit(world, name, queue, offset);
            world.oracle.expect(&group, unit, Class::FilterConflict);
        }
    }
}

fn one_way_refused(world: &mut World, name: &str) {
    world.create(name, 1, 4);
    for _ in 0..some(world) {
        let id = world.oracle.new_id();
        world.try_send(Parcel { one_way: true, ..Parcel::to(name, 0) }, &id);
        world.oracle.expect("", format!("id:{id}"), Class::SendRefused);
    }
}

pub(crate) fn never_arrived(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    for _ in 0..some(world) {
        let outcome = if world.rng.below(2) == 0 { SendOutcome::Ok } else { SendOutcome::Unknown };
        let id = world.oracle.new_id();
        world.report(&id, name, outcome);
        world.oracle.expect("", format!("id:{id}"), Class::NeverStored);
    }
    world.pass(SETTLE_MS);
}

fn answer_lost(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    for _ in 0..some(world) {
        let id = world.send(Parcel::to(name, 0));
        world.report(&id, name, SendOutcome::Unknown);
        world.oracle.expect("", format!("id:{id}"), Class::StoredThoughUnacked);
    }
    world.pass(SETTLE_MS);
}

fn producer_retry(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    let count = some(world);
    for _ in 0..count {
        let id = world.send(Parcel::to(name, 0));
        world.try_send(Parcel::to(name, 0), &id);
    }
    scan(world);
    for offset in 0..count {
        let unit = unit(world, name, 0, 2 * offset + 1);
        world.oracle.expect("", unit, Class::Duplicate);
    }
    // both copies must still be there when the agent asks
    world.pass(SETTLE_MS);
}

/// Asks while nothing can be written; the answer comes when there is room again.
fn while_full<T: Send + 'static>(world: &mut World, request: impl FnOnce(ReplyFn<T>) -> Request) -> T {
    world.disk.set_faults(SimFaults { no_space_after_bytes: Some(0), ..SimFaults::default() });
    let slot = world.begin(request);
    world.pass(200);
    world.disk.set_faults(SimFaults::default());
    for _ in 0..100 {
        if let Some(answer) = slot.lock().expect("one thread").take() {
            return answer;
        }
        world.pass(50);
    }
    panic!("no answer although there is room again");
}

fn send_back_while_full(world: &mut World, reader: Reader<'_>, handed: &Handed, level: i32) {
    let back = reader.back(handed, level);
    let answer: Answer<()> = while_full(world, |reply| Request::SendBack(back, reply));
    assert!(answer.is_err(), "nothing can be written");
}

fn failing_copies(world: &mut World, name: &str, level: i32, class: Class) {
    let count = some(world);
    let (group, _) = owed(world, name, count);
    let reader = Reader::of(&group, name);
    let (handed, next) = world.pull(reader, 0, 0, 32);
    let lost = 1 + world.rng.below(count) as usize;
    for handed in &handed[..lost] {
        send_back_while_full(world, reader, handed, level);
    }
    assert_eq!(world.set_offset(reader, 0, next), Ok(()));
    expect_range(world, &group, name, 0..lost as u64, class);
}

fn send_back_fails(world: &mut World, name: &str) {
    failing_copies(world, name, 1, Class::SendBackFailedThenPassed);
}

fn dead_letter_fails(world: &mut World, name: &str) {
    failing_copies(world, name, -1, Class::DlqWriteFailed);
}

fn full_disk_at_send(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    for _ in 0..some(world) {
        let id = world.oracle.new_id();
        world.disk.set_faults(SimFaults { no_space_after_bytes: Some(0), ..SimFaults::default() });
        let answer = world.try_send(Parcel::to(name, 0), &id);
        assert!(!matches!(answer, Some(Ok(_))), "nothing can be written");
        world.disk.set_faults(SimFaults::default());
        world.pass(500);
        world.oracle.expect("", format!("id:{id}"), Class::SendRefused);
    }
}

/// Dead letters of this group, as they lie in the log.
fn expect_dead_letters(world: &mut World, group: &str) {
    scan(world);
    for unit in world.oracle.present_in(&format!("%DLQ%{group}")) {
        world.oracle.expect(group, unit, Class::DeadLettered);
    }
}

fn out_of_attempts(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    let reader = Reader::of(&group, name);
    world.join(reader, ConsumeModel::Lease, StartPolicy::First);
    let count = some(world);
    world.send_many(Parcel::to(name, 0), count);
    let dead = 1 + world.rng.below(count) as usize;
    let mut leased = world.receive(reader, 10_000);
    for (_, handle) in leased.split_off(dead) {
        assert!(world.ack(reader, &handle));
    }
    for _ in 0..8 {
        if leased.is_empty() {
            break;
        }
        for (_, handle) in &leased {
            world.nack(reader, handle);
        }
        leased = world.receive(reader, 10_000);
    }
    world.leave(reader.client);
    expect_dead_letters(world, &group);
    let letters = world.oracle.present_in(&format!("%DLQ%{group}")).len();
    assert_eq!(letters, dead, "every message out of attempts is a dead letter");
}

/// A member dies with messages in hand; another one gets them. Nothing is lost.
fn consumer_death(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    let group = format!("g-{name}");
    let (first, second) = (format!("{group}-1"), format!("{group}-2"));
    let reader = |client| Reader { group: &group, client, topic: name, expression: "*" };
    world.join(reader(&first), ConsumeModel::Lease, StartPolicy::First);
    let count = some(world);
    world.send_many(Parcel::to(name, 0), count);
    let held = world.receive(reader(&first), 1_000).len() as u64;
    world.die(&first);
    world.join(reader(&second), ConsumeModel::Lease, StartPolicy::First);
    world.pass(1_500);
    let settled = world.work(reader(&second));
    assert_eq!((held, settled), (count, count));
    world.leave(&second);
}

/// Sends, with no flush, then the power fails. `behind`: the agent hears nothing of them before.
fn cut_power(world: &mut World, name: &str, behind: bool, first_of_queue: bool) {
    world.create(name, 1, 6);
    // whether the agent knows the queue makes a difference
    if !first_of_queue {
        world.send(Parcel::to(name, 0));
    }
    world.pass(1_000);
    world.catch_up();
    world.agent.cut_off(behind);
    world.flushing = false;
    let count = 4 + world.rng.below(12);
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = world.oracle.new_id();
        let parcel = Parcel::to(name, 0);
        world.try_send(parcel, &id);
        ids.push(id);
        // each waits for a flush that does not come, until its client gives up
        if world.is_sync() && ids.len() >= 3 {
            break;
        }
    }
    for id in ids {
        let answered = world.oracle.sent[&id].answered.is_some();
        if answered && world.rng.below(2) == 0 {
            world.report(&id, name, SendOutcome::Ok);
        }
    }
    match behind {
        true => {
            let passed = world_ms(world, 300);
            world.pass(passed);
        }
        false => world.catch_up(),
    }
    world.power_cut();
    world.agent.cut_off(false);
    world.pass(SETTLE_MS);
}

fn world_ms(world: &mut World, below: u64) -> u64 {
    10 + world.rng.below(below)
}

fn power_cut(world: &mut World, name: &str) {
    let is_new = world.rng.below(2) == 0;
    cut_power(world, name, false, is_new);
}

fn power_cut_behind(world: &mut World, name: &str) {
    let is_new = world.rng.below(2) == 0;
    cut_power(world, name, true, is_new);
}

/// The same, in a queue the agent has never heard of.
pub(crate) fn power_cut_of_a_new_queue(world: &mut World, name: &str) {
    cut_power(world, name, true, true);
}

fn kill(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    let count = some(world);
    world.send_many(Parcel::to(name, 0), count);
    let passed = world_ms(world, 300);
    world.pass(passed);
    world.kill();
    world.pass(SETTLE_MS);
}

/// A record on disk is spoilt while the broker is down. Only what recovery reads again is noticed: behind the last snapshot.
fn bit_flip(world: &mut World, name: &str) {
    let first = world.rng.below(2);
    flip(world, name, first);
}

/// The same, in the first record of a queue.
pub(crate) fn bit_flip_of_the_first(world: &mut World, name: &str) {
    flip(world, name, 0);
}

fn flip(world: &mut World, name: &str, first: u64) {
    let count = some(world);
    world.create(name, 1, 6);
    world.send_many(Parcel::to(name, 0), count);
    world.pass(1_500);
    world.catch_up();
    scan(world);
    let offset = if first == 0 { 0 } else { first + world.rng.below(count - first) };
    let record = world.oracle.records[&(name.to_owned(), 0, offset)].clone();
    let (at, bit) = (record.body_at + world.rng.below(record.body_len), world.rng.below(8) as u8);
    world.flip_while_down(&record.path, at, bit);
    world.pass(SETTLE_MS);
}

/// The disk takes longer than the answer may wait; in the end it flushes.
fn slow_flush(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    world.pass(500);
    let count = if world.is_sync() { some(world) } else { 0 };
    world.flushing = false;
    let slots: Vec<_> = (0..count).map(|_| world.begin_send(Parcel::to(name, 0))).collect();
    world.pass(6_000);
    for (id, slot) in slots {
        let answer = slot.lock().expect("one thread").take().expect("answered in time").expect("stored");
        assert_eq!(answer[0].status, broker::api::SendStatus::FlushDiskTimeout);
        world.oracle.expect("", format!("at risk:{id}"), Class::AnsweredNotDurable);
    }
    world.catch_up();
    world.flushing = true;
    world.pass(SETTLE_MS);
}

/// The disk says that it flushed, and the broker says so too; then the power fails.
fn flushes_lie(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    world.send(Parcel::to(name, 0));
    world.pass(1_000);
    world.catch_up();
    world.disk.set_faults(SimFaults { syncs_lie: true, ..SimFaults::default() });
    let count = some(world);
    world.send_many(Parcel::to(name, 0), count);
    world.pass(1_000);
    world.catch_up();
    world.power_cut_of_a_liar();
    world.pass(SETTLE_MS);
}

/// Closes the log's current segment.
pub(crate) fn fill_segment(world: &mut World) {
    if world.oracle.present_in("filler").is_empty() {
        world.create("filler", 1, 6);
    }
    for _ in 0..45 {
        world.send(Parcel { body_bytes: 4_000, ..Parcel::to("filler", 0) });
    }
}

/// What retention took: debts of this group, and dead letters of any.
fn expect_expired(world: &mut World, group: &str, topic: &str) {
    for unit in scan(world) {
        if unit.topic == topic {
            world.oracle.expect(group, unit, Class::ExpiredBeforeConsumption);
        } else if let Some(owner) = unit.topic.strip_prefix("%DLQ%") {
            let owner = owner.to_owned();
            world.oracle.expect(&owner, unit, Class::DlqExpired);
        }
    }
}

fn retention_by_age(world: &mut World, name: &str) {
    let count = some(world);
    let (group, _) = owed(world, name, count);
    fill_segment(world);
    world.catch_up();
    scan(world);
    world.pass(3_700_000);
    expect_expired(world, &group, name);
    world.catch_up();
}

fn retention_by_size(world: &mut World, name: &str) {
    let count = some(world);
    let (group, _) = owed(world, name, count);
    fill_segment(world);
    world.catch_up();
    scan(world);
    world.fill_disk(85);
    world.pass(3_000);
    world.fill_disk(0);
    expect_expired(world, &group, name);
    world.catch_up();
}

/// A member of the group lives on and never fetches from its retry topic.
fn retry_not_read(world: &mut World, name: &str) {
    let count = some(world);
    let (group, _) = owed(world, name, count);
    let reader = Reader::of(&group, name);
    let (handed, next) = world.pull(reader, 0, 0, 32);
    for handed in &handed {
        assert_eq!(world.send_back(reader, handed, 1), Ok(()));
    }
    assert_eq!(world.set_offset(reader, 0, next), Ok(()));
    for _ in 0..6 {
        world.join(reader, ConsumeModel::Clustering, StartPolicy::First);
        world.pass(30_000);
        world.send(Parcel::to(name, 0));
        world.consume(reader, 1);
    }
    scan(world);
    for unit in world.oracle.present_in(&format!("%RETRY%{group}")) {
        world.oracle.expect(&group, unit, Class::StuckInRetry);
    }
}

/// Frames the agent has not read yet vanish with their file.
fn journal_lost(world: &mut World, name: &str) {
    world.create(name, 1, 6);
    // topics and groups are in a snapshot of the broker's state: it can start without its journal
    world.pass(40_000);
    world.send(Parcel::to(name, 0));
    world.pass(35_000);
    world.catch_up();
    world.agent.cut_off(true);
    let count = some(world);
    world.send_many(Parcel::to(name, 0), count);
    world.pass(1_000);
    let journal = std::path::Path::new(crate::world::DATA).join("journal");
    let lost = world.lose_files(|path| path.parent() == Some(&journal));
    assert!(lost > 0, "there was a journal");
    world.agent.cut_off(false);
    world.oracle.expect("", "evidence", Class::EvidenceGap);
    world.pass(20_000);
}
