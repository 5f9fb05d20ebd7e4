//! Owns the command that makes a replica the master: tells it, and waits until it is.

use crate::config::Settings;
use anyhow::{Context, Result, bail};
use broker::http::RoleReport;
use std::time::{Duration, Instant};

/// One answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Members that are away are waited for; longer than this is a case for the operator.
const WAIT_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn run(settings: &Settings, server: Option<&str>) -> Result<()> {
    let base = server.map_or_else(|| format!("http://{}", settings.listen.broker_http), str::to_owned);
    let base = base.trim_end_matches('/');
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    let http: ureq::Agent = config.build().into();
    let mut answer = http
        .post(format!("{base}/promote"))
        .send_empty()
        .with_context(|| format!("no answer from {base} (is the replica running?)"))?;
    match answer.status().as_u16() {
        202 => {}
        409 => bail!("{base} is the master already"),
        status => bail!("{base} answers {status}: {}", answer.body_mut().read_to_string()?.trim()),
    }
    let begun = Instant::now();
    // it closes its doors and opens them again on the way
    let mut last = None;
    while begun.elapsed() < WAIT_MAX {
        let asked = http.get(format!("{base}/role")).call();
        if let Ok(mut answer) = asked
            && let Ok(text) = answer.body_mut().read_to_string()
            && let Ok(report) = serde_json::from_str::<RoleReport>(&text)
        {
            if report.is_master {
                println!("{base} is the master: {}, epoch {}", report.role, report.epoch);
                return Ok(());
            }
            last = Some(report);
        }
        std::thread::sleep(PAUSE);
    }
    bail!(
        "{base} is not the master after {} s (last seen: {last:?}); its log says what it waits for",
        WAIT_MAX.as_secs()
    )
}
