use super::harness::*;
use crate::api::*;
use lifecycle::fact::{ConsumeModel, Fact};

#[test]
fn a_lease_that_runs_out_is_handed_out_again_in_place() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let first = bench.receive("c", "g", "t", 10_000);
    assert_eq!((id(&first[0].record), first[0].attempt), ("A".into(), 1));
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    bench.pass(10_000);
    let second = bench.receive("c", "g", "t", 10_000);
    assert_eq!((id(&second[0].record), second[0].attempt), ("A".into(), 2));
    assert!(matches!(bench.ack("g", "t", &first[0].handle), Err(Refusal::InvalidHandle(_))));
    assert!(bench.facts().iter().any(|f| matches!(f, Fact::LateAck { offset: 0, .. })));
    bench.ack("g", "t", &second[0].handle).unwrap();
    bench.pass(60_000);
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.position("g", "t", 0), 1);
}

#[test]
fn handles_survive_a_kill_of_the_broker() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let leased = bench.receive("c", "g", "t", 10_000);
    bench.kill();
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    bench.ack("g", "t", &leased[0].handle).unwrap();
}

#[test]
fn the_last_attempt_ends_in_the_dead_letters_and_settles_the_parent() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    for attempt in 1..=3 {
        let leased = bench.receive("c", "g", "t", 10_000);
        assert_eq!(leased[0].attempt, attempt);
        bench.nack("g", "t", &leased[0].handle, 100).unwrap();
        bench.pass(101);
    }
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.queue_ends("%DLQ%g"), [1]);
    assert_eq!(bench.position("g", "t", 0), 1);
}

#[test]
fn a_nack_without_delay_is_visible_at_once_and_dead_at_once_after_the_last_attempt() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    for attempt in 1..=3 {
        let leased = bench.receive("c", "g", "t", 10_000);
        assert_eq!(leased[0].attempt, attempt);
        bench.nack("g", "t", &leased[0].handle, 0).unwrap();
    }
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.queue_ends("%DLQ%g"), [1]);
}

#[test]
fn what_never_left_the_broker_uses_up_no_attempt() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    for _ in 0..5 {
        let leased = bench.receive("c", "g", "t", 10_000);
        assert_eq!(leased[0].attempt, 1);
        let change = ChangeInvisible {
            group: "g".into(),
            topic: "t".into(),
            client: "c".into(),
            handle: leased[0].handle.clone(),
            invisible_ms: 0,
            never_left: true,
        };
        bench.ask(|reply| Request::ChangeInvisible(change, reply)).unwrap();
    }
    assert_eq!(bench.receive("c", "g", "t", 10_000)[0].attempt, 1);
    assert!(bench.queue_ends("%DLQ%g").is_empty());
}

#[test]
fn a_lease_bound_to_its_member_ends_with_it() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    assert_eq!(bench.receive("c", "g", "t", 0).len(), 1);
    bench.pass(30_000);
    bench.heartbeat("d", "g", "t", ConsumeModel::Lease);
    assert!(bench.receive("d", "g", "t", 0).is_empty(), "its member lives");
    bench.turn(vec![Request::Disconnected(connection("c"))]);
    bench.pass(1);
    let again = bench.receive("d", "g", "t", 0);
    assert_eq!(again[0].attempt, 2);
    bench.kill();
    bench.pass(1);
    assert_eq!(bench.receive("e", "g", "t", 0)[0].attempt, 3, "nobody is a member after a restart");
}

#[test]
fn a_lease_of_somebody_unknown_ends_by_time_and_none_outlives_a_restart() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    assert_eq!(bench.receive("stranger", "g", "t", 0).len(), 1, "auto-renew, but no heartbeat yet");
    bench.pass(1);
    assert_eq!(bench.receive("stranger", "g", "t", 0).len(), 1, "nobody would notice that it died");
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    bench.pass(1);
    assert_eq!(bench.receive("c", "g", "t", 0)[0].attempt, 3);
    bench.kill();
    bench.pass(1);
    assert_eq!(bench.queue_ends("%DLQ%g"), [1], "the last attempt's lease is over after the restart");
}

#[test]
fn leases_and_offsets_exclude_each_other_while_a_member_lives() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    let refused = bench.heartbeat_for("d", "g", "t", "*", ConsumeModel::Clustering);
    assert!(matches!(refused, Err(Refusal::WrongConsumeModel(..))));
    let pulled = bench.ask(|reply| Request::Pull(pull("d", "g", "t", 0, 0), reply));
    assert!(matches!(pulled, Err(Refusal::WrongConsumeModel(..))));
}

#[test]
fn one_group_may_lease_one_topic_and_pull_another_whoever_comes_first_after_a_restart() {
    for first_leases in [true, false] {
        let mut bench = Bench::new(small());
        bench.send("t", "A").unwrap();
        bench.send("u", "B").unwrap();
        let members = [("z-leases", "t", ConsumeModel::Lease), ("a-pulls", "u", ConsumeModel::Clustering)];
        let join = |bench: &mut Bench, which: usize| {
            let (client, topic, model) = members[which];
            bench.heartbeat_for(client, "g", topic, "*", model).unwrap();
        };
        let order = if first_leases { [0, 1] } else { [1, 0] };
        order.iter().for_each(|which| join(&mut bench, *which));
        bench.kill();
        order.iter().for_each(|which| join(&mut bench, *which));
        assert_eq!(leased(&bench.receive("z-leases", "g", "t", 10_000)), [("A".into(), 1)]);
        let pulled = bench.ask(|reply| Request::Pull(pull("a-pulls", "g", "u", 0, 0), reply)).unwrap();
        assert_eq!(ids(&pulled.records), ["B"]);
        bench.commit("a-pulls", "g", "u", 0, 1).unwrap();
        let other = bench.ask(|reply| Request::Pull(pull("a-pulls", "g", "t", 0, 0), reply));
        assert!(matches!(other, Err(Refusal::WrongConsumeModel(..))), "not the other one's topic");
    }
}

