//! `kill -9` in a loop under load: the broker, the agent, both at once. Nothing that was answered is lost, nothing is
//! reported as lost, no message stays undecided, and no counter of the agent steps back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::api::state;
use tests::clients::Events;
use tests::clients::Sdk::{PythonGrpc, PythonRemoting};
use tests::config::Options;
use tests::metrics::Metrics;
use tests::process::Process;
use tests::stand::{self, Role, Stand};
use tests::wait;

use crate::load::{ANSWERED_PER_ROUND, Load, check_counters};

/// Kills per test. Each hits another moment: the pauses between them differ.
const ROUNDS: u32 = 5;
const LOAD_STEP: Duration = Duration::from_millis(300);
const GROUP: &str = "crash-readers";
/// How many ids are asked for one by one; the books cover all.
const ASKED_MAX: usize = 100;

/// The two processes of a product that is not embedded.
struct Pair {
    broker: Process,
    agent: Process,
}

impl Pair {
    fn start(stand: &Stand) -> Result<Pair> {
        Ok(Pair { broker: stand.start(Role::Broker)?, agent: stand.start(Role::Agent)? })
    }

    /// Kills the victims, all of them before any is started again.
    fn kill_and_restart(self, stand: &Stand, victims: &[Role]) -> Result<Pair> {
        let Pair { mut broker, mut agent } = self;
        let (hit_broker, hit_agent) = (victims.contains(&Role::Broker), victims.contains(&Role::Agent));
        if hit_broker && hit_agent {
            broker.kill()?;
            agent.kill()?;
            return Pair::start(stand);
        }
        if hit_broker {
            broker.kill()?;
            broker = stand.start(Role::Broker)?;
        }
        if hit_agent {
            agent.kill()?;
            agent = stand.start(Role::Agent)?;
        }
        broker.check_alive()?;
        agent.check_alive()?;
        Ok(Pair { broker, agent })
    }
}

fn kill_loop(victims: &[Role]) -> Result<()> {
    stand::with(Options::default(), |stand| {
        let mut pair = Pair::start(stand)?;
        let mut loads = [
            Load::start(stand, PythonGrpc, ("crash-grpc", GROUP))?,
            Load::start(stand, PythonRemoting, ("crash-remoting", GROUP))?,
        ];
        let mut seen = Metrics::default();
        let mut answered = [0; 2];
        for round in 0..ROUNDS {
            for (load, answered) in loads.iter_mut().zip(&mut answered) {
                *answered = load.wait_flow(*answered).with_context(|| format!("round {round}"))?;
            }
            wait::for_load(LOAD_STEP + Duration::from_millis(u64::from(round) * 130));
            let before = stand.agent_api().metrics()?;
            pair = pair.kill_and_restart(stand, victims).with_context(|| format!("round {round}"))?;
            check_counters(&seen, &before)?;
            seen = before;
            check_counters(&seen, &stand.agent_api().metrics()?).with_context(|| format!("round {round}"))?;
        }
        wait::for_load(LOAD_STEP);
        for load in loads {
            load.drain(|topic, sent| check_books(stand, topic, sent))?;
        }
        pair.broker.terminate(Duration::from_secs(20))?;
        Ok(())
    })
}

/// `kill -9` loses no page that was written: all must be settled, nothing lost, nothing undecided.
fn check_books(stand: &Stand, topic: &str, sent: &Events) -> Result<()> {
    let ids = sent.sent();
    let least = ROUNDS as usize * ANSWERED_PER_ROUND;
    ensure!(ids.len() >= least, "only {} messages were answered: that was no load", ids.len());
    let agent = stand.agent_api();
    agent.wait_complete()?;
    let balance = agent.wait_balance(topic, GROUP, |balance| balance.check_closed())?;
    // A send that was not answered may be stored all the same, so there can be more than was answered.
    ensure!(balance.stored >= ids.len() as u64, "answered {}, stored {}", ids.len(), balance.stored);
    ensure!(balance.settled == balance.stored, "stored is not settled: {balance:?}");
    let step = ids.len().div_ceil(ASKED_MAX);
    for (body, id) in ids.iter().step_by(step) {
        agent.message(id)?.check_state(GROUP, &[state::SETTLED]).with_context(|| format!("{body} ({id})"))?;
    }
    ensure!(agent.losses()?.is_empty(), "losses where nothing was lost: {:?}", agent.losses()?);
    Ok(())
}

#[test]
fn killing_the_broker_loses_nothing() -> Result<()> {
    kill_loop(&[Role::Broker])
}

#[test]
fn killing_the_agent_loses_nothing() -> Result<()> {
    kill_loop(&[Role::Agent])
}

#[test]
fn killing_both_loses_nothing() -> Result<()> {
    kill_loop(&[Role::Broker, Role::Agent])
}

/// The embedded default: one process, killed, and everything asked of it before can be asked again.
#[test]
fn killing_the_embedded_product_keeps_every_answer() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let mut product = stand.up()?;
        let mut load = Load::start(stand, PythonRemoting, ("crash-up", GROUP))?;
        let mut answered = 0;
        for _ in 0..ROUNDS {
            answered = load.wait_flow(answered)?;
            wait::for_load(LOAD_STEP);
            let before = stand.agent_api().metrics()?;
            product.kill()?;
            product = stand.up()?;
            check_counters(&before, &stand.agent_api().metrics()?)?;
        }
        load.drain(|topic, sent| check_books(stand, topic, sent))?;
        let status = product.terminate(Duration::from_secs(20))?;
        ensure!(status.success(), "a clean end is not a success: {status}");
        Ok(())
    })
}
