//! Owns receiving: how long a call is held, and the stream that hands messages out one after the other. When the call is broken
//! off, all that was leased to it is given back at once: SDKs drop what they had of a broken answer, and a push consumer's lease
//! would hide the messages for as long as the client lives.

use super::GrpcConfig;
use super::caller::Caller;
use super::message::{Handout, from_record};
use super::proto::receive_message_response::Content;
use super::proto::{Code, ReceiveMessageRequest, ReceiveMessageResponse, Status};
use super::status::{Refused, ok, refuse, status};
use super::time::{duration_ms, timestamp};
use crate::api::{ChangeInvisible, LeasedMessage, Request};
use crate::handle::CoreHandle;
use lifecycle::identity::Name;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_stream::Stream;

/// What an answer needs to reach the client within its deadline. The Rust SDK's deadline is its poll time, without any slack.
const DEADLINE_SLACK_MS: u64 = 500;
/// Clients ask again at once after an empty answer: never answer one sooner than this.
const HOLD_MIN_MS: u64 = 100;
/// Most messages of one answer, as in RocketMQ.
const BATCH_MAX: u32 = 32;

/// How long a receive may wait for messages.
pub(super) fn hold_ms(request: &ReceiveMessageRequest, caller: &Caller, config: &GrpcConfig) -> u64 {
    let asked = request.long_polling_timeout.as_ref().and_then(duration_ms);
    let wanted = asked.map_or(config.long_polling_ms, |asked| {
        asked.clamp(HOLD_MIN_MS.min(config.long_polling_ms), config.long_polling_ms)
    });
    match caller.timeout_ms {
        // a client with so little patience gets half of it
        Some(timeout) => wanted.min(timeout.saturating_sub(DEADLINE_SLACK_MS).max(timeout / 2)),
        None => wanted,
    }
}

/// How long the lease lasts.
pub(super) fn invisible_ms(request: &ReceiveMessageRequest, config: &GrpcConfig) -> Result<u64, Refused> {
    if request.auto_renew {
        return Ok(config.push_lease_ms);
    }
    let (min, max) = (config.invisible_min_ms, config.invisible_max_ms);
    match request.invisible_duration.as_ref().and_then(duration_ms) {
        Some(ms) if (min..=max).contains(&ms) => Ok(ms),
        _ => refuse(Code::IllegalInvisibleTime, format!("invisible time must be {min} to {max} ms")),
    }
}

/// Which queue, when it matters: a push consumer was assigned the queues of an ordered topic. Else any: the Node SDK always names
/// queue 0, a simple consumer of the Python SDK one at random, and messages of the others would wait.
pub(super) fn queue_id(request: &ReceiveMessageRequest) -> Option<u32> {
    match &request.message_queue {
        Some(queue) if request.auto_renew => u32::try_from(queue.id).ok(),
        _ => None,
    }
}

/// How many messages at most.
pub(super) fn batch_size(request: &ReceiveMessageRequest) -> u32 {
    u32::try_from(request.batch_size).unwrap_or_default().clamp(1, BATCH_MAX)
}

/// Messages leased to a call.
pub(super) struct Lent {
    /// Not yet handed out.
    pub(super) waiting: VecDeque<LeasedMessage>,
    /// Handles of the others, until the answer is complete.
    pub(super) handed_out: Vec<String>,
    pub(super) core: CoreHandle,
    pub(super) group: Name,
    pub(super) topic: Name,
    pub(super) client: Name,
    pub(super) namespace: String,
    pub(super) invisible_ms: u64,
    pub(super) body_plain_max: usize,
}

impl Lent {
    /// The next message; a record that cannot be read is passed over, its lease runs out and the group's maximum of attempts
    /// takes it to the dead-letter queue.
    fn next(&mut self) -> Option<ReceiveMessageResponse> {
        while let Some(leased) = self.waiting.pop_front() {
            self.handed_out.push(leased.handle.clone());
            let handout = Handout {
                topic: leased.topic,
                namespace: self.namespace.clone(),
                receipt_handle: leased.handle,
                attempt: leased.attempt,
                invisible_ms: self.invisible_ms,
                body_plain_max: self.body_plain_max,
            };
            match from_record(&leased.record, handout) {
                Ok(message) => return Some(element(Content::Message(message))),
                Err(error) => {
                    tracing::error!(group = %self.group, topic = %self.topic, %error, "leased record cannot be read");
                }
            }
        }
        None
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // a client that asks and hangs up, again and again, must not use up the attempts of what it never saw
        let waiting = self.waiting.drain(..).map(|leased| (leased.handle, true));
        for (handle, never_left) in self.handed_out.drain(..).map(|handle| (handle, false)).chain(waiting) {
            let give_back = ChangeInvisible {
                group: self.group.clone(),
                topic: self.topic.clone(),
                client: self.client.clone(),
                handle,
                invisible_ms: 0,
                never_left,
            };
            // when the core takes nothing more, the lease runs out by itself
            if let Err(error) = self.core.submit(Request::ChangeInvisible(give_back, Box::new(|_| ()))) {
                tracing::debug!(%error, "message was not given back, its lease has to run out");
            }
        }
    }
}

/// The answer to a receive: a status, then messages, then when they were handed out.
pub(super) struct Delivery {
    status: Option<Status>,
    lent: Option<Lent>,
    /// Until it is said.
    handed_out_ms: Option<u64>,
}

impl Delivery {
    pub(super) fn of(lent: Lent, caller: &Caller, now_ms: u64) -> Delivery {
        match lent.waiting.is_empty() {
            true => Delivery::nothing(caller),
            false => Delivery { status: Some(ok()), lent: Some(lent), handed_out_ms: Some(now_ms) },
        }
    }

    /// No message came while the call was held.
    pub(super) fn nothing(caller: &Caller) -> Delivery {
        Delivery::only(status(Code::MessageNotFound, "no new message", caller.language))
    }

    /// Nothing but a status.
    pub(super) fn only(status: Status) -> Delivery {
        Delivery { status: Some(status), lent: None, handed_out_ms: None }
    }
}

fn element(content: Content) -> ReceiveMessageResponse {
    ReceiveMessageResponse { content: Some(content) }
}

impl Stream for Delivery {
    type Item = Result<ReceiveMessageResponse, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(status) = self.status.take() {
            return Poll::Ready(Some(Ok(element(Content::Status(status)))));
        }
        let Delivery { lent: Some(lent), handed_out_ms, .. } = &mut *self else { return Poll::Ready(None) };
        if let Some(message) = lent.next() {
            return Poll::Ready(Some(Ok(message)));
        }
        match handed_out_ms.take() {
            Some(ms) => Poll::Ready(Some(Ok(element(Content::DeliveryTimestamp(timestamp(ms)))))),
            None => {
                // everything before went out: the client has the whole answer, or its connection broke and the core will hear
                lent.handed_out.clear();
                self.lent = None;
                Poll::Ready(None)
            }
        }
    }
}
