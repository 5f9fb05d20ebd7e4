//! Owns the command line: its words, nothing of what they do.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Was anything lost, which message, at which stage, and why: a RocketMQ-compatible broker that tracks every message, and an
/// agent that reconciles the books.
#[derive(Parser, Debug)]
#[command(
    name = "losstrace",
    version,
    after_help = "Without a command: up. Exit codes: 0 ok, 1 failed, 2 wrong command line or configuration, 3 losses are open."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where the configuration comes from; flags win over the environment, which wins over the file.
#[derive(Args, Debug, Default)]
pub(crate) struct Common {
    /// Folder of all data (broker and agent have a folder each in it) [default: ./data]
    #[arg(long, value_name = "DIR", global = true, env = "LOSSTRACE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true, env = "LOSSTRACE_CONFIG")]
    pub config: Option<PathBuf>,
    /// A single setting, e.g. --set broker.flush_disk_type=SYNC_FLUSH; may be given many times
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Broker and agent in one process
    Up,
    /// The broker alone
    Broker {
        /// Folder beside the data folder that notes everything a power cut would take back; what the demo undoes after a kill
        #[arg(long, value_name = "DIR", hide = true)]
        undo_log: Option<PathBuf>,
    },
    /// The agent alone, following brokers over the network
    Agent {
        /// Folder beside the data folder that notes everything a power cut would take back; what crash tests undo after a kill
        #[arg(long, value_name = "DIR", hide = true)]
        undo_log: Option<PathBuf>,
    },
    /// Makes a replica the master, whoever is it now: waits until enough members have promised to follow it, and it takes writes
    Promote {
        /// The replica's address [default: http:// and listen.broker_http of the configuration]
        #[arg(long, value_name = "URL", env = "LOSSTRACE_SERVER")]
        server: Option<String>,
    },
    /// Sends again what a fail-over took, from the files the old master kept: each message once, under its own id
    Recover(Box<crate::recover::RecoverOptions>),
    /// Causes losses and compares what was destroyed with what the agent found
    Demo {
        /// Keep the folder with data and logs of every process
        #[arg(long)]
        keep: bool,
    },
    /// Generates load on a broker, and measures what each message costs it
    Bench(Box<crate::bench::options::BenchOptions>),
    /// Looks at copies of RocketMQ store folders, reads only, and names what is lost, torn, missing on a copy or expired unread
    Inspect(Box<crate::inspect::InspectOptions>),
    #[command(flatten)]
    Query(Question),
}

/// What can be asked of a running agent.
#[derive(Subcommand, Debug)]
pub(crate) enum Question {
    /// Walks a message through its stages and names the first that broke
    Why {
        /// Client id, offset message id, or one of the message's keys
        #[arg(value_name = "ID|KEY")]
        asked: String,
        /// Look for the key in this topic only
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Lists open incidents
    Losses {
        #[command(flatten)]
        which: WhichLosses,
        #[command(flatten)]
        how: How,
    },
    /// The three books per topic and group, of all time or of what was stored in a window
    Balance {
        #[arg(long)]
        topic: Option<String>,
        #[arg(long)]
        group: Option<String>,
        /// Stored at or after: RFC 3339, or seconds since 1970; widened to whole minutes or hours
        #[arg(long)]
        from: Option<String>,
        /// Stored before
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Dead letters
    Dlq {
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Topics
    Topics {
        #[command(flatten)]
        how: How,
    },
    /// Declares that a group without members owes nothing any more
    Retire {
        group: String,
        /// Name of the person who decides
        #[arg(long)]
        operator: String,
        #[command(flatten)]
        how: How,
    },
    /// What would be lost if the broker died now
    Exposure {
        #[command(flatten)]
        how: How,
    },
    /// What each promise is really worth, and what would help: of a running broker, or of a configuration
    Doctor {
        /// Look at the configuration alone, and ask nobody
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args, Debug)]
pub(crate) struct WhichLosses {
    #[arg(long)]
    pub topic: Option<String>,
    #[arg(long)]
    pub group: Option<String>,
    /// Class, e.g. never-stored
    #[arg(long, alias = "class")]
    pub verdict: Option<String>,
    /// suspected, confirmed, withdrawn, recovered, acknowledged or accepted
    #[arg(long)]
    pub state: Option<String>,
    /// First seen at or after: RFC 3339, or seconds since 1970
    #[arg(long)]
    pub from: Option<String>,
    /// First seen before
    #[arg(long)]
    pub to: Option<String>,
    /// Closed incidents too
    #[arg(long)]
    pub all: bool,
}

/// Whom to ask, and how to show the answer.
#[derive(Args, Debug)]
pub(crate) struct How {
    /// The agent's address [default: http:// and listen.agent_http of the configuration]
    #[arg(long, value_name = "URL", env = "LOSSTRACE_SERVER")]
    pub server: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The API's own answer
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split(' ').filter(|word| !word.is_empty()))
    }

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_up_and_flags_go_anywhere() {
        assert!(parse("losstrace").unwrap().command.is_none());
        for words in ["losstrace --data-dir d --config f up", "losstrace up --data-dir d --config f"] {
            let cli = parse(words).unwrap();
            assert_eq!(cli.common.data_dir, Some("d".into()));
            assert_eq!(cli.common.config, Some("f".into()));
            assert!(matches!(cli.command, Some(Command::Up)));
        }
        let cli = parse("losstrace losses --output json --data-dir d --config f --server http://x").unwrap();
        let Some(Command::Query(Question::Losses { how, which })) = cli.command else { panic!("{cli:?}") };
        assert_eq!((how.output, how.server.as_deref()), (Format::Json, Some("http://x")));
        assert!(!which.all);
    }

    #[test]
    fn the_undo_log_is_for_one_part_and_not_for_everybody() {
        let cli = parse("losstrace broker --undo-log u --data-dir d").unwrap();
        assert!(
            matches!(cli.command, Some(Command::Broker { undo_log: Some(dir) }) if dir == Path::new("u"))
        );
        let cli = parse("losstrace agent --undo-log u").unwrap();
        assert!(matches!(cli.command, Some(Command::Agent { undo_log: Some(dir) }) if dir == Path::new("u")));
        assert!(parse("losstrace up --undo-log u").is_err());
        for part in ["broker", "agent"] {
            let mut command = Cli::command();
            let help = command.find_subcommand_mut(part).unwrap().render_long_help().to_string();
            assert!(!help.contains("undo"), "{help}");
        }
    }

    #[test]
    fn wrong_words_end_with_the_usage_code() {
        for words in [
            "losstrace fly",
            "losstrace why",
            "losstrace losses --output xml",
            "losstrace up --verbose",
            "losstrace --set",
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), i32::from(crate::USAGE), "{words}");
        }
        assert_eq!(parse("losstrace --help").unwrap_err().exit_code(), 0);
    }
}
