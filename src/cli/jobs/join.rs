//! Whether a worker that a batch system has started at last still has a cluster to join. Owns this question:
//! the job may have waited for days.

use crate::base::error::{Error, Kind, Result};
use crate::cli::context::run_short;
use crate::net::address::Address;
use crate::net::private_file::Fault;
use crate::net::scheduler_file::{self, Liveness, ReadError, SchedulerFile};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a scheduler may not answer until it is taken for dead. It was alive when the job was submitted.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no cluster to join; `None` if there is one, or if the worker itself will find what is wrong.
///
/// # Errors
/// `NoScheduler` when this host does not see where clusters are kept; `Internal` when there is no runtime.
pub fn why_not(path: &Path, cluster: &str, address: Option<&Address>) -> Result<Option<String>> {
    is_seen(path)?;
    run_short(async { Ok(look(path, cluster, address, PATIENCE).await) })
}

/// Whether the directories are here in which a scheduler file was when the job was submitted: that of the
/// cluster goes with the cluster, the one above it stays.
///
/// # Errors
/// `NoScheduler`, with this host and what to do.
pub fn is_seen(path: &Path) -> Result<()> {
    let home = path.parent().and_then(Path::parent).filter(|home| !home.as_os_str().is_empty());
    let Some(home) = home.filter(|home| !home.exists()) else { return Ok(()) };
    let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let what = format!("{host} does not see {}, where scheduler file {} is", home.display(), path.display());
    Err(Error::new(Kind::NoScheduler, what).hint(
        "keep clusters where all nodes see them: start the scheduler with XDG_STATE_HOME=$SCRATCH, say",
    ))
}

async fn look(path: &Path, cluster: &str, address: Option<&Address>, patience: Duration) -> Option<String> {
    let begin = Instant::now();
    loop {
        let file = match scheduler_file::read(path) {
            Ok(file) => file,
            Err(ReadError::Private(Fault::Missing { .. })) => {
                return Some("its scheduler file is gone".into());
            }
            Err(_) => return None,
        };
        if file.id != cluster {
            return Some(format!("its scheduler file is now that of cluster {}", file.id));
        }
        let at = SchedulerFile { address: address.unwrap_or(&file.address).clone(), ..file };
        let why = match scheduler_file::probe(&at).await {
            Liveness::Alive => return None,
            Liveness::OtherAnswers(why) | Liveness::NobodyAnswers(why) => why,
        };
        if begin.elapsed() >= patience {
            return Some(format!("its scheduler does not answer: {why}"));
        }
        tokio::time::sleep(Duration::from_secs(2).min(patience)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::private_file;
    use crate::net::state_dir::StateDir;

    #[tokio::test]
    async fn dead_clusters_are_told_from_living_ones() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(temp.path()).cluster("c1").unwrap();
        let path = dir.scheduler_file();
        let look = async |cluster: &str| look(&path, cluster, None, Duration::ZERO).await;
        assert!(look("c1").await.unwrap().contains("gone"));
        assert!(is_seen(&path).is_ok(), "the cluster has ended");
        let unseen = is_seen(&temp.path().join("no/c1/scheduler.json")).unwrap_err();
        assert!(unseen.message.contains("does not see") && unseen.hint.unwrap().contains("$SCRATCH"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tls://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let file = SchedulerFile::new(&dir.authority().unwrap(), address, 1).unwrap();
        private_file::write(&path, &serde_json::to_vec(&file).unwrap()).unwrap();
        assert!(look("c2").await.unwrap().contains("cluster c1"));
        assert!(look("c1").await.unwrap().contains("does not answer"));
    }
}
