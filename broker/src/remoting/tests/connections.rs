//! What a connection survives, and what it does not.

use super::*;
use crate::api::*;
use std::sync::atomic::Ordering::Relaxed;

fn small() -> Limits {
    Limits {
        max_frame_bytes: 64 * 1024,
        idle_timeout: Duration::from_millis(400),
        write_stall_timeout: Duration::from_millis(400),
        linger: Duration::from_millis(400),
        ..Limits::default()
    }
}

/// Stores everything, in order.
fn store(port: &Port) {
    let mut next = 0;
    port.answer_with(move |request| {
        if let Request::Send(messages, reply) = request {
            let stored = messages.messages.iter().map(|_| {
                next += 1;
                StoredAt {
                    queue_id: 1,
                    queue_offset: next,
                    commitlog_offset: next * 100,
                    status: SendStatus::Ok,
                }
            });
            reply(Ok(stored.collect()));
        }
    });
}

#[tokio::test]
async fn a_thousand_requests_in_one_write_are_a_thousand_answers() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    store(&port);
    let mut client = port.connect().await;
    let mut bytes = BytesMut::new();
    for opaque in 0..1_000 {
        let command = Command { opaque, ..send_request() };
        let command = if opaque % 2 == 0 { command } else { binary(command) };
        command.encode(&mut bytes);
    }
    client.stream.write_all(&bytes).await.unwrap();
    for opaque in 0..1_000 {
        let answer = client.receive().await;
        assert_eq!((answer.opaque, answer.code), (opaque, 0));
        assert_eq!(answer.field("queueOffset"), Some((opaque + 1).to_string().as_str()));
    }
    assert_eq!(port.stats.commands.load(Relaxed), 1_000);
    port.stop().await;
}

#[tokio::test]
async fn frames_may_come_in_any_pieces() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    store(&port);
    let mut client = port.connect().await;
    let mut bytes = BytesMut::new();
    send_request().encode(&mut bytes);
    let large = send_request().with_body(vec![b'x'; 600_000]);
    large.encode(&mut bytes);
    for piece in [&bytes[..3], &bytes[3..50], &bytes[50..400_000], &bytes[400_000..]] {
        client.stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.receive().await.field("queueOffset"), Some("1"));
    assert_eq!(client.receive().await.field("queueOffset"), Some("2"));
    port.stop().await;
}

#[tokio::test]
async fn a_held_pull_is_answered_when_the_core_has_something() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    let mut client = port.connect().await;
    let pull = request(
        11,
        &[
            ("consumerGroup", "g"),
            ("topic", "T"),
            ("queueId", "0"),
            ("queueOffset", "0"),
            ("maxMsgNums", "32"),
            ("sysFlag", "2"),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "15000"),
            ("subVersion", "1"),
        ],
    );
    client.send(&pull).await;
    let held = match port.requests().await.remove(0) {
        Request::Pull(pull, reply) => {
            assert_eq!(pull.suspend_ms, 15_000);
            reply
        }
        _ => panic!("not a pull"),
    };
    // others are answered meanwhile
    client.send(&request(106, &[])).await;
    assert_eq!(client.receive().await.code, 0);
    held(Ok(Pulled {
        status: PullStatus::Found,
        next_offset: 1,
        min_offset: 0,
        max_offset: 1,
        records: vec![bytes::Bytes::from_static(b"record")],
    }));
    assert_eq!(&client.receive().await.body[..], b"record");
    port.stop().await;
}

#[tokio::test]
async fn the_core_learns_that_a_connection_closed_and_a_late_answer_is_counted() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    let mut client = port.connect().await;
    client.send(&send_request()).await;
    let (id, reply) = match port.requests().await.remove(0) {
        Request::Send(messages, reply) => (messages.connection, reply),
        _ => panic!("not a send"),
    };
    assert_eq!(id, ConnectionId(super::super::BROKER_CONNECTION_ID_FIRST));
    // an abortive close: nothing is owed any more
    client.stream.set_zero_linger().unwrap();
    drop(client);
    let closed = port.requests().await;
    assert!(matches!(closed[..], [Request::Disconnected(gone)] if gone == id));
    reply(Err(Refusal::Stopping));
    assert_eq!(port.stats.answers_broken_off.load(Relaxed), 1);
    assert_eq!(port.stats.connections.load(Relaxed), 0);
    port.stop().await;
}

