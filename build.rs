//! What a build says of itself: the commit that it was made from, as far as that is known, the compiler, and the target.
//!
//! The commit is `TOLLGATE_COMMIT`, for builds from an archive; in a checkout it is read from git's own files, so that git need
//! not be installed. Debug builds don't look there: a commit must not make everything compile anew.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What git shows of a commit where it shows little.
const COMMIT_DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TOLLGATE_COMMIT");
    let given = env::var("TOLLGATE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| is_release.then(checked_out).flatten());
    let commit = commit.map(|commit| commit.chars().filter(char::is_ascii_hexdigit).take(COMMIT_DIGITS).collect());
    println!("cargo::rustc-env=TOLLGATE_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=TOLLGATE_RUSTC={}", compiler().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=TOLLGATE_TARGET={}", env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned()));
}

/// Such as `1.95.0`.
fn compiler() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().nth(1).map(str::to_owned)
}

/// The commit that is checked out here; changes since are not seen.
fn checked_out() -> Option<String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let git = git_directory(&root.join(".git"))?;
    let head = read(&git.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref: ") else { return Some(head) };
    // A further worktree has its own HEAD, and its branches where the first one has them.
    let shared = read(&git.join("commondir")).map_or_else(|| git.clone(), |place| git.join(place));
    read(&shared.join(branch)).or_else(|| packed(&shared.join("packed-refs"), branch))
}

fn git_directory(place: &Path) -> Option<PathBuf> {
    if place.is_dir() {
        return Some(place.to_owned());
    }
    read(place)?.strip_prefix("gitdir: ").map(PathBuf::from)
}

fn packed(file: &Path, branch: &str) -> Option<String> {
    let lines = read(file)?;
    let mut references = lines.lines().filter_map(|line| line.split_once(' '));
    references.find(|(_, name)| *name == branch).map(|(commit, _)| commit.to_owned())
}

/// A file's text. The build depends on it from now on, if it is there.
fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text.trim().to_owned())
}
