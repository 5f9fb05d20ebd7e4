//! What clients may do wrong, against the real process: each is told, or let go, and nobody else notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::clients::Job;
use tests::clients::Sdk::{PythonGrpc, PythonRemoting};
use tests::config::Options;
use tests::process::Process;
use tests::raw::{RawAnswer, RawClient, frame};
use tests::stand::{self, Role, Stand};
use tests::wait;

use crate::scenario::{bodies, consume, send};

const TOPIC: &str = "orders";
const MIB: u64 = 1 << 20;
/// RocketMQ's own numbers.
mod code {
    pub(super) const OK: Option<u64> = Some(0);
    pub(super) const NOT_SUPPORTED: Option<u64> = Some(3);
    pub(super) const MESSAGE_ILLEGAL: Option<u64> = Some(13);
    pub(super) const TOPIC_NOT_EXIST: Option<u64> = Some(17);
    pub(super) const PULL_OFFSET_MOVED: Option<u64> = Some(21);
    pub(super) const GROUP_NOT_EXIST: Option<u64> = Some(26);
}

/// A real SDK sends and consumes, on both protocols: whatever happened before has hurt nobody.
fn check_served(stand: &Stand, prefix: &str) -> Result<()> {
    for (sdk, group) in [(PythonRemoting, "bystanders"), (PythonGrpc, "onlookers")] {
        let topic = format!("{prefix}-{group}");
        stand.create_topic(&topic)?;
        let sent = send(stand, sdk, &Job::produce(&topic, &format!("{topic}-"), 5))?;
        consume(stand, sdk, &Job::consume(&topic, group, 0), &bodies(&sent))?;
    }
    Ok(())
}

fn ensure_code(answer: &RawAnswer, wanted: Option<u64>) -> Result<()> {
    ensure!(answer.code() == wanted, "{wanted:?} expected: {}", answer.header);
    Ok(())
}

/// Bytes that are no protocol, on every door.
#[test]
fn bytes_that_are_no_request_end_their_connection_only() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let mut product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let remoting = stand.ports.remoting.address();
        let too_long = (17_u32 << 20).to_be_bytes();
        let header_past_the_end =
            [&8_u32.to_be_bytes()[..], &0x00ff_ffff_u32.to_be_bytes(), b"{}{}"].concat();
        let garbage: [(&str, Vec<u8>); 5] = [
            ("a frame that is too long", [&too_long[..], &[0; 64]].concat()),
            ("a header longer than its frame", header_past_the_end),
            ("a frame too short for its header", 1_u32.to_be_bytes().repeat(4)),
            ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ];
        for door in [&remoting, &stand.ports.name_server.address()] {
            for (what, bytes) in &garbage {
                let mut client = RawClient::connect(door)?;
                client.stream.write_all(bytes)?;
                client.until_closed().with_context(|| format!("{what} on {door}"))?;
            }
        }
        for door in [stand.ports.grpc.address(), stand.ports.feed.address()] {
            let mut client = RawClient::connect(&door)?;
            client.stream.write_all(&[0xff; 4096])?;
            client.until_closed().with_context(|| format!("no HTTP/2 on {door}"))?;
        }
        // a whole frame whose content is wrong is answered or ends the connection, and the next one is served
        for header in [&b"{\"code\":"[..], b"[]", b"\xff\xfe", b"{\"code\":\"ten\"}", b"{}"] {
            let mut client = RawClient::connect(&remoting)?;
            client.stream.write_all(&frame(header, b"")?)?;
            let answered = client.read();
            ensure!(
                answered.as_ref().map_or(true, |answer| answer.code() != code::OK),
                "{header:?} is answered {answered:?}"
            );
        }
        let mut client = RawClient::connect(&remoting)?;
        ensure_code(&client.call(9_999, &json!({}), b"")?, code::NOT_SUPPORTED)?;
        ensure_code(&client.send_message(TOPIC, b"still served")?, code::OK)?;
        check_served(stand, "garbage")?;
        product.check_alive()
    })
}

