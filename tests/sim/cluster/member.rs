//! Owns one member of the simulated group: a production core in whatever part it plays, its own disk, and its part and promise on
//! that disk. Never speaks to another member: links carry what is said. Called by the group.

use broker::api::Request;
use broker::config::{BrokerRole, Config};
use broker::core::{Core, CoreParts, FlushDone, FlushOrders};
use broker::replication::frame::Standing;
use broker::replication::master::SharedMandate;
use broker::replication::mastership::{ByHand, Mandate, Mastership, Part};
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::disk::Disk;
use store::disk_sim::{SimDisk, SimFaults};
use store::error::StoreError;

/// See the module text.
pub(crate) struct Member {
    pub(crate) disk: SimDisk,
    pub(crate) core: Option<Core>,
    /// Its settings as a master.
    config: Config,
    /// What the settings say of its part.
    configured: Part,
    mandate: Option<SharedMandate>,
    orders: Vec<FlushOrders>,
    boots: u64,
    /// Stopped, and not dead.
    pub(crate) is_paused: bool,
    /// It will not come back, nor will its disk.
    pub(crate) is_gone: bool,
}

impl Member {
    pub(crate) fn new(config: Config, configured: Part) -> Member {
        Member {
            disk: SimDisk::new(),
            core: None,
            config,
            configured,
            mandate: None,
            orders: Vec::new(),
            boots: 0,
            is_paused: false,
            is_gone: false,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.config.replica_id
    }

    /// What its folder says of its part; nothing was said: the settings.
    pub(crate) fn mandate(&mut self) -> Result<SharedMandate, StoreError> {
        if let Some(mandate) = &self.mandate {
            return Ok(mandate.clone());
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let dir = Path::new(crate::world::DATA);
        let by_hand: Box<dyn Mastership> = match ByHand::is_in(disk.as_ref(), dir)? {
            true => Box::new(ByHand::open(&disk, dir)?),
            false => Box::new(ByHand::later(&disk, dir)),
        };
        let wrote_last = self.configured == Part::Master;
        let otherwise = Mandate { part: self.configured, promised: 0, wrote_last };
        Ok(self.mandate.insert(SharedMandate::new(by_hand, otherwise)).clone())
    }

    /// Opens the folder in a part, as the server does: what it was written by last is noted once it is open.
    pub(crate) fn open(&mut self, part: Part, run: u64, now: Now) -> Result<String, StoreError> {
        let mandate = self.mandate()?;
        let broker_role = match part {
            Part::Master => self.config.broker_role,
            Part::Slave => BrokerRole::Slave,
        };
        let mut incarnation = [0; 16];
        incarnation[14..].copy_from_slice(&(run as u16).to_be_bytes());
        let parts = CoreParts {
            disk: Arc::new(self.disk.clone()),
            dir: PathBuf::from(crate::world::DATA),
            config: Config { broker_role, ..self.config.clone() },
            incarnation: Incarnation(incarnation),
            store_host: "127.0.0.1:10911".parse().expect("an address"),
            boot: Some(format!("{} boot {}", self.id(), self.boots)),
            mandate: mandate.said(),
        };
        let (core, report) = Core::open(parts, now)?;
        mandate.change(|mandate| mandate.wrote_last = part == Part::Master)?;
        self.core = Some(core);
        let (lost, again, torn) = (report.lost, report.stated_again, report.scan.torn_bytes);
        Ok(format!("lost {lost} again {again} torn {torn} end {}", report.scan.end.0))
    }

    /// Ends cleanly, as before a change of part.
    pub(crate) fn close(&mut self, now: Now) -> Result<(), StoreError> {
        self.orders.clear();
        self.core.take().map_or(Ok(()), |core| core.close(now))
    }

    /// The process is gone.
    pub(crate) fn kill(&mut self) {
        self.core = None;
        self.mandate = None;
        self.orders.clear();
        self.is_paused = false;
        self.disk.kill();
    }

    /// The machine is without power.
    pub(crate) fn power_cut(&mut self, seed: u64) {
        self.kill();
        self.disk.power_cut(seed);
        self.boots += 1;
    }

    /// Its disk fails for good after so many further effects.
    pub(crate) fn die_after(&mut self, effects: u64) {
        self.disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
    }

    /// Its disk takes so many further bytes.
    pub(crate) fn full_after(&mut self, bytes: u64) {
        self.disk.set_faults(SimFaults { no_space_after_bytes: Some(bytes), ..Default::default() });
    }

    /// The disk works again.
    pub(crate) fn live_again(&mut self) {
        self.disk.set_faults(SimFaults::default());
    }

    /// A new machine with an empty disk, set up as a replica.
    pub(crate) fn replace(&mut self) {
        self.configured = Part::Slave;
        self.mandate = None;
        self.disk = SimDisk::new();
        self.is_gone = false;
    }

    /// One turn; what broke it, when its disk did.
    pub(crate) fn turn(&mut self, now: Now, requests: &mut Vec<Request>) -> Option<StoreError> {
        let Some(core) = self.core.as_mut().filter(|_| !self.is_paused) else {
            requests.clear();
            return None;
        };
        let mut done = Vec::new();
        for orders in self.orders.drain(..) {
            done.extend(orders.log.map(|batch| FlushDone::Log(batch.sync())));
            done.extend(orders.journal.map(|batch| FlushDone::Journal(batch.sync())));
            done.extend(orders.jobs.into_iter().map(|job| FlushDone::Job(job.run())));
        }
        let mut effects = core.turn(now, requests, &mut done);
        self.orders.push(std::mem::take(&mut effects.flush));
        effects.fatal
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        self.core.as_ref().filter(|_| !self.is_paused).map(Core::standing)
    }

    /// Promises, on disk before anybody hears it; whether it had been master. `None`: it does not promise.
    pub(crate) fn promise(&mut self, number: u64) -> Option<(Standing, bool)> {
        let mandate = self.mandate().ok()?;
        let core = self.core.as_mut().filter(|_| !self.is_paused)?;
        let was_master = core.standing().is_master;
        if !core.promise(number) {
            return None;
        }
        let kept = mandate.change(|mandate| {
            mandate.promised = mandate.promised.max(number);
            if was_master {
                mandate.part = Part::Slave;
            }
        });
        kept.ok()?;
        Some((core.standing(), was_master))
    }
}
