//! The bits of a message's `sysFlag` (`MessageSysFlag`), and of a pull request's (`PullSysFlag`).
//!
//! Owns: their meaning. Called by: `message`, `header` and whoever stores or serves messages.

use std::net::SocketAddr;

/// What a stored message is to its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionType {
    /// `TRANSACTION_NOT_TYPE`
    None,
    /// `TRANSACTION_PREPARED_TYPE`: a half message on its way in; the bits are cleared when it is stored.
    Prepared,
    /// `TRANSACTION_COMMIT_TYPE`
    Commit,
    /// `TRANSACTION_ROLLBACK_TYPE`
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Zlib,
    Lz4,
    Zstd,
    /// A number no release has given a meaning.
    Unknown(u8),
}

/// `sysFlag` of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SysFlag(pub i32);

impl SysFlag {
    pub const COMPRESSED: i32 = 1;
    pub const MULTI_TAGS: i32 = 1 << 1;
    pub const TRANSACTION: i32 = 3 << 2;
    pub const BORN_HOST_V6: i32 = 1 << 4;
    pub const STORE_HOST_V6: i32 = 1 << 5;
    pub const NEED_UNWRAP: i32 = 1 << 6;
    pub const INNER_BATCH: i32 = 1 << 7;
    const COMPRESSION_SHIFT: u32 = 8;

    fn has(self, bit: i32) -> bool {
        self.0 & bit != 0
    }

    pub fn is_compressed(self) -> bool {
        self.has(SysFlag::COMPRESSED)
    }

    pub fn is_born_host_v6(self) -> bool {
        self.has(SysFlag::BORN_HOST_V6)
    }

    pub fn is_store_host_v6(self) -> bool {
        self.has(SysFlag::STORE_HOST_V6)
    }

    /// Only meaningful for a body that is compressed; older clients leave the type 0, which is zlib.
    pub fn compression(self) -> Compression {
        match (self.is_compressed(), (self.0 >> SysFlag::COMPRESSION_SHIFT) & 7) {
            (false, _) => Compression::None,
            (true, 0 | 3) => Compression::Zlib,
            (true, 1) => Compression::Lz4,
            (true, 2) => Compression::Zstd,
            (true, other) => Compression::Unknown(other as u8),
        }
    }

    pub fn transaction(self) -> TransactionType {
        match (self.0 & SysFlag::TRANSACTION) >> 2 {
            0 => TransactionType::None,
            1 => TransactionType::Prepared,
            2 => TransactionType::Commit,
            _ => TransactionType::Rollback,
        }
    }

    #[must_use]
    pub fn with_transaction(self, transaction: TransactionType) -> SysFlag {
        let bits = match transaction {
            TransactionType::None => 0,
            TransactionType::Prepared => 1 << 2,
            TransactionType::Commit => 2 << 2,
            TransactionType::Rollback => 3 << 2,
        };
        SysFlag(self.0 & !SysFlag::TRANSACTION | bits)
    }

    /// Sets the two address-family bits to what the hosts are.
    #[must_use]
    pub fn with_hosts(self, born: SocketAddr, store: SocketAddr) -> SysFlag {
        let mut bits = self.0 & !(SysFlag::BORN_HOST_V6 | SysFlag::STORE_HOST_V6);
        if born.is_ipv6() {
            bits |= SysFlag::BORN_HOST_V6;
        }
        if store.is_ipv6() {
            bits |= SysFlag::STORE_HOST_V6;
        }
        SysFlag(bits)
    }
}

/// `sysFlag` of a pull request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullSysFlag(pub i32);

impl PullSysFlag {
    pub const COMMIT_OFFSET: i32 = 1;
    pub const SUSPEND: i32 = 1 << 1;
    pub const SUBSCRIPTION: i32 = 1 << 2;
    pub const CLASS_FILTER: i32 = 1 << 3;
    pub const LITE_PULL: i32 = 1 << 4;

    /// The request's `commitOffset` is to be stored as the group's position.
    pub fn commits_offset(self) -> bool {
        self.0 & PullSysFlag::COMMIT_OFFSET != 0
    }

    /// The broker may hold the request until there is data.
    pub fn may_suspend(self) -> bool {
        self.0 & PullSysFlag::SUSPEND != 0
    }

    /// The subscription is in the request and wins over the heartbeat's.
    pub fn has_subscription(self) -> bool {
        self.0 & PullSysFlag::SUBSCRIPTION != 0
    }

    pub fn is_class_filter(self) -> bool {
        self.0 & PullSysFlag::CLASS_FILTER != 0
    }

    pub fn is_lite_pull(self) -> bool {
        self.0 & PullSysFlag::LITE_PULL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_types() {
        let check = |bits, expected| assert_eq!(SysFlag(bits).compression(), expected);
        check(0x300, Compression::None);
        check(0x001, Compression::Zlib);
        check(0x301, Compression::Zlib);
        check(0x101, Compression::Lz4);
        check(0x201, Compression::Zstd);
        check(0x701, Compression::Unknown(7));
    }

    #[test]
    fn transaction_bits_replace_each_other_and_leave_the_rest() {
        let prepared = SysFlag(0x301).with_transaction(TransactionType::Prepared);
        assert_eq!(prepared.0, 0x305);
        let rolled_back = prepared.with_transaction(TransactionType::Rollback);
        assert_eq!((rolled_back.0, rolled_back.transaction()), (0x30D, TransactionType::Rollback));
        let committed = rolled_back.with_transaction(TransactionType::Commit);
        assert_eq!((committed.0, committed.transaction()), (0x309, TransactionType::Commit));
        assert_eq!(committed.with_transaction(TransactionType::None).0, 0x301);
    }
}
