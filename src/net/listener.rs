//! Accepting connections: handshakes run beside one another, and only peers with the cluster's credentials
//! and an allowed role come out. Owns how many handshakes run; who waits for one is `doorstep`'s, what peers
//! say is `connection`'s.

use crate::base::error::{Error, Kind, Result};
use crate::net::backoff::LogLimit;
use crate::net::connection::Connection;
use crate::net::doorstep::{self, Places};
use crate::net::tls::{HANDSHAKE_TIMEOUT, ServerTls, Stream};
use crate::protocol::credentials::Role;
use crate::protocol::wire::Wire;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Handshakes that are begun side by side: enough to keep the processors busy while peers answer, few enough
/// that each is over soon, however many wait. All at once, they would all come too late on a slow machine.
pub const HANDSHAKES_MAX: usize = 64;

/// After so long a handshake counts no longer among them, though it goes on: whoever begins one and does not
/// answer keeps nobody waiting.
const HANDSHAKE_COUNTS_FOR: Duration = Duration::from_millis(100);

/// How long to wait when the process has run out of file descriptors.
const NO_DESCRIPTORS_DELAY: Duration = Duration::from_millis(100);

/// A peer that has proved its role and has said nothing yet.
pub struct Accepted {
    /// Its role.
    pub role: Role,
    /// Its address.
    pub peer: SocketAddr,
    stream: Stream,
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
    let door = Arc::new(Door { tls, allowed, send, turns: Semaphore::new(HANDSHAKES_MAX) });
    let limit = Arc::new(LogLimit::new(Duration::from_secs(10)));
    loop {
        let Some(place) = places.next().await else { return };
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
        let silent = places.take();
        let (door, limit) = (Arc::clone(&door), Arc::clone(&limit));
        tokio::spawn(async move {
            match door.pass(tcp, silent).await {
                // An error means that the listener was dropped meanwhile.
                Ok((stream, role)) => drop(door.send.send(Accepted { role, peer, stream }).await),
                Err(e) => log_refusal(&limit, peer, &e),
            }
            drop(place);
        });
    }
}

/// What every connection has to pass.
struct Door {
    tls: ServerTls,
    allowed: &'static [Role],
    send: mpsc::Sender<Accepted>,
    /// Handshakes that may begin, in the order in which peers have spoken.
    turns: Semaphore,
}

impl Door {
    /// Waits until the peer speaks, then does the handshake. `silent` resolves if it has to make way before;
    /// whoever has spoken is not cut before its handshake is over or its time is up.
    async fn pass(&self, tcp: TcpStream, silent: oneshot::Receiver<()>) -> Result<(Stream, Role)> {
        let refused = |what: &str| Error::new(Kind::Refused, what);
        let spoken = tokio::select! {
            spoken = doorstep::has_spoken(&tcp) => spoken,
            // Also when the listener was dropped.
            _ = silent => return Err(refused("it said nothing while others waited")),
            () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => return Err(refused("it said nothing")),
        };
        match spoken {
            Ok(true) => {}
            Ok(false) => return Err(refused("it does not speak TLS, or left at once")),
            Err(e) => return Err(refused(&format!("connection is gone: {e}"))),
        }
        // The semaphore is never closed.
        let turn = self.turns.acquire().await.ok();
        if doorstep::has_left(&tcp).await {
            return Err(refused("it left before its turn"));
        }
        let mut handshake = std::pin::pin!(self.tls.accept(tcp, self.allowed));
        tokio::select! {
            shaken = &mut handshake => return shaken,
            () = tokio::time::sleep(HANDSHAKE_COUNTS_FOR) => drop(turn),
        }
        handshake.await
    }
}

fn log_refusal(limit: &LogLimit, peer: SocketAddr, e: &Error) {
    if let Some(omitted) = limit.pass(Instant::now()) {
        tracing::warn!(%peer, omitted, "refused a connection: {}", e.message);
    }
}
