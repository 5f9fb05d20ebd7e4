//! One storage core behind both protocols: what one SDK sends over one protocol, another consumes over the other, and
//! the trace is the same.

use anyhow::Result;
use tests::clients::Sdk::{NodeGrpc, NodeRemoting, PythonGrpc, PythonRemoting};
use tests::config::Options;
use tests::stand;

use crate::scenario::send_consume_balance;

#[test]
fn grpc_python_to_remoting_python() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, PythonGrpc, PythonRemoting, "push"))
}

#[test]
fn remoting_python_to_grpc_node() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, PythonRemoting, NodeGrpc, "push"))
}

#[test]
fn remoting_node_to_grpc_python() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, NodeRemoting, PythonGrpc, "simple"))
}

#[test]
fn grpc_node_to_remoting_node() -> Result<()> {
    stand::with(Options::default(), |stand| send_consume_balance(stand, NodeGrpc, NodeRemoting, "push"))
}
