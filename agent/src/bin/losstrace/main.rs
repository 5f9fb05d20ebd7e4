//! The one binary: broker and agent in one process, each alone, and the commands that ask a running agent. Thin: parse, wire,
//! run, print, exit code. The only place that reads the environment, the configuration file and the clocks, and that sees
//! both broker and agent.
//!
//! Exit codes: 0 all is well, 1 it failed, 2 the command line or the configuration is wrong, 3 losses are open.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary speaks to its terminal")]
#![allow(clippy::disallowed_methods, reason = "the binary is where clocks are read")]

mod bench;
mod cli;
mod config;
mod demo;
mod doctor;
mod inspect;
mod promote;
mod query;
mod recover;
mod source;
mod tables;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Sends allocate a lot of small things that live for one turn: measured against the system's allocator, 7 to 15 % more of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong (clap ends with the same code).
const USAGE: u8 = 2;
/// What was asked shows open losses.
const LOSSES_OPEN: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut settings = match config::load(&cli.common) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("losstrace: the configuration cannot be used:");
            for problem in problems {
                eprintln!("  {problem}");
            }
            return ExitCode::from(USAGE);
        }
    };
    let result = match cli.command.unwrap_or(Command::Up) {
        Command::Up => up::run(&settings, up::Parts::Both).map(|()| 0),
        Command::Broker { undo_log } => {
            settings.undo_log = undo_log;
            up::run(&settings, up::Parts::Broker).map(|()| 0)
        }
        Command::Agent { undo_log } => {
            settings.undo_log = undo_log;
            up::run(&settings, up::Parts::Agent).map(|()| 0)
        }
        Command::Recover(options) => recover::run(&settings, &options),
        Command::Promote { server } => promote::run(&settings, server.as_deref()).map(|()| 0),
        Command::Demo { keep } => demo::run(keep).map(|()| 0),
        Command::Bench(options) => bench::run(&options, &cli.common).map(|()| 0),
        Command::Inspect(options) => inspect::run(&options),
        Command::Query(question) => query::run(&settings, &question),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("losstrace: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
