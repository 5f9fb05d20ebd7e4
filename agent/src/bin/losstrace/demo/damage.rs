//! Owns what the demo does to its messages: traffic that stays healthy, and one function per loss. Each notes in the injector's ledger
//! what it destroyed, by what the clients themselves were told.

use super::agent::Report;
use super::process::until;
use super::remoting::{Client, Message, READ_ONLY, new_id};
use super::site::{Broker, Site};
use super::truth::{Healthy, Key, Loss, Sent, Truth, ids, ids_in};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const BODY_BYTES: usize = 64;
/// Bodies that fill a small segment soon.
const FILLER_BYTES: usize = 6 * 1024;
const EXPIRY_MAX: Duration = Duration::from_secs(20);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// What only producers can name, and what nobody can.
const REPORTED: usize = 3;
const NAMELESS: usize = 4;

/// Sends to one queue; every send must be answered OK.
fn send(
    truth: &mut Truth,
    broker: &Broker,
    client: &mut Client,
    (topic, count): (&str, usize),
) -> Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for _ in 0..count {
        let id = new_id();
        let place = client.send(topic, 0, (&id, BODY_BYTES))?;
        sent.push(Sent { id, broker: broker.name.to_owned(), topic: topic.to_owned(), place });
    }
    truth.sent.extend(sent.iter().cloned());
    Ok(sent)
}

/// Pulls exactly these messages.
fn consume(client: &mut Client, group: &str, topic: &str, sent: &[Sent]) -> Result<Vec<Message>> {
    let Some(first) = sent.first() else { return Ok(Vec::new()) };
    let mut pulled = Vec::new();
    while pulled.len() < sent.len() {
        let from = first.place.offset + pulled.len() as u64;
        let more = client.pull(group, (topic, 0), from, (sent.len() - pulled.len()) as u32)?;
        ensure!(!more.is_empty(), "{topic} has nothing at offset {from}");
        pulled.extend(more);
    }
    let wanted = sent.iter().map(|sent| &sent.id);
    ensure!(
        pulled.iter().map(|message| &message.id).eq(wanted),
        "{topic} delivers other messages than were sent"
    );
    Ok(pulled)
}

/// Sent, consumed, committed: nothing may be said about these.
pub(super) fn healthy(truth: &mut Truth, broker: &Broker, topic: &str, group: &str) -> Result<Vec<Sent>> {
    let mut client = broker.client(&format!("{group}-1"))?;
    client.create_topic(topic, 1)?;
    client.join(group, topic)?;
    let sent = send(truth, broker, &mut client, (topic, 20))?;
    consume(&mut client, group, topic, &sent)?;
    client.commit(group, (topic, 0), end(&sent))?;
    client.leave(group)?;
    note_healthy(truth, broker, (topic, group), ids(&sent));
    Ok(sent)
}

fn note_healthy(truth: &mut Truth, broker: &Broker, (topic, group): (&str, &str), ids: BTreeSet<String>) {
    let known =
        truth.healthy.iter_mut().find(|h| h.broker == broker.name && h.topic == topic && h.group == group);
    match known {
        Some(healthy) => healthy.ids.extend(ids),
        None => {
            let [broker, topic, group] = [broker.name, topic, group].map(str::to_owned);
            truth.healthy.push(Healthy { broker, topic, group, ids, lost_in_store: 0 });
        }
    }
}

fn end(sent: &[Sent]) -> u64 {
    sent.last().map_or(0, |sent| sent.place.offset + 1)
}

/// An operator sets a group's position over messages it has not read.
pub(super) fn skipped_by_reset(truth: &mut Truth, broker: &Broker) -> Result<()> {
    let (topic, group) = ("stock", "auditors");
    let mut member = broker.client("auditors-1")?;
    member.create_topic(topic, 1)?;
    member.join(group, topic)?;
    let sent = send(truth, broker, &mut member, (topic, 10))?;
    let (read, rest) = sent.split_at(4);
    let (skipped, after) = rest.split_at(4);
    consume(&mut member, group, topic, read)?;
    member.commit(group, (topic, 0), end(read))?;
    member.leave(group)?;
    broker.client("operator")?.commit(group, (topic, 0), end(skipped))?;
    member.join(group, topic)?;
    consume(&mut member, group, topic, after)?;
    member.commit(group, (topic, 0), end(after))?;
    let key = Key::new("skipped-by-offset-reset", broker.name, topic, group);
    truth.loss("an operator reset the offset forward", key, ids(skipped), "operator");
    Ok(())
}

