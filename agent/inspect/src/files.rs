//! Owns the doors to the operating system: store folders, opened for reading only, and the client lists. Nothing here can write.

use crate::window::{Segment, Segments};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Longest file of `config/` that is read, in bytes.
const CONFIG_LEN_MAX: u64 = 256 << 20;

/// Files named by the offset they begin at, in order.
#[derive(Debug, Default)]
pub struct NumberedFiles {
    paths: Vec<PathBuf>,
    segments: Vec<Segment>,
    /// Names that are no number.
    pub strangers: Vec<PathBuf>,
    /// One file at most is open.
    open: std::cell::RefCell<Option<(usize, File)>>,
}

impl NumberedFiles {
    /// The files of a folder; none when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn list(folder: &Path) -> io::Result<NumberedFiles> {
        let mut found = Vec::new();
        let mut files = NumberedFiles::default();
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let metadata = path.metadata()?;
            if !metadata.is_file() {
                continue;
            }
            let base = path.file_name().and_then(|name| name.to_str()).and_then(number);
            match base {
                Some(base) if base.checked_add(metadata.len()).is_some() => {
                    found.push((Segment { base, len: metadata.len() }, path));
                }
                _ => files.strangers.push(path),
            }
        }
        found.sort_by_key(|(segment, _)| segment.base);
        (files.segments, files.paths) = found.into_iter().unzip();
        Ok(files)
    }

    /// Bytes of all files.
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The file that is the segment of this index.
    pub fn path(&self, segment: usize) -> Option<&Path> {
        self.paths.get(segment).map(PathBuf::as_path)
    }
}

fn number(name: &str) -> Option<u64> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

impl Segments for NumberedFiles {
    fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn read_at(&self, segment: usize, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|(index, _)| *index != segment) {
            let path = self.paths.get(segment).ok_or(io::ErrorKind::NotFound)?;
            *open = Some((segment, File::open(path)?));
        }
        match open.as_ref() {
            Some((_, file)) => file.read_at(into, at),
            None => Ok(0),
        }
    }
}

/// One queue's folder.
#[derive(Debug)]
pub struct QueueFolder {
    pub topic: Vec<u8>,
    pub queue: u32,
    pub path: PathBuf,
}

/// The folders below `consumequeue`; `None` when there is none. Second, what is there and is no queue.
///
/// # Errors
/// When a folder cannot be listed.
pub fn queue_folders(store: &Path) -> io::Result<Option<(Vec<QueueFolder>, Vec<PathBuf>)>> {
    let root = store.join("consumequeue");
    if !root.is_dir() {
        return Ok(None);
    }
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    for topic in sorted(&root)? {
        if !topic.is_dir() {
            strangers.push(topic);
            continue;
        }
        for path in sorted(&topic)? {
            let queue = path.file_name().and_then(|name| name.to_str()).and_then(number);
            let queue = queue.and_then(|queue| u32::try_from(queue).ok()).filter(|_| path.is_dir());
            match (queue, topic.file_name()) {
                (Some(queue), Some(name)) => {
                    let topic = name.as_encoded_bytes().to_vec();
                    found.push(QueueFolder { topic, queue, path });
                }
                _ => strangers.push(path),
            }
        }
    }
    Ok(Some((found, strangers)))
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths =
        folder.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// A text file of `config/`; `None` when there is none.
///
/// # Errors
/// When it cannot be read, is longer than 256 MiB, or is no text.
pub fn text(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(CONFIG_LEN_MAX).read_to_string(&mut text)?;
    if text.len() as u64 >= CONFIG_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 256 MiB"));
    }
    Ok(Some(text))
}

/// A client list, to be read line by line.
///
/// # Errors
/// When it cannot be opened.
pub fn list(path: &Path) -> io::Result<io::BufReader<File>> {
    Ok(io::BufReader::with_capacity(256 << 10, File::open(path)?))
}
