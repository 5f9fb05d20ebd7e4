//! Owns the admin tool's questions: make a topic (17), runtime numbers (28), a topic's queues (202), a group's connections (203)
//! and positions (208), a topic's configuration (351). Called by `dispatch`.

use super::ask::{Ask, Rejection};
use super::listener::Edge;
use super::route::queue_count;
use super::session::Session;
use crate::api::{
    ConfigureTopic, ConsumeStats, ConsumerDeclaration, GroupInfo, Query, QueryAnswer, QueueStats, Refusal,
    Request, RuntimeInfo, StartPolicy, Subscription, TopicInfo,
};
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::Name;
use std::collections::BTreeMap;
use wire::body::MessageQueue;
use wire::body::admin::{
    Connection, ConsumeOffset, ConsumerConnection, KvTable, TopicConfig, TopicOffset,
    consume_stats as stats_body, topic_stats as topic_body,
};
use wire::body::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel, Subscription as WireSubscription};
use wire::code::response;
use wire::command::Command;
use wire::header::admin::{ConsumeStatsQuery, CreateTopic};
use wire::header::client::GroupQuery;
use wire::header::route::{TopicQuery, topic_not_exist};
use wire::message::tag_code;
use wire::name::check_topic;

/// 5.x tools name the message type of a topic in `attributes`.
const MESSAGE_TYPE_ATTRIBUTE: &str = "+message.type=";

/// Code 17.
pub(super) fn configure_topic(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_configure(session, command), |configure, ask| {
        let reply = Box::new(move |answer| ask.take(answer, |(), ask| ask.succeed()));
        session.submit(Request::ConfigureTopic(configure, reply));
    });
}

fn read_configure(session: &mut Session, command: &Command) -> Result<ConfigureTopic, Rejection> {
    let header = CreateTopic::decode(command)?;
    let invalid = |remark: String| Rejection::new(response::INVALID_PARAMETER, remark);
    check_topic(header.topic).map_err(|error| invalid(format!("topic {:?}: {error}", header.topic)))?;
    let unsigned = |name: &str, value: i32| {
        u32::try_from(value).map_err(|_| invalid(format!("{name} cannot be {value}")))
    };
    let attributes = header.attributes.unwrap_or_default();
    let message_type = attributes.split(',').find_map(|part| part.strip_prefix(MESSAGE_TYPE_ATTRIBUTE));
    Ok(ConfigureTopic {
        name: session.name(header.topic),
        read_queues: unsigned("readQueueNums", header.read_queues)?,
        write_queues: unsigned("writeQueueNums", header.write_queues)?,
        perm: unsigned("perm", header.perm)?,
        message_type: session.name(message_type.unwrap_or("NORMAL")),
        only_if_absent: false,
        actor: session.client.clone(),
    })
}

/// Code 28.
pub(super) fn runtime(session: &Session, ask: Ask) {
    let edge = session.edge.clone();
    let reply = Box::new(move |answer| {
        ask.take(answer, |answer, ask| {
            let QueryAnswer::Runtime(info) = answer else { return };
            let now_ms = (edge.clock)().wall_ms;
            ask.succeed_with(KvTable { table: runtime_table(&info, now_ms) }.encode());
        });
    });
    session.submit(Request::Query(Query::Runtime, reply));
}

