//! Owns the words for why: which setting of which epoch allowed it, and which event did it. Never decides whether.

use super::verdict::Cause;
use crate::fold::broker::BrokerBooks;
use crate::fold::class::Class;
use crate::fold::event::What;

/// Why it cannot be decided.
fn undecided_event(what: &What) -> &'static str {
    match what {
        What::Sent(_) => {
            "answered OK and stored nowhere; nobody says when it was sent, so that a recovery may have taken it"
        }
        _ => "the journal's last frames did not survive either: what they said cannot be named",
    }
}

const UNREAD: &str = "the group has members, and none fetches from its retry topic";

/// The cause of an event of this class.
pub fn cause(books: Option<&BrokerBooks>, class: Class, epoch: u64, what: &What) -> Cause {
    let setting = |name: &str| {
        let value = books.map_or("", |books| books.setting(epoch, name));
        if value.is_empty() { String::new() } else { format!("{name}={value}") }
    };
    let cause = |hop: &str, setting: String, event: String| Cause {
        hop: hop.to_owned(),
        setting,
        event,
        actor: actor(what),
    };
    match class {
        Class::StoredNotFlushedLost => cause("store", setting("flushDiskType"), store_event(what)),
        Class::FlushLied => cause(
            "store",
            setting("flushDiskType"),
            format!("the disk had reported a flush that it did not keep when epoch {epoch} ended"),
        ),
        Class::CorruptedAtRest if matches!(what, What::Spoilt { .. } | What::Lost { .. }) => cause(
            "store",
            String::new(),
            "on disk, and unreadable when it was read back: a spoilt disk, or memory or a controller on the way to it".to_owned(),
        ),
        Class::CorruptedAtRest => cause(
            "store",
            String::new(),
            format!(
                "on disk in epoch {epoch}, and unreadable when the broker started again: a spoilt disk, or after a power cut a flush \
                 that was not kept"
            ),
        ),
        Class::NotReplicatedAtFailover => {
            cause("replicate", setting("brokerRole"), promoted_event(epoch, what))
        }
        Class::Undecided => cause("store", setting("flushDiskType"), undecided_event(what).to_owned()),
        Class::ExpiredBeforeConsumption => cause(
            "consume",
            setting("fileReservedTimeMs"),
            "retention deleted the messages before the group got them".to_owned(),
        ),
        Class::DlqExpired => cause(
            "dead-letter",
            setting("fileReservedTimeMs"),
            "retention deleted dead letters nobody had taken".to_owned(),
        ),
        Class::SkippedByOffsetReset => {
            cause("consume", String::new(), "the group's position was set forward".to_owned())
        }
        Class::AckedWithoutDelivery => cause(
            "consume",
            String::new(),
            "the group's progress passed messages it was never handed".to_owned(),
        ),
        Class::SendBackFailedThenPassed => {
            cause("retry", String::new(), "the copy for the retry could not be stored".to_owned())
        }
        Class::DlqWriteFailed => {
            cause("dead-letter", String::new(), "the dead-letter copy could not be stored".to_owned())
        }
        Class::StuckInRetry => match what {
            What::RetryUnread { .. } => cause("retry", String::new(), UNREAD.to_owned()),
            _ => {
                cause("schedule", setting("messageDelayLevel"), "the schedule did not release it".to_owned())
            }
        },
        Class::AnsweredNotDurable => {
            cause("store", setting("flushDiskType"), "the flush did not finish in time".to_owned())
        }
        Class::FilterConflict => cause(
            "consume",
            String::new(),
            "members of the group subscribed to the topic with different expressions".to_owned(),
        ),
        Class::OffsetReused => cause(
            "consume",
            setting("flushDiskType"),
            "stored below the position the group had reached before the recovery".to_owned(),
        ),
        Class::DeadLettered => cause("retry", String::new(), "out of attempts".to_owned()),
        Class::UnexpectedMessage => {
            cause("consume", String::new(), "handed out, though no frame says it was stored".to_owned())
        }
        Class::EvidenceGap => {
            cause("evidence", String::new(), "frames of the source are gone for good".to_owned())
        }
        Class::SendRefused => cause("send", String::new(), refusal(what)),
        Class::NeverStored | Class::SendUnknown | Class::StoredThoughUnacked | Class::Duplicate => {
            cause("send", String::new(), send_event(class))
        }
    }
}

fn actor(what: &What) -> String {
    match what {
        What::Lost { actor, .. } => actor.to_string(),
        _ => String::new(),
    }
}

fn store_event(what: &What) -> String {
    match what {
        What::StoreLost { clean: true, .. } => "records were unreadable after a clean restart".to_owned(),
        What::StoreLost { closed_epoch, .. } => {
            format!("epoch {closed_epoch} ended without a clean stop; recovery kept less than was stored")
        }
        What::CopyLost { .. } => "recovery took the copy, and it was not made again".to_owned(),
        _ => "answered OK, and gone after recovery".to_owned(),
    }
}

fn promoted_event(epoch: u64, what: &What) -> String {
    let promoted = match what {
        What::Taken { member, .. } => member,
        _ => "another member",
    };
    format!(
        "{promoted} was promoted when epoch {epoch} ended, and had not received it; the last master may still have it"
    )
}

fn refusal(what: &What) -> String {
    match what {
        What::Refused { code, reason, one_way, .. } => {
            let silent = if *one_way { ", one-way: the producer does not know" } else { "" };
            format!("refused with code {code} ({reason}){silent}")
        }
        _ => "the producer reported a refusal".to_owned(),
    }
}

fn send_event(class: Class) -> String {
    match class {
        Class::NeverStored => "no source stored it, and all have passed the report's barrier",
        Class::SendUnknown => "the producer got no answer",
        Class::StoredThoughUnacked => "stored, though the producer got no answer",
        _ => "the producer sent it again after it had been stored",
    }
    .to_owned()
}
