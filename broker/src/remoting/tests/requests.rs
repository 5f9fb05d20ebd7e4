//! What each request becomes.

use super::*;
use crate::api::*;
use bytes::Bytes;
use lifecycle::fact::ConsumeModel;
use proptest::prelude::*;
use wire::message::BatchItem;
use wire::properties::Properties;

fn only(command: Command) -> Request {
    let mut requests = requests_of(command);
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn sent(command: Command) -> SendMessages {
    match only(command) {
        Request::Send(messages, _) => messages,
        _ => panic!("not a send"),
    }
}

fn pulled(fields: &[(&str, &str)]) -> PullMessages {
    let always = [
        ("consumerGroup", "g"),
        ("topic", "T"),
        ("queueId", "3"),
        ("queueOffset", "40"),
        ("maxMsgNums", "32"),
        ("suspendTimeoutMillis", "15000"),
        ("subVersion", "1795378605878"),
        ("expressionType", "TAG"),
        ("bname", "broker-a"),
    ];
    let fields: Vec<_> = always.iter().chain(fields).copied().collect();
    match only(request(11, &fields)) {
        Request::Pull(pull, _) => pull,
        _ => panic!("not a pull"),
    }
}

#[test]
fn a_send_is_read_with_short_and_with_long_names() {
    let short = sent(send_request());
    assert_eq!((&*short.topic, short.queue, short.one_way), ("T", QueueChoice::Given(1), false));
    assert_eq!(short.create_with_queues, Some(4));
    assert_eq!((short.connection, &*short.client), (ConnectionId(7), "127.0.0.1:50000"));
    let message = &short.messages[0];
    assert_eq!((&message.body[..], message.flag, message.sys_flag), (&b"hello"[..], 7, 0));
    assert_eq!(&message.properties[..], b"KEYS\x01k\x02WAIT\x01true");
    assert_eq!((message.born_timestamp_ms, message.reconsume_times), (1_795_378_583_532, 0));
    assert_eq!(message.born_host, "127.0.0.1:50000".parse().unwrap());

    let long = sent(
        request(
            10,
            &[
                ("producerGroup", "pg"),
                ("topic", "T"),
                ("defaultTopic", "TBW102"),
                ("defaultTopicQueueNums", "4"),
                ("queueId", "1"),
                ("sysFlag", "0"),
                ("bornTimestamp", "1795378583532"),
                ("flag", "7"),
                ("properties", "KEYS\u{1}k\u{2}WAIT\u{1}true"),
                ("reconsumeTimes", "0"),
            ],
        )
        .with_body("hello"),
    );
    assert_eq!(format!("{long:?}"), format!("{short:?}"));
}

#[test]
fn a_topic_is_created_only_as_the_template_allows() {
    let check = |default_topic: &str, queues: &str, expected: Option<u32>| {
        let mut fields = send_fields();
        fields.retain(|(name, _)| !["c", "d"].contains(name));
        fields.extend([("c", default_topic), ("d", queues)]);
        assert_eq!(sent(request(310, &fields)).create_with_queues, expected, "{default_topic} {queues}");
    };
    check("TBW102", "4", Some(4));
    check("TBW102", "64", Some(8));
    check("TBW102", "0", Some(1));
    check("TBW102", "-5", Some(1));
    check("Other", "4", None);
}

#[test]
fn the_broker_chooses_a_queue_that_is_not_named() {
    let mut fields = send_fields();
    fields.push(("e", "-1"));
    assert_eq!(sent(request(310, &fields)).queue, QueueChoice::Any);
}

#[test]
fn one_way_is_passed_on() {
    assert!(sent(Command { flag: 2, ..send_request() }).one_way);
}

#[test]
fn a_batch_is_split() {
    let mut body = Vec::new();
    for (flag, text) in [(1, "one"), (2, "two")] {
        let item = BatchItem { flag, body: text.as_bytes(), properties: Properties("UNIQ_KEY\u{1}u") };
        item.encode(&mut body).unwrap();
    }
    let batch = sent(request(320, &send_fields()).with_body(body));
    let read: Vec<_> =
        batch.messages.iter().map(|m| (m.flag, m.body.clone(), m.properties.clone())).collect();
    let properties = Bytes::from_static(b"UNIQ_KEY\x01u");
    assert_eq!(
        read,
        [(1, Bytes::from_static(b"one"), properties.clone()), (2, Bytes::from_static(b"two"), properties)]
    );
}

#[test]
fn pull_flags_decide_what_is_committed_held_and_filtered() {
    let plain = pulled(&[("sysFlag", "0"), ("commitOffset", "9")]);
    assert_eq!((plain.offset, plain.max_messages, plain.max_bytes), (40, 32, 0));
    assert_eq!((&*plain.queue.group, &*plain.queue.topic, plain.queue.queue_id), ("g", "T", 3));
    assert_eq!((plain.commit_offset, plain.suspend_ms), (None, 0));
    assert_eq!((plain.subscription, plain.subscription_version), (None, 1_795_378_605_878));

    let push = pulled(&[("sysFlag", "3"), ("commitOffset", "9"), ("maxMsgBytes", "1000")]);
    assert_eq!((push.commit_offset, push.suspend_ms, push.max_bytes), (Some(9), 15_000, 1_000));
    assert_eq!(pulled(&[("sysFlag", "1"), ("commitOffset", "-1")]).commit_offset, None);

    let inline = pulled(&[("sysFlag", "4"), ("commitOffset", "0"), ("subscription", "A || B")]);
    let subscription = inline.subscription.unwrap();
    assert_eq!((&*subscription.topic, &*subscription.expression), ("T", "A || B"));
    assert_eq!(inline.subscription_version, 0);
    let all = pulled(&[("sysFlag", "4"), ("commitOffset", "0"), ("subscription", "")]);
    assert_eq!(&*all.subscription.unwrap().expression, "*");
}

#[test]
fn a_heartbeat_is_read_as_java_and_as_cpp_write_it() {
    let heartbeat = |body: &'static str| match only(request(34, &[]).with_body(body)) {
        Request::Heartbeat(heartbeat, _) => heartbeat,
        _ => panic!("not a heartbeat"),
    };
    let java = heartbeat(
        r#"{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET",
        "consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[
        {"classFilterMode":false,"codeSet":[65],"expressionType":"TAG","subString":"A","subVersion":17,
        "tagsSet":["A"],"topic":"T"}],"unitMode":false}],"producerDataSet":[{"groupName":"p"}]}"#,
    );
    assert_eq!((&*java.client, &*java.language, java.version), ("c@1", "JAVA", 409));
    assert_eq!(java.producer_groups, ["p".into()]);
    let declared = &java.consumers[0];
    assert_eq!((declared.model, declared.push), (ConsumeModel::Clustering, true));
    assert_eq!(declared.start, StartPolicy::First);
    assert_eq!(declared.subscriptions[0].version, 17);
    assert_eq!(&*declared.subscriptions[0].expression, "A");

    let cpp = heartbeat(
        r#"{"clientID":"c@2","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":"g",
        "messageModel":0,"subscriptionDataSet":[{"subString":"*","subVersion":"17","topic":"T"}],
        "unitMode":false}],"producerDataSet":[]}"#,
    );
    let declared = &cpp.consumers[0];
    assert_eq!((declared.model, declared.push), (ConsumeModel::Broadcasting, true));
    assert_eq!(declared.start, StartPolicy::Last);
    assert_eq!(declared.subscriptions[0].version, 17);
    assert_eq!(&*declared.subscriptions[0].expression_type, "TAG");

    let unknown =
        heartbeat(r#"{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeFromWhere":"NEW"}]}"#);
    assert_eq!(unknown.consumers[0].start, StartPolicy::FirstPull);
}

