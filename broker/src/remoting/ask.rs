//! Owns one request's right to one answer: whoever holds the [`Ask`] answers, and dropping it answers too, so that no client
//! waits for nothing. A one-way request takes no answer at all, not even an error. Called by the functions of every code.

use super::outbox::Outbox;
use super::stats::count;
use crate::api::Refusal;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;
use wire::code::{request, response};
use wire::command::Command;
use wire::header::RequestError;
use wire::header::send::Trace;

/// Counted for a request without a body, so that many small ones are bounded too.
const REQUEST_MIN_BYTES: usize = 256;

/// A request to be answered once.
pub(super) struct Ask {
    /// The request without its fields and body: what an answer is made from.
    pub(super) request: Command,
    outbox: Arc<Outbox>,
    /// Set on sends: every answer to one carries it, errors too.
    trace: Option<(lifecycle::identity::Name, bool)>,
    bytes: usize,
    is_answered: bool,
}

/// Why a request is refused before the core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) code: i32,
    pub(super) remark: Cow<'static, str>,
}

impl Rejection {
    pub(super) fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Self {
        Rejection { code, remark: remark.into() }
    }
}

impl From<RequestError> for Rejection {
    fn from(error: RequestError) -> Self {
        Rejection::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Rejection::new(refusal.remoting_code(), refusal.to_string())
    }
}

impl Ask {
    pub(super) fn new(request: &Command, outbox: Arc<Outbox>) -> Ask {
        let request = Command {
            flag: request.flag,
            header_type: request.header_type,
            ..Command::request(request.code, request.opaque)
        };
        Ask { request, outbox, trace: None, bytes: 0, is_answered: false }
    }

    /// Counts the request as in flight.
    pub(super) fn in_flight(mut self, request_bytes: usize) -> Ask {
        self.bytes = request_bytes.max(REQUEST_MIN_BYTES);
        self.outbox.expect_answer(self.bytes, self.is_owed());
        self
    }

    /// Adds trace fields to whatever the answer will be.
    pub(super) fn with_trace(mut self, region: lifecycle::identity::Name, on: bool) -> Ask {
        self.trace = Some((region, on));
        self
    }

    /// A pull may be held as long as its client likes; everything else is answered soon.
    fn is_owed(&self) -> bool {
        self.request.code != request::PULL_MESSAGE
    }

    /// An answer with this code, to be filled. Where Java has a header class for the answer, `extFields` is there even when
    /// empty, and some clients look into it without asking.
    pub(super) fn response(&self, code: i32) -> Command {
        let response = Command::response_to(&self.request, code);
        match self.request.code {
            request::SEND_MESSAGE
            | request::SEND_MESSAGE_V2
            | request::SEND_BATCH_MESSAGE
            | request::PULL_MESSAGE
            | request::QUERY_MESSAGE
            | request::QUERY_CONSUMER_OFFSET
            | request::UPDATE_CONSUMER_OFFSET
            | request::SEARCH_OFFSET_BY_TIMESTAMP
            | request::GET_MAX_OFFSET
            | request::GET_MIN_OFFSET
            | request::GET_EARLIEST_MSG_STORETIME
            | request::UNREGISTER_CLIENT
            | request::GET_CONSUMER_LIST_BY_GROUP => response.with_empty_fields(),
            _ => response,
        }
    }

    pub(super) fn answer(self, answer: Command) {
        self.answer_with(answer, &[]);
    }

    /// The records are the body.
    pub(super) fn answer_with(mut self, answer: Command, records: &[Bytes]) {
        self.is_answered = true;
        if !self.put(&answer, records) {
            count(&self.outbox.stats.answers_broken_off);
        }
    }

    /// The answer is appended by `encode`.
    pub(super) fn answer_encoded(mut self, encode: impl FnOnce(&Command, &mut Vec<u8>)) {
        self.is_answered = true;
        if !self.request.is_oneway() && !self.outbox.put_with(|bytes| encode(&self.request, bytes)) {
            count(&self.outbox.stats.answers_broken_off);
        }
    }

    pub(super) fn succeed(self) {
        let answer = self.response(response::SUCCESS);
        self.answer(answer);
    }

    pub(super) fn succeed_with(self, body: Bytes) {
        let answer = self.response(response::SUCCESS).with_body(body);
        self.answer(answer);
    }

    pub(super) fn reject(self, rejection: impl Into<Rejection>) {
        let answer = self.refusal(rejection.into());
        self.answer(answer);
    }

    fn refusal(&self, rejection: Rejection) -> Command {
        let answer = self.response(rejection.code).with_remark(rejection.remark);
        match &self.trace {
            Some((region, on)) => Trace { region, on: *on }.put(answer),
            None => answer,
        }
    }

    /// Goes on with what was read from the request, or refuses it.
    pub(super) fn read<T>(self, read: Result<T, Rejection>, then: impl FnOnce(T, Ask)) {
        match read {
            Ok(value) => then(value, self),
            Err(rejection) => {
                count(&self.outbox.stats.bad_requests);
                self.reject(rejection);
            }
        }
    }

    /// Goes on with what the core says, or passes its refusal on.
    pub(super) fn take<T>(self, answer: Result<T, Refusal>, then: impl FnOnce(T, Ask)) {
        match answer {
            Ok(value) => then(value, self),
            Err(refusal) => self.reject(refusal),
        }
    }

    /// False when the client has gone.
    fn put(&self, answer: &Command, records: &[Bytes]) -> bool {
        self.request.is_oneway() || self.outbox.put(answer, records)
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if !self.is_answered {
            // The core did not take the request, or gave it up. 14 and not 2: 4.x clients try again on 14 only. The
            // connection may be the reason; then there is nobody to tell.
            let remark = "the request was not carried out: the broker is busy or stopping";
            self.put(&self.refusal(Rejection::new(response::SERVICE_NOT_AVAILABLE, remark)), &[]);
        }
        if self.bytes > 0 {
            self.outbox.settle(self.bytes, self.is_owed());
        }
    }
}
