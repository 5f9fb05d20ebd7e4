//! Owns the planted bugs: what a broker with that bug would state, or what a disk that lies would keep. Each must make some seed's
//! check fail, or the checks see nothing. Switched in from outside: the code under test has no hooks for it. Left out, since no
//! act of today makes them matter: one offset too many acknowledged, and a return (nack) not stated.

use crate::plan::{everything, run, start};
use crate::watcher::Tamper;
use crate::world::Start;
use broker::config::FlushDiskType;
use lifecycle::fact::{AnswerClass, Fact, MoveReason, StoredKind};
use lifecycle::identity::LogPosition;
use lifecycle::ids::IdColumn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use store::disk::{DirEntry, Disk, DiskFile, DiskSpace, OpenMode};
use store::disk_sim::SimDisk;
use store::error::Result;

/// Seeds a mutant may survive before it counts as unseen.
const SEEDS: u64 = 12;

fn each(facts: &mut [Fact], mut change: impl FnMut(&mut Fact)) {
    facts.iter_mut().for_each(&mut change);
}

/// Bugs in what the broker states.
const STATED: [(&str, Tamper); 23] = [
    ("gives the ids of a frame to the wrong messages", |facts| {
        each(facts, |fact| {
            if let Fact::Stored(stored) = fact {
                let ids: Vec<Vec<u8>> = stored.ids.iter().map(<[u8]>::to_vec).collect();
                stored.ids = IdColumn::new();
                ids.iter().rev().for_each(|id| stored.ids.push(&[&b"x"[..], id].concat()));
            }
        })
    }),
    ("does not state copies as copies", |facts| {
        each(facts, |fact| {
            if let Fact::Stored(stored) = fact {
                for (_, kind) in &mut stored.kinds {
                    if matches!(kind, StoredKind::Copy { .. }) {
                        *kind = StoredKind::Produced;
                    }
                }
            }
        })
    }),
    ("states one offset more as delivered", |facts| {
        each(facts, |fact| {
            if let Fact::Delivered { ranges, .. } = fact
                && let Some(end) = ranges.end()
            {
                ranges.insert(end, end + 1);
            }
        })
    }),
    ("forgets deliveries", |facts| facts.retain(|fact| !matches!(fact, Fact::Delivered { .. }))),
    ("forgets what was passed over for a filter", |facts| {
        facts.retain(|fact| !matches!(fact, Fact::Filtered { .. }))
    }),
    ("says that everybody subscribes to everything", |facts| {
        each(facts, |fact| {
            if let Fact::Subscribed { expression, .. } = fact {
                *expression = "*".into();
            }
        })
    }),
    ("calls a reset a commit", |facts| {
        each(facts, |fact| {
            if let Fact::OffsetMoved { reason: reason @ MoveReason::Reset, .. } = fact {
                *reason = MoveReason::Commit;
            }
        })
    }),
    ("calls a commit a reset", |facts| {
        each(facts, |fact| {
            if let Fact::OffsetMoved { reason: reason @ MoveReason::Commit, .. } = fact {
                *reason = MoveReason::Reset;
            }
        })
    }),
    ("states a position one too far", |facts| {
        each(facts, |fact| {
            if let Fact::OffsetMoved { to, .. } = fact {
                *to += 1;
            }
        })
    }),
    ("starts a group one message late", |facts| {
        each(facts, |fact| {
            if let Fact::GroupStarted { offset, .. } = fact {
                *offset += 1;
            }
        })
    }),
    ("keeps one message too many in mind after a crash", |facts| {
        each(facts, |fact| {
            if let Fact::Recovered(recovered) = fact {
                recovered.queues.iter_mut().for_each(|(_, _, end)| *end += 1);
            }
        })
    }),
    ("forgets a queue after a crash", |facts| {
        each(facts, |fact| {
            if let Fact::Recovered(recovered) = fact {
                recovered.queues.pop();
            }
        })
    }),
    ("names no bound after a crash", |facts| {
        each(facts, |fact| {
            if let Fact::Recovered(recovered) = fact {
                recovered.unnamed_max = 0;
            }
        })
    }),
    ("calls every stop clean", |facts| {
        each(facts, |fact| {
            if let Fact::Recovered(recovered) = fact {
                recovered.clean = true;
            }
        })
    }),
    ("forgets spoilt records", |facts| {
        each(facts, |fact| {
            if let Fact::Recovered(recovered) = fact {
                recovered.bad.clear();
            }
        })
    }),
    ("does not say what it read back", |facts| facts.retain(|fact| !matches!(fact, Fact::Scrubbed(_)))),
    ("names the record before the one that rotted", |facts| {
        each(facts, |fact| {
            if let Fact::Scrubbed(scrubbed) = fact {
                for (_, ranges) in &mut scrubbed.bad {
                    *ranges = ranges.iter().map(|(from, to)| (from.max(1) - 1, to.max(2) - 1)).collect();
                }
            }
        })
    }),
    ("forgets what retention took", |facts| facts.retain(|fact| !matches!(fact, Fact::Expired { .. }))),
    ("forgets refused sends", |facts| facts.retain(|fact| !matches!(fact, Fact::Refused { .. }))),
    ("forgets copies that failed", |facts| facts.retain(|fact| !matches!(fact, Fact::CopyFailed { .. }))),
    ("says it is on disk before it is", |facts| {
        facts.retain(|fact| !matches!(fact, Fact::Flushed { .. }));
        let end = facts.iter().filter_map(|fact| match fact {
            Fact::Stored(stored) => Some(stored.log_end),
            _ => None,
        });
        if let Some(LogPosition(end)) = end.max() {
            facts.push(Fact::Flushed { log_position: LogPosition(end) });
        }
    }),
    ("says a late answer kept its promise", |facts| {
        each(facts, |fact| {
            if let Fact::Answered { class: class @ AnswerClass::FlushDiskTimeout, .. } = fact {
                *class = AnswerClass::Flushed;
            }
        })
    }),
    ("ignores the epoch", |facts| {
        each(facts, |fact| {
            if let Fact::EpochStarted(started) = fact {
                started.epoch.number = 1;
            }
        })
    }),
];

