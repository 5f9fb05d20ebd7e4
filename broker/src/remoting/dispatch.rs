//! Owns the table of request codes: one line each. Called by the session for every command read.

use super::ask::{Ask, Rejection};
use super::listener::Edge;
use super::session::Session;
use super::stats::count;
use super::{Role, admin, client, consume, message, offset, route, send};
use wire::code::{request, response};
use wire::command::Command;
use wire::frame::FrameError;

/// Hands a command to the function of its code. `bytes` is what it took in its frame.
pub(super) fn dispatch(session: &mut Session, command: Command, bytes: usize) {
    if command.is_response() {
        // we ask clients nothing that they answer
        return;
    }
    let ask = Ask::new(&command, session.outbox.clone()).in_flight(bytes);
    match command.code {
        request::GET_ROUTEINFO_BY_TOPIC => route::topic_route(session, &command, ask),
        request::GET_BROKER_CLUSTER_INFO => route::cluster(session, ask),
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => route::topics(session, ask),
        _ if session.edge.role == Role::NameServer => unsupported(&session.edge, ask),

        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            send::send(session, &command, ask);
        }
        request::PULL_MESSAGE => consume::pull(session, &command, ask),
        request::CONSUMER_SEND_MSG_BACK => consume::send_back(session, &command, ask),
        request::LOCK_BATCH_MQ => consume::lock(session, &command, ask),
        request::UNLOCK_BATCH_MQ => consume::unlock(session, &command, ask),

        request::QUERY_CONSUMER_OFFSET => offset::query(session, &command, ask),
        request::UPDATE_CONSUMER_OFFSET => offset::update(session, &command, ask),
        request::SEARCH_OFFSET_BY_TIMESTAMP => offset::search(session, &command, ask),
        request::GET_MAX_OFFSET => offset::max(session, &command, ask),
        request::GET_MIN_OFFSET => offset::min(session, &command, ask),
        request::GET_EARLIEST_MSG_STORETIME => offset::earliest(session, &command, ask),

        request::HEART_BEAT => client::heartbeat(session, &command, ask),
        request::UNREGISTER_CLIENT => client::unregister(session, &command, ask),
        request::GET_CONSUMER_LIST_BY_GROUP => client::members(session, &command, ask),
        request::CHECK_CLIENT_CONFIG => client::check(&command, ask),

        request::VIEW_MESSAGE_BY_ID => message::by_offset(session, &command, ask),
        request::QUERY_MESSAGE => message::by_key(session, &command, ask),

        request::UPDATE_AND_CREATE_TOPIC => admin::configure_topic(session, &command, ask),
        request::GET_BROKER_RUNTIME_INFO => admin::runtime(session, ask),
        request::GET_TOPIC_STATS_INFO => admin::topic_stats(session, &command, ask),
        request::GET_CONSUMER_CONNECTION_LIST => admin::connections(session, &command, ask),
        request::GET_CONSUME_STATS => admin::consume_stats(session, &command, ask),
        request::GET_TOPIC_CONFIG => admin::topic_config(session, &command, ask),

        _ => unsupported(&session.edge, ask),
    }
}

fn unsupported(edge: &Edge, ask: Ask) {
    count(&edge.stats.unsupported);
    let remark = format!("request type {} not supported", ask.request.code);
    ask.reject(Rejection::new(response::REQUEST_CODE_NOT_SUPPORTED, remark));
}

/// Answers a frame that is too long to be read. The connection closes behind the answer.
pub(super) fn refuse_oversize(session: &Session, command: &Command, error: &FrameError) {
    if command.is_response() {
        return;
    }
    let ask = Ask::new(command, session.outbox.clone());
    let ask = send::with_trace_if_send(session, ask);
    ask.reject(Rejection::new(response::MESSAGE_ILLEGAL, error.to_string()));
}
