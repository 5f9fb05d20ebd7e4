//! Owns the end of a delivery: acks, nacks and forwards to the dead-letter queue as the core takes them.

use super::GrpcConfig;
use super::caller::Caller;
use super::names;
use super::proto::{
    AckMessageRequest, AckMessageResponse, AckMessageResultEntry, ChangeInvisibleDurationRequest, Code,
    ForwardMessageToDeadLetterQueueRequest,
};
use super::status::{Refused, ok, refuse, together};
use super::time::duration_ms;
use crate::api::{AckMessages, Answer, ChangeInvisible, ForwardToDeadLetter};

/// Most messages of one ack.
const ACKS_PER_CALL_MAX: usize = 1_024;

pub(super) fn ack(request: &AckMessageRequest, caller: &Caller) -> Result<AckMessages, Refused> {
    let count = request.entries.len();
    if count > ACKS_PER_CALL_MAX {
        return refuse(
            Code::BadRequest,
            format!("{count} entries are over the limit of {ACKS_PER_CALL_MAX}"),
        );
    }
    if count == 0 {
        return refuse(Code::BadRequest, "an ack without an entry");
    }
    Ok(AckMessages {
        group: names::group(request.group.as_ref())?,
        topic: names::topic(request.topic.as_ref())?,
        client: caller.client.clone(),
        handles: request.entries.iter().map(|entry| entry.receipt_handle.clone()).collect(),
    })
}

pub(super) fn acked(
    request: AckMessageRequest,
    answers: Vec<Answer<()>>,
    caller: &Caller,
) -> AckMessageResponse {
    assert_eq!(request.entries.len(), answers.len(), "the core answers for every handle");
    let statuses: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer {
            Ok(()) => ok(),
            Err(refusal) => Refused::from(refusal).status(caller.language),
        })
        .collect();
    let outer = together(&statuses, caller.language);
    let entries = request.entries.into_iter().zip(statuses).map(|(entry, status)| AckMessageResultEntry {
        message_id: entry.message_id,
        receipt_handle: entry.receipt_handle,
        status: Some(status),
    });
    AckMessageResponse { status: Some(outer), entries: entries.collect() }
}

/// A delay of 0 and of a few milliseconds is allowed: the Node SDK asks for it.
pub(super) fn change_invisible(
    request: &ChangeInvisibleDurationRequest,
    caller: &Caller,
    config: &GrpcConfig,
) -> Result<ChangeInvisible, Refused> {
    let max = config.invisible_max_ms;
    let invisible_ms = match request.invisible_duration.as_ref().map(duration_ms) {
        None => 0,
        Some(Some(ms)) if ms <= max => ms,
        Some(_) => {
            return refuse(Code::IllegalInvisibleTime, format!("invisible time must be 0 to {max} ms"));
        }
    };
    Ok(ChangeInvisible {
        group: names::group(request.group.as_ref())?,
        topic: names::topic(request.topic.as_ref())?,
        client: caller.client.clone(),
        handle: request.receipt_handle.clone(),
        invisible_ms,
        never_left: false,
    })
}

pub(super) fn dead_letter(
    request: ForwardMessageToDeadLetterQueueRequest,
    caller: &Caller,
) -> Result<ForwardToDeadLetter, Refused> {
    Ok(ForwardToDeadLetter {
        group: names::group(request.group.as_ref())?,
        topic: names::topic(request.topic.as_ref())?,
        client: caller.client.clone(),
        handle: request.receipt_handle,
    })
}
