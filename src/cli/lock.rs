//! `submit --lock NAME`: one run at a time under a name. Owns the file that stands for the lock and what is
//! said about whoever holds it; the kernel lets go of it with the process, whatever ends that.

use super::output;
use super::signals::Requests;
use crate::base::error::{Error, Kind, Result};
use crate::net::private_file;
use crate::net::state_dir::StateDir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often a lock that somebody holds is tried.
const PAUSE: Duration = Duration::from_millis(300);

/// The longest record of a holder that is read, in bytes.
const RECORD_MAX: u64 = 4096;

/// A lock that is held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    /// RFC 3339.
    since: String,
    /// What it runs.
    what: String,
}

impl Holder {
    fn this(what: &str) -> Holder {
        Holder {
            host: hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
            pid: std::process::id(),
            since: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            what: what.to_owned(),
        }
    }

    fn text(&self) -> String {
        let Holder { host, pid, since, what } = self;
        output::harmless(&format!("process {pid} on {host} since {since}, for {what}")).into_owned()
    }
}

/// The file of a lock: the named file if there is a slash, else one of the user's own. It is the same inside
/// and outside of jobs.
fn place(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let plain = |c: char| c.is_alphanumeric() || "._-+@=".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::new(Kind::Usage, format!("{name:?} cannot be the name of a lock"))
            .hint("use letters, digits and ._-+@=, or the path of a file, with a slash"));
    }
    let directory = StateDir::outside_of_jobs()?.locks();
    private_file::make_directory(&directory)?;
    Ok(directory.join(name))
}

/// Takes a lock, waiting for it as long as `patience` says.
///
/// # Errors
/// `Refused` when somebody else holds it, and who; `Cancelled` by a signal; `Usage`, `File`.
pub async fn take(name: &str, what: &str, patience: Duration) -> Result<Lock> {
    let path = place(name)?;
    let deadline = Instant::now() + patience;
    let mut requests = Requests::listen()?;
    let mut told = false;
    loop {
        let holder = match try_to_take(&path, what)? {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        let holder = holder.map_or_else(|| "somebody".to_owned(), |holder| holder.text());
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::Refused, format!("the lock {name} is held by {holder}"))
                .hint("--lock-timeout waits for it; it is free when that process ends"));
        }
        if !told {
            output::say(&format!("waiting for the lock {name}, held by {holder}"));
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            signal = requests.next() => {
                return Err(Error::new(Kind::Cancelled, format!("{signal}: nothing was submitted")));
            }
        }
    }
}

/// The lock, or who has it, if that is known.
fn try_to_take(path: &Path, what: &str) -> Result<std::result::Result<Lock, Option<Holder>>> {
    let fault = |e: &std::io::Error| Error::file("cannot use as a lock", path, e);
    let mut options = File::options();
    let file =
        options.create(true).truncate(false).read(true).write(true).open(path).map_err(|e| fault(&e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let record = serde_json::to_vec(&Holder::this(what)).unwrap_or_default();
            let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(&record));
            written.map_err(|e| fault(&e))?;
            Ok(Ok(Lock { _file: lock }))
        }
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // It may be about to write it.
            let _ = file.take(RECORD_MAX).read_to_string(&mut text);
            Ok(Err(serde_json::from_str(&text).ok()))
        }
        Err((_, errno)) => Err(fault(&errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holds_it_and_the_other_is_told_who() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weekly").to_string_lossy().into_owned();
        let lock = take(&path, "graph.toml", Duration::ZERO).await.unwrap();
        let error = take(&path, "other.toml", Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        let holder = format!("is held by process {} on ", std::process::id());
        assert!(error.message.contains(&holder) && error.message.ends_with("for graph.toml"), "{error}");
        let (waited, ()) = tokio::join!(take(&path, "other.toml", Duration::from_secs(60)), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(lock);
        });
        let error = take(&path, "x", Duration::ZERO).await.unwrap_err();
        assert!(error.message.ends_with("for other.toml"), "{error}");
        drop(waited.unwrap());
        take(&path, "x", Duration::ZERO).await.unwrap();
    }

    #[test]
    fn names_are_checked() {
        for name in ["", ".x", "a b", "a\nb"] {
            assert_eq!(place(name).unwrap_err().kind, Kind::Usage, "{name:?}");
        }
        assert_eq!(place("./a b").unwrap(), Path::new("./a b"));
    }
}
