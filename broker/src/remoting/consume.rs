//! Owns consuming by offsets: pulls (11, held by the core while there is nothing), send-backs (36), queue locks of orderly
//! consumers (41, 42). Called by `dispatch`.

use super::ask::{Ask, Rejection};
use super::offset::queue_id;
use super::session::Session;
use crate::api::{
    Answer, LockQueues, LockedQueue, PullMessages, PullStatus, Pulled, QueueOfGroup, Refusal, Request,
    SendBack, Subscription,
};
use wire::body::MessageQueue;
use wire::body::lock::{LockBatch, LockedQueues};
use wire::code::response;
use wire::command::Command;
use wire::header::pull::{PullMessage, PullMessageResponse, PullStatus as WirePullStatus};
use wire::header::send::SendBack as SendBackHeader;

/// The only filter served: by tags.
pub(super) const TAG: &str = "TAG";
/// Broker id of the only replica there is to suggest: the master.
const MASTER_ID: u64 = 0;
/// Most queues of one lock request.
const LOCKS_MAX: usize = 4_096;

/// Code 11.
pub(super) fn pull(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_pull(session, command), |pull, ask| {
        let asked = pull.offset;
        let reply = Box::new(move |answer| answer_pull(answer, asked, ask));
        session.submit(Request::Pull(pull, reply));
    });
}

fn read_pull(session: &mut Session, command: &Command) -> Result<PullMessages, Rejection> {
    let header = PullMessage::decode(command)?;
    let expression_type = header.expression_type.unwrap_or(TAG);
    check_filter(expression_type)?;
    let subscription = header.sys_flag.has_subscription().then(|| Subscription {
        topic: session.name(header.topic),
        expression: session.name(expression(header.subscription.unwrap_or_default())),
        version: u64::try_from(header.sub_version).unwrap_or_default(),
        expression_type: session.name(TAG),
    });
    let subscription_version = match &subscription {
        Some(_) => 0,
        None => u64::try_from(header.sub_version).unwrap_or_default(),
    };
    let commits = header.sys_flag.commits_offset();
    let suspends = header.sys_flag.may_suspend();
    Ok(PullMessages {
        queue: QueueOfGroup {
            group: session.name(header.consumer_group),
            topic: session.name(header.topic),
            queue_id: queue_id(header.topic, header.queue_id)?,
        },
        client: session.client.clone(),
        connection: session.id,
        offset: header.queue_offset,
        max_messages: u32::try_from(header.max_msg_nums).unwrap_or_default().max(1),
        max_bytes: header.max_msg_bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or_default(),
        // -1: the client has none yet
        commit_offset: u64::try_from(header.commit_offset).ok().filter(|_| commits),
        subscription,
        subscription_version,
        suspend_ms: u64::try_from(header.suspend_timeout_ms).ok().filter(|_| suspends).unwrap_or_default(),
    })
}

/// Clients leave the expression empty, or write `*`, for everything.
pub(super) fn expression(text: &str) -> &str {
    match text.trim() {
        "" => "*",
        text => text,
    }
}

/// As a broker with `enablePropertyFilter=false` answers.
pub(super) fn check_filter(expression_type: &str) -> Result<(), Rejection> {
    match expression_type {
        "" | TAG => Ok(()),
        other => {
            let remark = format!("the broker does not support consumers to filter messages by {other}");
            Err(Rejection::new(response::SYSTEM_ERROR, remark))
        }
    }
}

fn answer_pull(answer: Answer<Pulled>, asked: i64, ask: Ask) {
    ask.take(answer, |pulled, ask| {
        let header = PullMessageResponse {
            status: wire_status(pulled.status),
            suggest_which_broker_id: MASTER_ID,
            next_begin_offset: pulled.next_offset,
            min_offset: pulled.min_offset,
            max_offset: pulled.max_offset,
        };
        let answer = header.encode(&ask.request, asked);
        ask.answer_with(answer, &pulled.records);
    });
}

fn wire_status(status: PullStatus) -> WirePullStatus {
    match status {
        PullStatus::Found => WirePullStatus::Found,
        PullStatus::NoMatchedMessage => WirePullStatus::NoMatchedMessage,
        PullStatus::OffsetOverflowOne => WirePullStatus::OffsetOverflowOne,
        PullStatus::OffsetOverflowBadly => WirePullStatus::OffsetOverflowBadly,
        PullStatus::OffsetTooSmall => WirePullStatus::OffsetTooSmall,
        PullStatus::NoMessageInQueue => WirePullStatus::NoMessageInQueue,
        PullStatus::NoMatchedLogicQueue => WirePullStatus::NoMatchedLogicQueue,
        PullStatus::MessageWasRemoving => WirePullStatus::MessageWasRemoving,
    }
}

/// Code 36.
pub(super) fn send_back(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_send_back(session, command), |back, ask| {
        let offset = back.commitlog_offset;
        let reply = Box::new(move |answer| match answer {
            Ok(()) => ask.succeed(),
            Err(Refusal::MessageNotFound) => ask.reject(not_readable(offset)),
            Err(refusal) => ask.reject(refusal),
        });
        session.submit(Request::SendBack(back, reply));
    });
}

fn read_send_back(session: &mut Session, command: &Command) -> Result<SendBack, Rejection> {
    let header = SendBackHeader::decode(command)?;
    let commitlog_offset =
        u64::try_from(header.commitlog_offset).map_err(|_| not_readable(header.commitlog_offset))?;
    Ok(SendBack {
        group: session.name(header.group),
        commitlog_offset,
        delay_level: header.delay_level,
        // -1 in the field stands for the group's own, as no field does
        max_reconsume_times: header.max_reconsume_times.filter(|times| *times >= 0),
        client: session.client.clone(),
    })
}

/// On any failure the client sends the message again itself, so it need not tell one from another.
fn not_readable(offset: impl std::fmt::Display) -> Rejection {
    Rejection::new(response::SYSTEM_ERROR, format!("no message starts at commit-log offset {offset}"))
}

/// Code 41.
pub(super) fn lock(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_locks(session, command), |locks, ask| {
        let broker_name = session.edge.config.advertised.broker_name.clone();
        let reply = Box::new(move |locked: Vec<LockedQueue>| {
            let queues = locked.iter().map(|queue| MessageQueue {
                broker_name: broker_name.to_string(),
                queue_id: i32::try_from(queue.queue_id).unwrap_or_default(),
                topic: queue.topic.to_string(),
            });
            ask.succeed_with(LockedQueues { queues: queues.collect() }.encode());
        });
        session.submit(Request::LockQueues(locks, reply));
    });
}

/// Code 42.
pub(super) fn unlock(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_locks(session, command), |locks, ask| {
        session.submit(Request::UnlockQueues(locks, Box::new(move |()| ask.succeed())));
    });
}

/// Queues that cannot exist are left out: they are not locked, which is what the answer says.
fn read_locks(session: &mut Session, command: &Command) -> Result<LockQueues, Rejection> {
    let body = LockBatch::decode(&command.body)?;
    if body.queues.len() > LOCKS_MAX {
        let remark = format!("more than {LOCKS_MAX} queues in one request");
        return Err(Rejection::new(response::INVALID_PARAMETER, remark));
    }
    let queues = body.queues.iter().filter_map(|queue| {
        let queue_id = u32::try_from(queue.queue_id).ok()?;
        Some(LockedQueue { topic: session.name(&queue.topic), queue_id })
    });
    let queues = queues.collect();
    Ok(LockQueues {
        group: session.name(&body.consumer_group),
        client: session.name(&body.client_id),
        queues,
    })
}
