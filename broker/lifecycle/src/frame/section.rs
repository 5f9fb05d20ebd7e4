//! Owns the kinds of sections in a frame: one tag per kind of fact, for ever. One arm to write (section/write.rs) and one to
//! read (section/read.rs) per kind.

mod read;
mod write;

pub(super) use read::decode;
pub(super) use write::encode;

mod tag {
    pub(in crate::frame) const STORED: u64 = 1;
    pub(in crate::frame) const FLUSHED: u64 = 2;
    pub(in crate::frame) const ANSWERED: u64 = 3;
    pub(in crate::frame) const DELIVERED: u64 = 4;
    pub(in crate::frame) const OFFSET_MOVED: u64 = 5;
    pub(in crate::frame) const ACKED: u64 = 6;
    pub(in crate::frame) const FILTERED: u64 = 7;
    pub(in crate::frame) const JOURNAL_FLUSHED: u64 = 8;
    pub(in crate::frame) const RESERVED: u64 = 9;
    pub(in crate::frame) const REFUSED: u64 = 10;
    pub(in crate::frame) const BROKEN_OFF: u64 = 11;
    pub(in crate::frame) const COPY_FAILED: u64 = 12;
    pub(in crate::frame) const EPOCH_STARTED: u64 = 13;
    pub(in crate::frame) const RECOVERED: u64 = 14;
    pub(in crate::frame) const TOPIC_CONFIGURED: u64 = 15;
    pub(in crate::frame) const TOPIC_DELETED: u64 = 16;
    pub(in crate::frame) const GROUP_CONFIGURED: u64 = 17;
    pub(in crate::frame) const GROUP_DELETED: u64 = 18;
    pub(in crate::frame) const GROUP_STARTED: u64 = 19;
    pub(in crate::frame) const MEMBER_JOINED: u64 = 20;
    pub(in crate::frame) const MEMBER_LEFT: u64 = 21;
    pub(in crate::frame) const SUBSCRIBED: u64 = 22;
    pub(in crate::frame) const LATE_ACK: u64 = 23;
    pub(in crate::frame) const NACKED: u64 = 24;
    pub(in crate::frame) const LEASE_EXPIRED: u64 = 25;
    pub(in crate::frame) const EXPIRED: u64 = 26;
    pub(in crate::frame) const CLOCK_STEPPED: u64 = 27;
    pub(in crate::frame) const QUEUE_STATE: u64 = 28;
    pub(in crate::frame) const GROUP_STATE: u64 = 29;
    pub(in crate::frame) const SENT_REPORTED: u64 = 30;
    pub(in crate::frame) const OPERATOR_ACTED: u64 = 31;
    pub(in crate::frame) const REPLICATED: u64 = 32;
    pub(in crate::frame) const SCRUBBED: u64 = 33;
    pub(in crate::frame) const RE_DRIVEN: u64 = 34;
    pub(in crate::frame) const UNREADABLE: u64 = 35;
}

// flags of a stored section
pub(in crate::frame) const COUNTS_ALL_ONE: u8 = 1;
pub(in crate::frame) const ALL_PRODUCED: u8 = 2;
pub(in crate::frame) const WITH_IDS: u8 = 4;
