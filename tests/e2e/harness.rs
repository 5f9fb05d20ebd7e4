//! The harness itself, without the product: a test that cannot fail proves nothing, and neither does a harness that
//! cannot see a failure.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::clients::Sdk::{NodeGrpc, NodeRemoting, PythonGrpc, PythonRemoting};
use tests::clients::{Client, Job};
use tests::config::Options;
use tests::ports::{Port, Ports};
use tests::prometheus::{Prometheus, lint};
use tests::stand::Stand;

const LIMIT: Duration = Duration::from_secs(60);

/// Without a broker every SDK says so, and no harness method takes that for success.
#[test]
fn failed_sends_are_seen() -> Result<()> {
    let stand = Stand::new(Options::default())?;
    for sdk in [PythonGrpc, PythonRemoting] {
        let events = Client::start(&stand, sdk, &Job::produce("nowhere", "m-", 1))?.finish(LIMIT)?;
        ensure!(events.sent().is_empty(), "{sdk:?} sent without a broker");
        ensure!(!events.send_failures().is_empty(), "{sdk:?} reported nothing");
    }
    for sdk in [NodeGrpc, NodeRemoting] {
        // These two do not even start.
        let job = Job { timeout_s: 2, ..Job::produce("nowhere", "m-", 1) };
        let result = Client::start(&stand, sdk, &job)?.finish(LIMIT);
        ensure!(result.map_or(true, |events| events.sent().is_empty()), "{sdk:?} sent without a broker");
    }
    Ok(())
}

/// A consumer ends when it is told to, and waiting for what never comes is an error with its story.
#[test]
fn a_consumer_stops_when_told() -> Result<()> {
    let stand = Stand::new(Options::default())?;
    let mut consumer = Client::start(&stand, PythonRemoting, &Job::consume("nowhere", "nobody", 0))?;
    consumer.wait_ready()?;
    let Err(error) =
        consumer.wait_for("a miracle", Duration::from_secs(1), |events| !events.consumed().is_empty())
    else {
        bail!("waited for nothing with success");
    };
    ensure!(
        format!("{error:#}").contains("a miracle"),
        "the error does not say what was waited for: {error:#}"
    );
    ensure!(consumer.stop()?.consumed().is_empty(), "consumed without a broker");
    Ok(())
}

#[test]
fn no_two_ports_are_the_same() -> Result<()> {
    let (a, b) = (Ports::claim()?, Ports::claim()?);
    ensure!(a.grpc.number != b.grpc.number && a.grpc.number != a.feed.number, "{a:?} {b:?}");
    Ok(())
}

#[test]
fn promtool_is_asked_and_believed() -> Result<()> {
    lint("# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n")?;
    ensure!(lint("lag_ms 1\n").is_err(), "no help and an abbreviated unit must be refused");
    Ok(())
}

/// A real Prometheus scrapes a page of three lines, and the harness reads it back.
#[test]
fn prometheus_is_read_back() -> Result<()> {
    let stand = Stand::new(Options::default())?;
    let port = Port::claim()?;
    let listener = TcpListener::bind(port.address())?;
    // Ends with the test's process: a page that is always the same needs no end.
    thread::spawn(move || listener.incoming().filter_map(|stream| stream.ok()).for_each(serve_page));
    let prometheus = Prometheus::start(stand.folder(), &[("page", port.address())], &[])?;
    let found = prometheus.query("a_total{x=\"1\"}")?;
    let sample = found.first().context("no sample")?;
    ensure!(found.len() == 1 && sample.value == 3.0, "{found:?}");
    let labels: BTreeMap<&str, &str> = sample.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    ensure!(labels.get("job") == Some(&"page"), "{labels:?}");
    ensure!(prometheus.scalar("sum(a_total)")? == 7.0, "the sum of both series");
    ensure!(prometheus.scalar("a_total").is_err(), "two series are no scalar");
    Ok(())
}

fn serve_page(mut stream: std::net::TcpStream) {
    let body = "# TYPE a_total counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4\n";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n", body.len());
    let answer = format!("{head}Connection: close\r\n\r\n{body}");
    // A scraper that goes away early is its own business.
    if stream.read(&mut [0; 4096]).is_ok() {
        stream.write_all(answer.as_bytes()).ok();
    }
}
