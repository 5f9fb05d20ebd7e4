//! The gRPC SDKs, each on its own: push and simple consumers, dead letters, tags.

use anyhow::Result;
use tests::clients::Sdk::{NodeGrpc, PythonGrpc};
use tests::config::Options;
use tests::stand;

use crate::scenario::{dead_letter, filter_by_tag, send_consume_balance};

#[test]
fn python_push_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, PythonGrpc, PythonGrpc, "push"))
}

#[test]
fn python_simple_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, PythonGrpc, PythonGrpc, "simple"))
}

#[test]
fn python_dead_letters() -> Result<()> {
    stand::with(Options::default(), |stand| dead_letter(stand, PythonGrpc))
}

#[test]
fn python_filters_by_tag() -> Result<()> {
    stand::with(Options::default(), |stand| filter_by_tag(stand, PythonGrpc))
}

#[test]
fn node_push_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, NodeGrpc, NodeGrpc, "push"))
}

#[test]
fn node_simple_consumer() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, NodeGrpc, NodeGrpc, "simple"))
}

#[test]
fn node_dead_letters() -> Result<()> {
    stand::with(Options::default(), |stand| dead_letter(stand, NodeGrpc))
}
