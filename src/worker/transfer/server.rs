//! Giving results to other workers and to clients, in pieces straight from the store. Owns the listener for
//! them and how many are served at once; what is in the store is decided elsewhere.

use super::brought::{Arrival, Brought};
use super::{Traffic, announce};
use crate::base::error::Result;
use crate::base::ids::TaskRef;
use crate::net::connection::{Connection, Sender};
use crate::net::listener::{Accepted, Listener};
use crate::net::tls::ServerTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::client::Reason;
use crate::protocol::messages::peer::{
    Begin, FromPeer, Get, PIECE_BYTES_MAX, PeerHello, PeerWelcome, Piece, Put, Stored, ToPeer,
};
use crate::worker::store::Store;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// Peers that are sent results at the same time; the others take turns with them.
const SERVED_MAX: usize = 64;

/// Bytes after which a peer lets the next one have its turn.
const TURN_BYTES: u64 = 16 << 20;

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 1024;

/// Within which a peer must introduce itself.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// How long a connection may be unused.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// How long a peer may take to accept a piece.
const STALL_TIME: Duration = Duration::from_secs(30);

/// What is served.
pub(in crate::worker) struct Served {
    /// The results.
    pub store: Arc<Mutex<Store>>,
    /// The epoch in which they have their numbers.
    pub epoch: AtomicU32,
    /// The worker's name.
    pub name: String,
    /// What went out is counted here.
    pub traffic: Arc<Traffic>,
    /// Bytes of memory that the worker may use, if that is bounded.
    pub limit: Option<u64>,
    /// What clients bring goes this way.
    pub brought: mpsc::Sender<Brought>,
}

/// Serves until it is dropped.
pub(in crate::worker) struct Server {
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves what is asked for on a socket that listens already.
    pub(in crate::worker) fn start(socket: TcpListener, tls: ServerTls, served: Arc<Served>) -> Server {
        let listener = Listener::new(socket, tls, &[Role::Worker, Role::Client]);
        Server { task: tokio::spawn(accept_all(listener, served)) }
    }

    /// Ends all connections and gives the port back.
    pub(in crate::worker) async fn stop(mut self) {
        self.task.abort();
        // The error is that it was cancelled, as was just asked for.
        let _ = (&mut self.task).await;
    }
}

async fn accept_all(mut listener: Listener, served: Arc<Served>) {
    let turns = Arc::new(Semaphore::new(SERVED_MAX));
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Some(accepted) = accepted else { return };
                if sessions.len() >= CONNECTIONS_MAX {
                    tracing::warn!(peer = %accepted.peer, "too many connections, ending one");
                    continue;
                }
                sessions.spawn(session(accepted, served.clone(), turns.clone()));
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn session(accepted: Accepted, served: Arc<Served>, turns: Arc<Semaphore>) {
    let peer = accepted.peer;
    let connection = accepted.into_connection();
    if let Err(error) = (Session { connection, served, turns: &turns }).run().await {
        tracing::debug!(%peer, "a peer's connection ended: {error}");
    }
}

struct Session<'a> {
    connection: Connection<ToPeer, FromPeer>,
    served: Arc<Served>,
    turns: &'a Semaphore,
}

