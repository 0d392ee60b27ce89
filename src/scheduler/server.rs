//! Starting and ending a scheduler: credentials, sockets, the scheduler file, the tasks that serve. Owns
//! their order; what is served is the driver's.

use super::driver::{Driver, INPUTS_MAX};
use super::sessions::{self, Shared};
use super::stop::StopSignal;
use super::{Options, Scheduler};
use crate::base::error::{Error, Result};
use crate::config::Config;
use crate::net::address::{self, Bound, ListenOptions, PortRange};
use crate::net::backoff::LogLimit;
use crate::net::listener::Listener;
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::net::state_dir::{ClusterDir, StateDir};
use crate::net::tls::ServerTls;
use crate::protocol::credentials::{ClusterCredentials, Role, new_cluster_id};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often this cluster's scheduler has been started; there are no restarts yet.
const EPOCH: u32 = 1;

/// The least time between two lines in the log about peers that were not let in.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(2);

/// Starts a scheduler; see `Scheduler::start`.
pub async fn start(options: Options) -> Result<Scheduler> {
    let cluster = options.cluster.clone().unwrap_or_else(new_cluster_id);
    // An embedded scheduler whose file goes elsewhere leaves nothing in the user's state directory.
    let home = match options.embedded && options.scheduler_file.is_some() {
        true => None,
        false => Some(StateDir::of_user()?.cluster(&cluster)?),
    };
    let started = start_in(options, cluster, home.clone()).await;
    if started.is_err()
        && let Some(home) = &home
        && let Err(e) = home.remove()
    {
        tracing::warn!("left behind: {}", e.message);
    }
    started
}

async fn start_in(options: Options, cluster: String, home: Option<ClusterDir>) -> Result<Scheduler> {
    let authority = match &home {
        Some(home) => home.authority()?,
        None => ClusterCredentials::create(&cluster)?,
    };
    let tls = ServerTls::new(&authority.issue(Role::Scheduler)?, &cluster)?;
    let Bound { listener, address, reason } = address::bind(&listen_options(&options.config)).await?;
    tracing::info!(cluster, %address, "scheduler listens ({reason})");
    let listener = Listener::new(listener, tls, &[Role::Client, Role::Worker]);

    let path = match (options.scheduler_file, &home) {
        (Some(path), _) => path,
        (None, Some(home)) => home.scheduler_file(),
        (None, None) => return Err(Error::os("cannot start a scheduler", "it has no place for its file")),
    };
    let mut file = SchedulerFile::new(&authority, address.clone(), EPOCH)?;
    file.job_id = options.job_id;
    file.services.dashboard = options.dashboard.as_ref().map(|place| place.port);

    // Serving begins before the file is there: whoever reads it finds somebody who answers.
    let stop = StopSignal::new();
    let (send, inputs) = mpsc::channel(INPUTS_MAX);
    let heartbeat = options.config.scheduler.heartbeat_interval.0;
    let refusals = Arc::new(LogLimit::new(REFUSALS_LOGGED_EVERY));
    let shared = Shared {
        cluster: cluster.as_str().into(),
        epoch: EPOCH,
        heartbeat,
        driver: send,
        refusals,
        addresses: Default::default(),
    };
    let mut driver = Driver::new(options.config, shared.clone(), address.to_string(), inputs, stop.clone());
    driver.dashboard = options.dashboard.map(|place| place.url);
    let driver = tokio::spawn(driver.run());
    let door = tokio::spawn(accept(listener, shared, stop.clone()));
    let ending = Ending { driver, door, home, path: path.clone(), file: file.clone(), stop: stop.clone() };
    if let Err(e) = scheduler_file::write(&path, &file, async |f| scheduler_file::probe(f).await).await {
        ending.driver.abort();
        ending.door.abort();
        return Err(e);
    }
    tracing::info!(path = %path.display(), "scheduler file written");
    let end = tokio::spawn(ending.run());
    Ok(Scheduler { address: address.to_string(), cluster, file: path, stop, end: Some(end) })
}

fn listen_options(config: &Config) -> ListenOptions {
    let c = &config.scheduler;
    // The default must not contradict a host.
    let wanted = c.interface.join(",");
    let interface = (wanted != "auto" && !wanted.is_empty()).then_some(wanted);
    ListenOptions {
        host: c.host.clone(),
        interface,
        port: PortRange { first: c.port.first, last: c.port.last },
    }
}

/// Lets peers in until the end is wanted.
async fn accept(mut listener: Listener, shared: Shared, stop: StopSignal) {
    let mut stop = stop.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stop.wanted() => return,
            accepted = listener.accept() => match accepted {
                Some(accepted) => drop(tokio::spawn(sessions::serve(accepted, shared.clone()))),
                None => return,
            },
        }
    }
}

/// What has to be undone at the end.
struct Ending {
    driver: JoinHandle<()>,
    door: JoinHandle<()>,
    home: Option<ClusterDir>,
    path: PathBuf,
    file: SchedulerFile,
    stop: StopSignal,
}

impl Ending {
    /// Waits for the end and cleans up: nobody finds the scheduler any more before it leaves.
    async fn run(mut self) -> Result<()> {
        let mut stop = self.stop.subscribe();
        let fault = tokio::select! {
            _ = stop.wanted() => None,
            ended = &mut self.driver => ended.err(),
        };
        // A driver that failed takes the door with it.
        self.stop.want("the scheduler failed");
        let removed = scheduler_file::remove(&self.path, &self.file);
        if matches!(removed, Ok(false)) {
            tracing::warn!(path = %self.path.display(), "scheduler file is not ours any more and stays");
        }
        let fault = match fault {
            Some(e) => Some(e),
            None if self.driver.is_finished() => None,
            None => (&mut self.driver).await.err(),
        };
        // The door has no faults of its own: it ends with the wish, or was aborted.
        let _ = self.door.await;
        let cleaned = self.home.map_or(Ok(()), |home| home.remove());
        if let Some(e) = fault {
            return Err(Error::os("the scheduler failed", e));
        }
        removed?;
        cleaned?;
        tracing::info!("scheduler has ended");
        Ok(())
    }
}
