//! Owns the broker's settings: defaults with their reasons, and the check that reports every problem at once.

use lifecycle::fact::EpochStarted;
use serde::Deserialize;
use std::net::SocketAddr;

/// Settings of the broker. RocketMQ's names where it has them, in our spelling.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the replica group.
    pub broker_name: String,
    /// Name of the cluster, as operators' tools list it.
    pub cluster: String,
    /// When a send is answered: `ASYNC_FLUSH` after the operating system has it (RocketMQ's default), `SYNC_FLUSH` after the
    /// disk has it.
    pub flush_disk_type: FlushDiskType,
    /// How long a SYNC_FLUSH send waits before it is answered FLUSH_DISK_TIMEOUT, ms.
    pub sync_flush_timeout_ms: u64,
    /// Under ASYNC_FLUSH: longest time before written bytes are flushed, ms.
    pub flush_interval_ms: u64,
    /// Longest time before journal frames are flushed, ms.
    pub journal_flush_interval_ms: u64,
    /// Create a topic at its first send.
    pub auto_create_topics: bool,
    /// Create a group at its first heartbeat or pull.
    pub auto_create_groups: bool,
    /// Queues of a topic nobody configured.
    pub default_queues: u32,
    /// Largest body of a message, bytes.
    pub max_body_bytes: usize,
    /// Attempts after the first before a message is dead, for groups nobody configured.
    pub retry_max: u32,
    /// Delay of each delay level, ms; level 1 is the first.
    pub delay_levels_ms: Vec<u64>,
    /// Longest time a message may be delayed, ms.
    pub delay_max_ms: u64,
    /// Messages older than this are deleted, ms (RocketMQ: fileReservedTime, 72 h).
    pub retention_ms: u64,
    /// Above this share of the disk in use the oldest messages are deleted whatever their age, percent.
    pub disk_clean_percent: u8,
    /// Above this share sends are refused, percent.
    pub disk_refuse_percent: u8,
    /// How often retention looks, ms.
    pub retention_interval_ms: u64,
    /// Size of a commit-log segment, bytes. Retention deletes whole segments.
    pub segment_bytes: u64,
    /// Longest time between snapshots of the state, ms; also taken after `snapshot_log_bytes`.
    pub snapshot_interval_ms: u64,
    /// Log bytes between snapshots: bounds how much a restart reads.
    pub snapshot_log_bytes: u64,
    /// Most of the disk the journal may fill, percent. Frames are kept until every agent has them and their messages have expired; an
    /// agent that stays away for good must not fill the disk. Beyond this the oldest go all the same: the agent that comes back is
    /// told, counts a gap with its bound, and starts over from a snapshot.
    pub journal_disk_percent: u8,
    /// A client not heard of for this long is gone, ms (RocketMQ: 120 s).
    pub client_timeout_ms: u64,
    /// State facts in the journal. Off only to measure what tracking costs: without it nothing can be traced.
    pub journal: bool,
    /// `ASYNC_MASTER` answers without waiting for replicas (RocketMQ's default), `SYNC_MASTER` after `in_sync_replicas` members
    /// have it, `SLAVE` follows `master_address`, refuses sends and serves consumers.
    pub broker_role: BrokerRole,
    /// Members that must have a message before a SYNC_MASTER answers OK, the master included. RocketMQ 5's default, 1, waits for
    /// nobody; ours really waits.
    pub in_sync_replicas: u32,
    /// A SYNC_MASTER refuses sends while fewer members than this are in sync, the master included; 1: never.
    pub min_in_sync_replicas: u32,
    /// Which word of a replica counts: `flushed` (it is on its disk) or `received` (RocketMQ's: in its memory).
    pub replica_ack: ReplicaAck,
    /// How long a SYNC_MASTER send waits for replicas before it is answered FLUSH_SLAVE_TIMEOUT, ms (RocketMQ: slaveTimeout).
    pub replication_timeout_ms: u64,
    /// Where a SLAVE finds its master's replication port.
    pub master_address: Option<SocketAddr>,
    /// Replication ports of all other members of the replica group. With them a member finds its master by itself, a promotion and a
    /// restarted master first ask the others, and two masters cannot both confirm under SYNC_MASTER. Each member runs alone, with a
    /// `replica_id` and a replication port of its own.
    pub members: Vec<SocketAddr>,
    /// What a SLAVE becomes when it is promoted: `SYNC_MASTER` or `ASYNC_MASTER`.
    pub promoted_role: BrokerRole,
    /// This member's name in its replica group; a SLAVE needs one that no other member has.
    pub replica_id: String,
    /// Time between the beginnings of two rounds in which the whole commit log on this disk is read back and checked, ms; 0: never.
    /// A day by default: rot that a replica still heals should be known before the replica rots too, and well within the retention
    /// time. A round that takes longer than this is followed by the next one at once.
    pub scrub_interval_ms: u64,
    /// How fast it is read back at most, bytes per second. 8 MiB/s by default: a terabyte in a day and a half, and less than a tenth
    /// of what a spinning disk reads.
    pub scrub_bytes_per_second: u64,
}