#[test]
fn a_connection_goes_by_its_last_heartbeat() {
    let (mut session, core) = session(Role::Broker);
    let beat = request(34, &[]).with_body(r#"{"clientID":"c@1"}"#);
    dispatch::dispatch(&mut session, beat, 100);
    dispatch::dispatch(&mut session, send_request(), 100);
    let mut requests = Vec::new();
    core.drain(&mut requests);
    match &requests[1] {
        Request::Send(messages, _) => assert_eq!(&*messages.client, "c@1"),
        _ => panic!("not a send"),
    }
}

#[test]
fn offsets_and_the_rest_are_read() {
    let queue = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "2")];
    match only(request(14, &queue)) {
        Request::QueryOffset(asked, _) => assert_eq!((&*asked.group, asked.queue_id), ("g", 2)),
        _ => panic!("14"),
    }
    let fields: Vec<_> = queue.iter().copied().chain([("commitOffset", "5")]).collect();
    match only(request(15, &fields)) {
        Request::UpdateOffset(update, _) => assert_eq!((update.offset, &*update.queue.topic), (5, "T")),
        _ => panic!("15"),
    }
    let check = |code, fields: &[(&str, &str)], expected: OffsetAt| match only(request(code, fields)) {
        Request::FindOffset(find, _) => assert_eq!((find.queue_id, find.what), (2, expected)),
        _ => panic!("{code}"),
    };
    check(29, &[("topic", "T"), ("queueId", "2"), ("timestamp", "77")], OffsetAt::Time(77));
    check(29, &[("topic", "T"), ("queueId", "2"), ("timestamp", "-1")], OffsetAt::Time(0));
    check(30, &[("topic", "T"), ("queueId", "2")], OffsetAt::Max);
    check(31, &[("topic", "T"), ("queueId", "2")], OffsetAt::Min);
    check(32, &[("topic", "T"), ("queueId", "2")], OffsetAt::EarliestStoreTime);

    let back = [("offset", "1176"), ("group", "g"), ("delayLevel", "0"), ("maxReconsumeTimes", "-1")];
    match only(request(36, &back)) {
        Request::SendBack(back, _) => {
            assert_eq!((back.commitlog_offset, back.delay_level, back.max_reconsume_times), (1176, 0, None));
        }
        _ => panic!("36"),
    }
    let make = [
        ("topic", "M"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "3"),
        ("writeQueueNums", "4"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("attributes", "+message.type=FIFO"),
    ];
    match only(request(17, &make)) {
        Request::ConfigureTopic(made, _) => {
            assert_eq!((made.read_queues, made.write_queues, made.perm), (3, 4, 6));
            assert_eq!((&*made.message_type, made.only_if_absent), ("FIFO", false));
        }
        _ => panic!("17"),
    }
}

