//! Owns `losstrace inspect`: its words, its progress bar and how its report looks in a terminal. What is found is the `inspect`
//! crate's to say.

use crate::cli::Format;
use crate::tables::{print, table, wall};
use ::inspect::findings::{Finding, IDS_MAX_DEFAULT, State};
use ::inspect::report::Report;
use ::inspect::{InspectError, Options, inspect};
use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::PathBuf;

/// Ids shown below one finding in a terminal; all that are named are in the JSON.
const IDS_SHOWN: usize = 20;
/// Runs of offsets shown of one queue.
const RUNS_SHOWN: usize = 3;

/// Copies of store folders, and what the clients know.
#[derive(Args, Debug)]
pub(crate) struct InspectOptions {
    /// Store folders (each holds `commitlog`): nodes, replicas, or snapshots of one at different times
    #[arg(value_name = "STORE", required = true)]
    stores: Vec<PathBuf>,
    /// Offsets of groups to judge by, instead of those in the stores
    #[arg(long, value_name = "consumerOffset.json")]
    offsets: Option<PathBuf>,
    /// What producers sent: NDJSON, or CSV with a header; `id`, and if known `topic`, `queue`, `offset`, `outcome`
    #[arg(long, value_name = "FILE")]
    sent: Option<PathBuf>,
    /// What consumers processed: NDJSON, or CSV with a header; `id`, and if known `topic`
    #[arg(long, value_name = "FILE")]
    processed: Option<PathBuf>,
    /// The store that serves now: what it lacks and another copy has is lost
    #[arg(long, value_name = "STORE")]
    promoted: Option<PathBuf>,
    /// Folder for what does not fit into memory, outside every store; nothing stays there [default: the system's]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Ids named in one finding; all are counted
    #[arg(long, value_name = "N", default_value_t = IDS_MAX_DEFAULT)]
    ids: usize,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Inspects, prints, and gives the exit code.
pub(crate) fn run(given: &InspectOptions) -> Result<u8> {
    let options = Options {
        stores: given.stores.clone(),
        offsets: given.offsets.clone(),
        sent: given.sent.clone(),
        processed: given.processed.clone(),
        promoted: given.promoted.clone(),
        scratch: given.scratch.clone().unwrap_or_else(std::env::temp_dir),
        ids_max: given.ids,
    };
    // hidden by itself where stderr is no terminal
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}");
    bar.set_style(style.context("progress bar")?);
    let report = inspect(&options, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
        if done == all {
            bar.set_message("comparing");
        }
    });
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error @ InspectError::Options(_)) => {
            eprintln!("losstrace: {error}");
            return Ok(crate::USAGE);
        }
        Err(error) => return Err(error.into()),
    };
    let text = match given.output {
        Format::Json => serde_json::to_string_pretty(&report).context("report")?,
        Format::Table => shown(&report),
    };
    // whoever reads only the beginning still gets the exit code
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(error).context("standard output");
        }
        _ => {}
    }
    Ok(if report.has_losses() { crate::LOSSES_OPEN } else { 0 })
}

fn shown(report: &Report) -> String {
    let mut stores =
        table(&["STORE", "LOG FROM", "TO", "RECORDS", "QUEUES", "NEWEST", "STOPPED", "DAMAGED", "COPY OF"]);
    for store in &report.stores {
        let copy_of = report.stores.get(store.copy_of as usize).map_or("", |first| first.name.as_str());
        stores.add_row([
            store.name.clone(),
            store.log_min.to_string(),
            store.log_end.to_string(),
            store.records.to_string(),
            store.queues.to_string(),
            wall(u64::try_from(store.newest_store_ms).unwrap_or(0)),
            if store.abort { "NO" } else { "yes" }.to_owned(),
            store.damaged_ranges.to_string(),
            copy_of.to_owned(),
        ]);
    }
    let mut text = print(&stores, "");
    for store in &report.stores {
        for blind in &store.blind {
            text.push_str(&format!("\nblind in {}: {blind}", store.name));
        }
    }
    let mut findings = table(&[
        "CLASS", "STATE", "LOSS", "STORE", "AGAINST", "TOPIC", "GROUP", "MESSAGES", "WHERE", "CAUSE",
    ]);
    for finding in &report.findings {
        let key = &finding.key;
        findings.add_row([
            key.class.to_owned(),
            state(key.state).to_owned(),
            if key.loss { "yes" } else { "-" }.to_owned(),
            key.store.clone(),
            key.other.clone(),
            key.topic.clone(),
            key.group.clone(),
            if finding.positions.is_some() { "-".to_owned() } else { finding.count.to_string() },
            place(finding),
            key.cause.clone(),
        ]);
    }
    text.push_str(&format!("\n\n{}", print(&findings, "no findings")));
    for finding in
        report.findings.iter().filter(|finding| finding.key.state != State::Note && !finding.ids.is_empty())
    {
        let key = &finding.key;
        let about = [key.class, &key.store, &key.topic, &key.group].map(str::to_owned);
        text.push_str(&format!(
            "\n\n{}:",
            about.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        ));
        for id in finding.ids.iter().take(IDS_SHOWN) {
            text.push_str(&format!("\n  {id}"));
        }
        if finding.ids.len() > IDS_SHOWN {
            text.push_str(&format!("\n  and {} more: --output json", finding.ids.len() - IDS_SHOWN));
        }
    }
    text.push_str(&format!("\n\nlost: {}, suspected: {}", report.lost, report.suspected));
    text.push_str(&format!(", undecided: at most {}", report.undecided));
    if report.damaged_ranges > 0 {
        text.push_str(&format!(", damaged ranges: {}", report.damaged_ranges));
    }
    text
}

fn state(state: State) -> &'static str {
    match state {
        State::Confirmed => "confirmed",
        State::Suspected => "suspected",
        State::Undecided => "undecided",
        State::Note => "note",
    }
}

fn place(finding: &Finding) -> String {
    if let Some((from, to)) = finding.positions.filter(|range| range.1 > 0) {
        return format!("log {from}..{to}");
    }
    let queues = finding.offsets.iter().map(|(queue, runs)| {
        let shown: Vec<String> =
            runs.iter().take(RUNS_SHOWN).map(|(from, to)| format!("{from}..{to}")).collect();
        let more = if runs.len() > RUNS_SHOWN { "…" } else { "" };
        format!("{queue}:{}{more}", shown.join(","))
    });
    queues.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use ::inspect::findings::LOSS_CLASSES;
    use agent::fold::class::Class;

    /// Losses that verdicts on a running broker have no name for: of a store at rest, and of a client's own list.
    const OWN: [&str; 5] = ["never-processed", "timer-lost", "truncated", "unindexed", "unreadable"];

    #[test]
    fn a_loss_has_the_name_the_verdicts_give_it() {
        for name in LOSS_CLASSES {
            let is_verdict = Class::from_text(name).is_some_and(Class::is_loss);
            assert!(is_verdict != OWN.contains(&name), "{name}");
        }
    }
}