/// A member commits what it was never handed.
pub(super) fn acked_without_delivery(truth: &mut Truth, broker: &Broker) -> Result<()> {
    let (topic, group) = ("mails", "mailers");
    let mut member = broker.client("mailers-1")?;
    member.create_topic(topic, 1)?;
    member.join(group, topic)?;
    let sent = send(truth, broker, &mut member, (topic, 10))?;
    let (read, rest) = sent.split_at(3);
    let (passed, after) = rest.split_at(4);
    consume(&mut member, group, topic, read)?;
    member.commit(group, (topic, 0), end(passed))?;
    consume(&mut member, group, topic, after)?;
    member.commit(group, (topic, 0), end(after))?;
    let key = Key::new("acked-without-delivery", broker.name, topic, group);
    truth.loss("a consumer committed past what it pulled", key, ids(passed), "never handed");
    Ok(())
}

/// One-way sends to a topic that takes none: the producer hears nothing.
pub(super) fn refused_one_way(truth: &mut Truth, broker: &Broker) -> Result<()> {
    let topic = "archive";
    let mut client = broker.client("archiver")?;
    client.set_topic(topic, 1, READ_ONLY)?;
    let refused: BTreeSet<String> = (0..3).map(|_| new_id()).collect();
    for id in &refused {
        client.send_one_way(topic, id)?;
    }
    // answered after them: the connection is served in order
    client.min_offset(topic, 0)?;
    let key = Key::new("send-refused", broker.name, topic, "");
    truth.loss("one-way sends were refused", key, refused, "one-way");
    Ok(())
}

/// A producer believes in sends that no broker has; and others are reported that are well.
pub(super) fn never_stored(truth: &mut Truth, site: &Site, well: &[Sent]) -> Result<()> {
    let topic = "orders-out";
    let lost: BTreeSet<String> = (0..3).map(|_| new_id()).collect();
    let nowhere = lost.iter().map(|id| Report { id: id.clone(), topic: topic.to_owned(), answer: None });
    let with_answer = well.iter().take(4).map(report);
    let without = well.iter().skip(4).take(4).map(|sent| Report { answer: None, ..report(sent) });
    site.api.report(&nowhere.chain(with_answer).chain(without).collect::<Vec<_>>())?;
    let key = Key::new("never-stored", "reports", topic, "");
    truth.loss("producers were told OK, nobody stored it", key, lost, "no source stored it");
    Ok(())
}

fn report(sent: &Sent) -> Report {
    let Sent { id, broker, topic, place } = sent;
    let answer = Some((broker.clone(), place.queue_id, place.offset));
    Report { id: id.clone(), topic: topic.clone(), answer }
}

/// A consumer fails on every attempt, until the messages are dead.
pub(super) fn dead_lettered(truth: &mut Truth, broker: &Broker, topic: &str, group: &str) -> Result<()> {
    let mut member = broker.client(&format!("{group}-1"))?;
    member.create_topic(topic, 1)?;
    member.join(group, topic)?;
    let sent = send(truth, broker, &mut member, (topic, 5))?;
    let (fine, failing) = sent.split_at(2);
    consume(&mut member, group, topic, fine)?;
    let failed = consume(&mut member, group, topic, failing)?;
    for message in &failed {
        member.send_back(group, topic, message)?;
    }
    member.commit(group, (topic, 0), end(&sent))?;
    let retry = format!("%RETRY%{group}");
    let again = until("the retries to be due", RETRY_MAX, || {
        let found = member.pull(group, (&retry, 0), 0, failed.len() as u32)?;
        ensure!(found.len() == failed.len(), "{} of {} are due", found.len(), failed.len());
        Ok(found)
    })?;
    for message in &again {
        member.send_back(group, topic, message)?;
    }
    member.commit(group, (&retry, 0), again.len() as u64)?;
    let dead = format!("%DLQ%{group}");
    let key = Key::new("dead-lettered", broker.name, &dead, group);
    truth.loss("consumption failed until out of retries", key, ids(failing), "out of attempts");
    Ok(())
}

