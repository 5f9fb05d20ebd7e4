//! A real Prometheus on a port of its own, scraping what a test tells it to. Owns the process and its data.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{Http, encode};
use crate::ports::Port;
use crate::process::Process;
use crate::wait;

/// A loaded machine takes its time to start a second process and let it scrape.
const START_LIMIT: Duration = Duration::from_secs(40);

/// A running Prometheus with a scrape and evaluation interval of one second.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    http: Http,
    _port: Port,
}

/// One series of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Prometheus {
    /// Scrapes each address under a job name, with these rule files. Returns when every target is up.
    pub fn start(folder: &Path, targets: &[(&str, String)], rules: &[PathBuf]) -> Result<Prometheus> {
        let folder = folder.join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        fs::write(&config, config_yaml(targets, rules))?;
        let port = Port::claim()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()));
        let mut process = Process::spawn("prometheus", &mut command, folder.join("prometheus.log"))?;
        let http = Http::new(&port.address());
        wait::until_ok("every target of Prometheus to be up", START_LIMIT, || {
            process.check_alive()?;
            let json = http.json("/api/v1/targets?state=active")?;
            let active =
                json.pointer("/data/activeTargets").and_then(Value::as_array).context("no targets")?;
            let up = active.iter().filter(|target| target.get("health") == Some(&Value::from("up"))).count();
            ensure!(up == targets.len(), "{up} of {} are up: {json}", targets.len());
            Ok(())
        })?;
        Ok(Prometheus { process, http, _port: port })
    }

    /// An instant query, as a dashboard panel sends it.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let json = self.http.json(&format!("/api/v1/query?query={}", encode(expression)))?;
        let result = json.pointer("/data/result").and_then(Value::as_array);
        let result = result.with_context(|| format!("`{expression}` has no result: {json}"))?;
        result.iter().map(sample).collect()
    }

    /// The single value of a query such as `sum(…)`.
    pub fn scalar(&self, expression: &str) -> Result<f64> {
        match self.query(expression)?.as_slice() {
            [only] => Ok(only.value),
            samples => bail!("`{expression}` has {} series, not one", samples.len()),
        }
    }

    /// Names of the alerts that fire now.
    pub fn firing(&self) -> Result<Vec<String>> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}")?;
        Ok(alerts.into_iter().filter_map(|alert| alert.labels.get("alertname").cloned()).collect())
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// `promtool check metrics` on one exposition; its complaints are the error.
pub fn lint(metrics: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool: run tests/install first")?;
    child.stdin.take().context("standard input is a pipe")?.write_all(metrics.as_bytes())?;
    let output = child.wait_with_output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "promtool check metrics: {}\n{said}", output.status);
    Ok(())
}

fn config_yaml(targets: &[(&str, String)], rules: &[PathBuf]) -> String {
    let mut yaml = String::from("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:\n");
    for rule in rules {
        yaml.push_str(&format!("  - {}\n", rule.display()));
    }
    yaml.push_str("scrape_configs:\n");
    for (job, address) in targets {
        yaml.push_str(&format!("  - {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}\n"));
    }
    yaml
}

fn sample(json: &Value) -> Result<Sample> {
    let labels = json.get("metric").and_then(Value::as_object).context("a sample has labels")?;
    let labels = labels.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let value = json.pointer("/value/1").and_then(Value::as_str).context("a sample has a value")?;
    Ok(Sample { labels: labels.collect(), value: value.parse()? })
}
