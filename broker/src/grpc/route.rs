//! Owns the shape of routes: which queues a client sees, where it is told to connect, what each queue takes.

use super::GrpcConfig;
use super::proto::{
    Address, AddressScheme, Assignment, Broker, Code, Endpoints, MessageQueue, MessageType, Permission,
    Resource,
};
use super::status::{Refused, refuse};
use crate::api::TopicInfo;
use std::net::IpAddr;

/// Most addresses echoed into every queue of a route.
const ADDRESSES_MAX: usize = 16;
/// Any queue of the broker.
const ANY_QUEUE: i32 = -1;
/// Clients (Python) use a master's queues only, and its id is 0.
const MASTER: i32 = 0;

const PERM_READ: u32 = 4;
const PERM_WRITE: u32 = 2;

/// Where clients shall connect: what the client itself used, which it can surely reach; else what we are told we are.
pub(super) fn endpoints(asked_at: Option<Endpoints>, config: &GrpcConfig) -> Endpoints {
    let mut addresses = asked_at.map(|endpoints| endpoints.addresses).unwrap_or_default();
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        let (host, port) = config.advertised.clone();
        addresses.push(Address { host, port: port.into() });
    }
    let scheme = addresses.first().map_or(AddressScheme::DomainName, |address| scheme(&address.host));
    if scheme == AddressScheme::DomainName {
        // the Python SDK refuses more than one
        addresses.truncate(1);
    }
    Endpoints { scheme: scheme.into(), addresses }
}

/// Never 0: the Python SDK would connect to nowhere.
fn scheme(host: &str) -> AddressScheme {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    }
}

/// Every queue of a topic. There is always one with id 0: the Node SDK looks for it.
pub(super) fn queues(
    topic: &TopicInfo,
    resource: &Resource,
    endpoints: &Endpoints,
    config: &GrpcConfig,
) -> Vec<MessageQueue> {
    let broker = broker(endpoints, config);
    let accepts = accepts(&topic.message_type);
    (0..topic.read_queues.max(topic.write_queues).max(1))
        .map(|id| MessageQueue {
            topic: Some(resource.clone()),
            // the configuration allows 1,024 queues
            id: i32::try_from(id).unwrap_or(i32::MAX),
            permission: permission(topic, id).into(),
            broker: Some(broker.clone()),
            accept_message_types: accepts.iter().map(|accepts| (*accepts).into()).collect(),
        })
        .collect()
}

/// Whether the core hands this topic out in order.
pub(super) fn is_ordered(topic: &TopicInfo) -> bool {
    &*topic.message_type == "FIFO"
}

/// What a push consumer is to receive from: any queue, the broker chooses; of an ordered topic each queue by itself, so that one
/// that waits for its turn does not keep the others waiting.
pub(super) fn assignments(
    topic: &TopicInfo,
    resource: &Resource,
    endpoints: &Endpoints,
    config: &GrpcConfig,
) -> Result<Vec<Assignment>, Refused> {
    let readable =
        |queue: &MessageQueue| matches!(queue.permission(), Permission::Read | Permission::ReadWrite);
    let mut queues = queues(topic, resource, endpoints, config);
    queues.retain(readable);
    if queues.is_empty() {
        return refuse(Code::Forbidden, format!("topic {} does not permit reading", topic.name));
    }
    if !is_ordered(topic) {
        queues.truncate(1);
        queues.iter_mut().for_each(|queue| queue.id = ANY_QUEUE);
    }
    Ok(queues.into_iter().map(|queue| Assignment { message_queue: Some(queue) }).collect())
}

fn broker(endpoints: &Endpoints, config: &GrpcConfig) -> Broker {
    Broker { name: config.broker_name.to_string(), id: MASTER, endpoints: Some(endpoints.clone()) }
}

fn permission(topic: &TopicInfo, queue_id: u32) -> Permission {
    let reads = topic.perm & PERM_READ != 0 && queue_id < topic.read_queues;
    let writes = topic.perm & PERM_WRITE != 0 && queue_id < topic.write_queues;
    match (reads, writes) {
        (true, true) => Permission::ReadWrite,
        (true, false) => Permission::Read,
        (false, true) => Permission::Write,
        (false, false) => Permission::None,
    }
}

