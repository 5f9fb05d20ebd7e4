//! Bodies, strict JSON and not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;
use wire::{
    body::{
        MessageQueue,
        admin::{self, GroupConfig, GroupConfigTable, GroupList, KvTable, TopicConfigTable},
        heartbeat::{CheckClient, Consumer, ConsumerIdList, Heartbeat},
        lock::{LockBatch, LockedQueues},
        route::{BrokerData, ClusterInfo, TopicList, TopicRoute},
    },
    code::request,
    command::Command,
};

use crate::{Line, exchanges, transcripts};

/// Decodes a strict-JSON body to its type and encodes it again; map order aside the text must be the same.
fn reencode(code: i32, is_response: bool, body: &[u8]) -> Option<Bytes> {
    fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> T {
        serde_json::from_slice(body).unwrap()
    }
    Some(match (code, is_response) {
        (request::HEART_BEAT, false) => Heartbeat::decode(body).unwrap().encode(),
        (request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ, false) => {
            LockBatch::decode(body).unwrap().encode()
        }
        (request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, false) => GroupConfig::decode(body).unwrap().encode(),
        (request::CHECK_CLIENT_CONFIG, false) => {
            serde_json::to_vec(&CheckClient::decode(body).unwrap()).unwrap().into()
        }
        (request::LOCK_BATCH_MQ, true) => json::<LockedQueues>(body).encode(),
        (request::GET_ROUTEINFO_BY_TOPIC, true) => json::<TopicRoute>(body).encode(),
        (request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, true) => json::<TopicList>(body).encode(),
        (request::GET_CONSUMER_LIST_BY_GROUP, true) => json::<ConsumerIdList>(body).encode(),
        (request::GET_BROKER_RUNTIME_INFO, true) => json::<KvTable>(body).encode(),
        (request::QUERY_TOPIC_CONSUME_BY_WHO, true) => json::<GroupList>(body).encode(),
        (request::GET_ALL_TOPIC_CONFIG, true) => json::<TopicConfigTable>(body).encode(),
        (request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, true) => json::<GroupConfigTable>(body).encode(),
        (request::GET_CONSUMER_CONNECTION_LIST, true) => connection(&json(body)),
        _ => return None,
    })
}

/// 203 has no decoder of its own: nothing of ours asks a broker for it.
fn connection(json: &Value) -> Bytes {
    let list = json["connectionSet"].as_array().unwrap();
    let subscriptions = json["subscriptionTable"].as_object().unwrap();
    let from = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let consumer = serde_json::json!({
        "groupName": "g",
        "consumeFromWhere": json["consumeFromWhere"],
        "consumeType": json["consumeType"],
        "messageModel": json["messageModel"],
    });
    let consumer: Consumer = serde_json::from_value(consumer).unwrap();
    admin::ConsumerConnection {
        connections: list.iter().map(|one| serde_json::from_value(one.clone()).unwrap()).collect(),
        consume_from_where: consumer.consume_from_where,
        consume_type: consumer.consume_type,
        message_model: consumer.message_model,
        subscriptions: subscriptions.iter().map(|(topic, one)| (topic.clone(), from(one))).collect(),
    }
    .encode()
}

#[test]
fn bodies_decode_and_encode_to_the_same_text() {
    let lines = transcripts();
    let mut seen = BTreeSet::new();
    let mut check = |code: i32, is_response: bool, command: &Command, line: &Line| {
        if line.body_is_cut || command.body.is_empty() {
            return;
        }
        let Some(ours) = reencode(code, is_response, &command.body) else { return };
        seen.insert((code, is_response));
        // Order inside a map is Java's hash order; everything else is the same, spaces included.
        assert_eq!(ours.len(), command.body.len(), "{}", line.place());
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
        assert_eq!(value(&ours), value(&command.body), "{}", line.place());
    };
    for line in lines.iter().filter(|line| line.json["re"].is_null()) {
        let command = line.command();
        check(command.code, false, &command, line);
    }
    for (request, response, line) in exchanges(&lines) {
        check(request.code, true, &response, line);
    }
    let expected = [
        (21, true),
        (28, true),
        (34, false),
        (38, true),
        (41, false),
        (41, true),
        (42, false),
        (46, false),
        (105, true),
        (200, false),
        (201, true),
        (203, true),
        (206, true),
        (300, true),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

/// The parts of a body between queues, sorted: Java's hash order is not ours.
fn sorted_parts(text: &str) -> Vec<String> {
    let inner = text.strip_suffix("}}").expect("a table");
    let mut parts: Vec<String> = inner
        .replace("{{\"brokerName\"", "{|{\"brokerName\"")
        .replace(",{\"brokerName\"", "|{\"brokerName\"")
        .split('|')
        .map(str::to_owned)
        .collect();
    parts.sort();
    parts
}

/// Reads `{…}:value` of a table with object keys.
fn entries<V: serde::de::DeserializeOwned>(text: &str) -> Option<BTreeMap<MessageQueue, V>> {
    let parts = sorted_parts(text);
    let table = parts.iter().filter(|part| part.starts_with("{\"brokerName\""));
    table
        .map(|part| {
            let (key, value) = part.split_once("}:").unwrap();
            let key = serde_json::from_str(&format!("{key}}}")).unwrap();
            Some((key, serde_json::from_str(value).ok()?))
        })
        .collect()
}

#[test]
fn tables_with_object_keys_are_written_as_java_does() {
    let lines = transcripts();
    let mut seen = BTreeMap::<i32, usize>::new();
    for (request, response, line) in exchanges(&lines) {
        let theirs = std::str::from_utf8(&response.body).unwrap_or_default();
        if theirs.is_empty() {
            continue;
        }
        let ours = match request.code {
            request::GET_TOPIC_STATS_INFO => admin::topic_stats(&entries(theirs).unwrap()),
            request::GET_CONSUME_STATS => {
                let (tps, _) = theirs.strip_prefix("{\"consumeTps\":").unwrap().split_once(',').unwrap();
                admin::consume_stats(&entries(theirs).unwrap(), tps.parse().unwrap())
            }
            request::INVOKE_BROKER_TO_RESET_OFFSET => admin::offset_table(&entries(theirs).unwrap()),
            _ => continue,
        };
        *seen.entry(request.code).or_default() += 1;
        let ours = std::str::from_utf8(&ours).unwrap();
        assert_eq!(sorted_parts(ours), sorted_parts(theirs), "{}", line.place());
    }
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), [202, 208, 222]);
}

#[test]
fn the_cluster_is_written_with_unquoted_broker_ids() {
    let lines = transcripts();
    let bodies: BTreeSet<Bytes> = exchanges(&lines)
        .into_iter()
        .filter(|(request, _, _)| request.code == request::GET_BROKER_CLUSTER_INFO)
        .map(|(_, response, _)| response.body)
        .collect();
    let cluster = |addrs: &[(u64, &str)]| {
        let broker = BrokerData {
            broker_addrs: addrs.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect(),
            broker_name: "broker-a".to_owned(),
            cluster: "DefaultCluster".to_owned(),
        };
        ClusterInfo {
            brokers: BTreeMap::from([("broker-a".to_owned(), broker)]),
            clusters: BTreeMap::from([("DefaultCluster".to_owned(), vec!["broker-a".to_owned()])]),
        }
        .encode()
    };
    let expected =
        [cluster(&[(0, "127.0.0.1:10911")]), cluster(&[(0, "127.0.0.1:10911"), (1, "127.0.0.1:10921")])];
    assert_eq!(bodies, BTreeSet::from(expected));
}