/// Requests that are well formed and wrong: each has its code, and stores nothing.
#[test]
fn wrong_requests_have_codes_and_store_nothing() -> Result<()> {
    let options = Options {
        broker: "auto_create_topics = false\nmax_body_bytes = 65536\n".to_owned(),
        ..Options::default()
    };
    stand::with(options, |stand| {
        let _product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let mut client = RawClient::connect(&stand.ports.remoting.address())?;
        ensure_code(&client.send_message(TOPIC, b"fine")?, code::OK)?;

        ensure_code(&client.send_message("nowhere", b"x")?, code::TOPIC_NOT_EXIST)?;
        ensure_code(&client.pull("nowhere", "readers", "0")?, code::TOPIC_NOT_EXIST)?;
        ensure_code(&client.send_message(TOPIC, &vec![b'x'; 65_537])?, code::MESSAGE_ILLEGAL)?;
        let long = format!("key\u{1}{}\u{2}", "x".repeat(40_000));
        ensure_code(&client.send_with(TOPIC, b"x", json!({"properties": long}))?, code::MESSAGE_ILLEGAL)?;
        ensure_code(&client.send_with(TOPIC, b"x", json!({"topic": "a b"}))?, code::MESSAGE_ILLEGAL)
            .or_else(|_| {
                ensure_code(&client.send_with(TOPIC, b"x", json!({"topic": "a b"}))?, code::TOPIC_NOT_EXIST)
            })?;
        // a negative one is no error: it leaves the choice to the broker
        for wrong in [json!({"queueId": "99"}), json!({"queueId": "minus"}), json!({"sysFlag": "x"})] {
            let answer = client.send_with(TOPIC, b"x", wrong.clone())?;
            ensure!(answer.code() != code::OK, "{wrong} is answered {}", answer.header);
        }
        for offset in ["7", "9223372036854775807", "-5"] {
            let answer = client.pull(TOPIC, "readers", offset)?;
            ensure!(answer.code() == code::PULL_OFFSET_MOVED, "offset {offset}: {}", answer.header);
        }
        let bad_name = client.pull(TOPIC, "bad group", "0")?;
        ensure!(bad_name.code() != code::OK && bad_name.remark().contains("group"), "{}", bad_name.header);

        let http = stand.agent_api().http;
        let answer = http.post_bytes("/api/v1/sent", b"{\"sent\": [")?;
        ensure!(answer.status == 400 && answer.content_type == "application/problem+json", "{answer:?}");
        let answer = http.post_bytes("/api/v1/sent", &vec![b' '; 5 << 20])?;
        ensure!(answer.status == 413 && answer.content_type == "application/problem+json", "{answer:?}");

        let agent = stand.agent_api();
        agent.wait_complete()?;
        let stored = agent.metrics()?.sum("losstrace_topic_messages_total", &[("topic", TOPIC)]);
        ensure!(stored == 1.0, "{stored} messages were stored");
        Ok(())
    })
}

#[test]
fn unknown_groups_are_refused_where_none_are_made_at_first_use() -> Result<()> {
    stand::with(
        Options { broker: "auto_create_groups = false\n".to_owned(), ..Options::default() },
        |stand| {
            let _product = stand.start(Role::Broker)?;
            stand.create_topic(TOPIC)?;
            let mut client = RawClient::connect(&stand.ports.remoting.address())?;
            ensure_code(&client.send_message(TOPIC, b"fine")?, code::OK)?;
            ensure_code(&client.pull(TOPIC, "strangers", "0")?, code::GROUP_NOT_EXIST)
        },
    )
}

/// Two members with one client id, and one that leaves: the other is still served.
#[test]
fn clients_that_share_an_id_are_both_served() -> Result<()> {
    const HEARTBEAT: u32 = 34;
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let remoting = stand.ports.remoting.address();
        let mut twins = [RawClient::connect(&remoting)?, RawClient::connect(&remoting)?];
        ensure_code(&twins[0].send_message(TOPIC, b"for both")?, code::OK)?;
        let heartbeat = json!({"clientID": "127.0.0.1@twin", "producerDataSet": [], "consumerDataSet": [{
            "groupName": "twins", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": false, "subscriptionDataSet": [{
                "topic": TOPIC, "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1,
                "expressionType": "TAG", "classFilterMode": false}]}]});
        let heartbeat = serde_json::to_vec(&heartbeat)?;
        for twin in &mut twins {
            ensure_code(&twin.call(HEARTBEAT, &json!({}), &heartbeat)?, code::OK)?;
            ensure_code(&twin.pull(TOPIC, "twins", "0")?, code::OK)?;
        }
        let [first, mut second] = twins;
        drop(first);
        for _ in 0..5 {
            ensure_code(&second.pull(TOPIC, "twins", "0")?, code::OK)?;
        }
        Ok(())
    })
}

