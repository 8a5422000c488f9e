//! The directory of a journal: held by one process at a time, and the home of the node's name.

use super::OpenError;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = "node_";

/// A journal's directory while this process holds it.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) node: u128,
    pub(super) node_name: String,
    /// The lock goes with the file's handle, however the process ends.
    _lock: File,
}

/// The journal's directory in a data directory.
pub(super) fn directory_of(data: &Path) -> PathBuf {
    data.join("journal")
}

/// The name of the node whose journal is in a data directory, if one was ever there.
pub fn node_name(data: &Path) -> Option<String> {
    std::fs::read_to_string(directory_of(data).join("node")).ok().map(|text| text.trim_end().to_owned())
}

/// Puts the journal of a data directory out of the way, under its node's name, so that the next one is another node's. Says where
/// it is. Nobody may have it open.
pub fn set_aside(data: &Path, node: &str) -> Result<PathBuf, OpenError> {
    let aside = data.join(format!("journal-{node}"));
    let moved = std::fs::rename(directory_of(data), &aside).and_then(|()| File::open(data)?.sync_all());
    moved.map(|()| aside.clone()).map_err(|source| OpenError::Io { path: aside, source })
}

/// A data directory that no gateway uses as long as this lives.
pub struct Held {
    _lock: File,
}

/// Keeps gateways out of a data directory; an error where one runs.
pub fn hold(data: &Path) -> Result<Held, OpenError> {
    Ok(Held { _lock: lock(&directory_of(data))? })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io_error = |source| OpenError::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(io_error)?;
    let lock = File::create(path.join("lock")).map_err(io_error)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Held { dir: path.to_owned() }),
        other => other.map(|()| lock).map_err(|errno| io_error(errno.into())),
    }
}

impl Directory {
    pub(super) fn hold(path: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_owned(), source };
        let lock = lock(path)?;
        let node_path = path.join("node");
        let name = match std::fs::read_to_string(&node_path) {
            Ok(text) => text.trim_end().to_owned(),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => make_node(path).map_err(io_error)?,
            Err(source) => return Err(OpenError::Io { path: node_path, source }),
        };
        let node = node_of(&name).ok_or(OpenError::Node { path: node_path })?;
        Ok(Self { path: path.to_owned(), node, node_name: name, _lock: lock })
    }
}

fn node_of(name: &str) -> Option<u128> {
    let digits = name.strip_prefix(PREFIX).filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok()
}

/// Written beside and renamed, so that a crash leaves either no name or a whole one.
fn make_node(dir: &Path) -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!("{PREFIX}{:032x}", u128::from_le_bytes(random));
    let unfinished = dir.join("node.new");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, dir.join("node"))?;
    File::open(dir)?.sync_all()?;
    Ok(name)
}
