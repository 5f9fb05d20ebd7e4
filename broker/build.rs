//! Compiles the protocol files to Rust, without a protoc.

use std::error::Error;
use std::path::Path;

/// The protocol of the gRPC edge.
const MESSAGING: (&str, &str) = ("proto", "messaging.proto");
/// The feed, shared with the agent.
const FEED: (&str, &str) = ("lifecycle/proto", "feed.proto");

fn main() -> Result<(), Box<dyn Error>> {
    for (folder, file) in [MESSAGING, FEED] {
        println!("cargo::rerun-if-changed={folder}/{file}");
        if Path::new(folder).join(file).exists() {
            let files = protox::compile([file], [folder])?;
            // bodies and frames stay slices of the buffer they arrived in; maps keep an order
            tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(files)?;
        }
    }
    Ok(())
}
