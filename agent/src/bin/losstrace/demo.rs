//! Owns `losstrace demo`: causes losses on real processes, over the real protocols, and compares what it destroyed with what the agent
//! found. Ends with 0 only when both are the same, id by id.
//!
//! Three child processes of this binary: a broker whose power is cut, a broker with a short retention, an agent. The demo itself
//! is every client, the operator, the network between broker and agent, and the power supply; what it does is noted in a
//! ledger that the agent never sees.

mod agent;
mod damage;
mod grpc;
mod link;
mod process;
mod remoting;
mod site;
mod truth;
mod verify;

use anyhow::{Result, bail};
use comfy_table::{ContentArrangement, Table, presets};
use site::Site;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use truth::Truth;
use verify::Findings;

/// How long the agent may take until everything it says is the truth.
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// After that nothing may change any more: a false alarm can also come late.
const STAYS: Duration = Duration::from_secs(2);
/// Columns of the table where the terminal's width is not known.
const WIDTH: u16 = 132;

/// Runs the demo; an error unless everything matched.
pub(crate) fn run(keep: bool) -> Result<()> {
    let begin = Instant::now();
    process::heed_signals()?;
    println!("two brokers and an agent, each a process of its own; the demo is all their clients");
    let mut site = Site::start(keep)?;
    let mut truth = Truth::default();
    damage::cause_all(&mut truth, &mut site)?;
    let findings = settled(&truth, &mut site)?;
    println!("\n{}", table(&truth, &findings));
    println!(
        "{} messages were sent, consumed and committed beside that; nothing may be said about them.",
        findings.healthy
    );
    let seconds = begin.elapsed().as_secs_f32();
    if findings.differences.is_empty() {
        println!("The agent found exactly what was destroyed ({seconds:.1} s).");
        return Ok(());
    }
    for difference in &findings.differences {
        println!("  DIFFERENT: {difference}");
    }
    bail!("what the agent found is not what was destroyed: {} differences", findings.differences.len())
}

/// Asks until the answer is the truth, and still is a while later; else the last answer.
fn settled(truth: &Truth, site: &mut Site) -> Result<Findings> {
    let begin = Instant::now();
    let mut right_since: Option<Instant> = None;
    loop {
        let findings = site.until_agent("the agent to answer", |site| verify::compare(truth, site))?;
        if findings.differences.is_empty() {
            let since = *right_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= STAYS {
                return Ok(findings);
            }
        } else if right_since.take().is_some() || begin.elapsed() >= ANSWER_MAX {
            return Ok(findings);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn table(truth: &Truth, findings: &Findings) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table.set_header(["WHAT WAS DESTROYED", "WHAT THE AGENT SAYS", "MATCH"]);
    for loss in &truth.losses {
        let key = &loss.key;
        let place = [&key.broker, &key.topic, &key.group].map(String::as_str).join(" ");
        let destroyed = format!("{}\n{}\n{}", loss.what, place.trim(), shown(&loss.ids));
        let (says, is_same) = match findings.said.get(key) {
            Some(said) => {
                let ranges: Vec<&str> = said.ranges.iter().map(String::as_str).collect();
                let text =
                    format!("{}: {}\n{}\n{}", key.class, said.cause, shown(&said.ids), ranges.join(", "));
                (text.trim_end().to_owned(), verify::loss_differences(loss, said).is_empty())
            }
            None => ("nothing".to_owned(), false),
        };
        table.add_row([destroyed, says, verdict(is_same)]);
    }
    let ranges: Vec<&str> = findings.bound.ranges.iter().map(String::as_str).collect();
    table.add_row([
        format!(
            "the same power cut: never heard of by the agent, nor reported\n{}",
            shown(&truth::ids(&truth.nameless))
        ),
        format!("undecided: up to {} messages\n{}", findings.bound.messages, ranges.join(", ")),
        verdict(findings.bound.holds),
    ]);
    table
}

fn verdict(is_same: bool) -> String {
    if is_same { "yes" } else { "NO" }.to_owned()
}

/// How many, the first and the last; all are compared.
fn shown(ids: &BTreeSet<String>) -> String {
    let named: Vec<&str> = ids.first().into_iter().chain(ids.last()).map(String::as_str).collect();
    format!("{} messages: {}", ids.len(), named.join(" … "))
}