#[test]
fn an_attempt_that_is_made_again_is_given_the_same_again_and_no_other_attempt_is() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    let attempt = |id: &str| ReceiveMessages { attempt_id: id.into(), ..receive("c", "g", "t", 0) };
    let ask = |bench: &mut Bench, id| bench.ask(|reply| Request::Receive(attempt(id), reply)).unwrap();
    let first = ask(&mut bench, "one");
    bench.send("t", "B").unwrap();
    let again = ask(&mut bench, "one");
    assert_eq!((leased(&again), &again[0].handle), (vec![("A".into(), 1)], &first[0].handle));
    assert_eq!(leased(&ask(&mut bench, "two")), [("B".into(), 1)], "a new attempt: the first answer arrived");
    assert!(ask(&mut bench, "three").is_empty());
    let deliveries = |bench: &Bench| {
        let delivered = |f: &Fact| matches!(f, Fact::Delivered { group, .. } if group.as_ref() == "g");
        bench.facts().iter().filter(|fact| delivered(fact)).count()
    };
    assert_eq!(deliveries(&bench), 2, "what is answered again is the same delivery");
    bench.ack("g", "t", &again[0].handle).unwrap();
    assert!(ask(&mut bench, "one").is_empty(), "nothing of it is left");
}

#[test]
fn an_attempt_made_again_takes_the_place_of_the_one_that_waits() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    let first = bench.receive("c", "g", "t", 0);
    bench.ack("g", "t", &first[0].handle).unwrap();
    let answers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for call in ["given up", "made again"] {
        let answers = answers.clone();
        let waits =
            ReceiveMessages { attempt_id: "one".into(), wait_ms: 10_000, ..receive("c", "g", "t", 0) };
        let reply = move |answer: Answer<Vec<LeasedMessage>>| {
            answers.lock().unwrap().push((call, leased(&answer.unwrap())));
        };
        bench.turn(vec![Request::Receive(waits, Box::new(reply))]);
    }
    bench.send("t", "B").unwrap();
    bench.pass(0);
    assert_eq!(*answers.lock().unwrap(), [("made again", vec![("B".to_owned(), 1)])]);
}

#[test]
fn a_lease_is_renewed_for_three_hours_and_not_longer() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let minutes = |bench: &mut Bench, count| {
        for _ in 0..count {
            bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
            bench.pass(60_000);
        }
    };
    minutes(&mut bench, 1);
    let first = bench.receive("c", "g", "t", 0);
    minutes(&mut bench, 179);
    assert!(bench.receive("c", "g", "t", 0).is_empty(), "renewed");
    minutes(&mut bench, 3);
    assert_eq!(leased(&bench.receive("c", "g", "t", 0)), [("A".into(), 2)]);
    assert!(matches!(bench.ack("g", "t", &first[0].handle), Err(Refusal::InvalidHandle(_))));
    assert!(bench.facts().iter().any(|f| matches!(f, Fact::LeaseExpired { .. })));
}

#[test]
fn an_ordered_queue_waits_for_the_message_before() {
    let mut bench = Bench::new(small());
    bench.configure("t", "FIFO", false).unwrap();
    for id in ["A", "B", "C"] {
        let mut send = message("t", id, "");
        send.messages[0].message_type = Some(MessageType::Fifo);
        bench.ask(|reply| Request::Send(send, reply)).unwrap();
    }
    let two = ReceiveMessages { max_messages: 2, ..receive("c", "g", "t", 60_000) };
    let first = bench.ask(|reply| Request::Receive(two, reply)).unwrap();
    assert_eq!(leased(&first), [("A".into(), 1), ("B".into(), 1)]);
    assert!(bench.receive("d", "g", "t", 60_000).is_empty(), "C stands behind A and B");
    bench.ack("g", "t", &first[1].handle).unwrap();
    assert!(bench.receive("d", "g", "t", 60_000).is_empty(), "and behind A alone");
    bench.nack("g", "t", &first[0].handle, 1_000).unwrap();
    bench.pass(1_000);
    let again = bench.receive("d", "g", "t", 60_000);
    assert_eq!(leased(&again), [("A".into(), 2)], "what was given back comes first, and alone");
    bench.ack("g", "t", &again[0].handle).unwrap();
    assert_eq!(leased(&bench.receive("d", "g", "t", 60_000)), [("C".into(), 1)]);
}

#[test]
fn a_receive_that_waits_reads_on_through_messages_of_others() {
    let mut bench = Bench::new(small());
    for _ in 0..10 {
        let mut batch = message("t", "other", "TAGS\u{1}red\u{2}");
        let one = batch.messages[0].clone();
        batch.messages.extend(std::iter::repeat_n(one, 999));
        bench.ask(|reply| Request::Send(batch, reply)).unwrap();
    }
    bench.send_with("t", "A", "TAGS\u{1}blue\u{2}").unwrap();
    let slot = std::sync::Arc::new(std::sync::Mutex::new(None));
    let sender = slot.clone();
    let waits = ReceiveMessages {
        subscription: subscription("t", "blue"),
        wait_ms: 20_000,
        ..receive("c", "g", "t", 10_000)
    };
    let reply = move |answer: Answer<Vec<LeasedMessage>>| *sender.lock().unwrap() = Some(answer.unwrap());
    bench.turn(vec![Request::Receive(waits, Box::new(reply))]);
    for _ in 0..5 {
        bench.turn(Vec::new());
    }
    let found = slot.lock().unwrap().take().expect("without waiting for a new message");
    assert_eq!(leased(&found), [("A".into(), 1)]);
}
