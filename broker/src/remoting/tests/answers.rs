//! What each answer becomes.

use super::*;
use crate::api::*;
use bytes::Bytes;
use lifecycle::identity::MessageIdentity;
use std::collections::BTreeMap;

fn fields(command: &Command) -> BTreeMap<&str, &str> {
    command.fields.iter().flat_map(|fields| fields.iter()).collect()
}

fn stored(queue_offset: u64, commitlog_offset: u64, status: SendStatus) -> StoredAt {
    StoredAt { queue_id: 1, queue_offset, commitlog_offset, status }
}

fn send_answer(command: Command, answer: Answer<Vec<StoredAt>>) -> Command {
    answer_of(command, |request| match request {
        Request::Send(_, reply) => reply(answer),
        _ => panic!("not a send"),
    })
}

#[test]
fn a_send_is_answered_with_all_its_fields_under_each_status() {
    for (status, code) in [
        (SendStatus::Ok, 0),
        (SendStatus::FlushDiskTimeout, 10),
        (SendStatus::SlaveNotAvailable, 11),
        (SendStatus::FlushSlaveTimeout, 12),
    ] {
        for command in [send_request(), binary(send_request())] {
            let header_type = command.header_type;
            let answer = send_answer(command, Ok(vec![stored(6, 0x7544, status)]));
            assert_eq!((answer.code, answer.opaque, answer.flag), (code, 11, 1));
            assert_eq!(answer.header_type, header_type);
            let expected = [
                ("MSG_REGION", "DefaultRegion"),
                ("TRACE_ON", "true"),
                ("msgId", "7F00000100002A9F0000000000007544"),
                ("queueId", "1"),
                ("queueOffset", "6"),
            ];
            assert_eq!(fields(&answer), BTreeMap::from(expected));
        }
    }
}

#[test]
fn a_batch_is_answered_with_every_id_and_the_worst_status() {
    let mut body = Vec::new();
    for _ in 0..2 {
        wire::message::BatchItem { flag: 0, body: b"x", properties: Default::default() }
            .encode(&mut body)
            .unwrap();
    }
    let batch = request(320, &send_fields()).with_body(body);
    let answer = send_answer(
        batch,
        Ok(vec![stored(0, 0x201A, SendStatus::Ok), stored(1, 0x20F1, SendStatus::FlushDiskTimeout)]),
    );
    assert_eq!(answer.code, 10);
    let ids = "7F00000100002A9F000000000000201A,7F00000100002A9F00000000000020F1";
    assert_eq!((answer.field("msgId"), answer.field("queueOffset")), (Some(ids), Some("0")));
}

#[test]
fn a_refused_send_still_tells_about_tracing() {
    let refusal = Refusal::BodyTooLarge { size: 70_000, limit: 65_536 };
    let check = |answer: Command, code: i32| {
        assert_eq!(answer.code, code);
        let expected = BTreeMap::from([("MSG_REGION", "DefaultRegion"), ("TRACE_ON", "true")]);
        assert_eq!(fields(&answer), expected);
        assert!(answer.remark.is_some());
    };
    check(send_answer(send_request(), Err(refusal)), 13);
    check(answer_of(request(310, &[]), |_| panic!("asked")), 29);
    // the core gave the request up
    check(answer_of(send_request(), drop), 14);
}

#[test]
fn one_way_requests_are_never_answered() {
    let one_way = |command: Command| Command { flag: 2, ..command };
    for command in [send_request(), request(310, &[]), request(999, &[]), request(106, &[])] {
        let (mut session, core) = session(Role::Broker);
        dispatch::dispatch(&mut session, one_way(command), 100);
        let mut requests = Vec::new();
        core.drain(&mut requests);
        for request in requests {
            match request {
                Request::Send(_, reply) => reply(Err(Refusal::Busy("full"))),
                _ => panic!("not a send"),
            }
        }
        assert_eq!(answers_in(&session), []);
    }
}