/// What `clusterList` and `brokerStatus` read. Rates are averages since the start: the tool's three windows show the same.
fn runtime_table(info: &RuntimeInfo, now_ms: u64) -> BTreeMap<String, String> {
    let uptime_ms = now_ms.saturating_sub(info.started_ms);
    let per_second = |count: u64| {
        let rate = count as f64 * 1000.0 / uptime_ms.max(1) as f64;
        format!("{rate} {rate} {rate}")
    };
    let uptime_s = uptime_ms / 1000;
    let (days, hours) = (uptime_s / 86_400, uptime_s / 3_600 % 24);
    let (minutes, seconds) = (uptime_s / 60 % 60, uptime_s % 60);
    let version = wire::command::VERSION;
    let entries = [
        ("bootTimestamp", info.started_ms.to_string()),
        ("brokerVersion", version.to_string()),
        ("brokerVersionDesc", "V4_9_8".to_owned()),
        ("commitLogDiskRatio", info.disk_ratio.to_string()),
        ("commitLogMaxOffset", info.commitlog_max.to_string()),
        ("commitLogMinOffset", info.commitlog_min.to_string()),
        ("consumeQueueDiskRatio", info.disk_ratio.to_string()),
        ("dispatchBehindBytes", "0".to_owned()),
        ("earliestMessageTimeStamp", "-1".to_owned()),
        ("getTotalTps", per_second(info.get_total)),
        ("getTransferedTps", per_second(info.get_total)),
        ("getTransferredTps", per_second(info.get_total)),
        ("msgGetTotalTodayMorning", "0".to_owned()),
        ("msgGetTotalTodayNow", info.get_total.to_string()),
        ("msgGetTotalYesterdayMorning", "0".to_owned()),
        ("msgPutTotalTodayMorning", "0".to_owned()),
        ("msgPutTotalTodayNow", info.put_total.to_string()),
        ("msgPutTotalYesterdayMorning", "0".to_owned()),
        ("pageCacheLockTimeMills", "0".to_owned()),
        ("pullThreadPoolQueueHeadWaitTimeMills", "0".to_owned()),
        ("pullThreadPoolQueueSize", "0".to_owned()),
        ("putMessageTimesTotal", info.put_total.to_string()),
        ("putTps", per_second(info.put_total)),
        ("queryThreadPoolQueueHeadWaitTimeMills", "0".to_owned()),
        ("queryThreadPoolQueueSize", "0".to_owned()),
        ("runtime", format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]")),
        ("sendThreadPoolQueueHeadWaitTimeMills", "0".to_owned()),
        ("sendThreadPoolQueueSize", "0".to_owned()),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Code 202.
pub(super) fn topic_stats(session: &mut Session, command: &Command, ask: Ask) {
    let read = TopicQuery::decode(command).map(|query| session.name(query.topic));
    ask.read(read.map_err(Into::into), |topic, ask| {
        let broker_name = session.edge.config.advertised.broker_name.clone();
        let query = Query::TopicStats(topic.clone());
        let reply = Box::new(move |answer| {
            ask.take(answer, |answer, ask| {
                let QueryAnswer::TopicStats(queues) = answer else { return };
                let entry = |stats: &QueueStats| {
                    let offset = TopicOffset {
                        last_update_timestamp_ms: millis(stats.last_store_ms),
                        max_offset: stats.max_offset,
                        min_offset: stats.min_offset,
                    };
                    (queue(&broker_name, &topic, stats.queue_id), offset)
                };
                ask.succeed_with(topic_body(&queues.iter().map(entry).collect()));
            });
        });
        session.submit(Request::Query(query, reply));
    });
}

fn queue(broker_name: &str, topic: &str, queue_id: u32) -> MessageQueue {
    MessageQueue {
        broker_name: broker_name.to_owned(),
        queue_id: queue_count(queue_id),
        topic: topic.to_owned(),
    }
}

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Code 203.
pub(super) fn connections(session: &mut Session, command: &Command, ask: Ask) {
    let read = GroupQuery::decode(command).map(|header| session.name(header.consumer_group));
    ask.read(read.map_err(Into::into), |group, ask| {
        let edge = session.edge.clone();
        let query = Query::Members(group.clone());
        let reply = Box::new(move |answer| {
            ask.take(online(answer, &group), |info, ask| {
                ask.succeed_with(connection_body(&edge, &info).encode());
            });
        });
        session.submit(Request::Query(query, reply));
    });
}

fn online(answer: Result<QueryAnswer, Refusal>, group: &Name) -> Result<GroupInfo, Refusal> {
    match answer {
        Ok(QueryAnswer::Members(info)) if !info.members.is_empty() => Ok(info),
        Ok(_) | Err(Refusal::GroupNotFound(_)) => Err(Refusal::GroupNotOnline(group.to_string())),
        Err(refusal) => Err(refusal),
    }
}

fn connection_body(edge: &Edge, info: &GroupInfo) -> ConsumerConnection {
    let peers = edge.peers();
    let connections = info.members.iter().map(|member| Connection {
        // members of the other protocol have no address here
        client_addr: peers.get(&member.connection).map(ToString::to_string).unwrap_or_default(),
        client_id: member.client.to_string(),
        language: member.language.to_string(),
        version: member.version,
    });
    let connections = connections.collect();
    let declaration = info.declaration.as_ref();
    let subscriptions = info.subscriptions.iter().map(|known| (known.topic.to_string(), subscription(known)));
    ConsumerConnection {
        connections,
        consume_from_where: declaration.map(|declared| match declared.start {
            StartPolicy::Last => ConsumeFromWhere::LastOffset,
            StartPolicy::First => ConsumeFromWhere::FirstOffset,
            StartPolicy::FirstPull => ConsumeFromWhere::Timestamp,
        }),
        consume_type: declaration.map(consume_type),
        message_model: declaration.map(|declared| match declared.model {
            ConsumeModel::Broadcasting => MessageModel::Broadcasting,
            ConsumeModel::Clustering | ConsumeModel::Lease => MessageModel::Clustering,
        }),
        subscriptions: subscriptions.collect(),
    }
}

fn consume_type(declared: &ConsumerDeclaration) -> ConsumeType {
    match (declared.model, declared.push) {
        (ConsumeModel::Lease, _) => ConsumeType::Pop,
        (_, true) => ConsumeType::Passively,
        (_, false) => ConsumeType::Actively,
    }
}

/// The client's own form, with the hashes clients compare.
fn subscription(known: &Subscription) -> WireSubscription {
    let tags: Vec<String> = match &*known.expression {
        "*" => Vec::new(),
        tags => tags.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
    };
    WireSubscription {
        class_filter_mode: false,
        codes: tags.iter().map(|tag| i64::from(tag_code(tag))).collect(),
        expression_type: known.expression_type.to_string(),
        sub_string: known.expression.to_string(),
        sub_version: millis(known.version),
        tags,
        topic: known.topic.to_string(),
    }
}

/// Code 208.
pub(super) fn consume_stats(session: &mut Session, command: &Command, ask: Ask) {
    let read = ConsumeStatsQuery::decode(command).map(|header| Query::ConsumeStats {
        group: session.name(header.consumer_group),
        topic: header.topic.map(|topic| session.name(topic)),
    });
    ask.read(read.map_err(Into::into), |query, ask| {
        let broker_name = session.edge.config.advertised.broker_name.clone();
        let reply = Box::new(move |answer| {
            ask.take(answer, |answer, ask| {
                let QueryAnswer::ConsumeStats(queues) = answer else { return };
                let entry = |stats: &ConsumeStats| {
                    let offset = ConsumeOffset {
                        broker_offset: stats.broker_offset,
                        consumer_offset: stats.consumer_offset,
                        last_timestamp_ms: millis(stats.last_ms),
                        pull_offset: None,
                    };
                    (queue(&broker_name, &stats.topic, stats.queue_id), offset)
                };
                ask.succeed_with(stats_body(&queues.iter().map(entry).collect(), 0.0));
            });
        });
        session.submit(Request::Query(query, reply));
    });
}

/// Code 351.
pub(super) fn topic_config(session: &mut Session, command: &Command, ask: Ask) {
    let read = TopicQuery::decode(command).map(|query| session.name(query.topic));
    ask.read(read.map_err(Into::into), |topic, ask| {
        let query = Query::Topic(topic.clone());
        let reply = Box::new(move |answer| match answer {
            Ok(QueryAnswer::Topic(info)) => ask.succeed_with(config_body(&info).encode()),
            Ok(_) | Err(Refusal::TopicNotFound(_)) => {
                let answer = topic_not_exist(&ask.request, &topic);
                ask.answer(answer);
            }
            Err(refusal) => ask.reject(refusal),
        });
        session.submit(Request::Query(query, reply));
    });
}

fn config_body(info: &TopicInfo) -> TopicConfig {
    TopicConfig {
        attributes: BTreeMap::from([("message.type".to_owned(), info.message_type.to_string())]),
        order: false,
        perm: queue_count(info.perm),
        read_queues: queue_count(info.read_queues),
        topic_filter_type: "SINGLE_TAG".to_owned(),
        topic_name: info.name.to_string(),
        topic_sys_flag: 0,
        write_queues: queue_count(info.write_queues),
    }
}
