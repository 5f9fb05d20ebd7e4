//! Owns the name server's answers: routes (105), the cluster (106), all topics (206). Called by `dispatch`, on both ports.

use super::ask::Ask;
use super::listener::Edge;
use super::session::Session;
use crate::api::{Query, QueryAnswer, Refusal, Request, TopicInfo};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use wire::body::route::{BrokerData, ClusterInfo, QueueData, TopicList, TopicRoute};
use wire::command::Command;
use wire::header::route::{TopicQuery, topic_not_exist};
use wire::name::AUTO_CREATE_TOPIC;

/// Permission of `TBW102`: read, write, and a topic may be made after it.
const PERM_TEMPLATE: i32 = 7;
/// RocketMQ's broker id of a master.
const MASTER_ID: u64 = 0;

/// Code 105.
pub(super) fn topic_route(session: &mut Session, command: &Command, ask: Ask) {
    let topic = TopicQuery::decode(command).map(|query| session.name(query.topic));
    ask.read(topic.map_err(Into::into), |topic, ask| {
        let edge = session.edge.clone();
        if *topic == *AUTO_CREATE_TOPIC && edge.config.auto_create_topic {
            let queues = queue_count(edge.config.default_queue_nums);
            return ask.succeed_with(route(&edge, PERM_TEMPLATE, (queues, queues)));
        }
        let query = Query::Topic(topic.clone());
        let reply = Box::new(move |answer| match answer {
            Ok(QueryAnswer::Topic(info)) => ask.succeed_with(route_of(&edge, &info)),
            Ok(_) | Err(Refusal::TopicNotFound(_)) => {
                let answer = topic_not_exist(&ask.request, &topic);
                ask.answer(answer);
            }
            Err(refusal) => ask.reject(refusal),
        });
        session.submit(Request::Query(query, reply));
    });
}

fn route_of(edge: &Edge, info: &TopicInfo) -> bytes::Bytes {
    let perm = i32::try_from(info.perm).unwrap_or_default();
    route(edge, perm, (queue_count(info.read_queues), queue_count(info.write_queues)))
}

fn route(edge: &Edge, perm: i32, (read_queues, write_queues): (i32, i32)) -> bytes::Bytes {
    let queues = QueueData {
        broker_name: edge.config.advertised.broker_name.to_string(),
        perm,
        read_queues,
        topic_sys_flag: 0,
        write_queues,
    };
    let route = TopicRoute {
        broker_datas: vec![broker(edge)],
        filter_server_table: BTreeMap::new(),
        order_topic_conf: None,
        queue_datas: vec![queues],
    };
    route.encode()
}

/// Queue counts as Java's `int`.
pub(super) fn queue_count(queues: u32) -> i32 {
    i32::try_from(queues).unwrap_or(i32::MAX)
}

fn broker(edge: &Edge) -> BrokerData {
    let advertised = &edge.config.advertised;
    let mut broker_addrs = BTreeMap::from([(advertised.broker_id, advertised.remoting.to_string())]);
    // whoever asks a SLAVE for the way must find the master too
    let master = *edge.config.master.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(master) = master.filter(|_| advertised.broker_id != MASTER_ID) {
        broker_addrs.insert(MASTER_ID, master.to_string());
    }
    BrokerData {
        broker_addrs,
        broker_name: advertised.broker_name.to_string(),
        cluster: advertised.cluster.to_string(),
    }
}

/// Code 106.
pub(super) fn cluster(session: &Session, ask: Ask) {
    let broker = broker(&session.edge);
    let cluster = ClusterInfo {
        clusters: BTreeMap::from([(broker.cluster.clone(), vec![broker.broker_name.clone()])]),
        brokers: BTreeMap::from([(broker.broker_name.clone(), broker)]),
    };
    ask.succeed_with(cluster.encode());
}

/// Code 206. `TBW102` is listed where it has a route.
pub(super) fn topics(session: &Session, ask: Ask) {
    let edge: Arc<Edge> = session.edge.clone();
    let reply = Box::new(move |answer| {
        ask.take(answer, |answer, ask| {
            let QueryAnswer::Topics(topics) = answer else { return };
            let mut topic_list: Vec<String> = topics.iter().map(|topic| topic.name.to_string()).collect();
            if edge.config.auto_create_topic && !topic_list.iter().any(|topic| topic == AUTO_CREATE_TOPIC) {
                topic_list.push(AUTO_CREATE_TOPIC.to_owned());
            }
            ask.succeed_with(TopicList { broker_addr: None, topic_list }.encode());
        });
    });
    session.submit(Request::Query(Query::Topics, reply));
}
