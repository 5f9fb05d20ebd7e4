//! Requests as their types.

use std::collections::{BTreeMap, BTreeSet};

use wire::{
    code::request,
    command::Command,
    header::{
        RequestError,
        admin::{ConsumeStatsQuery, ConsumerRunningInfo, CreateTopic, DeleteGroup, ResetOffset},
        client::{GroupQuery, UnregisterClient},
        offset::{QueryConsumerOffset, QueueQuery, SearchOffset, UpdateConsumerOffset},
        pull::PullMessage,
        query::{QueryMessage, ViewMessage},
        route::TopicQuery,
        send::{SendBack, SendMessage},
        transaction::EndTransaction,
    },
};

use crate::{owned_fields, transcripts};

/// Decodes a request to its type and writes the type's fields down in the transcript's names, for comparison.
fn typed(command: &Command) -> Result<Option<BTreeMap<String, String>>, RequestError> {
    let mut out = BTreeMap::new();
    let mut put = |name: &'static str, value: &dyn ToString| {
        out.insert(name.to_owned(), value.to_string());
    };
    fn put_some(
        put: &mut dyn FnMut(&'static str, &dyn ToString),
        name: &'static str,
        value: Option<impl ToString>,
    ) {
        if let Some(value) = value {
            put(name, &value);
        }
    }
    match command.code {
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => {
            let send = SendMessage::decode(command)?;
            put("a", &send.producer_group);
            put("b", &send.topic);
            put("c", &send.default_topic);
            put("d", &send.default_topic_queues);
            put("e", &send.queue_id);
            put("f", &send.sys_flag.0);
            put("g", &send.born_timestamp_ms);
            put("h", &send.flag);
            put("i", &send.properties.0);
            put("j", &send.reconsume_times);
            put("k", &send.unit_mode);
            put("m", &send.batch);
            assert_eq!(send.max_reconsume_times, None);
        }
        request::PULL_MESSAGE => {
            let pull = PullMessage::decode(command)?;
            put("consumerGroup", &pull.consumer_group);
            put("topic", &pull.topic);
            put("queueId", &pull.queue_id);
            put("queueOffset", &pull.queue_offset);
            put("maxMsgNums", &pull.max_msg_nums);
            put("sysFlag", &pull.sys_flag.0);
            put("commitOffset", &pull.commit_offset);
            put("suspendTimeoutMillis", &pull.suspend_timeout_ms);
            put("subVersion", &pull.sub_version);
            put_some(&mut put, "expressionType", pull.expression_type);
            put_some(&mut put, "subscription", pull.subscription);
        }
        request::QUERY_CONSUMER_OFFSET => {
            let query = QueryConsumerOffset::decode(command)?;
            put("consumerGroup", &query.consumer_group);
            put("topic", &query.topic);
            put("queueId", &query.queue_id);
        }
        request::UPDATE_CONSUMER_OFFSET => {
            let update = UpdateConsumerOffset::decode(command)?;
            put("consumerGroup", &update.consumer_group);
            put("topic", &update.topic);
            put("queueId", &update.queue_id);
            put("commitOffset", &update.commit_offset);
        }
        request::GET_MAX_OFFSET | request::GET_MIN_OFFSET | request::GET_EARLIEST_MSG_STORETIME => {
            let query = QueueQuery::decode(command)?;
            put("topic", &query.topic);
            put("queueId", &query.queue_id);
        }
        request::SEARCH_OFFSET_BY_TIMESTAMP => {
            let search = SearchOffset::decode(command)?;
            put("topic", &search.topic);
            put("queueId", &search.queue_id);
            put("timestamp", &search.timestamp_ms);
        }
        request::QUERY_MESSAGE => {
            let query = QueryMessage::decode(command)?;
            put("topic", &query.topic);
            put("key", &query.key);
            put("maxNum", &query.max_num);
            put("beginTimestamp", &query.begin_timestamp_ms);
            put("endTimestamp", &query.end_timestamp_ms);
            put("_UNIQUE_KEY_QUERY", &query.unique_key);
        }
        request::VIEW_MESSAGE_BY_ID => put("offset", &ViewMessage::decode(command)?.commitlog_offset),
        request::CONSUMER_SEND_MSG_BACK => {
            let back = SendBack::decode(command)?;
            put("offset", &back.commitlog_offset);
            put("group", &back.group);
            put("delayLevel", &back.delay_level);
            put_some(&mut put, "originMsgId", back.origin_msg_id);
            put_some(&mut put, "originTopic", back.origin_topic);
            put("unitMode", &back.unit_mode);
            put_some(&mut put, "maxReconsumeTimes", back.max_reconsume_times);
        }
        request::UNREGISTER_CLIENT => {
            let client = UnregisterClient::decode(command)?;
            put("clientID", &client.client_id);
            put_some(&mut put, "producerGroup", client.producer_group);
            put_some(&mut put, "consumerGroup", client.consumer_group);
        }
        request::GET_CONSUMER_LIST_BY_GROUP | request::GET_CONSUMER_CONNECTION_LIST => {
            put("consumerGroup", &GroupQuery::decode(command)?.consumer_group);
        }
        request::END_TRANSACTION => {
            let end = EndTransaction::decode(command)?;
            put("producerGroup", &end.producer_group);
            put("commitLogOffset", &end.commitlog_offset);
            put("tranStateTableOffset", &end.tran_state_table_offset);
            put("fromTransactionCheck", &end.from_transaction_check);
            put_some(&mut put, "msgId", end.msg_id);
            put_some(&mut put, "transactionId", end.transaction_id);
        }
        request::GET_ROUTEINFO_BY_TOPIC
        | request::GET_TOPIC_STATS_INFO
        | request::QUERY_TOPIC_CONSUME_BY_WHO
        | request::DELETE_TOPIC_IN_BROKER
        | request::DELETE_TOPIC_IN_NAMESRV => put("topic", &TopicQuery::decode(command)?.topic),
        request::UPDATE_AND_CREATE_TOPIC => {
            let topic = CreateTopic::decode(command)?;
            put("topic", &topic.topic);
            put_some(&mut put, "defaultTopic", topic.default_topic);
            put("readQueueNums", &topic.read_queues);
            put("writeQueueNums", &topic.write_queues);
            put("perm", &topic.perm);
            put_some(&mut put, "topicFilterType", topic.topic_filter_type);
            put("topicSysFlag", &topic.topic_sys_flag);
            put("order", &topic.order);
        }
        request::GET_CONSUME_STATS => {
            let query = ConsumeStatsQuery::decode(command)?;
            put("consumerGroup", &query.consumer_group);
            assert_eq!(query.topic, None);
        }
        request::DELETE_SUBSCRIPTIONGROUP => {
            let delete = DeleteGroup::decode(command)?;
            put("groupName", &delete.group);
            put("removeOffset", &delete.remove_offset);
        }
        request::INVOKE_BROKER_TO_RESET_OFFSET => {
            let reset = ResetOffset::decode(command)?;
            put("topic", &reset.topic);
            put("group", &reset.group);
            put("timestamp", &reset.timestamp_ms);
            put("isForce", &reset.force);
        }
        request::GET_CONSUMER_RUNNING_INFO => {
            let query = ConsumerRunningInfo::decode(command)?;
            put("consumerGroup", &query.consumer_group);
            put("clientId", &query.client_id);
            put("jstackEnable", &query.jstack_enable);
        }
        _ => return Ok(None),
    }
    Ok(Some(out))
}

