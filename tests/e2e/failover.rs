//! A SYNC_MASTER and two replicas as processes, under load from a real SDK that is never restarted: the master is killed, a replica
//! promoted, the old master comes back. Nothing that was answered OK is lost, and what the old master alone held is kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use broker::replication::frame::{Ask, HEADER_LEN, Header, Message};
use tests::api::{AgentApi, class};
use tests::clients::Sdk::NodeRemoting;
use tests::clients::{Client, Events, Job};
use tests::config::Options;
use tests::ports::Port;
use tests::stand::{Role, Stand};
use tests::wait;
use wire::message::{MAGIC_V1, StoredMessage};

use crate::replication::{check_holds, send_signal, wait_same, wait_status};

const LIMIT: Duration = Duration::from_secs(40);
const TOPIC: &str = "failover";
/// Messages that only the old master has when the consumer is stopped, and that it has consumed.
const CONSUMED_ALONE: usize = 40;
const GROUP: &str = "failover-readers";

struct Group {
    stands: Vec<Stand>,
    ports: Vec<Port>,
}

impl Group {
    fn new() -> Result<Group> {
        let ports = (0..3).map(|_| Port::claim()).collect::<Result<Vec<_>>>()?;
        let stand = |number: usize| {
            let others = ports.iter().enumerate().filter(|(other, _)| *other != number);
            let others: Vec<String> = others.map(|(_, port)| port.address()).collect();
            let role = if number == 0 { "SYNC_MASTER" } else { "SLAVE" };
            let broker = format!(
                "broker_role = \"{role}\"\nreplica_id = \"member-{number}\"\nmembers = {others:?}\n\
                 replication_timeout_ms = 700"
            );
            let replication = ports.get(number).map(Port::address);
            Stand::new(Options { replication, broker, ..Options::default() })
        };
        let stands = (0..3).map(stand).collect::<Result<Vec<_>>>()?;
        Ok(Group { stands, ports })
    }

    fn name_servers(&self) -> String {
        let addresses: Vec<String> = self.stands.iter().map(|s| s.ports.name_server.address()).collect();
        addresses.join(";")
    }
}

/// An agent on a machine of its own: it follows whichever member is master.
fn observer(group: &Group) -> Result<Stand> {
    let feeds = group.stands.iter().map(|stand| format!("http://{}", stand.ports.feed.address()));
    let urls: Vec<String> = feeds.collect();
    let broker = format!("\n[[agent.feeds]]\nname = \"losstrace\"\nurls = {urls:?}");
    Stand::new(Options { broker, ..Options::default() })
}

/// Queue and offset of each message of the topic in these bytes.
fn places(bytes: &[u8]) -> Result<BTreeSet<(u64, u64)>> {
    let magic = MAGIC_V1.to_be_bytes();
    let mut found = BTreeSet::new();
    for at in 0..bytes.len().saturating_sub(8) {
        let record = bytes.get(at..).unwrap_or_default();
        if record.get(4..8) == Some(&magic)
            && let Ok((message, _)) = StoredMessage::decode(record)
            && message.topic == TOPIC
        {
            found.insert((u64::try_from(message.queue_id)?, message.queue_offset));
        }
    }
    Ok(found)
}

/// The agent tells where the messages stood that the old master alone held: it had heard of nearly all of them, and the rest is
/// within the stated bound. (This SDK gives its messages no ids.)
fn check_told(agent: &AgentApi, gone: &BTreeSet<(u64, u64)>) -> Result<()> {
    let (mut told, mut bound) = (BTreeSet::new(), 0);
    let incidents = agent.incidents()?;
    for incident in &incidents {
        match incident.class.as_str() {
            class::NOT_REPLICATED_AT_FAILOVER => {
                for (topic, queue, offsets) in agent.particulars(&incident.incident)?.ranges {
                    ensure!(topic == TOPIC, "{incident:?}");
                    told.extend(offsets.map(|offset| (queue, offset)));
                }
            }
            class::UNDECIDED => bound += incident.undecided,
            _ => ensure!(!incident.loss || !incident.open, "said to be lost: {incident:?}"),
        }
    }
    let innocent: Vec<_> = told.difference(gone).collect();
    ensure!(innocent.is_empty(), "told, and not gone: {innocent:?}");
    ensure!(!told.is_empty(), "{} messages are gone, and nothing is told; said: {incidents:#?}", gone.len());
    let untold = gone.difference(&told).count() as u64;
    ensure!(untold <= bound, "{untold} of {} are gone untold, the bound is {bound}", gone.len());
    Ok(())
}