/// A disk that keeps what it has not synced, and says it did, for the files of one folder.
#[derive(Debug)]
struct Lying(SimDisk);

#[derive(Debug)]
struct LyingFile(Arc<dyn DiskFile>);

impl Lying {
    fn wrap(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let lies = file.path().components().any(|part| part.as_os_str() == "commitlog");
        if lies { Arc::new(LyingFile(file)) } else { file }
    }
}

impl Disk for Lying {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode).map(Lying::wrap)
    }
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        self.0.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.0.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.0.sync_dir(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.0.create_dir_all(dir)
    }
    fn space(&self, dir: &Path) -> Result<DiskSpace> {
        self.0.space(dir)
    }
    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.0.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> Result<()> {
        self.0.truncate(len)
    }
    fn allocate(&self, len: u64) -> Result<()> {
        self.0.allocate(len)
    }
}

/// The first seed whose run does not pass with this beginning, and why.
fn caught(begin: impl Fn(u64) -> Start) -> Option<(u64, String)> {
    (1..=SEEDS).find_map(|seed| {
        let whole = catch_unwind(AssertUnwindSafe(|| run(begin(seed), &everything(seed)).wrong));
        match whole {
            Ok(wrong) => wrong.into_iter().next().map(|why| (seed, why)),
            Err(_) => Some((seed, "an assertion of the world".to_owned())),
        }
    })
}

#[test]
fn every_planted_bug_is_seen() {
    let mut unseen = Vec::new();
    let mut tell = |name: &str, caught: Option<(u64, String)>| match caught {
        Some((seed, why)) => println!("{name}: seed {seed}: {}", why.chars().take(160).collect::<String>()),
        None => unseen.push(name.to_owned()),
    };
    for (name, tamper) in STATED {
        let begin = |seed| {
            let mut begin = start(seed);
            begin.manner.tamper = Some(tamper);
            begin
        };
        tell(name, caught(begin));
    }
    let lying =
        |seed| Start { flush: FlushDiskType::Sync, around_disk: |disk| Arc::new(Lying(disk)), ..start(seed) };
    tell("acknowledges before the disk has it", caught(lying));
    assert!(unseen.is_empty(), "no check saw these: {unseen:?}");
}

/// The way of the mutants changes nothing by itself.
#[test]
fn rewriting_frames_without_a_bug_changes_nothing() {
    for seed in 1..=SEEDS {
        let mut begin = start(seed);
        begin.manner.tamper = Some(|_| {});
        let rewritten = run(begin, &everything(seed));
        assert_eq!(rewritten.wrong, Vec::<String>::new());
        assert_eq!(rewritten.verdict_hash, run(start(seed), &everything(seed)).verdict_hash);
    }
}