/// The same over gRPC, beside messages that are acknowledged: leases instead of offsets, and no retry copies.
pub(super) fn dead_lettered_over_grpc(truth: &mut Truth, broker: &Broker) -> Result<()> {
    let (topic, group) = ("parcels", "couriers");
    broker.client("couriers-admin")?.create_topic(topic, 1)?;
    let mut client = broker.grpc_client("couriers-1")?;
    let mut sent = Vec::new();
    for _ in 0..12 {
        let id = new_id();
        let place = client.send(topic, &id)?;
        sent.push(Sent { id, broker: broker.name.to_owned(), topic: topic.to_owned(), place });
    }
    truth.sent.extend(sent.iter().cloned());
    let (fine, failing) = sent.split_at(9);
    let (fine, failing) = (ids(fine), ids(failing));
    let (mut acked, mut nacked) = (BTreeSet::new(), 0);
    until("two attempts of every message that fails", RETRY_MAX, || {
        for message in client.receive(group, topic)? {
            if fine.contains(&message.id) {
                client.ack(group, topic, &message)?;
                acked.insert(message.id);
            } else {
                client.nack(group, topic, &message)?;
                nacked += 1;
            }
        }
        ensure!(acked == fine && nacked == 2 * failing.len(), "{} acks, {nacked} nacks", acked.len());
        Ok(())
    })?;
    let dead = format!("%DLQ%{group}");
    let mut operator = broker.client("couriers-admin")?;
    let stored = until("the dead letters", RETRY_MAX / 3, || {
        let count = operator.max_offset(&dead, 0)?;
        ensure!(count == failing.len() as u64, "the dead-letter queue has {count} messages");
        Ok(())
    });
    if let Err(error) = stored {
        truth.complaints.push(format!("the broker did not move what was out of attempts: {error:#}"));
    }
    let key = Key::new("dead-lettered", broker.name, &dead, group);
    truth.loss("the same over gRPC: nacked until out of attempts", key, failing, "out of attempts");
    truth.settled.extend(fine.into_iter().map(|id| (id, group.to_owned())));
    Ok(())
}

/// Retention takes messages before one group has read them, and dead letters before anybody has looked at them.
pub(super) fn expired(truth: &mut Truth, broker: &Broker) -> Result<()> {
    let (topic, slow, fast) = ("events", "slow-readers", "fast-readers");
    let mut client = broker.client("slow-readers-1")?;
    client.create_topic(topic, 1)?;
    client.join(slow, topic)?;
    let mut other = broker.client("fast-readers-1")?;
    other.join(fast, topic)?;
    let sent = send(truth, broker, &mut other, (topic, 12))?;
    consume(&mut other, fast, topic, &sent)?;
    other.commit(fast, (topic, 0), end(&sent))?;
    let (read, unread) = sent.split_at(5);
    consume(&mut client, slow, topic, read)?;
    client.commit(slow, (topic, 0), end(read))?;
    dead_lettered(truth, broker, "bills", "billing")?;
    client.create_topic("noise", 1)?;
    let dead = "%DLQ%billing";
    until("retention to delete", EXPIRY_MAX, || {
        client.send("noise", 0, (&new_id(), FILLER_BYTES))?;
        let (events, letters) = (client.min_offset(topic, 0)?, client.min_offset(dead, 0)?);
        ensure!(events == end(&sent) && letters > 0, "deleted {events} events, {letters} dead letters");
        Ok(())
    })?;
    let key = Key::new("expired-before-consumption", broker.name, topic, slow);
    truth.loss("retention was faster than a group", key, ids(unread), "fileReservedTimeMs=1500");
    note_healthy(truth, broker, (topic, fast), ids(&sent));
    let Some(letters) = truth.losses.iter_mut().find(|loss| loss.key.topic == dead) else {
        anyhow::bail!("no dead letters in the ledger");
    };
    letters.superseded = true;
    let key = Key::new("dlq-expired", broker.name, dead, "billing");
    let expired =
        Loss { key, superseded: false, cause: "fileReservedTimeMs=1500".to_owned(), ..letters.clone() };
    truth.losses.push(Loss { what: "retention deleted dead letters nobody took".to_owned(), ..expired });
    Ok(())
}

