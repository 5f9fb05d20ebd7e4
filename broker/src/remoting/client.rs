//! Owns membership: heartbeats (34), leaving (35), the members of a group (38), the subscription check (46), and the notice to
//! clients that a group's members changed (40). Called by `dispatch`.

use super::ask::{Ask, Rejection};
use super::consume::{TAG, check_filter, expression};
use super::session::Session;
use crate::api::{
    ConsumerDeclaration, Heartbeat, Query, QueryAnswer, Refusal, Request, StartPolicy, Subscription,
    Unregister,
};
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::Name;
use std::sync::{Arc, Weak};
use wire::body::heartbeat::{
    CheckClient, ConsumeFromWhere, ConsumeType, Consumer, ConsumerIdList, Heartbeat as HeartbeatBody,
    MessageModel,
};
use wire::code::response;
use wire::command::Command;
use wire::header::client::{GroupQuery, UnregisterClient, notify_consumer_ids_changed};
use wire::name::check_group;

/// Longest client id; Java's are `ip@pid#nanoseconds`.
const CLIENT_ID_MAX: usize = 512;
/// Most groups of one client, and most subscriptions of one group.
const GROUPS_MAX: usize = 1_024;
const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Code 34.
pub(super) fn heartbeat(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_heartbeat(session, command), |heartbeat, ask| {
        session.client = heartbeat.client.clone();
        let reply = Box::new(move |answer| ask.take(answer, |(), ask| ask.succeed()));
        session.submit(Request::Heartbeat(heartbeat, reply));
    });
}

fn read_heartbeat(session: &Session, command: &Command) -> Result<Heartbeat, Rejection> {
    let body = HeartbeatBody::decode(&command.body)?;
    let invalid = |remark: String| Rejection::new(response::INVALID_PARAMETER, remark);
    if body.client_id.is_empty() || body.client_id.len() > CLIENT_ID_MAX {
        return Err(invalid(format!("client id must have 1 to {CLIENT_ID_MAX} bytes")));
    }
    let subscriptions = body.consumers.iter().map(|consumer| consumer.subscriptions.len()).max();
    if body.producers.len().max(body.consumers.len()) > GROUPS_MAX
        || subscriptions.unwrap_or_default() > SUBSCRIPTIONS_MAX
    {
        return Err(invalid("heartbeat names too many groups or subscriptions".to_owned()));
    }
    let groups = body.producers.iter().map(|producer| &producer.group_name);
    for group in groups.chain(body.consumers.iter().map(|consumer| &consumer.group_name)) {
        check_group(group).map_err(|error| invalid(format!("group {group:?}: {error}")))?;
    }
    Ok(Heartbeat {
        client: Name::from(body.client_id),
        connection: session.id,
        language: Name::from(command.language.name()),
        version: command.version,
        producer_groups: body.producers.into_iter().map(|producer| Name::from(producer.group_name)).collect(),
        consumers: body.consumers.iter().map(declaration).collect(),
        notify: Some(notify(session)),
    })
}

/// Tells the client that a group's members changed: it looks at once instead of at its next rebalance.
fn notify(session: &Session) -> Arc<dyn Fn(&Name) + Send + Sync> {
    // the core keeps this as long as the member; the connection must not live longer for it
    let outbox = Arc::downgrade(&session.outbox);
    Arc::new(move |group: &Name| {
        if let Some(outbox) = Weak::upgrade(&outbox) {
            let notice = notify_consumer_ids_changed(outbox.next_opaque(), group);
            outbox.put(&notice, &[]);
        }
    })
}

fn declaration(consumer: &Consumer) -> ConsumerDeclaration {
    ConsumerDeclaration {
        group: Name::from(consumer.group_name.as_str()),
        model: match consumer.message_model {
            Some(MessageModel::Broadcasting) => ConsumeModel::Broadcasting,
            Some(MessageModel::Clustering) | None => ConsumeModel::Clustering,
        },
        push: consumer.consume_type != Some(ConsumeType::Actively),
        start: start_policy(consumer.consume_from_where),
        subscriptions: consumer.subscriptions.iter().map(subscription).collect(),
    }
}

/// Three of Java's policies are deprecated and mean the first. What we cannot read is not taken for the default.
fn start_policy(from: Option<ConsumeFromWhere>) -> StartPolicy {
    match from {
        Some(
            ConsumeFromWhere::LastOffset
            | ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst
            | ConsumeFromWhere::MinOffset
            | ConsumeFromWhere::MaxOffset,
        ) => StartPolicy::Last,
        Some(ConsumeFromWhere::FirstOffset) => StartPolicy::First,
        Some(ConsumeFromWhere::Timestamp) | None => StartPolicy::FirstPull,
    }
}

fn subscription(subscription: &wire::body::heartbeat::Subscription) -> Subscription {
    Subscription {
        topic: Name::from(subscription.topic.as_str()),
        expression: Name::from(expression(&subscription.sub_string)),
        version: u64::try_from(subscription.sub_version).unwrap_or_default(),
        expression_type: match subscription.expression_type.as_str() {
            "" => Name::from(TAG),
            other => Name::from(other),
        },
    }
}

/// Code 35. Without a group there is nothing to leave: a client names each.
pub(super) fn unregister(session: &mut Session, command: &Command, ask: Ask) {
    let read = UnregisterClient::decode(command).map(|header| Unregister {
        client: session.name(header.client_id),
        producer_group: session.name(header.producer_group.unwrap_or_default()),
        consumer_group: session.name(header.consumer_group.unwrap_or_default()),
    });
    ask.read(read.map_err(Into::into), |leave, ask| {
        session.submit(Request::Unregister(leave, Box::new(move |()| ask.succeed())));
    });
}

/// Code 38. A client that does not find itself never rebalances, so an empty list is an error it repeats. Each takes its share of the
/// queues by its place in the list: members that lease, of which 4.x knows nothing, would leave their shares unread.
pub(super) fn members(session: &mut Session, command: &Command, ask: Ask) {
    let read = GroupQuery::decode(command).map(|header| session.name(header.consumer_group));
    ask.read(read.map_err(Into::into), |group, ask| {
        let nobody = Rejection::new(response::SYSTEM_ERROR, format!("no consumer for this group, {group}"));
        let reply = Box::new(move |answer| match answer {
            Ok(QueryAnswer::Members(info)) if info.members.iter().any(|member| !member.leases) => {
                let sharing = info.members.iter().filter(|member| !member.leases);
                let ids = sharing.map(|member| member.client.to_string());
                ask.succeed_with(ConsumerIdList { consumer_id_list: ids.collect() }.encode());
            }
            Ok(_) | Err(Refusal::GroupNotFound(_) | Refusal::GroupNotOnline(_)) => ask.reject(nobody),
            Err(refusal) => ask.reject(refusal),
        });
        session.submit(Request::Query(Query::Members(group), reply));
    });
}

/// Code 46: may this subscription be made. Asked for SQL filters only, which are not served.
pub(super) fn check(command: &Command, ask: Ask) {
    let read = CheckClient::decode(&command.body)
        .map_err(Rejection::from)
        .and_then(|check| check_filter(&check.subscription.expression_type));
    ask.read(read, |(), ask| ask.succeed());
}
