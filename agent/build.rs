//! Generates the feed's client and server from the one contract file.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "../broker/lifecycle/proto";
    let files = protox::compile(["feed.proto"], [folder])?;
    tonic_prost_build::configure().bytes(".losstrace.feed.v1").compile_fds(files)?;
    println!("cargo:rerun-if-changed={folder}/feed.proto");
    Ok(())
}