/// Not TRANSACTION: it is refused as long as transactions are not served.
fn accepts(message_type: &str) -> &'static [MessageType] {
    match message_type {
        "NORMAL" => &[MessageType::Normal],
        "FIFO" => &[MessageType::Fifo],
        "DELAY" => &[MessageType::Delay],
        "TRANSACTION" => &[],
        _ => &[MessageType::Normal, MessageType::Fifo, MessageType::Delay],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle::identity::Name;

    fn topic(read_queues: u32, write_queues: u32, perm: u32) -> TopicInfo {
        let name = Name::from("t");
        TopicInfo { name, read_queues, write_queues, perm, message_type: Name::from("MIXED"), system: false }
    }

    fn at(hosts: &[&str]) -> Option<Endpoints> {
        let addresses = hosts.iter().map(|host| Address { host: host.to_string(), port: 9 }).collect();
        Some(Endpoints { scheme: 0, addresses })
    }

    #[test]
    fn endpoints_echo_the_access_point_with_a_scheme() {
        let check = |asked_at: Option<Endpoints>, scheme: AddressScheme, hosts: &[&str]| {
            let told = endpoints(asked_at, &GrpcConfig::default());
            assert_eq!(told.scheme(), scheme);
            assert_eq!(told.addresses.iter().map(|address| &address.host).collect::<Vec<_>>(), hosts);
        };
        check(at(&["10.0.0.1", "10.0.0.2"]), AddressScheme::IPv4, &["10.0.0.1", "10.0.0.2"]);
        check(at(&["::1"]), AddressScheme::IPv6, &["::1"]);
        check(at(&["localhost", "other"]), AddressScheme::DomainName, &["localhost"]);
        check(at(&[]), AddressScheme::IPv4, &["127.0.0.1"]);
        check(None, AddressScheme::IPv4, &["127.0.0.1"]);
        assert_eq!(endpoints(at(&["::1"; 40]), &GrpcConfig::default()).addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn queues_say_what_each_permits() {
        let config = GrpcConfig::default();
        let check = |topic: TopicInfo, permissions: &[Permission]| {
            let queues = queues(&topic, &Resource::default(), &endpoints(None, &config), &config);
            assert_eq!(queues.iter().map(|queue| queue.permission()).collect::<Vec<_>>(), permissions);
            assert!(queues.iter().zip(0..).all(|(queue, id)| queue.id == id));
            assert!(queues.iter().all(|queue| queue.broker.as_ref().is_some_and(|broker| broker.id == 0)));
        };
        check(topic(2, 2, 6), &[Permission::ReadWrite; 2]);
        check(topic(1, 2, 6), &[Permission::ReadWrite, Permission::Write]);
        check(topic(2, 1, 7), &[Permission::ReadWrite, Permission::Read]);
        check(topic(1, 1, 4), &[Permission::Read]);
        check(topic(0, 0, 6), &[Permission::None]);
    }

    #[test]
    fn accepted_types() {
        assert_eq!(accepts("NORMAL"), [MessageType::Normal]);
        assert_eq!(accepts("MIXED"), [MessageType::Normal, MessageType::Fifo, MessageType::Delay]);
        for of in ["NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED", ""] {
            assert!(!accepts(of).contains(&MessageType::Transaction));
        }
    }

    #[test]
    fn what_a_push_consumer_is_assigned() {
        let config = GrpcConfig::default();
        let of = |topic: TopicInfo| {
            let assigned = assignments(&topic, &Resource::default(), &endpoints(None, &config), &config);
            let id = |one: Assignment| one.message_queue.unwrap().id;
            assigned.map(|all| all.into_iter().map(id).collect::<Vec<_>>()).map_err(|refused| refused.code)
        };
        assert_eq!(of(topic(1, 1, 2)), Err(Code::Forbidden));
        assert_eq!(of(topic(4, 4, 6)), Ok(vec![-1]));
        let fifo = Name::from("FIFO");
        assert_eq!(of(TopicInfo { message_type: fifo, ..topic(2, 3, 6) }), Ok(vec![0, 1]));
    }
}