#[test]
fn a_pull_is_answered_with_status_offsets_and_records() {
    let check = |status: PullStatus, offset: &str, code: i32, remark: &str| {
        let pull = request(
            11,
            &[
                ("consumerGroup", "g"),
                ("topic", "T"),
                ("queueId", "0"),
                ("queueOffset", offset),
                ("maxMsgNums", "32"),
                ("sysFlag", "2"),
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", "15000"),
                ("subVersion", "1"),
            ],
        );
        let records = match status {
            PullStatus::Found => vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")],
            _ => Vec::new(),
        };
        let body: Vec<u8> = records.concat();
        let pulled = Pulled { status, next_offset: 6, min_offset: 1, max_offset: 9, records };
        let answer = answer_of(pull, |request| match request {
            Request::Pull(_, reply) => reply(Ok(pulled)),
            _ => panic!("not a pull"),
        });
        assert_eq!((answer.code, answer.remark.as_deref()), (code, Some(remark)));
        assert_eq!(answer.body, body);
        let expected =
            [("suggestWhichBrokerId", "0"), ("nextBeginOffset", "6"), ("minOffset", "1"), ("maxOffset", "9")];
        assert_eq!(fields(&answer), BTreeMap::from(expected));
    };
    check(PullStatus::Found, "4", 0, "FOUND");
    check(PullStatus::OffsetOverflowOne, "4", 19, "OFFSET_OVERFLOW_ONE");
    check(PullStatus::NoMatchedMessage, "4", 20, "NO_MATCHED_MESSAGE");
    check(PullStatus::MessageWasRemoving, "4", 20, "MESSAGE_WAS_REMOVING");
    check(PullStatus::OffsetOverflowBadly, "4", 21, "OFFSET_OVERFLOW_BADLY");
    check(PullStatus::OffsetTooSmall, "0", 21, "OFFSET_TOO_SMALL");
    check(PullStatus::NoMessageInQueue, "4", 21, "NO_MESSAGE_IN_QUEUE");
    check(PullStatus::NoMessageInQueue, "0", 19, "NO_MESSAGE_IN_QUEUE");
    check(PullStatus::NoMatchedLogicQueue, "4", 21, "NO_MATCHED_LOGIC_QUEUE");
}

#[test]
fn a_group_without_a_position_gets_22_or_the_zero_it_asked_for() {
    let check = |more: &[(&str, &str)], answer: Answer<u64>, code: i32, offset: Option<&str>| {
        let fields = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "2")];
        let fields: Vec<_> = fields.iter().chain(more).copied().collect();
        let answer = answer_of(request(14, &fields), |request| match request {
            Request::QueryOffset(_, reply) => reply(answer),
            _ => panic!("not 14"),
        });
        assert_eq!((answer.code, answer.field("offset")), (code, offset));
    };
    check(&[], Ok(5), 0, Some("5"));
    check(&[], Err(Refusal::OffsetNotFound), 22, None);
    check(&[("setZeroIfNotFound", "false")], Err(Refusal::OffsetNotFound), 22, None);
    check(&[("setZeroIfNotFound", "true")], Err(Refusal::OffsetNotFound), 0, Some("0"));
}

fn query_answer(command: Command, answer: Answer<QueryAnswer>) -> Command {
    answer_of(command, |request| match request {
        Request::Query(_, reply) => reply(answer),
        _ => panic!("not a query"),
    })
}

fn topic(name: &str) -> TopicInfo {
    TopicInfo {
        name: name.into(),
        read_queues: 2,
        write_queues: 3,
        perm: 6,
        message_type: "NORMAL".into(),
        system: false,
    }
}