/// Fields clients add that mean nothing to us, and those a type holds in another form.
const NOT_COMPARED: [&str; 8] =
    ["bname", "n", "ReqT", "AccessKey", "Signature", "clusterName", "commitOrRollback", "l"];

#[test]
fn every_request_reads_as_its_type_with_every_value() {
    let mut codes = BTreeSet::new();
    for line in transcripts() {
        let command = line.command();
        if command.is_response() {
            continue;
        }
        let typed = typed(&command).unwrap_or_else(|error| panic!("{}: {error}", line.place()));
        let Some(values) = typed else { continue };
        codes.insert(command.code);
        let mut given = owned_fields(&command);
        given.retain(|name, _| !NOT_COMPARED.contains(&name.as_str()));
        assert_eq!(values, given, "{}", line.place());
    }
    let expected = [
        11, 12, 14, 15, 17, 29, 30, 31, 32, 33, 35, 36, 37, 38, 105, 202, 203, 207, 208, 215, 216, 222, 300,
        307, 310, 320, 325,
    ];
    assert_eq!(codes, BTreeSet::from(expected));
}

#[test]
fn a_missing_mandatory_field_is_named() {
    // Long names of the letters a to m; n is not read.
    let long_names =
        "producerGroup topic defaultTopic defaultTopicQueueNums queueId sysFlag bornTimestamp flag";
    let long_name = |letter: &str| long_names.split(' ').nth(usize::from(letter.as_bytes()[0] - b'a'));
    let mut named = BTreeMap::<i32, BTreeSet<&str>>::new();
    for line in transcripts() {
        let command = line.command();
        if command.is_response() || typed(&command).unwrap().is_none() {
            continue;
        }
        let fields = owned_fields(&command);
        for left_out in fields.keys() {
            let rest = fields.iter().filter(|(name, _)| *name != left_out);
            let mut without = command.clone();
            without.fields = Some(rest.map(|(name, value)| (name.as_str(), value.as_str())).collect());
            let error = match typed(&without) {
                Ok(_) => continue,
                Err(RequestError::Missing { field, .. }) => field,
                Err(other) => panic!("{}: {other}", line.place()),
            };
            let expected = if left_out.len() == 1 { long_name(left_out).unwrap() } else { left_out };
            assert_eq!(error, expected, "{}", line.place());
            named.entry(command.code).or_default().insert(error);
        }
    }
    let count = |code: i32| named[&code].len();
    assert_eq!((count(310), count(320), count(11), count(36), count(37)), (8, 8, 9, 3, 4));
    assert_eq!((count(12), count(14), count(15), count(17), count(29), count(35)), (5, 3, 4, 4, 3, 1));
}
