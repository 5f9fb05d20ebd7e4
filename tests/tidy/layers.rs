//! Who may depend on whom: crates by their manifests, modules by the paths they name, and who may touch the operating
//! system at all.

use crate::tree::{Tree, paths_into};

/// The workspace's crates, each with those it may depend on.
const CRATES: [(&str, &str, &[&str]); 7] = [
    ("lifecycle", "broker/lifecycle", &[]),
    ("wire", "broker/wire", &["lifecycle"]),
    ("store", "broker/store", &["lifecycle", "wire"]),
    ("broker", "broker", &["lifecycle", "wire", "store"]),
    // Reads stores it did not write: it shares the words of the wire and of the contract, and no code that writes stores.
    ("inspect", "agent/inspect", &["lifecycle", "wire"]),
    // The library uses lifecycle and parts of store; what only its binary may use is checked by path below.
    ("agent", "agent", &["lifecycle", "wire", "store", "broker", "inspect"]),
    ("tests", "tests", &[]),
];

/// No runtime, no sockets: these crates are pure, handed their disk, or (`inspect`) read files through one door.
const NO_RUNTIME: [&str; 4] = ["lifecycle", "wire", "store", "inspect"];
const RUNTIME_CRATES: [&str; 6] = ["tokio", "axum", "tonic", "socket2", "ureq", "sled"];

/// Of these crates, code in this folder may name only these modules; an empty list bans the crate.
/// The binary, `agent/src/bin`, is free.
const CRATE_PATHS: [(&str, &str, &[&str]); 9] = [
    ("broker/lifecycle/", "wire", &[]),
    ("broker/lifecycle/", "store", &[]),
    ("broker/lifecycle/", "broker", &[]),
    ("broker/wire/", "store", &[]),
    ("broker/store/", "wire", &["message"]),
    ("agent/src/", "broker", &[]),
    ("agent/src/", "wire", &[]),
    ("agent/src/", "inspect", &[]),
    ("agent/src/", "store", &["disk", "segment", "journal", "error"]),
];
const AGENT_BINARY: &str = "agent/src/bin/";

/// Within a crate: code in this module may not name these modules of its own crate.
const MODULE_PATHS: [(&str, &[&str]); 14] = [
    ("agent/src/fold", &["judge", "ledger", "ingest", "report", "http", "run", "metrics"]),
    ("agent/src/judge", &["ledger", "ingest", "report", "http", "run", "metrics"]),
    // The evidence log is one more source of frames, so it speaks of them as ingest does; never the other way round.
    ("agent/src/ledger", &["report", "http", "run"]),
    ("agent/src/ingest", &["ledger", "report", "http"]),
    ("agent/src/report", &["ingest", "http", "run"]),
    ("agent/inspect/src/record", &["files", "store", "findings"]),
    ("agent/inspect/src/scan", &["files", "store", "findings"]),
    ("agent/inspect/src/queue", &["files", "store", "findings"]),
    ("broker/src/trace", &["api", "remoting", "grpc", "http"]),
    ("broker/src/state", &["remoting", "grpc", "http"]),
    ("broker/src/api", &["remoting", "grpc", "http"]),
    ("broker/src/replication", &["remoting", "grpc", "http", "server"]),
    ("broker/src/remoting", &["grpc", "http"]),
    ("broker/src/grpc", &["remoting", "http"]),
];

/// What reaches the operating system, and the only places that may (a path's beginning).
const DOORS: [(&str, &[&str], &[&str]); 3] = [
    (
        "files",
        &["std::fs", "tokio::fs", "rustix::fs", "OpenOptions::"],
        &[
            "broker/store/src/disk_os",
            "broker/store/src/disk_undo",
            "agent/src/ledger/sled",
            "agent/inspect/src/files",
            "agent/inspect/src/spill",
            "agent/inspect/examples/",
            AGENT_BINARY,
        ],
    ),
    (
        "sockets",
        &["TcpListener", "TcpStream", "UdpSocket", "ureq::"],
        &[
            "broker/src/remoting",
            "broker/src/grpc",
            "broker/src/http",
            "broker/src/server",
            "broker/src/replication/master",
            "broker/src/replication/campaign",
            "broker/src/replication/follow",
            "broker/src/feed",
            "agent/src/http",
            "agent/src/ingest",
            AGENT_BINARY,
        ],
    ),
    ("the environment", &["std::env", "env::var"], &[AGENT_BINARY, "agent/inspect/examples/"]),
];

