//! The scheduler: `core` decides; around it, `server` opens and closes the house, `driver` owns the core,
//! `sessions` talk to clients and workers. Owns no process-wide state: several can live in one process.

mod answers;
mod calls;
pub mod core;
mod driver;
mod input;
mod link;
mod peers;
mod perform;
mod requests;
mod runs;
mod server;
mod sessions;
mod shape;
mod shared;
mod sharing;
mod stop;
mod view;
mod waits;

#[cfg(test)]
mod tests;

use crate::base::error::{Error, Result};
use crate::config::Config;
use std::path::PathBuf;
use std::sync::Arc;
use stop::StopSignal;
use tokio::task::JoinHandle;

/// What a scheduler is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings.
    pub config: Arc<Config>,
    /// Where the scheduler file goes; into the state directory if `None`.
    pub scheduler_file: Option<PathBuf>,
    /// The cluster's id; a new one if `None`.
    pub cluster: Option<String>,
    /// The batch job it runs in.
    pub job_id: Option<String>,
    /// Where its dashboard will be, for those who ask; nothing is served here.
    pub dashboard: Option<DashboardPlace>,
    /// Whether it is part of another program: with a `scheduler_file` it then keeps its authority in memory
    /// and nothing in the user's state directory.
    pub embedded: bool,
}

/// Where a dashboard is.
#[derive(Clone, PartialEq, Eq)]
pub struct DashboardPlace {
    /// Its port, for the scheduler file.
    pub port: u16,
    /// Its address with the token that opens it, for those who may ask the scheduler.
    pub url: String,
}

impl std::fmt::Debug for DashboardPlace {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DashboardPlace").field("port", &self.port).finish_non_exhaustive()
    }
}

/// A running scheduler. Dropping it ends the cluster, without waiting for that.
#[derive(Debug)]
pub struct Scheduler {
    /// Where it listens, as text: `tls://10.1.2.3:40123`.
    pub address: String,
    /// The cluster's id.
    pub cluster: String,
    /// The scheduler file.
    pub file: PathBuf,
    stop: StopSignal,
    end: Option<JoinHandle<Result<()>>>,
}

impl Scheduler {
    /// Starts a scheduler of a new cluster on the current tokio runtime. Returns once it listens and its
    /// file is there. Refuses to replace the file of a living scheduler; other errors: no such interface,
    /// no free port, a file or directory that cannot be written.
    pub async fn start(options: Options) -> Result<Scheduler> {
        server::start(options).await
    }

    /// Begins the orderly end of the cluster: nobody is let in any more, workers and clients are told. May be
    /// called again; `wait` says when it is over.
    pub fn stop(&self) {
        self.stop.want("stopped");
    }

    /// Waits until the cluster has ended, by `stop`, by a client, or by idleness. An error says that the
    /// scheduler failed, or what it could not clean up.
    pub async fn wait(&mut self) -> Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        let ended = end.await;
        self.end = None;
        ended.unwrap_or_else(|e| Err(Error::os("the scheduler failed", e)))
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop();
    }
}
