//! What producers report and what operators do: a reported send that is nowhere is a loss with an id, an answer to
//! `why`, an exit code for scripts and a number in Prometheus, until somebody takes it in hand.

use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::api::{AgentApi, Incident, SETTLE_LIMIT, class, metric};
use tests::clients::Job;
use tests::clients::Sdk::PythonGrpc;
use tests::config::Options;
use tests::stand::{self, Stand};
use tests::wait;

use crate::scenario::send;

const TOPIC: &str = "orders";
/// The shape of a gRPC SDK's id, of a process that never ran.
const GHOST: &str = "010000DEADBEEF0001000000010000002A";
/// Exit code of the query commands while losses are open.
const LOSSES_OPEN: i32 = 3;

fn exit_code(output: &Output) -> Result<i32> {
    output.status.code().context("ended by a signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one open incident of this class.
fn wait_incident(agent: &AgentApi, class: &str) -> Result<Incident> {
    wait::until(&format!("an incident of class {class}"), SETTLE_LIMIT, || {
        let found: Vec<Incident> =
            agent.incidents()?.into_iter().filter(|i| i.class == class && i.open).collect();
        match found.as_slice() {
            [only] => Ok(Some(only.clone())),
            [] => Ok(None),
            more => bail!("one cause, several incidents: {more:?}"),
        }
    })
}

#[test]
fn a_reported_send_that_is_nowhere_is_a_loss_until_acknowledged() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let agent = stand.agent_api();
        let calm = stand.query(&["losses"])?;
        ensure!(exit_code(&calm)? == 0, "losses before anything was lost: {}", stdout(&calm));

        let answer = agent.report_sent(GHOST, TOPIC, "ok")?;
        ensure!(
            (200..300).contains(&answer.status),
            "the report is answered {}: {}",
            answer.status,
            answer.body
        );
        let incident = wait_incident(&agent, class::NEVER_STORED)?;
        ensure!(incident.loss && incident.messages == 1 && incident.topic == TOPIC, "{incident:?}");
        check_lost_everywhere(stand, &agent)?;

        agent.acknowledge(&incident.incident)?;
        wait::until_ok("the acknowledged loss to page no more", SETTLE_LIMIT, || {
            let open = agent.metrics()?.sum(metric::OPEN_LOSSES, &[("topic", TOPIC)]);
            ensure!(open == 0.0, "{open} open losses");
            Ok(())
        })?;
        let lost = agent.metrics()?.sum(metric::MESSAGES_LOST_TOTAL, &[]);
        ensure!(lost == 1.0, "an acknowledged loss stays in the books: {lost}");
        Ok(())
    })
}

/// API, metrics and command line say the same of the ghost.
fn check_lost_everywhere(stand: &Stand, agent: &AgentApi) -> Result<()> {
    let life = agent.message(GHOST)?;
    ensure!(life.first_break().is_some(), "nothing broke: {life:?}");
    let metrics = agent.metrics()?;
    ensure!(metrics.sum(metric::OPEN_LOSSES, &[("topic", TOPIC)]) == 1.0, "the page is not raised");
    ensure!(
        metrics.sum(metric::MESSAGES_LOST_TOTAL, &[("verdict", class::NEVER_STORED)]) == 1.0,
        "not counted"
    );

    let losses = stand.query(&["losses", "--output", "json"])?;
    ensure!(exit_code(&losses)? == LOSSES_OPEN, "losses ends with {:?}", losses.status);
    let json: Value = serde_json::from_str(&stdout(&losses)).context("losses --output json")?;
    ensure!(json.to_string().contains(class::NEVER_STORED), "{json}");
    let why = stand.query(&["why", GHOST])?;
    ensure!(stdout(&why).contains(GHOST), "why does not speak of the message: {why:?}");
    Ok(())
}

#[test]
fn reported_sends_that_are_stored_are_no_loss() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let agent = stand.agent_api();
        // The report may overtake the agent's own evidence, or come long after it.
        let sent = send(stand, PythonGrpc, &Job::produce(TOPIC, "order-", 5))?;
        for id in sent.values() {
            let answer = agent.report_sent(id, TOPIC, "ok")?;
            ensure!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.body);
        }
        // A ghost reported after them is judged after them: once it is a loss, they have been judged too.
        agent.report_sent(GHOST, TOPIC, "ok")?;
        wait_incident(&agent, class::NEVER_STORED)?;
        let losses = agent.losses()?;
        ensure!(losses.len() == 1 && losses.iter().all(|loss| loss.messages == 1), "{losses:?}");
        for id in sent.values() {
            ensure!(agent.message(id)?.first_break().is_none(), "{:?}", agent.message(id)?);
        }
        Ok(())
    })
}

#[test]
fn wrong_requests_are_problems_that_say_what_to_change() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        let agent = stand.agent_api();
        let answers = [
            (agent.report_sent(GHOST, TOPIC, "perhaps")?, 400, "outcome"),
            (agent.http.get("/api/v1/losses?verdict=bad-luck")?, 400, "verdict"),
            (agent.http.get("/api/v1/nothing")?, 404, "openapi.json"),
        ];
        for (answer, status, word) in answers {
            ensure!(answer.status == status, "{} instead of {status}: {}", answer.status, answer.body);
            ensure!(answer.content_type == "application/problem+json", "{}", answer.content_type);
            let detail =
                answer.json()?.pointer("/detail").and_then(Value::as_str).unwrap_or_default().to_owned();
            ensure!(detail.contains(word), "`{detail}` does not name {word}");
        }
        Ok(())
    })
}

/// For scripts: exit codes and JSON; for people: a table that names what was asked for.
#[test]
fn the_command_line_answers_as_the_api_does() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let sent = send(stand, PythonGrpc, &Job::produce(TOPIC, "order-", 3))?;
        let id = sent.values().next().context("three were sent")?;
        stand.agent_api().wait_complete()?;

        for command in ["balance", "topics", "dlq", "exposure", "doctor", "losses"] {
            let table = stand.query(&[command])?;
            ensure!(exit_code(&table)? == 0, "{command}: {table:?}");
            ensure!(!table.stdout.is_empty(), "{command} says nothing");
            let json = stand.query(&[command, "--output", "json"])?;
            serde_json::from_str::<Value>(&stdout(&json))
                .with_context(|| format!("{command} --output json"))?;
        }
        ensure!(stdout(&stand.query(&["topics"])?).contains(TOPIC), "topics does not list {TOPIC}");
        for asked in [id.as_str(), "order-0"] {
            let why = stand.query(&["why", asked])?;
            ensure!(exit_code(&why)? == 0 && stdout(&why).contains("stored"), "why {asked}: {why:?}");
        }
        let never = stand.query(&["why", GHOST])?;
        ensure!(stdout(&never).contains("never reached"), "why of an unknown id: {never:?}");
        Ok(())
    })
}