#[tokio::test]
async fn a_half_closed_client_still_gets_what_it_is_owed() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    let mut client = port.connect().await;
    client.send(&send_request()).await;
    client.stream.shutdown().await.unwrap();
    let reply = match port.requests().await.remove(0) {
        Request::Send(_, reply) => reply,
        _ => panic!("not a send"),
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let at = StoredAt { queue_id: 1, queue_offset: 0, commitlog_offset: 0, status: SendStatus::Ok };
    reply(Ok(vec![at]));
    assert_eq!(client.receive().await.code, 0);
    assert!(client.receive_or_end().await.is_none());
    assert!(matches!(port.requests().await[..], [Request::Disconnected(_)]));
    port.stop().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_is_answered_and_the_connection_closed() {
    let port = Port::open(Role::Broker, small()).await;
    let mut client = port.connect().await;
    client.send(&send_request().with_body(vec![0; 300_000])).await;
    let answer = client.receive().await;
    assert_eq!((answer.code, answer.opaque), (13, 11));
    assert_eq!(answer.field("MSG_REGION"), Some("DefaultRegion"));
    assert!(client.receive_or_end().await.is_none());
    assert_eq!(port.stats.oversize_frames.load(Relaxed), 1);
    port.stop().await;
}

#[tokio::test]
async fn what_is_no_frame_closes_the_connection_and_no_other() {
    let port = Port::open(Role::Broker, small()).await;
    store(&port);
    let mut healthy = port.connect().await;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0, 0x20, 0, 0, 0],
        &[0, 0, 0, 2, 0, 0],
        &[0, 0, 0, 8, 9, 0, 0, 2, 1, 2, 3, 4],
        // a header that is no JSON, one that is no header
        &[0, 0, 0, 8, 0, 0, 0, 4, b'o', b'o', b'p', b's'],
        &[0, 0, 0, 6, 1, 0, 0, 2, 0, 0],
    ];
    for (count, bytes) in garbage.iter().enumerate() {
        let mut client = port.connect().await;
        client.stream.write_all(bytes).await.unwrap();
        assert!(client.receive_or_end().await.is_none(), "{bytes:?}");
        let counted = port.stats.bad_frames.load(Relaxed) + port.stats.oversize_frames.load(Relaxed);
        assert_eq!(counted, count as u64 + 1);
    }
    healthy.send(&send_request()).await;
    assert_eq!(healthy.receive().await.code, 0);
    port.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_not_read_and_then_closed() {
    let limits = Limits { outbox_high_bytes: 100_000, ..small() };
    let port = Port::open(Role::Broker, limits).await;
    let mut slow = port.connect().await;
    let view = request(33, &[("offset", "0")]);
    port.answer_with(|request| {
        if let Request::Query(_, reply) = request {
            reply(Ok(QueryAnswer::Record(vec![0; 60_000].into())));
        }
    });
    let mut bytes = BytesMut::new();
    (0..20_000).for_each(|_| view.encode(&mut bytes));
    // reads nothing, writes until it is cut off
    let written = tokio::time::timeout(PATIENCE, slow.stream.write_all(&bytes)).await;
    until("the slow client is closed", || port.stats.closed_slow.load(Relaxed) == 1).await;
    assert!(port.stats.commands.load(Relaxed) < 5_000, "{written:?} {}", port.stats.commands.load(Relaxed));
    port.stop().await;
}

#[tokio::test]
async fn a_connection_with_much_in_flight_is_not_read() {
    let limits = Limits { in_flight_max_bytes: 20_000, idle_timeout: PATIENCE, ..small() };
    let port = Port::open(Role::Broker, limits).await;
    let mut client = port.connect().await;
    let send = send_request().with_body(vec![b'x'; 9_000]);
    let mut bytes = BytesMut::new();
    (0..500).for_each(|_| send.encode(&mut bytes));
    let (_reader, mut writer) = client.stream.split();
    // may or may not all fit into the buffers between us
    drop(tokio::time::timeout(Duration::from_millis(300), writer.write_all(&bytes)).await);
    let mut held = Vec::new();
    port.core.drain(&mut held);
    let submitted = held.len();
    assert!((2..100).contains(&submitted), "{submitted}");
    drop(held);
    until("it is read again", || port.stats.commands.load(Relaxed) as usize > submitted).await;
    port.stop().await;
}

#[tokio::test]
async fn a_thousand_idle_connections_are_served_and_then_closed() {
    let port = Port::open(Role::Broker, Limits { idle_timeout: Duration::from_secs(2), ..small() }).await;
    store(&port);
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        clients.push(port.connect().await);
    }
    until("all are open", || port.stats.connections.load(Relaxed) == 1_000).await;
    let last = clients.last_mut().unwrap();
    last.send(&send_request()).await;
    assert_eq!(last.receive().await.code, 0);
    until("idle ones are closed", || port.stats.closed_idle.load(Relaxed) == 1_000).await;
    assert_eq!(port.stats.connections.load(Relaxed), 0);
    port.stop().await;
}

#[tokio::test]
async fn more_connections_than_the_limit_are_turned_away() {
    let port = Port::open(Role::Broker, Limits { max_connections: 2, ..Limits::default() }).await;
    store(&port);
    let mut first = port.connect().await;
    let second = port.connect().await;
    until("two are open", || port.stats.connections.load(Relaxed) == 2).await;
    let mut third = port.connect().await;
    assert!(third.receive_or_end().await.is_none());
    drop(second);
    until("one is gone", || port.stats.connections.load(Relaxed) == 1).await;
    let mut fourth = port.connect().await;
    for client in [&mut first, &mut fourth] {
        client.send(&send_request()).await;
        assert_eq!(client.receive().await.code, 0);
    }
    port.stop().await;
}

#[tokio::test]
async fn a_stopping_core_is_told_to_the_client() {
    let port = Port::open(Role::Broker, Limits::default()).await;
    port.core.close();
    let mut client = port.connect().await;
    client.send(&send_request()).await;
    assert_eq!(client.receive().await.code, 14);
    port.stop().await;
}