impl Session<'_> {
    async fn run(mut self) -> Result<()> {
        let Ok(first) = tokio::time::timeout(HELLO_TIME, self.connection.receiver.recv()).await else {
            return Ok(());
        };
        let hello = match first? {
            Some(FromPeer::Hello(hello)) => hello,
            Some(_) => return self.refuse("a greeting was expected".into()).await,
            None => return Ok(()),
        };
        if let Some(reason) = self.fault(&hello) {
            return self.refuse(reason).await;
        }
        let welcome = PeerWelcome { name: self.served.name.clone() };
        self.connection.sender.send(ToPeer::Welcome(welcome)).await?;
        // A piece of what a client brings is larger than what strangers may send.
        self.connection.receiver.welcome();
        loop {
            let Ok(next) = tokio::time::timeout(IDLE_TIME, self.connection.receiver.recv()).await else {
                return Ok(());
            };
            match next? {
                Some(FromPeer::Get(get)) => match self.fault(&hello) {
                    None => self.answer(get).await?,
                    Some(reason) => return self.refuse(reason).await,
                },
                Some(FromPeer::Put(put)) => match self.fault(&hello) {
                    None => {
                        if let Some(reason) = self.take(put, hello.epoch).await? {
                            return self.refuse(reason).await;
                        }
                    }
                    Some(reason) => return self.refuse(reason).await,
                },
                Some(FromPeer::Piece(_)) => return self.refuse("bytes of no result".into()).await,
                Some(FromPeer::Hello(_)) => return self.refuse("a second greeting".into()).await,
                None => return Ok(()),
            }
        }
    }

    /// What is wrong with a peer. Asked again for each request: this worker may have a new scheduler.
    fn fault(&self, hello: &PeerHello) -> Option<String> {
        let epoch = self.served.epoch.load(Ordering::Acquire);
        if hello.protocol != PROTOCOL {
            return Some(format!("this worker speaks protocol {PROTOCOL}, not {}", hello.protocol));
        }
        (hello.epoch != epoch).then(|| format!("this worker is in epoch {epoch}, not {}", hello.epoch))
    }

    async fn refuse(self, reason: String) -> Result<()> {
        self.connection.sender.send(ToPeer::Refused(Reason { reason })).await?;
        self.connection.sender.close(HELLO_TIME).await
    }

    /// Takes a result that a client brings, and answers. Returns what is wrong with the client.
    async fn take(&mut self, put: Put, epoch: u32) -> Result<Option<String>> {
        let (is_here, managed) = {
            let store = self.served.store.lock().unwrap_or_else(PoisonError::into_inner);
            (store.find(put.task).is_some(), store.managed_bytes())
        };
        let traffic = self.served.traffic.clone();
        let taken = managed.saturating_add(traffic.arriving.load(Ordering::Relaxed));
        let room = self.served.limit.map(|limit| limit.saturating_sub(taken));
        let mut arrival = Arrival::begin(put, is_here, room, traffic);
        while !arrival.is_complete() {
            let Ok(next) = tokio::time::timeout(STALL_TIME, self.connection.receiver.recv()).await else {
                return Ok(Some("the bytes of a result do not come".into()));
            };
            match next? {
                Some(FromPeer::Piece(piece)) if arrival.push(&piece.body) => {}
                Some(_) => return Ok(Some("the bytes of a result were expected".into())),
                None => return Ok(Some("a result ended too early".into())),
            }
        }
        let error = match arrival.finish() {
            Ok(None) => None,
            Ok(Some((task, result))) => {
                let (answer, answered) = oneshot::channel();
                let brought = Brought { epoch, task, result: Arc::new(result), answer };
                let sent = self.served.brought.send(brought).await.is_ok();
                let gone = || "the worker has lost its scheduler".to_owned();
                if sent { answered.await.unwrap_or_else(|_| Err(gone())).err() } else { Some(gone()) }
            }
            Err(why) => Some(why),
        };
        self.send(ToPeer::Stored(Stored { id: arrival.id(), error })).await?;
        Ok(None)
    }

    async fn answer(&self, get: Get) -> Result<()> {
        let mut turn = Turn { turns: self.turns, permit: None, sent: 0 };
        turn.begin().await;
        for task in get.tasks {
            self.send_result(get.id, task, &mut turn).await?;
        }
        Ok(())
    }

    async fn send_result(&self, id: u32, task: TaskRef, turn: &mut Turn<'_>) -> Result<()> {
        let found = self.served.store.lock().unwrap_or_else(PoisonError::into_inner).use_result(task);
        let Some(result) = found else {
            return self.send(ToPeer::Begin(Begin { id, task, parts: None })).await;
        };
        let parts = announce(&result);
        let total = result.travelling_bytes();
        let on_disk = result.spilled_bytes() > 0;
        self.send(ToPeer::Begin(Begin { id, task, parts: Some(parts) })).await?;
        let mut offset = 0;
        while offset < total {
            let body = if on_disk {
                let result = result.clone();
                let read = move || result.read_stream_at(offset, PIECE_BYTES_MAX);
                tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
            } else {
                result.read_stream_at(offset, PIECE_BYTES_MAX)
            };
            let body = body.map_err(|e| crate::base::error::Error::os("cannot read a result", e))?;
            if body.is_empty() {
                return Err(crate::base::error::Error::os("cannot read a result", "it ends too early"));
            }
            let len = body.len() as u64;
            self.send(ToPeer::Piece(Piece { body })).await?;
            offset += len;
            self.served.traffic.bytes_out.fetch_add(len, Ordering::Relaxed);
            turn.count(len).await;
        }
        Ok(())
    }

    /// Sends, but not to somebody who does not read.
    async fn send(&self, message: ToPeer) -> Result<()> {
        let sender: &Sender<ToPeer> = &self.connection.sender;
        match tokio::time::timeout(STALL_TIME, sender.send(message)).await {
            Ok(sent) => sent,
            Err(_) => {
                sender.abort();
                Err(crate::base::error::Error::os("cannot send", "the peer does not read"))
            }
        }
    }
}

/// The right to send, given up now and then in favour of those who wait for it.
struct Turn<'a> {
    turns: &'a Semaphore,
    permit: Option<SemaphorePermit<'a>>,
    sent: u64,
}

impl Turn<'_> {
    async fn begin(&mut self) {
        self.permit = None;
        self.sent = 0;
        // Never closed; waiting is in order of arrival.
        self.permit = self.turns.acquire().await.ok();
    }

    async fn count(&mut self, bytes: u64) {
        self.sent += bytes;
        if self.sent >= TURN_BYTES {
            self.begin().await;
        }
    }
}
