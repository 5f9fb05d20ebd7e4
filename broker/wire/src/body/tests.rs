use super::{
    admin::{ConsumeOffset, GroupConfig, TopicConfig, consume_stats},
    heartbeat::{CheckClient, ConsumeFromWhere, ConsumeType, Heartbeat, MessageModel},
    lock::LockBatch,
    *,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn heartbeat_of_the_cpp_client() {
    let body = br#"{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"g",
        "messageModel":1,"subscriptionDataSet":[{"codeSet":["2598919"],"subString":"TagA","subVersion":"1795378654058",
        "tagsSet":["TagA"],"topic":"T"}]}],"producerDataSet":[]}"#;
    let heartbeat = Heartbeat::decode(body).unwrap();
    let consumer = &heartbeat.consumers[0];
    assert_eq!(consumer.consume_from_where, Some(ConsumeFromWhere::FirstOffset));
    assert_eq!(consumer.consume_type, Some(ConsumeType::Passively));
    assert_eq!(consumer.message_model, Some(MessageModel::Clustering));
    let subscription = &consumer.subscriptions[0];
    assert_eq!((subscription.sub_version, &subscription.codes[..]), (1_795_378_654_058, &[2_598_919][..]));
    assert_eq!(subscription.expression_type, "");
}

#[test]
fn heartbeat_with_nulls_and_unknown_enums() {
    let body = br#"{"clientID":"c","isWithoutSub":true,"consumerDataSet":[{"groupName":"g","consumeFromWhere":"LATER",
        "consumeType":9,"messageModel":null,"subscriptionDataSet":null,"unitMode":"true"}]}"#;
    let heartbeat = Heartbeat::decode(body).unwrap();
    let consumer = &heartbeat.consumers[0];
    assert_eq!(
        (consumer.consume_from_where, consumer.consume_type, consumer.message_model),
        (None, None, None)
    );
    assert!(consumer.unit_mode && consumer.subscriptions.is_empty() && heartbeat.producers.is_empty());
}

#[test]
fn body_errors_name_their_request() {
    let error = Heartbeat::decode(b"{}").unwrap_err();
    let RequestError::Body { request, reason } = error else { panic!() };
    assert_eq!(request, "HEART_BEAT");
    assert!(reason.contains("clientID"), "{reason}");
    assert!(LockBatch::decode(b"").is_err());
    let nameless = GroupConfig::decode(b"{}").unwrap_err();
    assert!(matches!(nameless, RequestError::Missing { field: "groupName", .. }));
}

#[test]
fn a_group_of_which_little_is_said_has_javas_defaults() {
    let config =
        GroupConfig::decode(br#"{"groupName":"g","retryMaxTimes":"5","groupRetryPolicy":{"type":"X"}}"#)
            .unwrap();
    let expected = GroupConfig { group_name: "g".to_owned(), retry_max_times: 5, ..GroupConfig::default() };
    assert_eq!(config, expected);
}

#[test]
fn attributes_and_pull_offset_only_appear_when_set() {
    let mut topic = TopicConfig {
        attributes: BTreeMap::new(),
        order: false,
        perm: 6,
        read_queues: 2,
        topic_filter_type: "SINGLE_TAG".to_owned(),
        topic_name: "T".to_owned(),
        topic_sys_flag: 0,
        write_queues: 2,
    };
    let plain = r#"{"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}"#;
    assert_eq!(topic.encode(), plain);
    topic.attributes.insert("message.type".to_owned(), "FIFO".to_owned());
    assert_eq!(topic.encode(), plain.replacen('{', r#"{"attributes":{"message.type":"FIFO"},"#, 1));

    let queue = MessageQueue { broker_name: "b".to_owned(), queue_id: 0, topic: "T".to_owned() };
    let offset =
        ConsumeOffset { broker_offset: 3, consumer_offset: 2, last_timestamp_ms: 1, pull_offset: Some(3) };
    assert_eq!(
        consume_stats(&BTreeMap::from([(queue, offset)]), 0.0),
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"brokerOffset":3,"consumerOffset":2,"lastTimestamp":1,"pullOffset":3}}}"#
    );
}

proptest! {
    #[test]
    fn any_body_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = br#"{"clientID":"c","clientId":"c","group":"g","consumerGroup":"g","groupName":"g","mqSet":[{"brokerName":"b","queueId":"1","topic":"T"}],"consumerDataSet":[{"groupName":"g","consumeType":0,"subscriptionDataSet":[{"topic":"T","codeSet":[1,"2"],"subVersion":1e3}]}]}"#;
        let mut damaged = good.to_vec();
        let at = at.index(good.len());
        damaged[at] = byte;
        for body in [&bytes[..], &damaged[..], &good[..at]] {
            Heartbeat::decode(body).ok();
            LockBatch::decode(body).ok();
            CheckClient::decode(body).ok();
            GroupConfig::decode(body).ok();
        }
        prop_assert!(Heartbeat::decode(good).is_ok() && LockBatch::decode(good).is_ok() && GroupConfig::decode(good).is_ok());
    }
}