fn text(answer: &Command) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[test]
fn routes() {
    let route = |queues: &str| {
        format!(
            r#"{{"brokerDatas":[{{"brokerAddrs":{{"0":"127.0.0.1:10911"}},"brokerName":"broker-a","cluster":"DefaultCluster"}}],"filterServerTable":{{}},"queueDatas":[{{"brokerName":"broker-a",{queues}}}]}}"#
        )
    };
    let known = query_answer(request(105, &[("topic", "T")]), Ok(QueryAnswer::Topic(topic("T"))));
    let expected = route(r#""perm":6,"readQueueNums":2,"topicSysFlag":0,"writeQueueNums":3"#);
    assert_eq!((known.code, text(&known)), (0, expected.as_str()));

    let template = answer_of(request(105, &[("topic", "TBW102")]), |_| panic!("asked"));
    let expected = route(r#""perm":7,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8"#);
    assert_eq!((template.code, text(&template)), (0, expected.as_str()));

    let unknown = query_answer(request(105, &[("topic", "T")]), Err(Refusal::TopicNotFound("T".to_owned())));
    assert_eq!((unknown.code, text(&unknown)), (17, ""));

    let cluster = answer_of(request(106, &[]), |_| panic!("asked"));
    assert_eq!(
        text(&cluster),
        r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster"}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#
    );
    let topics = query_answer(request(206, &[]), Ok(QueryAnswer::Topics(vec![topic("T")])));
    assert_eq!(text(&topics), r#"{"topicList":["T","TBW102"]}"#);
}

#[test]
fn members_and_their_connections() {
    let subscription = Subscription {
        topic: "T".into(),
        expression: "A || B".into(),
        version: 17,
        expression_type: "TAG".into(),
    };
    let member = |client: &str, connection: u64| MemberInfo {
        client: client.into(),
        language: "JAVA".into(),
        version: 409,
        connection: ConnectionId(connection),
        leases: false,
    };
    let info = GroupInfo {
        members: vec![member("c@1", 7), member("c@2", 1 << 63)],
        subscriptions: vec![subscription.clone()],
        declaration: Some(ConsumerDeclaration {
            group: "g".into(),
            model: lifecycle::fact::ConsumeModel::Clustering,
            push: true,
            start: StartPolicy::First,
            subscriptions: vec![subscription],
        }),
    };
    let group = [("consumerGroup", "g")];
    let ids = query_answer(request(38, &group), Ok(QueryAnswer::Members(info.clone())));
    assert_eq!(text(&ids), r#"{"consumerIdList":["c@1","c@2"]}"#);
    let nobody = || Ok(QueryAnswer::Members(GroupInfo::default()));
    assert_eq!(query_answer(request(38, &group), nobody()).code, 1);

    let connections = query_answer(request(203, &group), Ok(QueryAnswer::Members(info)));
    assert_eq!(
        text(&connections),
        r#"{"connectionSet":[{"clientAddr":"127.0.0.1:50000","clientId":"c@1","language":"JAVA","version":409},{"clientAddr":"","clientId":"c@2","language":"JAVA","version":409}],"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{"T":{"classFilterMode":false,"codeSet":[65,66],"expressionType":"TAG","subString":"A || B","subVersion":17,"tagsSet":["A","B"],"topic":"T"}}}"#
    );
    assert_eq!(query_answer(request(203, &group), nobody()).code, 206);
}

#[test]
fn statistics() {
    let queues = vec![QueueStats { queue_id: 1, min_offset: 2, max_offset: 5, last_store_ms: 9 }];
    let stats = query_answer(request(202, &[("topic", "T")]), Ok(QueryAnswer::TopicStats(queues)));
    assert_eq!(
        text(&stats),
        r#"{"offsetTable":{{"brokerName":"broker-a","queueId":1,"topic":"T"}:{"lastUpdateTimestamp":9,"maxOffset":5,"minOffset":2}}}"#
    );
    let queues = vec![ConsumeStats {
        topic: "T".into(),
        queue_id: 1,
        broker_offset: 5,
        consumer_offset: 3,
        last_ms: 9,
    }];
    let stats = query_answer(request(208, &[("consumerGroup", "g")]), Ok(QueryAnswer::ConsumeStats(queues)));
    assert_eq!(
        text(&stats),
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"broker-a","queueId":1,"topic":"T"}:{"brokerOffset":5,"consumerOffset":3,"lastTimestamp":9}}}"#
    );
    let config = query_answer(request(351, &[("topic", "T")]), Ok(QueryAnswer::Topic(topic("T"))));
    assert_eq!(
        text(&config),
        r#"{"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":3}"#
    );
    let info = RuntimeInfo { started_ms: 990_000, put_total: 20, ..RuntimeInfo::default() };
    let runtime = query_answer(request(28, &[]), Ok(QueryAnswer::Runtime(info)));
    let table: wire::body::admin::KvTable = serde_json::from_slice(&runtime.body).unwrap();
    assert_eq!(table.table["putTps"], "2 2 2");
    assert_eq!(table.table["runtime"], "[ 0 days, 0 hours, 0 minutes, 10 seconds ]");
}

#[test]
fn messages_by_key_and_by_offset() {
    let found = |record: &'static [u8], commitlog_offset: u64| FoundMessage {
        topic: "T".into(),
        identity: MessageIdentity::default(),
        commitlog_offset,
        record: Bytes::from_static(record),
        lineage: None,
    };
    let key = [
        ("topic", "T"),
        ("key", "k"),
        ("maxNum", "64"),
        ("beginTimestamp", "0"),
        ("endTimestamp", "9223372036854775807"),
    ];
    let messages = vec![found(b"one", 10), found(b"two", 5)];
    let answer = query_answer(request(12, &key), Ok(QueryAnswer::Messages(messages)));
    assert_eq!((answer.code, text(&answer)), (0, "twoone"));
    assert_eq!(answer.field("indexLastUpdatePhyoffset"), Some("10"));
    let answer = query_answer(request(12, &key), Ok(QueryAnswer::Messages(Vec::new())));
    assert_eq!((answer.code, answer.field("indexLastUpdatePhyoffset")), (22, Some("0")));

    let view = [("offset", "5736")];
    let answer = query_answer(request(33, &view), Ok(QueryAnswer::Record(Bytes::from_static(b"record"))));
    assert_eq!((answer.code, text(&answer)), (0, "record"));
    assert_eq!(query_answer(request(33, &view), Err(Refusal::MessageNotFound)).code, 1);
}

