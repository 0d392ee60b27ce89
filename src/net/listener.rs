//! Accepting connections: handshakes run beside one another, and only peers with the cluster's credentials
//! and an allowed role come out. Owns the limit on strangers; what peers say is `connection`'s.

use crate::base::error::{Error, Kind};
use crate::net::backoff::LogLimit;
use crate::net::connection::Connection;
use crate::net::tls::ServerTls;
use crate::protocol::credentials::Role;
use crate::protocol::wire::Wire;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsStream;

/// Handshakes at the same time. Further connections wait in the kernel.
pub const HANDSHAKES_MAX: usize = 256;

/// A handshake that has taken so long ends when others wait for its place: strangers who connect and say
/// nothing must not keep our own people out. A real one takes milliseconds.
const HANDSHAKE_YIELDS_AFTER: Duration = Duration::from_secs(1);

/// How long to wait when the process has run out of file descriptors.
const NO_DESCRIPTORS_DELAY: Duration = Duration::from_millis(100);

/// A peer that has proved its role and has said nothing yet.
pub struct Accepted {
    /// Its role.
    pub role: Role,
    /// Its address.
    pub peer: SocketAddr,
    stream: TlsStream<TcpStream>,
}

impl Accepted {
    /// Begins to exchange messages: `S` are sent, `R` are received.
    pub fn into_connection<S: Wire, R: Wire>(self) -> Connection<S, R> {
        Connection::new(self.stream, self.peer, self.role)
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Listener {
    accepted: mpsc::Receiver<Accepted>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Accepts on a socket that listens already, from peers in one of the roles.
    pub fn new(listener: TcpListener, tls: ServerTls, allowed: &'static [Role]) -> Listener {
        let (send, accepted) = mpsc::channel(HANDSHAKES_MAX);
        let task = tokio::spawn(accept_all(listener, tls, allowed, send));
        Listener { accepted, task }
    }

    /// The next peer. `None` only if the listening task is gone, which happens when the runtime shuts down.
    /// Cancelling it loses nobody.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: ServerTls,
    allowed: &'static [Role],
    send: mpsc::Sender<Accepted>,
) {
    let mut places = Places::new();
    let limit = Arc::new(LogLimit::new(Duration::from_secs(10)));
    loop {
        let Some(permit) = places.next().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(pair) => pair,
            Err(e) => {
                if let Some(omitted) = limit.pass(Instant::now()) {
                    tracing::warn!(omitted, "cannot accept a connection: {e}");
                }
                tokio::time::sleep(NO_DESCRIPTORS_DELAY).await;
                continue;
            }
        };
        let (tls, send, limit) = (tls.clone(), send.clone(), Arc::clone(&limit));
        let yielded = places.begin();
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = tls.accept(tcp, allowed) => shaken,
                // Also when the listener was dropped.
                _ = yielded => Err(Error::new(Kind::Timeout, "its handshake took long, and others waited")),
            };
            match shaken {
                // An error means that the listener was dropped meanwhile.
                Ok((stream, role)) => drop(send.send(Accepted { role, peer, stream }).await),
                Err(e) => log_refusal(&limit, peer, &e),
            }
            drop(permit);
        });
    }
}

/// The places for handshakes, and who has been at it for how long.
struct Places {
    free: Arc<Semaphore>,
    /// Oldest first. Those that are closed have ended.
    taken: VecDeque<(Instant, oneshot::Sender<()>)>,
}

impl Places {
    fn new() -> Places {
        Places { free: Arc::new(Semaphore::new(HANDSHAKES_MAX)), taken: VecDeque::new() }
    }

    /// Waits for a place; if there is none, the oldest handshake makes way as soon as it may. `None` is never
    /// seen: the semaphore is not closed.
    async fn next(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(permit);
            }
            self.taken.retain(|(_, handshake)| !handshake.is_closed());
            let freed = Arc::clone(&self.free).acquire_owned();
            // All may be past their handshake and wait to be let in.
            let Some((since, _)) = self.taken.front() else { return freed.await.ok() };
            tokio::select! {
                permit = freed => return permit.ok(),
                () = tokio::time::sleep_until((*since + HANDSHAKE_YIELDS_AFTER).into()) => {
                    // It hears of it by the loss of its sender.
                    drop(self.taken.pop_front());
                }
            }
        }
    }

    /// A handshake begins; what is returned resolves when it has to make way.
    fn begin(&mut self) -> oneshot::Receiver<()> {
        if self.taken.len() >= 2 * HANDSHAKES_MAX {
            self.taken.retain(|(_, handshake)| !handshake.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        self.taken.push_back((Instant::now(), sender));
        receiver
    }
}

fn log_refusal(limit: &LogLimit, peer: SocketAddr, e: &Error) {
    if let Some(omitted) = limit.pass(Instant::now()) {
        tracing::warn!(%peer, omitted, "refused a connection: {}", e.message);
    }
}