/// ASYNC_FLUSH and a power cut, in three layers: what the agent had heard, what only a producer reports, what nobody can name.
pub(super) fn power_cut(truth: &mut Truth, site: &mut Site) -> Result<()> {
    let (topic, group) = ("payments", "bookkeepers");
    // everything so far is safe: a clean stop flushes, and must not look like a loss either
    let mut client = site.power_cut.client("bookkeepers-1")?;
    client.create_topic(topic, 1)?;
    client.join(group, topic)?;
    let safe = send(truth, &site.power_cut, &mut client, (topic, 6))?;
    consume(&mut client, group, topic, &safe)?;
    client.commit(group, (topic, 0), end(&safe))?;
    drop(client);
    site.power_cut.stop()?;
    site.power_cut.start()?;

    let mut client = site.power_cut.client("bookkeepers-2")?;
    let heard = send(truth, &site.power_cut, &mut client, (topic, 8))?;
    site.until_agent_has("demo-a", topic, (safe.len() + heard.len()) as u64)?;
    site.link.cut();
    let unheard = send(truth, &site.power_cut, &mut client, (topic, REPORTED + NAMELESS))?;
    let undone = site.power_cut.cut_power()?;
    let kept = ids_in(&site.power_cut.commit_log()?);
    let sent = truth.sent.iter().filter(|sent| sent.broker == "demo-a");
    let destroyed: BTreeSet<String> =
        sent.filter(|sent| !kept.contains(&sent.id)).map(|s| s.id.clone()).collect();
    let (reported, nameless) = unheard.split_at(REPORTED);
    let newest = ids(heard.iter().chain(&unheard));
    ensure!(destroyed == newest, "the power cut did not take what it should: {undone:?}, {destroyed:?}");
    truth.nameless = nameless.to_vec();
    let key = Key::new("stored-not-flushed-lost", "demo-a", topic, "");
    let named = ids(heard.iter().chain(reported));
    truth.loss("power cut under ASYNC_FLUSH", key, named, "flushDiskType=ASYNC_FLUSH");

    site.link.mend();
    site.api.report(&reported.iter().map(report).collect::<Vec<_>>())?;
    site.power_cut.start()?;
    // life goes on, on the very offsets that are free again
    let mut client = site.power_cut.client("bookkeepers-3")?;
    client.join(group, topic)?;
    let after = send(truth, &site.power_cut, &mut client, (topic, 10))?;
    ensure!(
        after.first().map(|s| s.place.offset) == Some(end(&safe)),
        "the new messages do not follow what was kept"
    );
    consume(&mut client, group, topic, &after)?;
    client.commit(group, (topic, 0), end(&after))?;
    note_healthy(truth, &site.power_cut, (topic, group), ids(safe.iter().chain(&after)));
    if let Some(readers) = truth.healthy.iter_mut().find(|healthy| healthy.group == group) {
        readers.lost_in_store = heard.len() as u64;
    }
    Ok(())
}

/// All of it, in the order in which it must happen; says how long each took.
pub(super) fn cause_all(truth: &mut Truth, site: &mut Site) -> Result<()> {
    let begin = Instant::now();
    let say = |what: &str| println!("  {:>5.1} s  {what}", begin.elapsed().as_secs_f32());
    let well = healthy(truth, &site.power_cut, "orders", "shipping")?;
    say("healthy traffic: sent, consumed, committed");
    skipped_by_reset(truth, &site.power_cut)?;
    acked_without_delivery(truth, &site.power_cut)?;
    refused_one_way(truth, &site.power_cut)?;
    never_stored(truth, site, &well)?;
    say("offset reset, commit without delivery, refused one-way sends, sends nobody stored");
    dead_lettered(truth, &site.power_cut, "invoices", "invoicing")?;
    dead_lettered_over_grpc(truth, &site.power_cut)?;
    say("consumption failed until out of retries, over both protocols");
    expired(truth, &site.short_retention)?;
    say("retention deleted unread messages and dead letters");
    power_cut(truth, site)?;
    say("power cut: killed, unsynced writes undone, started again");
    healthy(truth, &site.power_cut, "orders", "shipping")?;
    say("healthy traffic again");
    Ok(())
}
