use super::harness::*;
use crate::api::*;
use crate::config::Config;
use lifecycle::fact::{ConsumeModel, Fact};

#[test]
fn a_topic_made_at_its_first_use_never_overwrites_what_an_operator_configured() {
    let mut bench = Bench::new(small());
    bench.configure("t", "FIFO", false).unwrap();
    bench.configure("t", "MIXED", true).unwrap();
    let message_type = |bench: &Bench| {
        bench.core.as_ref().unwrap().state_view().topic("t").unwrap().config.message_type.to_string()
    };
    assert_eq!(message_type(&bench), "FIFO");
    bench.configure("t", "NORMAL", false).unwrap();
    assert_eq!(message_type(&bench), "NORMAL");
    bench.configure("new", "MIXED", true).unwrap();
    assert_eq!(bench.queue_ends("new"), [0]);
}

#[test]
fn a_message_of_the_wrong_type_is_refused_and_stated() {
    let mut bench = Bench::new(small());
    bench.configure("t", "FIFO", false).unwrap();
    let mut send = message("t", "A", "");
    send.messages[0].message_type = Some(MessageType::Normal);
    let refused = bench.ask(|reply| Request::Send(send, reply)).unwrap_err();
    assert_eq!((refused.remoting_code(), refused.grpc_code()), (13, 40014));
    assert_eq!(refused.to_string(), "topic t takes FIFO messages, not NORMAL");
    assert_eq!(bench.queue_ends("t"), [0]);
    let stated = |f: &Fact| matches!(f, Fact::Refused { code: 13, ids, .. } if ids.get(0) == Some(b"A"));
    assert_eq!(bench.facts().iter().filter(|f| stated(f)).count(), 1);
}

#[test]
fn a_group_that_may_not_be_made_is_heard_and_may_not_consume() {
    let mut bench = Bench::new(Config { auto_create_groups: false, ..small() });
    bench.send("t", "A").unwrap();
    bench.heartbeat_for("c", "g", "t", "*", ConsumeModel::Clustering).expect("as RocketMQ");
    let members =
        |bench: &mut Bench| match bench.ask(|reply| Request::Query(Query::Members("g".into()), reply)) {
            Ok(QueryAnswer::Members(info)) => {
                info.members.iter().map(|member| member.client.to_string()).collect()
            }
            Err(refusal) => vec![refusal.to_string()],
            Ok(_) => panic!("not members"),
        };
    assert_eq!(members(&mut bench), ["c"]);
    let not_found = Refusal::GroupNotFound("g".into());
    assert_eq!(not_found.remoting_code(), 26);
    let pulled = bench.ask(|reply| Request::Pull(pull("c", "g", "t", 0, 0), reply));
    assert_eq!(pulled.unwrap_err(), not_found);
    assert_eq!(bench.commit("c", "g", "t", 0, 1), Err(not_found.clone()));
    let received = bench.ask(|reply| Request::Receive(receive("d", "g", "t", 10_000), reply));
    assert_eq!(received.unwrap_err(), not_found);
    let of_group = |f: &Fact| {
        matches!(f, Fact::GroupConfigured { .. } | Fact::MemberJoined { .. } | Fact::GroupStarted { .. })
    };
    assert!(!bench.facts().iter().any(of_group), "it owes nothing");
    bench.leave("c");
    assert_eq!(members(&mut bench), ["consumer group g is not online"]);
}
