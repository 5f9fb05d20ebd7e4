//! Owns how the edge says yes and no: a status inside the answer, never a gRPC error, because that is where SDKs look.

use super::proto::{Code, Language, Status};
use crate::api::Refusal;
use crate::handle::NotTaken;

/// Longest text of a status; what clients sent is quoted in it.
const STATUS_TEXT_MAX_BYTES: usize = 512;

/// A request that is answered with a status other than OK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) message: String,
}

/// Shortens `Err(Refused { … })`.
pub(super) fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, message: message.into() })
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        // every code of the table is in the protocol, a test says so
        let code = Code::try_from(refusal.grpc_code()).unwrap_or(Code::InternalServerError);
        Refused { code, message: refusal.to_string() }
    }
}

impl From<NotTaken> for Refused {
    fn from(not_taken: NotTaken) -> Self {
        let code = match not_taken {
            NotTaken::Full => Code::TooManyRequests,
            NotTaken::Stopped => Code::InternalServerError,
        };
        Refused { code, message: not_taken.to_string() }
    }
}

impl Refused {
    /// The status as this client can read it.
    pub(super) fn status(&self, language: Language) -> Status {
        let mut message = self.message.clone();
        let end = (0..=STATUS_TEXT_MAX_BYTES.min(message.len()))
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or_default();
        message.truncate(end);
        status(self.code, message, language)
    }
}

/// A status with a code this client knows.
pub(super) fn status(code: Code, message: impl Into<String>, language: Language) -> Status {
    let code = match language {
        Language::Rust => known_to_rust(code),
        _ => code,
    };
    Status { code: code.into(), message: message.into() }
}

/// Success; the text is the one RocketMQ's proxy sends.
pub(super) fn ok() -> Status {
    Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// The Rust SDK panics on a code younger than its protocol of 2023; each has an older relative.
fn known_to_rust(code: Code) -> Code {
    match code {
        Code::IllegalOffset
        | Code::IllegalLiteTopic
        | Code::InvalidClientProperties
        | Code::MessageBodyEmpty => Code::BadRequest,
        Code::OffsetNotFound => Code::NotFound,
        Code::LiteTopicQuotaExceeded | Code::LiteSubscriptionQuotaExceeded => Code::TooManyRequests,
        known => known,
    }
}

/// One status for several outcomes: theirs when they agree.
pub(super) fn together(statuses: &[Status], language: Language) -> Status {
    match statuses.split_first() {
        None => ok(),
        Some((first, rest)) if rest.iter().all(|status| status.code == first.code) => first.clone(),
        Some(_) => status(Code::MultipleResults, "the outcomes differ, see the entries", language),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rust_sdk_never_sees_a_code_it_lacks() {
        const LACKING: [i32; 7] = [40019, 40020, 40021, 40404, 41302, 42901, 42902];
        for number in 0..=60_000 {
            let Ok(code) = Code::try_from(number) else { continue };
            let told = status(code, "", Language::Rust).code;
            assert!(!LACKING.contains(&told), "{number} became {told}");
            assert_eq!(told != number, LACKING.contains(&number), "{number} became {told}");
            assert_eq!(status(code, "", Language::Python).code, number);
        }
    }

    #[test]
    fn refusals_keep_their_code_and_text() {
        let refused = Refused::from(Refusal::TopicNotFound("t".to_owned()));
        assert_eq!(refused.code, Code::TopicNotFound);
        assert_eq!(refused.status(Language::Rust).message, "topic t does not exist");
        assert_eq!(Refused::from(NotTaken::Full).code as i32, 42900);
        assert_eq!(Refused::from(NotTaken::Stopped).code as i32, 50001);
        let long = Refused { code: Code::BadRequest, message: "é".repeat(400) };
        assert_eq!(long.status(Language::Python).message, "é".repeat(256));
    }

    #[test]
    fn every_refusal_has_a_code_of_the_protocol() {
        let text = String::new;
        let all = [
            Refusal::TopicNotFound(text()),
            Refusal::QueueNotFound { topic: text(), queue_id: 1 },
            Refusal::GroupNotFound(text()),
            Refusal::NoPermission { topic: text(), what: "writing" },
            Refusal::MessageIllegal(text()),
            Refusal::BodyTooLarge { size: 2, limit: 1 },
            Refusal::TypeMismatch { topic: text(), accepts: text(), given: "FIFO" },
            Refusal::BadParameter(text()),
            Refusal::NotAvailable(text()),
            Refusal::Busy("sends"),
            Refusal::InvalidHandle("expired"),
            Refusal::OffsetNotFound,
            Refusal::MessageNotFound,
            Refusal::SubscriptionNotLatest(text()),
            Refusal::BadExpression(text()),
            Refusal::WrongConsumeModel(text(), "offsets"),
            Refusal::GroupNotOnline(text()),
            Refusal::StorageFailed(text()),
            Refusal::Stopping,
        ];
        for refusal in all {
            let number = refusal.grpc_code();
            assert_eq!(Refused::from(refusal).code as i32, number);
        }
    }

    #[test]
    fn outcomes_together() {
        let no = |code| status(code, "", Language::Python);
        let code = |statuses: &[Status]| together(statuses, Language::Python).code;
        assert_eq!(code(&[]), 20000);
        assert_eq!(code(&[ok(), ok()]), 20000);
        assert_eq!(code(&[no(Code::InvalidReceiptHandle)]), 40013);
        assert_eq!(code(&[ok(), no(Code::InvalidReceiptHandle)]), 30000);
    }
}
