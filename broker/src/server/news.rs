//! What turns tell the two ends of replication connections: a master's streams what they may send, a replica's how far it is.
//! Costs nothing where nobody listens.

use super::roles::Roles;
use super::{ServerParts, advertised_address};
use crate::config::{BrokerRole, ReplicaAck};
use crate::core::Core;
use crate::handle::CoreHandle;
use crate::replication::follow::{Follower, MasterAddress};
use crate::replication::master::Master;
use crate::replication::{Head, Progress};
use std::sync::Arc;
use tokio::sync::watch;

/// See the module text.
pub(super) struct ReplicationNews {
    /// Of a master: what may be sent.
    heads: watch::Sender<Head>,
    /// Of a replica: how far it is.
    progress: Option<watch::Sender<Progress>>,
}

impl ReplicationNews {
    pub(super) fn of(parts: &ServerParts, core: &Core) -> ReplicationNews {
        let follows = parts.config.broker_role == BrokerRole::Slave;
        ReplicationNews {
            heads: watch::channel(core.replication_head().unwrap_or_default()).0,
            progress: follows.then(|| watch::channel(core.replica_progress()).0),
        }
    }

    /// After each turn.
    pub(super) fn tell(&self, core: &Core) {
        if self.heads.receiver_count() > 0
            && let Some(head) = core.replication_head()
        {
            self.heads.send_if_modified(|known| std::mem::replace(known, head) != head);
        }
        if let Some(progress) = &self.progress {
            let now = core.replica_progress();
            progress.send_if_modified(|known| std::mem::replace(known, now) != now);
        }
    }

    /// What a master's streams need.
    pub(super) fn master(
        &self,
        parts: &ServerParts,
        core: &Core,
        handle: &CoreHandle,
        roles: &Roles,
    ) -> Arc<Master> {
        let waits = parts.config.broker_role == BrokerRole::SyncMaster;
        Arc::new(Master {
            broker_name: parts.config.broker_name.clone(),
            core: handle.clone(),
            heads: self.heads.clone(),
            disk: parts.disk.clone(),
            segments: core.log_segments().clone(),
            waits_for_disk: waits && parts.config.replica_ack == ReplicaAck::Flushed,
            remoting: advertised_address(parts.listen.remoting).to_string(),
            mandate: roles.mandate.clone(),
            changes: roles.changes(),
        })
    }

    /// What a replica says of itself.
    pub(super) fn progress(&self) -> Option<watch::Receiver<Progress>> {
        self.progress.as_ref().map(watch::Sender::subscribe)
    }

    /// What a replica needs to follow.
    pub(super) fn follower(
        &self,
        parts: &ServerParts,
        handle: &CoreHandle,
        master: &MasterAddress,
    ) -> Option<Follower> {
        let config = &parts.config;
        let mut members: Vec<_> = config.master_address.into_iter().collect();
        members.extend(config.members.iter().filter(|member| Some(**member) != config.master_address));
        let progress = self.progress()?;
        Some(Follower { core: handle.clone(), members, progress, master: master.clone() })
    }
}
