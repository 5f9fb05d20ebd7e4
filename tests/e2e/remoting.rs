//! The remoting 4.x clients, each on its own. The Python one is the textbook program: sync send with three tries and a
//! checked result, a push consumer that answers CONSUME_SUCCESS or RECONSUME_LATER by the body.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::clients::Sdk::{NodeRemoting, PythonRemoting};
use tests::clients::{Client, Job};
use tests::config::Options;
use tests::stand;

use crate::scenario::{dead_letter, filter_by_tag, send_consume_balance};

#[test]
fn python_push_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| {
        send_consume_balance(stand, PythonRemoting, PythonRemoting, "push")
    })
}

#[test]
fn python_dead_letters() -> Result<()> {
    stand::with(Options::default(), |stand| dead_letter(stand, PythonRemoting))
}

#[test]
fn python_filters_by_tag() -> Result<()> {
    stand::with(Options::default(), |stand| filter_by_tag(stand, PythonRemoting))
}

/// Nothing is answered, and still every message is stored, delivered and traced, by the id it is delivered with.
#[test]
fn python_one_way_sends() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let (topic, group, count) = ("readings", "archive", 30);
        let _product = stand.up()?;
        stand.create_topic(topic)?;
        let job = Job { oneway: true, ..Job::produce(topic, "reading-", count) };
        Client::start(stand, PythonRemoting, &job)?.finish(Duration::from_secs(60))?;

        let mut consumer = Client::start(stand, PythonRemoting, &Job::consume(topic, group, 0))?;
        consumer.wait_for("all one-way messages", Duration::from_secs(60), |events| {
            events.consumed().len() == count as usize
        })?;
        let events = consumer.stop()?;
        let agent = stand.agent_api();
        agent.wait_balance(topic, group, |balance| balance.check(count as usize, 0))?;
        for (body, ids) in events.delivered_ids() {
            let id = ids.first().with_context(|| format!("{body} was delivered without an id"))?;
            agent.message(id)?.check_state(group, &[tests::api::state::SETTLED])?;
        }
        ensure!(agent.losses()?.is_empty(), "losses where nothing was lost: {:?}", agent.losses()?);
        Ok(())
    })
}

#[test]
fn node_push_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, NodeRemoting, NodeRemoting, "push"))
}

#[test]
fn node_dead_letters() -> Result<()> {
    stand::with(Options::default(), |stand| dead_letter(stand, NodeRemoting))
}
