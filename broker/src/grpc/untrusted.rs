//! The conversions of this edge as a fuzzer reaches them: a client's bytes in; true when they were taken. Owns nothing, and
//! nothing else calls it.

use super::body::gunzip;
use super::caller::Caller;
use super::proto::{
    AckMessageRequest, ChangeInvisibleDurationRequest, ForwardMessageToDeadLetterQueueRequest, Language,
    ReceiveMessageRequest, SendMessageRequest, Settings,
};
use super::send::Rules;
use super::{GrpcConfig, names, receive, send, settings, settle};
use crate::api::ConnectionId;
use lifecycle::identity::Name;
use prost::Message;
use std::net::{Ipv4Addr, SocketAddr};

/// Largest plain body a conversion may make here.
const PLAIN_MAX_BYTES: usize = 1024 * 1024;

fn caller() -> Caller {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Caller { client: Name::from("c"), language: Language::Python, address, timeout_ms: Some(3_000) }
}

/// A send.
pub fn send(bytes: &[u8], now_ms: u64) -> bool {
    let Ok(request) = SendMessageRequest::decode(bytes) else { return false };
    let config = GrpcConfig { body_max_bytes: PLAIN_MAX_BYTES, ..GrpcConfig::default() };
    let ids = send::message_ids(&request);
    let count = request.messages.len();
    let rules = Rules { config: &config, now_ms };
    let Ok(taken) = send::read(request, &caller(), ConnectionId(1), rules) else { return false };
    assert_eq!((ids.len(), taken.messages.len()), (count, count), "all messages are taken, or none is");
    let in_bounds = taken.messages.iter().all(|message| message.body.len() <= PLAIN_MAX_BYTES);
    assert!(in_bounds, "a body is larger than the limit it was checked against");
    true
}

/// Receive, acknowledge, change the lease, give up.
pub fn consume(bytes: &[u8]) -> bool {
    let (config, caller) = (GrpcConfig::default(), caller());
    let mut taken = false;
    if let Ok(request) = ReceiveMessageRequest::decode(bytes) {
        assert!(receive::hold_ms(&request, &caller, &config) <= config.long_polling_ms, "held for too long");
        assert!((1..=32).contains(&receive::batch_size(&request)), "batch size out of range");
        let leased = receive::invisible_ms(&request, &config);
        assert!(leased.map_or(true, |ms| ms <= config.invisible_max_ms), "leased for too long");
        let may_choose = receive::queue_id(&request).is_none() || request.auto_renew;
        assert!(may_choose, "a queue is heeded that the client did not choose");
        taken |= names::group(request.group.as_ref()).is_ok();
    }
    if let Ok(request) = AckMessageRequest::decode(bytes)
        && let Ok(acks) = settle::ack(&request, &caller)
    {
        assert_eq!(acks.handles.len(), request.entries.len(), "every entry has its handle");
        taken = true;
    }
    if let Ok(request) = ChangeInvisibleDurationRequest::decode(bytes)
        && let Ok(change) = settle::change_invisible(&request, &caller, &config)
    {
        assert!(change.invisible_ms <= config.invisible_max_ms, "leased for too long");
        taken = true;
    }
    if let Ok(request) = ForwardMessageToDeadLetterQueueRequest::decode(bytes) {
        taken |= settle::dead_letter(request, &caller).is_ok();
    }
    taken
}

/// What a client says about itself.
pub fn settings(bytes: &[u8]) -> bool {
    let Ok(told) = Settings::decode(bytes) else { return false };
    let declared = settings::declared(&told, 1);
    let language = settings::language(&told, Language::Python);
    let merged = settings::merged(told, language, false, &GrpcConfig::default());
    if declared.is_ok() {
        assert!(
            settings::declared(&merged, 1).is_ok(),
            "what is told to a client is refused when it repeats it"
        );
    }
    declared.is_ok()
}

/// A compressed body.
pub fn compressed(bytes: &[u8]) -> bool {
    let Ok(plain) = gunzip(bytes, PLAIN_MAX_BYTES) else { return false };
    assert!(plain.len() <= PLAIN_MAX_BYTES, "over the limit");
    true
}