fn wait_role(stand: &Stand, role: &str, is_master: bool) -> Result<()> {
    wait::until_ok(&format!("the role {role}"), LIMIT, || {
        let seen = stand.broker_api().role()?;
        ensure!(seen == (role.to_owned(), is_master), "it is {seen:?}");
        Ok(())
    })
}

/// What the old master alone held.
struct Gone {
    /// Queue and offset of each.
    places: BTreeSet<(u64, u64)>,
    /// Of those whose producer was answered.
    bodies: BTreeSet<String>,
}

/// Bodies of sends that were answered with less than OK.
fn lesser(events: &Events) -> BTreeSet<String> {
    let sent = events.0.iter().filter(|line| line.event == "sent" && !line.ok && line.status.is_some());
    sent.filter_map(|line| line.body.clone()).collect()
}

#[test]
fn a_killed_master_is_replaced_and_nothing_answered_is_lost() -> Result<()> {
    let group = Group::new()?;
    let observer = observer(&group)?;
    let stories = || group.stands.iter().chain([&observer]).map(Stand::story).collect::<Vec<_>>().join("\n");
    run(&group, &observer).with_context(stories)
}

fn run(group: &Group, observer: &Stand) -> Result<()> {
    let [a, b, c] = group.stands.as_slice() else { unreachable!("three stands") };
    let b_process = b.start(Role::Broker)?;
    let c_process = c.start(Role::Broker)?;
    let a_process = a.start(Role::Broker)?;
    wait_role(a, "SYNC_MASTER", true)?;
    let agent = observer.start(Role::Agent)?;
    a.create_topic(TOPIC)?;
    let endpoint = group.name_servers();
    let consume = Job { endpoint: endpoint.clone(), timeout_s: 200, ..Job::consume(TOPIC, GROUP, 0) };
    let mut consumer = Client::start(a, NodeRemoting, &consume)?;
    consumer.wait_ready()?;
    let job =
        Job { endpoint, interval_ms: 4, timeout_s: 200, attempts: 1, ..Job::produce(TOPIC, "m-", 1_000_000) };
    let mut producer = Client::start(a, NodeRemoting, &job)?;
    wait_status(&mut producer, "OK").context("both replicas follow")?;
    // from here on only C and the master have what is answered, and then the master alone
    b_process.kill()?;
    wait_status(&mut producer, "OK").context("C is enough: k is 2")?;
    c_process.kill()?;
    wait_status(&mut producer, "SLAVE_NOT_AVAILABLE").context("the master is alone")?;
    // some of what it alone has is consumed, some is not; a commit goes out with a later pull
    consumer.wait_for("some of what the master alone has", LIMIT, |events| {
        let consumed = events.consumed();
        lesser(&producer.events()).iter().filter(|body| consumed.contains_key(*body)).count()
            >= CONSUMED_ALONE
    })?;
    send_signal(consumer.pid(), "STOP")?;
    wait_status(&mut producer, "SLAVE_NOT_AVAILABLE").context("alone, and nobody consumes")?;
    a_process.kill()?;
    let b_process = b.start(Role::Broker)?;
    let c_process = c.start(Role::Broker)?;
    let server = format!("http://{}", b.ports.broker_http.address());
    let output = b.losstrace()?.args(["promote", "--server", &server]).output()?;
    ensure!(output.status.success(), "promote: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(b.broker_api().role()? == ("SYNC_MASTER".to_owned(), true), "promote waits until it is master");
    send_signal(consumer.pid(), "CONT")?;
    wait_status(&mut producer, "OK").context("the SDK goes on with the new master")?;
    // the old master comes back with the settings of a master
    let a_process = a.start(Role::Broker)?;
    wait_role(a, "SLAVE", false)?;
    wait_status(&mut producer, "OK").context("and with the old one back")?;
    let sent = producer.stop()?;
    wait_same(b, a)?;
    wait_same(b, c)?;
    for stand in [a, b, c] {
        check_holds(stand, &sent)?;
    }
    let gone = check_survivors(a, b, &sent)?;
    wait::until_ok("the agent to name what is gone", LIMIT, || {
        check_told(&observer.agent_api(), &gone.places)
    })?;
    let wanted: BTreeSet<String> = sent.sent().into_keys().collect();
    let missing = RefCell::new(BTreeSet::<String>::new());
    let waited = consumer.wait_for("everything that was answered OK", LIMIT, |events| {
        let consumed = events.consumed();
        let lacking = wanted.iter().filter(|body| !consumed.contains_key(*body));
        missing.replace(lacking.cloned().collect());
        missing.borrow().is_empty()
    });
    waited.with_context(|| format!("not consumed: {:?}", missing.borrow()))?;
    check_told(&observer.agent_api(), &gone.places).context("and nothing else")?;
    check_recovered((a, b, observer), &mut consumer, &gone)?;
    consumer.stop()?;
    agent.terminate(Duration::from_secs(20))?;
    // its part is in its folder: a restart changes nothing, although the settings say otherwise
    for process in [a_process, b_process, c_process] {
        process.terminate(Duration::from_secs(20))?;
    }
    let processes = [c.start(Role::Broker)?, b.start(Role::Broker)?, a.start(Role::Broker)?];
    wait_role(b, "SYNC_MASTER", true)?;
    wait_role(a, "SLAVE", false)?;
    wait_same(b, a)?;
    check_one_promise(group)?;
    for process in processes {
        process.terminate(Duration::from_secs(20))?;
    }
    Ok(())
}

/// `losstrace recover` on the old master's files: each of these lines says what became of one message.
fn recover(old: &Stand, new: &Stand, flags: &[&str]) -> Result<(Option<i32>, Vec<serde_json::Value>)> {
    let server = format!("http://{}", new.ports.broker_http.address());
    let folder = old.data_dir().join("broker/survivors");
    let mut command = old.losstrace()?;
    command.arg("recover").arg(&folder).args(["--server", &server, "--output", "json"]).args(flags);
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
    let (lines, error) = (lines?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(error.is_empty(), "recover {flags:?}: {error}");
    Ok((output.status.code(), lines))
}

/// How many messages had which outcome.
fn outcomes(lines: &[serde_json::Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line["outcome"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
    }
    counts
}

/// What the fail-over took is sent again: first what no group had consumed, then, where the operator insists, the rest. The consumer
/// gets each of them, the agent's incident is over, and a second time nothing is sent.
fn check_recovered(
    (old, new, observer): (&Stand, &Stand, &Stand),
    consumer: &mut Client,
    gone: &Gone,
) -> Result<()> {
    let place = |line: &serde_json::Value| -> Result<(u64, u64)> {
        let number = |key: &str| line[key].as_u64().with_context(|| format!("{line} has no {key}"));
        Ok((number("queue")?, number("offset")?))
    };
    let (code, lines) = recover(old, new, &[])?;
    let would = outcomes(&lines);
    ensure!(code == Some(3), "something is to be recovered: {code:?}");
    let found: BTreeSet<_> = lines.iter().map(place).collect::<Result<_>>()?;
    ensure!(found == gone.places, "the files hold {:?}, recover sees {found:?}", gone.places);
    let gone_count = gone.places.len();
    let (_, lines) = recover(old, new, &["--confirm"])?;
    let done = outcomes(&lines);
    ensure!(
        done.get("stored") == would.get("would-store") && done.contains_key("stored"),
        "{would:?} {done:?}"
    );
    let left = done.get("consumed").copied().unwrap_or_default();
    ensure!(left > 0, "some were consumed, and are left out: {done:?}");
    ensure!(done.values().sum::<usize>() == gone_count && done["stored"] + left == gone_count, "{done:?}");
    consumer.wait_for("what nobody had consumed", LIMIT, |events| {
        let consumed = events.consumed();
        gone.bodies.iter().all(|body| consumed.contains_key(body))
    })?;
    let (code, lines) = recover(old, new, &["--confirm", "--even-if-consumed"])?;
    let rest = outcomes(&lines);
    ensure!(code == Some(0) && rest.get("stored").copied().unwrap_or_default() == left, "{code:?} {rest:?}");
    ensure!(rest.get("already-stored") == done.get("stored"), "{rest:?}");
    wait::until_ok("the agent to see that all is recovered", LIMIT, || {
        let incidents = observer.agent_api().incidents()?;
        let lost = incidents.iter().filter(|incident| incident.class == class::NOT_REPLICATED_AT_FAILOVER);
        let lost: Vec<_> = lost.collect();
        ensure!(lost.iter().all(|incident| !incident.open && incident.state == "recovered"), "{lost:?}");
        Ok(())
    })?;
    let (code, lines) = recover(old, new, &["--confirm", "--even-if-consumed"])?;
    let nothing = outcomes(&lines);
    ensure!(code == Some(0) && nothing.get("already-stored") == Some(&gone_count), "{code:?} {nothing:?}");
    Ok(())
}

/// One epoch number is promised once: two members that stand for master with the same number do not both get it.
fn check_one_promise(group: &Group) -> Result<()> {
    let number = 1_000;
    let ask = |replica_id: &str| -> Result<Message> {
        let (broker_name, replica_id) = ("losstrace".to_owned(), replica_id.to_owned());
        let port = group.ports.last().context("three ports")?;
        let mut stream = TcpStream::connect(port.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&Message::Ask(Ask { broker_name, replica_id, number }).encode())?;
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head)?;
        let header = Header::decode(&head)?;
        let mut payload = vec![0; header.len];
        stream.read_exact(&mut payload)?;
        Ok(header.message(payload.into())?)
    };
    let first = ask("member-0")?;
    ensure!(matches!(&first, Message::Standing(standing) if standing.promised == number), "{first:?}");
    let second = ask("member-1")?;
    ensure!(matches!(second, Message::Refused(_)), "the promise was given twice: {second:?}");
    Ok(())
}

/// What the master alone held when it was killed is not in the group's log, and is in a file only its owner reads. Returns
/// what it was.
fn check_survivors(old: &Stand, new: &Stand, sent: &Events) -> Result<Gone> {
    let folder = old.data_dir().join("broker/survivors");
    let (mut kept, mut stood) = (String::new(), BTreeSet::new());
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        let bytes = fs::read(&path)?;
        kept.push_str(&String::from_utf8_lossy(&bytes));
        stood.extend(places(&bytes)?);
    }
    let log: Vec<u8> = crate::replication::log_files(new)?.into_values().flatten().collect();
    let log = String::from_utf8_lossy(&log);
    let holds = |text: &str, body: &str| text.contains(&format!("KEYS\u{1}{body}\u{2}"));
    let lesser = lesser(sent);
    let gone: Vec<&String> = lesser.iter().filter(|body| !holds(&log, body)).collect();
    ensure!(!gone.is_empty(), "the master held nothing alone: the test shows nothing");
    for body in &gone {
        ensure!(holds(&kept, body), "{body} was answered with less than OK, and is neither stored nor kept");
    }
    Ok(Gone { places: stood, bodies: gone.into_iter().cloned().collect() })
}