/// A connection is closed above 256 MiB of answers; the buffer that holds them grows by doubling.
const STUCK_MIB_MAX: u64 = 2 * 256 + 64;

/// A client asks for much more than what the broker may buffer, and reads nothing.
#[test]
fn a_client_that_stops_reading_costs_bounded_memory() -> Result<()> {
    const BODY: usize = 256 * 1024;
    const PULLS: usize = 4_000;
    stand::with(Options { flush_disk_type: "ASYNC_FLUSH", ..Options::default() }, |stand| {
        let product = stand.start(Role::Broker)?;
        stand.create_topic(TOPIC)?;
        let remoting = stand.ports.remoting.address();
        let mut client = RawClient::connect(&remoting)?;
        ensure_code(&client.send_message(TOPIC, &vec![b'x'; BODY])?, code::OK)?;
        ensure_code(&client.pull(TOPIC, "stuck", "0")?, code::OK)?;
        let before = product.resident_bytes()?;
        let mut stuck = RawClient::connect(&remoting)?;
        stuck.stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        let fields = json!({
            "consumerGroup": "stuck", "topic": TOPIC, "queueId": "0", "queueOffset": "0", "maxMsgNums": "32",
            "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*",
            "subVersion": "0", "expressionType": "TAG",
        });
        let mut written = 0;
        for _ in 0..PULLS {
            let request = stuck.request(11, &fields, b"")?;
            if stuck.stream.write_all(&request).is_err() {
                break;
            }
            written += 1;
        }
        wait::for_load(Duration::from_secs(1));
        let grown = product.resident_bytes()?.saturating_sub(before) / MIB;
        let asked = written * BODY as u64 / MIB;
        ensure!(asked > STUCK_MIB_MAX * 3 / 2, "only {asked} MiB were asked for: that proves nothing");
        ensure!(grown < STUCK_MIB_MAX, "{grown} MiB more memory for a client that reads nothing");
        check_served(stand, "stuck")
    })
}

/// Sockets that a test holds open, of which nothing is ever read.
fn open_idle(address: &str, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|n| TcpStream::connect(address).with_context(|| format!("connection {n} to {address}")))
        .collect()
}

/// Ten thousand that connect and say nothing, over every door that clients use.
#[test]
fn ten_thousand_idle_connections_cost_little_and_disturb_nobody() -> Result<()> {
    const SECONDS: u64 = 3;
    let limit = rlimit::increase_nofile_limit(20_000)?;
    ensure!(limit >= 11_000, "this process may only open {limit} files: raise the hard limit (ulimit -Hn)");
    stand::with(Options::default(), |stand| {
        let mut product = stand.start(Role::Broker)?;
        let before = product.resident_bytes()?;
        let mut idle = open_idle(&stand.ports.remoting.address(), 8_000)?;
        idle.extend(open_idle(&stand.ports.name_server.address(), 1_000)?);
        idle.extend(open_idle(&stand.ports.grpc.address(), 1_000)?);
        // accepted, and not only queued by the system: one more is answered behind them all
        let mut behind = RawClient::connect(&stand.ports.remoting.address())?;
        ensure_code(&behind.call(9_999, &json!({}), b"")?, code::NOT_SUPPORTED)?;
        let grown = product.resident_bytes()?.saturating_sub(before) / MIB;
        let per_second = cpu_per_second(&product, SECONDS)?;
        ensure!(grown < 128, "{grown} MiB for ten thousand idle connections");
        ensure!(per_second < 25, "{per_second} % of a processor for connections that are idle");
        check_served(stand, "amid")?;
        let closed = idle.iter().filter(|stream| is_closed(stream)).count();
        ensure!(closed == 0, "{closed} idle connections were closed");
        drop(idle);
        stand.create_topic("after")?;
        product.check_alive()
    })
}

/// Processor time in percent of one processor.
fn cpu_per_second(process: &Process, seconds: u64) -> Result<u64> {
    let before = process.cpu_ticks()?;
    wait::for_load(Duration::from_secs(seconds));
    Ok((process.cpu_ticks()? - before) / seconds)
}

fn is_closed(mut stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    match stream.read(&mut [0; 16]) {
        // a gRPC server greets; nobody else says anything
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