/// RocketMQ's brokerRole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum BrokerRole {
    /// Takes sends, and waits for no replica.
    #[serde(rename = "ASYNC_MASTER")]
    AsyncMaster,
    /// Takes sends, and waits for replicas.
    #[serde(rename = "SYNC_MASTER")]
    SyncMaster,
    /// Follows a master.
    #[serde(rename = "SLAVE")]
    Slave,
}

impl BrokerRole {
    /// RocketMQ's name for it.
    pub fn text(self) -> &'static str {
        match self {
            BrokerRole::AsyncMaster => "ASYNC_MASTER",
            BrokerRole::SyncMaster => "SYNC_MASTER",
            BrokerRole::Slave => "SLAVE",
        }
    }

    /// RocketMQ's broker id: a master is 0. Slaves of one group are not told apart yet: only one can be in a route.
    pub fn broker_id(self) -> u64 {
        u64::from(self == BrokerRole::Slave)
    }
}

/// Which word of a replica counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaAck {
    /// It has received the message.
    Received,
    /// It has the message on its disk.
    Flushed,
}

impl ReplicaAck {
    /// Its name in the configuration.
    pub fn text(self) -> &'static str {
        match self {
            ReplicaAck::Received => "received",
            ReplicaAck::Flushed => "flushed",
        }
    }
}

/// RocketMQ's flushDiskType.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum FlushDiskType {
    /// Answer when the disk has it.
    #[serde(rename = "SYNC_FLUSH")]
    Sync,
    /// Answer when the operating system has it.
    #[serde(rename = "ASYNC_FLUSH")]
    Async,
}

