//! Accepting connections: handshakes run beside one another, and only peers with the cluster's credentials
//! and an allowed role come out. Owns the limit on strangers; what peers say is `connection`'s.

use crate::base::error::Error;
use crate::net::backoff::LogLimit;
use crate::net::connection::Connection;
use crate::net::tls::ServerTls;
use crate::protocol::credentials::Role;
use crate::protocol::wire::Wire;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsStream;

/// Handshakes at the same time. Further connections wait in the kernel.
pub const HANDSHAKES_MAX: usize = 256;

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
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let limit = Arc::new(LogLimit::new(Duration::from_secs(10)));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
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
        tokio::spawn(async move {
            match tls.accept(tcp, allowed).await {
                // An error means that the listener was dropped meanwhile.
                Ok((stream, role)) => drop(send.send(Accepted { role, peer, stream }).await),
                Err(e) => log_refusal(&limit, peer, &e),
            }
            drop(permit);
        });
    }
}

fn log_refusal(limit: &LogLimit, peer: SocketAddr, e: &Error) {
    if let Some(omitted) = limit.pass(Instant::now()) {
        tracing::warn!(%peer, omitted, "refused a connection: {}", e.message);
    }
}