pub(crate) fn crate_dependencies(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, folder, allowed) in CRATES {
        let path = format!("{folder}/Cargo.toml");
        let Some(text) = tree.files.get(&path) else {
            violations.push(format!("{path} is not there"));
            continue;
        };
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                violations.push(format!("{path}: {error}"));
                continue;
            }
        };
        for section in ["dependencies", "build-dependencies"] {
            let table = manifest.get(section).and_then(toml::Value::as_table);
            for dependency in table.into_iter().flat_map(|table| table.keys()) {
                let ours = CRATES.iter().any(|(name, ..)| name == dependency);
                if ours && !allowed.contains(&dependency.as_str()) {
                    violations.push(format!("{path}: {name} may not depend on {dependency}"));
                }
                if NO_RUNTIME.contains(&name) && RUNTIME_CRATES.contains(&dependency.as_str()) {
                    violations.push(format!("{path}: {name} may not use {dependency}"));
                }
            }
        }
    }
    violations
}

pub(crate) fn module_uses(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (folder, other, allowed) in CRATE_PATHS {
        for (path, code) in tree.code(folder) {
            // A module's own submodule may be called like a crate, and hides it there.
            if path.starts_with(AGENT_BINARY) || code.contains(&format!("mod {other};")) {
                continue;
            }
            for used in paths_into(&code, other) {
                if !allowed.contains(&first(used)) {
                    violations.push(format!("{path} uses {other}::{used}"));
                }
            }
        }
    }
    for (module, banned) in MODULE_PATHS {
        for (path, code) in tree.code(module).into_iter().filter(|(path, _)| is_module(path, module)) {
            for used in paths_into(&code, "crate") {
                if banned.contains(&first(used)) {
                    violations.push(format!("{path} uses crate::{used}"));
                }
            }
        }
    }
    violations
}

pub(crate) fn operating_system(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    let sources =
        ["agent/src/", "agent/inspect/", "broker/"].into_iter().flat_map(|folder| tree.code(folder));
    for (path, code) in sources.filter(|(path, _)| !path.ends_with("/build.rs")) {
        // `use std::{fs, io}` is the same as `use std::fs`.
        let grouped: Vec<String> =
            paths_into(&code, "std").iter().map(|name| format!("std::{name}")).collect();
        for (what, signs, doors) in DOORS {
            let touches = signs.iter().find(|sign| {
                let in_group =
                    grouped.iter().any(|name| name == *sign || name.starts_with(&format!("{sign}::")));
                in_group || code.contains(**sign)
            });
            if let Some(sign) = touches.filter(|_| !doors.iter().any(|door| path.starts_with(door))) {
                violations.push(format!("{path} touches {what}: {sign}"));
            }
        }
    }
    violations
}

fn first(path: &str) -> &str {
    path.split([':', '{', ' ']).next().unwrap_or(path)
}

/// `agent/src/fold` is `fold.rs` and all of `fold/`, and not `folder.rs`.
fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::{crate_dependencies, module_uses, operating_system};
    use crate::tree::Tree;

    #[test]
    fn an_upward_dependency_is_found() {
        let tree = Tree::of(&[
            ("broker/lifecycle/Cargo.toml", "[dependencies]\nwire.workspace = true\ntokio = \"1\"\n"),
            ("broker/wire/Cargo.toml", "[dependencies]\nlifecycle.workspace = true\n"),
            ("broker/store/Cargo.toml", "[build-dependencies]\nbroker.workspace = true\n"),
            ("broker/Cargo.toml", "[dev-dependencies]\nagent.workspace = true\n"),
            ("agent/Cargo.toml", "[dependencies]\nbroker.workspace = true\n"),
            ("agent/inspect/Cargo.toml", "[dependencies]\nstore.workspace = true\n"),
            ("tests/Cargo.toml", ""),
        ]);
        let found = crate_dependencies(&tree);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn an_upward_use_is_found() {
        let tree = Tree::of(&[
            ("agent/src/lib.rs", "use broker::Broker;\nuse store::journal::A; // broker::x\n"),
            ("agent/src/bin/losstrace/main.rs", "use broker::Broker;\n"),
            ("agent/src/fold/books.rs", "use crate::{judge::J, fold::F};\n"),
            ("agent/src/report.rs", "mod broker;\nuse broker::Row;\n"),
            ("agent/src/folder.rs", "use crate::judge::J;\n"),
            (
                "broker/store/src/a.rs",
                "use wire::{message::M, code::C};\n#[cfg(test)]\nmod tests { use wire::frame; }\n",
            ),
        ]);
        let found = module_uses(&tree);
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn a_second_door_to_the_system_is_found() {
        let tree = Tree::of(&[
            ("broker/store/src/disk_os.rs", "use std::fs::File;\n"),
            ("broker/src/state.rs", "use std::{fs, io};\n"),
            ("agent/src/judge.rs", "fn f() { std::env::var(\"X\"); }\n"),
            ("agent/src/fold.rs", "// std::fs\nfn f() { tokio::net::TcpStream::connect(); }\n"),
            ("broker/build.rs", "fn main() { std::fs::write(); std::env::var(\"OUT_DIR\"); }\n"),
        ]);
        let found = operating_system(&tree);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
