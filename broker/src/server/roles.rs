//! Which part a running member plays, and how it comes to another one: the broker closes its folder and opens it again, in the same
//! process and on the same ports. A member of a group opens as a SLAVE first, whatever it is to be.

use super::{ServerParts, StartError};
use crate::config::{BrokerRole, Config};
use crate::handle::CoreHandle;
use crate::replication::Progress;
use crate::replication::campaign::{self, Candidate};
use crate::replication::master::SharedMandate;
use crate::replication::mastership::{ByHand, Change, Mandate, Mastership, Part};
use std::time::Duration;
use store::error::StoreError;
use tokio::sync::{mpsc, watch};

/// Changes that wait: the first one ends the part, the others come too late.
const CHANGES_MAX: usize = 4;
/// How long an ASYNC_MASTER waits for the others before it goes on without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a member opens its folder as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Master,
    Slave,
    /// As a SLAVE, to become master.
    Campaign {
        forced: bool,
    },
}

/// A member's part over all the times its folder is opened.
pub(super) struct Roles {
    pub(super) mandate: SharedMandate,
    pub(super) start: Start,
    /// What this member is as master.
    as_master: BrokerRole,
    is_member: bool,
    sender: mpsc::Sender<Change>,
    receiver: mpsc::Receiver<Change>,
}

impl Roles {
    pub(super) fn open(parts: &ServerParts) -> Result<Roles, StartError> {
        let config = &parts.config;
        let slave = config.broker_role == BrokerRole::Slave;
        let part = if slave { Part::Slave } else { Part::Master };
        let otherwise = Mandate { part, promised: 0, wrote_last: !slave };
        let is_member = !config.members.is_empty();
        // a folder that is new gets its own file first
        let by_hand: Box<dyn Mastership> = match ByHand::is_in(parts.disk.as_ref(), &parts.dir)? {
            true => Box::new(ByHand::open(&parts.disk, &parts.dir)?),
            false => Box::new(ByHand::later(&parts.disk, &parts.dir)),
        };
        let mandate = SharedMandate::new(by_hand, otherwise);
        let start = match mandate.holds().part {
            Part::Slave => Start::Slave,
            Part::Master if is_member => Start::Campaign { forced: false },
            Part::Master => Start::Master,
        };
        if mandate.said().is_some_and(|said| said.part != part) {
            tracing::warn!(
                ?start,
                "the folder's part is another one than the settings': it was promoted, or made way"
            );
        }
        let as_master = if slave { config.promoted_role } else { config.broker_role };
        let (sender, receiver) = mpsc::channel(CHANGES_MAX);
        Ok(Roles { mandate, start, as_master, is_member, sender, receiver })
    }

    /// The settings of the part to be played.
    pub(super) fn config(&self, config: &Config) -> Config {
        let broker_role = match self.start {
            Start::Master => self.as_master,
            Start::Slave | Start::Campaign { .. } => BrokerRole::Slave,
        };
        Config { broker_role, ..config.clone() }
    }

    /// The folder was opened: what it was written by last is known to be on disk now.
    pub(super) fn opened(&self) -> Result<(), StoreError> {
        let wrote_last = self.start == Start::Master;
        match self.is_member || self.mandate.said().is_some() {
            true => self.mandate.change(|mandate| mandate.wrote_last = wrote_last),
            false => Ok(()),
        }
    }

    /// Whoever can make this member change its part.
    pub(super) fn changes(&self) -> mpsc::Sender<Change> {
        self.sender.clone()
    }

    /// The next change; never, when there is none.
    pub(super) async fn changed(&mut self) -> Option<Change> {
        self.receiver.recv().await
    }

    /// Prepares the next part; on disk before the folder is opened in it.
    pub(super) fn take(&mut self, change: Change) -> Result<(), StoreError> {
        tracing::warn!(?change, "this member changes its part");
        // what else was asked of the part that has ended
        while self.receiver.try_recv().is_ok() {}
        self.start = match change {
            Change::Campaign { forced } => Start::Campaign { forced },
            Change::Elected(number) => {
                self.mandate.change(|mandate| {
                    mandate.part = Part::Master;
                    mandate.promised = mandate.promised.max(number);
                })?;
                Start::Master
            }
            Change::Follow => {
                self.mandate.change(|mandate| mandate.part = Part::Slave)?;
                Start::Slave
            }
        };
        Ok(())
    }

    /// Stands for master in the background, where that is the part.
    pub(super) fn campaign(
        &self,
        parts: &ServerParts,
        core: &CoreHandle,
        progress: Option<watch::Receiver<Progress>>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let (Start::Campaign { forced }, Some(progress)) = (self.start, progress) else { return None };
        let config = &parts.config;
        let members = 1 + config.members.len();
        let waits = self.as_master == BrokerRole::SyncMaster;
        let k = if waits { config.in_sync_replicas as usize } else { 1 };
        let candidate = Candidate {
            core: core.clone(),
            progress,
            broker_name: config.broker_name.clone(),
            replica_id: config.replica_id.clone(),
            members: config.members.clone(),
            needed: (members + 1).saturating_sub(k).max(1),
            patience: (!waits).then_some(PATIENCE),
            forced,
            mandate: self.mandate.clone(),
        };
        let changes = self.sender.clone();
        Some(async move {
            match campaign::stand(candidate).await {
                // the server may be stopping
                Ok(change) => drop(changes.send(change).await),
                Err(error) => tracing::warn!(%error, "the campaign ended"),
            }
        })
    }
}