impl FlushDiskType {
    /// RocketMQ's name for it.
    pub fn text(self) -> &'static str {
        match self {
            FlushDiskType::Sync => "SYNC_FLUSH",
            FlushDiskType::Async => "ASYNC_FLUSH",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        const SECOND: u64 = 1_000;
        const MINUTE: u64 = 60 * SECOND;
        const HOUR: u64 = 60 * MINUTE;
        let minutes = (1..=10).map(|n| n * MINUTE);
        let mut delay_levels_ms = vec![SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND];
        delay_levels_ms.extend(minutes);
        delay_levels_ms.extend([20 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR]);
        Config {
            broker_name: "losstrace".into(),
            cluster: "DefaultCluster".into(),
            flush_disk_type: FlushDiskType::Async,
            sync_flush_timeout_ms: 5 * SECOND,
            flush_interval_ms: 500,
            journal_flush_interval_ms: 100,
            auto_create_topics: true,
            auto_create_groups: true,
            default_queues: 8,
            max_body_bytes: 4 * 1024 * 1024,
            retry_max: crate::state::RETRY_MAX_DEFAULT,
            delay_levels_ms,
            delay_max_ms: 72 * HOUR,
            retention_ms: 72 * HOUR,
            disk_clean_percent: 85,
            disk_refuse_percent: 90,
            retention_interval_ms: 10 * SECOND,
            segment_bytes: 256 * 1024 * 1024,
            snapshot_interval_ms: 30 * SECOND,
            snapshot_log_bytes: 256 * 1024 * 1024,
            journal_disk_percent: 10,
            client_timeout_ms: 120 * SECOND,
            journal: true,
            broker_role: BrokerRole::AsyncMaster,
            in_sync_replicas: 2,
            min_in_sync_replicas: 1,
            replica_ack: ReplicaAck::Flushed,
            replication_timeout_ms: 3 * SECOND,
            master_address: None,
            members: Vec::new(),
            promoted_role: BrokerRole::SyncMaster,
            replica_id: String::new(),
            scrub_interval_ms: 24 * HOUR,
            scrub_bytes_per_second: 8 * 1024 * 1024,
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as written in the file.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Config {
    /// Every problem of these settings; empty when they are fine.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut check = |ok: bool, key: &'static str, what: &str| {
            if !ok {
                found.push(Problem { key, what: what.to_owned() });
            }
        };
        check(valid_name(&self.broker_name), "broker_name", "must be 1 to 127 letters, digits, '-' or '_'");
        check(valid_name(&self.cluster), "cluster", "must be 1 to 127 letters, digits, '-' or '_'");
        check(self.sync_flush_timeout_ms >= 1, "sync_flush_timeout_ms", "must be at least 1");
        check((1..=60_000).contains(&self.flush_interval_ms), "flush_interval_ms", "must be 1 to 60000");
        let journal_interval = 1..=10_000;
        check(
            journal_interval.contains(&self.journal_flush_interval_ms),
            "journal_flush_interval_ms",
            "must be 1 to 10000",
        );
        check((1..=1024).contains(&self.default_queues), "default_queues", "must be 1 to 1024");
        let body = 1..=4 * 1024 * 1024;
        check(body.contains(&self.max_body_bytes), "max_body_bytes", "must be 1 to 4194304");
        check(self.retry_max <= 1000, "retry_max", "must be at most 1000");
        let levels = !self.delay_levels_ms.is_empty() && self.delay_levels_ms.len() <= 64;
        check(levels, "delay_levels_ms", "must name 1 to 64 levels");
        check(self.retention_ms >= 1000, "retention_ms", "must be at least 1000");
        let order = self.disk_clean_percent <= self.disk_refuse_percent && self.disk_refuse_percent <= 100;
        check(order, "disk_clean_percent", "must not be above disk_refuse_percent, nor that above 100");
        check(self.segment_bytes >= 64 * 1024, "segment_bytes", "must be at least 65536");
        let fits = self.segment_bytes >= 2 * (self.max_body_bytes as u64 + 64 * 1024);
        check(fits, "segment_bytes", "must hold two of the largest messages (2 x (max_body_bytes + 64 KiB))");
        check(self.snapshot_interval_ms >= 100, "snapshot_interval_ms", "must be at least 100");
        check((1..=100).contains(&self.journal_disk_percent), "journal_disk_percent", "must be 1 to 100");
        check(self.client_timeout_ms >= 1000, "client_timeout_ms", "must be at least 1000");
        let scrubs = self.scrub_interval_ms == 0 || self.scrub_interval_ms >= 1000;
        check(scrubs, "scrub_interval_ms", "must be at least 1000, or 0: never");
        let rate = self.scrub_bytes_per_second >= 64 * 1024;
        check(rate, "scrub_bytes_per_second", "must be at least 65536; scrub_interval_ms = 0 turns it off");
        self.replication_problems(&mut check);
        found
    }

    fn replication_problems(&self, check: &mut impl FnMut(bool, &'static str, &str)) {
        // the master beside its replicas
        let members = 1..=1 + crate::replication::followers::REPLICAS_MAX as u32;
        check(members.contains(&self.in_sync_replicas), "in_sync_replicas", "must be 1 to 17");
        let least = (1..=self.in_sync_replicas.max(1)).contains(&self.min_in_sync_replicas);
        check(least, "min_in_sync_replicas", "must be 1 to in_sync_replicas");
        let timeout = (1..=60_000).contains(&self.replication_timeout_ms);
        check(timeout, "replication_timeout_ms", "must be 1 to 60000");
        let slave = self.broker_role == BrokerRole::Slave;
        let reaches = self.master_address.is_some() || !self.members.is_empty();
        check(
            !slave || reaches,
            "master_address",
            "a SLAVE needs one: HOST:PORT, or the addresses of all members",
        );
        let few = self.members.len() <= crate::replication::followers::REPLICAS_MAX;
        check(few, "members", "must be at most 16 others");
        let promoted = self.promoted_role != BrokerRole::Slave;
        check(promoted, "promoted_role", "must be SYNC_MASTER or ASYNC_MASTER");
        let n = 1 + self.members.len() as u32;
        let enough = self.members.is_empty() || self.in_sync_replicas <= n;
        check(enough, "in_sync_replicas", "must not be more than there are members");
        let nobody = self.master_address.is_none() || slave;
        check(nobody, "master_address", "is for a SLAVE; remove it, or set broker_role = \"SLAVE\"");
        let named = self.replica_id.is_empty() || valid_name(&self.replica_id);
        check(named, "replica_id", "must be 1 to 127 letters, digits, '-' or '_'");
        let anonymous = self.replica_id.is_empty();
        check(!slave || !anonymous, "replica_id", "a SLAVE needs one, its own");
        check(slave || self.members.is_empty() || !anonymous, "replica_id", "a member needs one, its own");
        let journal = self.broker_role == BrokerRole::AsyncMaster || self.journal;
        check(journal, "journal", "a SYNC_MASTER or a SLAVE cannot do without it");
    }

    /// The settings that decide what can be lost, by the names operators know; stated at every epoch.
    pub fn promises(&self) -> Vec<(&'static str, String)> {
        let mut promises = vec![
            ("flushDiskType", self.flush_disk_type.text().to_owned()),
            ("brokerRole", self.broker_role.text().to_owned()),
            ("fileReservedTimeMs", self.retention_ms.to_string()),
            ("diskCleanPercent", self.disk_clean_percent.to_string()),
            ("flushIntervalMs", self.flush_interval_ms.to_string()),
            ("journalFlushIntervalMs", self.journal_flush_interval_ms.to_string()),
            ("retryMaxTimes", self.retry_max.to_string()),
            ("autoCreateTopicEnable", self.auto_create_topics.to_string()),
            ("scrubIntervalMs", self.scrub_interval_ms.to_string()),
        ];
        if !self.replica_id.is_empty() {
            promises.push((EpochStarted::MEMBER, self.replica_id.clone()));
        }
        if self.broker_role == BrokerRole::SyncMaster {
            promises.push(("inSyncReplicas", self.in_sync_replicas.to_string()));
            promises.push(("minInSyncReplicas", self.min_in_sync_replicas.to_string()));
            promises.push(("replicaAck", self.replica_ack.text().to_owned()));
            promises.push(("slaveTimeoutMs", self.replication_timeout_ms.to_string()));
        }
        promises
    }
}

fn valid_name(name: &str) -> bool {
    (1..=127).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Where the broker listens. Loopback by default: nothing here asks who you are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Built-in name server.
    pub name_server: SocketAddr,
    /// Remoting 4.x.
    pub remoting: SocketAddr,
    /// gRPC v2.
    pub grpc: SocketAddr,
    /// Metrics and health.
    pub http: SocketAddr,
    /// Feed of facts; `None` when the agent runs in this process.
    pub feed: Option<SocketAddr>,
    /// Where a master takes replicas; `None`: it has none.
    pub replication: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_fine_and_every_problem_is_reported_at_once() {
        assert_eq!(Config::default().problems(), vec![]);
        let bad = Config {
            broker_name: "a b".into(),
            default_queues: 0,
            disk_clean_percent: 99,
            segment_bytes: 1,
            ..Config::default()
        };
        let keys: Vec<_> = bad.problems().into_iter().map(|p| p.key).collect();
        assert_eq!(
            keys,
            ["broker_name", "default_queues", "disk_clean_percent", "segment_bytes", "segment_bytes"]
        );
    }

    #[test]
    fn a_role_needs_what_it_cannot_work_without() {
        let keys = |config: &Config| config.problems().into_iter().map(|p| p.key).collect::<Vec<_>>();
        let slave = Config { broker_role: BrokerRole::Slave, ..Config::default() };
        assert_eq!(keys(&slave), ["master_address", "replica_id"]);
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 10912)));
        let master = Config { master_address: address, ..Config::default() };
        assert_eq!(keys(&master), ["master_address"]);
        let good = Config { master_address: address, replica_id: "b".into(), ..slave };
        assert_eq!(keys(&good), Vec::<&str>::new());
        let sync = Config { broker_role: BrokerRole::SyncMaster, ..Config::default() };
        assert_eq!(keys(&sync), Vec::<&str>::new());
        let bad = Config { in_sync_replicas: 0, min_in_sync_replicas: 2, replication_timeout_ms: 0, ..sync };
        assert_eq!(keys(&bad), ["in_sync_replicas", "min_in_sync_replicas", "replication_timeout_ms"]);
    }

    #[test]
    fn apache_has_eighteen_delay_levels() {
        let levels = Config::default().delay_levels_ms;
        assert_eq!(levels.len(), 18);
        assert_eq!((levels[0], levels[2], levels[17]), (1_000, 10_000, 7_200_000));
    }
}
