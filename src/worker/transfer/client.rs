//! Getting results from other workers. Owns the connections to them: kept for a while after use, closed when
//! idle, limited in number. Which results, and what to do when they cannot be had, the core decides.

use super::{Traffic, header};
use crate::base::error::{Error, Result};
use crate::base::ids::TaskRef;
use crate::net::address::Address;
use crate::net::fetch::{Fetcher, Patience, Sink};
use crate::net::tls::ClientTls;
use crate::protocol::messages::peer::PartHeader;
use crate::worker::store::data::TaskResult;
use crate::worker::store::transfer::Assembler;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Fetches at the same time, and with that connections in use.
const FETCHES_MAX: usize = 64;

/// Connections kept for later use.
const IDLE_MAX: usize = 64;

/// How long a connection is kept unused. Shorter than the other side keeps it.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// What came of asking for one result.
#[derive(Debug)]
pub(in crate::worker) enum Fetched {
    /// Here it is.
    Here(Arc<TaskResult>),
    /// The peer does not have it.
    Absent,
    /// The peer could not be reached, or the transfer broke off.
    Unreachable,
}

/// Fetches results within one registration with a scheduler. Cheap to clone.
#[derive(Clone)]
pub(in crate::worker) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    tls: ClientTls,
    epoch: u32,
    patience: Patience,
    room: Semaphore,
    /// Unused connections and since when, the longest unused first.
    idle: Mutex<VecDeque<(Fetcher, Instant)>>,
    traffic: Arc<Traffic>,
}

impl Client {
    /// With a worker's credentials; tasks are known by the numbers of `epoch`.
    pub(in crate::worker) fn new(
        tls: ClientTls,
        epoch: u32,
        patience: Patience,
        traffic: Arc<Traffic>,
    ) -> Client {
        let (room, idle) = (Semaphore::new(FETCHES_MAX), Mutex::default());
        Client { inner: Arc::new(Inner { tls, epoch, patience, room, idle, traffic }) }
    }

    /// Closes connections that have not been used for a while. To be called now and then.
    pub(in crate::worker) fn close_idle(&self) {
        let now = Instant::now();
        self.idle().retain(|(_, since)| now.duration_since(*since) < IDLE_TIME);
    }

    /// Bytes in memory of fetches that have not ended.
    pub(in crate::worker) fn arriving_bytes(&self) -> u64 {
        self.inner.traffic.arriving.load(Ordering::Relaxed)
    }

    /// Asks one worker for results; one outcome for each, in the order asked.
    pub(in crate::worker) async fn fetch(
        &self,
        address: &Address,
        tasks: Vec<TaskRef>,
    ) -> Vec<(TaskRef, Fetched)> {
        let traffic = &self.inner.traffic;
        let mut landing = Landing { done: Vec::with_capacity(tasks.len()), open: None, bytes: 0, traffic };
        if let Err(error) = self.fetch_all(address, &tasks, &mut landing).await {
            tracing::info!(%address, missing = tasks.len() - landing.done.len(), "cannot fetch: {error}");
        }
        self.inner.traffic.bytes_in.fetch_add(landing.bytes, Ordering::Relaxed);
        let mut done = std::mem::take(&mut landing.done);
        let begun = done.len();
        done.extend(tasks[begun..].iter().map(|task| (*task, Fetched::Unreachable)));
        done
    }

    async fn fetch_all(&self, address: &Address, tasks: &[TaskRef], landing: &mut Landing<'_>) -> Result<()> {
        let inner = &*self.inner;
        let _room = inner.room.acquire().await.map_err(|e| Error::os("cannot fetch", e))?;
        if let Some(mut kept) = self.take_idle(address) {
            match kept.get(tasks, landing).await {
                Ok(()) => {
                    self.keep(kept);
                    return Ok(());
                }
                // It may have been closed meanwhile, e.g. because the worker was restarted.
                Err(error) => tracing::debug!(%address, "trying a new connection: {error}"),
            }
            landing.open = None;
        }
        let mut fetcher = Fetcher::connect(address, &inner.tls, inner.epoch, inner.patience).await?;
        fetcher.get(&tasks[landing.done.len()..], landing).await?;
        self.keep(fetcher);
        Ok(())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<(Fetcher, Instant)>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, address: &Address) -> Option<Fetcher> {
        let mut idle = self.idle();
        let at = idle.iter().rposition(|(fetcher, _)| fetcher.address() == address)?;
        idle.remove(at).map(|(fetcher, _)| fetcher)
    }

    fn keep(&self, fetcher: Fetcher) {
        let mut idle = self.idle();
        if idle.len() == IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back((fetcher, Instant::now()));
    }
}

/// Where fetched results are put together.
struct Landing<'a> {
    done: Vec<(TaskRef, Fetched)>,
    open: Option<(TaskRef, Assembler)>,
    bytes: u64,
    traffic: &'a Traffic,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.traffic.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn no_room(error: std::io::Error) -> Error {
    Error::os("cannot keep a fetched result", error)
}

impl Sink for Landing<'_> {
    async fn begin(&mut self, task: TaskRef, parts: Option<Vec<PartHeader>>) -> Result<()> {
        match parts {
            None => self.done.push((task, Fetched::Absent)),
            Some(parts) => self.open = Some((task, Assembler::new(header(parts)).map_err(no_room)?)),
        }
        Ok(())
    }

    async fn piece(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.traffic.arriving.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.open.as_mut().map_or(Ok(()), |(_, assembler)| assembler.push(&bytes)).map_err(no_room)
    }

    async fn end(&mut self) -> Result<()> {
        if let Some((task, assembler)) = self.open.take() {
            let result = assembler.finish().map_err(no_room)?;
            self.done.push((task, Fetched::Here(Arc::new(result))));
        }
        Ok(())
    }
}
