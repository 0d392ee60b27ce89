//! Files that only their owner may read: written whole or not at all, refused if others could have touched
//! them. Owns the checks and the way of writing; what is in the files is their users' affair.

use crate::base::error::{Error, Kind, Result};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Larger files are none of ours, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Why a private file was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is none.
    #[error("there is no file {}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another user, who could have put anything into it.
    #[error("{} belongs to user {owner}, not to you (user {mine})", .path.display())]
    NotMine {
        /// The file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The number of the user of this process.
        mine: u32,
    },
    /// Others can read or write it.
    #[error("{} can be used by others than you (mode {mode:03o})", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The operating system refuses, or it is not a file.
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        let error = |kind| Error::new(kind, fault.to_string());
        match &fault {
            Fault::Missing { .. } | Fault::Unreadable { .. } => error(Kind::File),
            Fault::NotMine { .. } => error(Kind::Refused).hint("name a file that you have written yourself"),
            Fault::Exposed { path, .. } => error(Kind::Refused).hint(format!(
                "whoever read it can use the cluster: start a new one; if nobody can have, chmod 600 {}",
                path.display()
            )),
        }
    }
}

/// Reads a file that must belong to this user and to nobody else. The checks are made on the opened file.
pub fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |reason: String| Fault::Unreadable { path: path.to_owned(), reason };
    let mine = nix::unistd::geteuid().as_raw();
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::Missing { path: path.to_owned() });
        }
        Err(e) => {
            return Err(match std::fs::metadata(path) {
                Ok(m) if m.uid() != mine => Fault::NotMine { path: path.to_owned(), owner: m.uid(), mine },
                _ => unreadable(e.to_string()),
            });
        }
    };
    let meta = file.metadata().map_err(|e| unreadable(e.to_string()))?;
    if !meta.is_file() {
        return Err(unreadable("it is not a file".into()));
    }
    if meta.uid() != mine {
        return Err(Fault::NotMine { path: path.to_owned(), owner: meta.uid(), mine });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Fault::Exposed { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    let mut bytes = Vec::new();
    let read = Read::by_ref(&mut file).take(BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Ok(n) if n as u64 > BYTES_MAX => Err(unreadable("it is far too large".into())),
        Ok(_) => Ok(bytes),
        Err(e) => Err(unreadable(e.to_string())),
    }
}

/// Writes a file with mode 0600 such that readers see the old one or the whole new one, also after a power
/// cut.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault = |e: &io::Error| Error::file("cannot write", path, e);
    let name = path.file_name().ok_or_else(|| fault(&io::ErrorKind::InvalidFilename.into()))?;
    let directory = parent(path);
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(|e| fault(&e))?;
    file.write_all(bytes).map_err(|e| fault(&e))?;
    file.as_file().sync_all().map_err(|e| fault(&e))?;
    file.persist(path).map_err(|e| fault(&e.error))?;
    sync_directory(directory).map_err(|e| fault(&e))
}

/// The directory that a file is in; the current one for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems cannot; they also need not.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => Ok(()),
        result => result,
    }
}

/// Makes a directory with mode 0700, and those above it that are missing. One that exists must belong to this
/// user and is closed to others.
pub fn make_directory(path: &Path) -> Result<()> {
    let fault = |e: &io::Error| Error::file("cannot make directory", path, e);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| fault(&e))?;
    let meta = std::fs::metadata(path).map_err(|e| fault(&e))?;
    let mine = nix::unistd::geteuid().as_raw();
    if meta.uid() != mine {
        return Err(Fault::NotMine { path: path.to_owned(), owner: meta.uid(), mine }.into());
    }
    if meta.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(|e| fault(&e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn written_files_are_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for text in [&b"first"[..], b"second, longer"] {
            write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(write(&dir.path().join("none/a"), b"").is_err());
    }

    #[test]
    fn what_others_can_touch_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(read(&path), Err(Fault::Missing { path: path.clone() }));
        write(&path, b"x").unwrap();
        for bad in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).unwrap();
            assert_eq!(read(&path), Err(Fault::Exposed { path: path.clone(), mode: bad }));
        }
        assert!(matches!(read(dir.path()), Err(Fault::Unreadable { .. })));
        std::fs::write(&path, vec![b' '; BYTES_MAX as usize + 1]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&path), Err(Fault::Unreadable { .. })));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read(&pipe), Err(Fault::Unreadable { .. })), "and it does not wait for a writer");
    }

    #[test]
    fn other_users_files_are_refused() {
        // Needs root to give a file away; elsewhere a file of root's shows the same.
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("a");
        write(&given, b"x").unwrap();
        let path = match nix::unistd::geteuid().is_root() {
            true => {
                std::os::unix::fs::chown(&given, Some(12345), None).unwrap();
                given
            }
            false => PathBuf::from("/etc/passwd"),
        };
        assert!(matches!(read(&path), Err(Fault::NotMine { .. })));
    }

    #[test]
    fn directories_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_directory(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o700, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        make_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }
}