#[test]
fn what_cannot_be_right_never_reaches_the_core() {
    let check = |command: Command, code: i32| {
        let answer = answer_of(command, |_| panic!("the core was asked"));
        assert_eq!(answer.code, code, "{:?}", answer.remark);
        assert!(answer.remark.is_some_and(|remark| !remark.is_empty()));
    };
    check(request(310, &[("a", "pg")]), 29);
    check(request(320, &send_fields()).with_body("no batch"), 13);
    check(request(320, &send_fields()), 13);
    let half: Vec<_> = send_fields().into_iter().chain([("f", "4")]).collect();
    check(request(310, &half), 16);
    check(request(11, &[]), 29);
    check(request(34, &[]).with_body("{"), 29);
    check(request(34, &[]).with_body(r#"{"clientID":""}"#), 29);
    check(request(34, &[]).with_body(r#"{"clientID":"c","producerDataSet":[{"groupName":"a b"}]}"#), 29);
    check(request(14, &[("consumerGroup", "g"), ("topic", "T"), ("queueId", "-1")]), 29);
    let commit = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "-1")];
    check(request(15, &commit), 29);
    check(request(36, &[("offset", "-1"), ("group", "g"), ("delayLevel", "0")]), 1);
    check(request(33, &[("offset", "-1")]), 1);
    check(
        request(17, &[("topic", "a b"), ("readQueueNums", "1"), ("writeQueueNums", "1"), ("perm", "6")]),
        29,
    );
    check(request(41, &[]).with_body("[]"), 29);
    let sql = r#"{"clientId":"c","group":"g","subscriptionData":{"expressionType":"SQL92","subString":"a > 1","topic":"T"}}"#;
    check(request(46, &[]).with_body(sql), 1);
    check(request(37, &[]), 3);
    check(request(999, &[]), 3);
}

#[test]
fn the_name_server_is_no_broker() {
    let (mut session, core) = session(Role::NameServer);
    dispatch::dispatch(&mut session, send_request(), 100);
    dispatch::dispatch(&mut session, request(105, &[("topic", "T")]), 100);
    let mut requests = Vec::new();
    core.drain(&mut requests);
    assert!(matches!(&requests[..], [Request::Query(Query::Topic(topic), _)] if &**topic == "T"));
    assert_eq!(answers_in(&session)[0].code, 3);
}

const CODES: [i32; 28] = [
    10, 11, 12, 14, 15, 17, 28, 29, 30, 31, 32, 33, 34, 35, 36, 38, 41, 42, 46, 105, 106, 202, 203, 206, 208,
    310, 320, 351,
];

proptest! {
    #[test]
    fn whatever_a_client_writes_it_gets_one_answer_and_none_when_one_way(
        code in prop::sample::select(&CODES[..]),
        names in prop::collection::vec(
            prop::sample::select(&[
                "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "m", "topic", "queueId", "consumerGroup", "group",
                "queueOffset", "maxMsgNums", "sysFlag", "commitOffset", "suspendTimeoutMillis", "subscription",
                "subVersion", "offset", "delayLevel", "clientID", "timestamp", "key", "maxNum", "beginTimestamp",
                "endTimestamp", "readQueueNums", "writeQueueNums", "perm", "expressionType", "maxMsgBytes",
            ][..]),
            0..35,
        ),
        values in prop::collection::vec("-?[0-9]{1,19}|[0-9]|.{0,6}", 35),
        body in prop::collection::vec(any::<u8>(), 0..60),
        one_way in any::<bool>(),
    ) {
        let fields: Vec<_> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let command = request(code, &fields).with_body(body);
        let command = Command { flag: if one_way { 2 } else { 0 }, ..command };
        let (mut session, core) = session(Role::Broker);
        dispatch::dispatch(&mut session, command, 100);
        let mut requests = Vec::new();
        core.drain(&mut requests);
        prop_assert!(requests.len() <= 1);
        drop(requests);
        prop_assert_eq!(answers_in(&session).len(), usize::from(!one_way));
        let standing = session.outbox.standing(|_| false);
        prop_assert_eq!((standing.in_flight_bytes, standing.owed), (0, 0));
    }
}