#[test]
fn locks() {
    let body = r#"{"clientId":"c@1","consumerGroup":"g","mqSet":[{"brokerName":"broker-a","queueId":0,"topic":"T"},{"brokerName":"broker-a","queueId":-4,"topic":"T"}]}"#;
    let answer = answer_of(request(41, &[]).with_body(body), |request| match request {
        Request::LockQueues(locks, reply) => {
            assert_eq!((&*locks.group, &*locks.client, locks.queues.len()), ("g", "c@1", 1));
            reply(locks.queues);
        }
        _ => panic!("not a lock"),
    });
    assert_eq!(text(&answer), r#"{"lockOKMQSet":[{"brokerName":"broker-a","queueId":0,"topic":"T"}]}"#);
    let answer = answer_of(request(42, &[]).with_body(body), |request| match request {
        Request::UnlockQueues(_, reply) => reply(()),
        _ => panic!("not an unlock"),
    });
    assert_eq!((answer.code, text(&answer)), (0, ""));
}

#[test]
fn a_client_is_told_of_new_members_before_its_heartbeat_is_answered() {
    let (mut session, core) = session(Role::Broker);
    let beat =
        binary(request(34, &[]).with_body(r#"{"clientID":"c@1","consumerDataSet":[{"groupName":"g"}]}"#));
    dispatch::dispatch(&mut session, beat, 100);
    let mut requests = Vec::new();
    core.drain(&mut requests);
    let notify = match requests.remove(0) {
        Request::Heartbeat(heartbeat, reply) => {
            let notify = heartbeat.notify.unwrap();
            notify(&"g".into());
            reply(Ok(()));
            notify
        }
        _ => panic!("not a heartbeat"),
    };
    let answers = answers_in(&session);
    assert_eq!((answers[0].code, answers[0].flag, answers[0].field("consumerGroup")), (40, 2, Some("g")));
    // of our own accord we speak JSON, whatever the client speaks
    assert_eq!(answers[0].header_type, HeaderType::Json);
    assert_eq!((answers[1].code, answers[1].header_type), (0, HeaderType::Rocketmq));
    drop(session);
    notify(&"g".into());
}

#[test]
fn answers_of_java_header_classes_have_ext_fields_even_if_empty() {
    let answer = answer_of(request(35, &[("clientID", "c")]), |request| match request {
        Request::Unregister(leave, reply) => {
            assert_eq!((&*leave.client, &*leave.consumer_group), ("c", ""));
            reply(());
        }
        _ => panic!("not 35"),
    });
    assert!(answer.fields.is_some_and(|fields| fields.is_empty()));
    assert!(answer_of(request(106, &[]), drop).fields.is_none());
}
