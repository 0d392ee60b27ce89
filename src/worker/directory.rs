//! The worker's own directory: task directories and spilled results lie in it. Owns where it is, that nobody
//! else can look into it, and its end.

use crate::base::error::{Error, Result};
use crate::base::ids::Incarnation;
use crate::config::Config;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How often a worker tries to make its directory while others remove the one around it.
const ATTEMPTS_MAX: u32 = 10;

/// Where workers of this user make their directories: `hpcdag-<uid>` in the configured local directory, else
/// in `$TMPDIR`, else in `/tmp`. The nanny and the worker both go by it.
///
/// # Errors
/// The configured path names something that is unknown here.
pub fn local_directory(config: &Config, job_id: Option<&str>, host: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok();
    let base = match &config.worker.local_directory {
        Some(template) => template.expand(&variable, job_id, host)?,
        None => variable("TMPDIR").filter(|d| d.starts_with('/')).unwrap_or("/tmp".into()).into(),
    };
    let base = std::path::absolute(&base).map_err(|e| Error::file("cannot use", &base, &e))?;
    Ok(base.join(format!("hpcdag-{}", nix::unistd::geteuid())))
}

/// A directory that exists for as long as this value.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory of one life of a worker below `parent`.
    pub(super) fn create(parent: &Path, incarnation: Incarnation) -> Result<Directory> {
        Directory::create_at(parent.join(format!("worker-{}", incarnation.simple())))
    }

    /// Makes a directory at a path that was chosen already, and what is missing above it.
    pub(super) fn create_at(path: PathBuf) -> Result<Directory> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match create_below(&path) {
                Ok(()) => return Ok(Directory { path }),
                // A worker that left may just have removed the directory around it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS_MAX => {}
                Err(e) => {
                    return Err(Error::file("cannot make the worker's directory", &path, &e)
                        .hint("--local-directory names another place"));
                }
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn create_below(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        check_mine(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path)
}

/// Removes a worker's directory with all that is in it, and the one around it if that was the last. Nothing
/// there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(e);
        }
        _ => {}
    }
    if let Some(parent) = path.parent().filter(|p| named_by_us(p)) {
        // Other workers of this user are in it as a rule.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

fn named_by_us(parent: &Path) -> bool {
    parent.file_name().is_some_and(|n| n.to_string_lossy().starts_with("hpcdag-"))
}

/// In `/tmp` somebody else may have made it before; then the tasks' files would be theirs to take away.
fn check_mine(parent: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(parent)?;
    let sticky_or_mine = meta.uid() == nix::unistd::geteuid().as_raw() && meta.is_dir();
    if named_by_us(parent) && !sticky_or_mine {
        let text = format!("{} belongs to user {}", parent.display(), meta.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_its_owner_may_look_and_it_ends_with_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("hpcdag-1");
        let own = Directory::create(&parent, Incarnation::nil()).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&parent), mode(own.path())), (0o700, 0o700));
        std::fs::write(own.path().join("x"), "y").unwrap();
        assert!(Directory::create(&parent, Incarnation::nil()).is_err());
        let other = Directory::create(&parent, Incarnation::new_v4()).unwrap();
        let path = own.path().to_path_buf();
        drop(own);
        assert!(!path.exists() && other.path().exists());
        drop(other);
        assert!(!parent.exists() && dir.path().exists());
    }
}
