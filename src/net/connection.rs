//! A TLS connection that carries messages, and its sending half: a bounded queue, whose task writes many
//! messages at once. Owns flow control and orderly ends; receiving is `receiver`'s, handshakes are `tls`'s,
//! meaning is the sessions'.

use crate::base::error::{Error, Kind, Result};
use crate::net::address::Address;
use crate::net::receiver::Receiver;
use crate::net::tls::{self, ClientTls, ConnectError, Stream};
use crate::protocol::credentials::Role;
use crate::protocol::framing::encode;
use crate::protocol::wire::Wire;
use bytes::BytesMut;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Messages that may wait to be written on one connection.
pub const QUEUE_MESSAGES_MAX: usize = 1024;

/// Bytes of bodies that may wait to be written on one connection. A larger single one may wait alone.
pub const QUEUE_BODY_BYTES_MAX: usize = 16 << 20;

/// The write buffer is written out when it has grown to this, in bytes.
const WRITE_BYTES: usize = 128 << 10;

/// An empty buffer that has grown beyond this, in bytes, is given back.
pub(super) const KEEP_BYTES: usize = 512 << 10;

/// An open connection on which `S` are sent and `R` are received.
#[derive(Debug)]
pub struct Connection<S: Wire, R: Wire> {
    /// Sends; may be cloned.
    pub sender: Sender<S>,
    /// Receives.
    pub receiver: Receiver<R>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The role that the peer has proved.
    pub role: Role,
}

/// Opens a connection to whoever has `role` at an address. See `ClientTls::connect` for when refusals come.
pub async fn connect<S: Wire, R: Wire>(
    address: &Address,
    role: Role,
    tls: &ClientTls,
    timeout: Duration,
) -> Result<Connection<S, R>, ConnectError> {
    let (stream, peer) = tls.connect(address, role, timeout).await?;
    Ok(Connection::new(stream, peer, role))
}

impl<S: Wire, R: Wire> Connection<S, R> {
    /// Begins to exchange messages on a stream whose handshake is over. Frames are limited as before a
    /// welcome; `Receiver::welcome` lifts that.
    pub fn new(stream: Stream, peer: SocketAddr, role: Role) -> Connection<S, R> {
        let (read, write) = tokio::io::split(stream);
        let (queue, queued) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (abort, aborted) = watch::channel(false);
        let shared = Arc::new(Shared {
            bodies: Arc::new(Semaphore::new(QUEUE_BODY_BYTES_MAX)),
            queued_bytes: AtomicUsize::new(0),
            fault: OnceLock::new(),
            abort,
            peer,
        });
        let writer = Writer {
            write,
            queued,
            shared: Arc::clone(&shared),
            aborted: aborted.clone(),
            buffer: BytesMut::new(),
        };
        tokio::spawn(writer.run());
        let receiver = Receiver::new(read, aborted, peer);
        Connection { sender: Sender { queue, shared }, receiver, peer, role }
    }
}

/// What the senders of a connection and its writing task share.
#[derive(Debug)]
struct Shared {
    /// One permit per byte of a body that may wait.
    bodies: Arc<Semaphore>,
    /// Bytes of bodies in the queue and of frames that are being written.
    queued_bytes: AtomicUsize,
    /// Why nothing can be sent any more.
    fault: OnceLock<Error>,
    abort: watch::Sender<bool>,
    peer: SocketAddr,
}

impl Shared {
    fn closed(&self) -> Error {
        let ended = || Error::new(Kind::NoScheduler, format!("connection to {} has ended", self.peer));
        self.fault.get().cloned().unwrap_or_else(ended)
    }
}

/// What waits to be written.
enum Queued<M> {
    Message { message: M, body_bytes: usize, _room: Option<OwnedSemaphorePermit> },
    Close(oneshot::Sender<()>),
}

/// Why `Sender::try_send` did not take a message.
#[derive(Debug)]
pub enum TrySendError<M> {
    /// The queue is full; here is the message again.
    Full(M),
    /// The connection has ended, for this reason.
    Closed(Error),
}

/// Sends messages in order. Clones send on the same connection. When all are dropped, what waits is written
/// and the connection ends in order.
#[derive(Debug)]
pub struct Sender<M: Wire> {
    queue: mpsc::Sender<Queued<M>>,
    shared: Arc<Shared>,
}

impl<M: Wire> Clone for Sender<M> {
    fn clone(&self) -> Sender<M> {
        Sender { queue: self.queue.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<M: Wire> Sender<M> {
    /// Queues a message; waits while the queue is full. The error says why the connection has ended; messages
    /// that were queued before that may not have arrived. Cancelling it may lose this message, no other.
    pub async fn send(&self, message: M) -> Result<()> {
        let body_bytes = message.body_bytes();
        let room = match room_for(body_bytes) {
            0 => None,
            n => Some(
                Arc::clone(&self.shared.bodies)
                    .acquire_many_owned(n)
                    .await
                    .map_err(|_| self.shared.closed())?,
            ),
        };
        let slot = self.queue.reserve().await.map_err(|_| self.shared.closed())?;
        self.shared.queued_bytes.fetch_add(body_bytes, Ordering::Relaxed);
        slot.send(Queued::Message { message, body_bytes, _room: room });
        Ok(())
    }

    /// Queues a message if there is room now.
    pub fn try_send(&self, message: M) -> Result<(), TrySendError<M>> {
        let body_bytes = message.body_bytes();
        let slot = match self.queue.try_reserve() {
            Ok(slot) => slot,
            Err(mpsc::error::TrySendError::Full(())) => return Err(TrySendError::Full(message)),
            Err(mpsc::error::TrySendError::Closed(())) => {
                return Err(TrySendError::Closed(self.shared.closed()));
            }
        };
        let room = match room_for(body_bytes) {
            0 => None,
            n => match Arc::clone(&self.shared.bodies).try_acquire_many_owned(n) {
                Ok(room) => Some(room),
                Err(_) => return Err(TrySendError::Full(message)),
            },
        };
        self.shared.queued_bytes.fetch_add(body_bytes, Ordering::Relaxed);
        slot.send(Queued::Message { message, body_bytes, _room: room });
        Ok(())
    }

    /// Messages that wait in the queue.
    pub fn queued_messages(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Bytes that wait: bodies in the queue, and frames that are being written. Control parts count once they
    /// are encoded.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection has ended for sending.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the connection has ended for sending.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Writes what is queued, then ends the connection in order; nothing can be sent after. The error says
    /// that the peer did not take it all within `timeout`, in which case the connection is cut, or that it
    /// was gone.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let finish = async {
            self.queue.send(Queued::Close(done)).await.map_err(|_| self.shared.closed())?;
            wait.await.map_err(|_| self.shared.closed())
        };
        match tokio::time::timeout(timeout, finish).await {
            Ok(result) => result,
            Err(_) => {
                self.abort();
                Err(Error::new(Kind::Timeout, format!("{} does not take what it is sent", self.shared.peer)))
            }
        }
    }

    /// Cuts the connection at once, both ways; what waits is lost.
    pub fn abort(&self) {
        self.shared.abort.send_replace(true);
    }
}

/// Permits for a body. Bodies beyond the whole room take all of it.
fn room_for(body_bytes: usize) -> u32 {
    u32::try_from(body_bytes.min(QUEUE_BODY_BYTES_MAX)).unwrap_or(u32::MAX)
}

/// The task that writes.
struct Writer<M: Wire> {
    write: WriteHalf<Stream>,
    queued: mpsc::Receiver<Queued<M>>,
    shared: Arc<Shared>,
    aborted: watch::Receiver<bool>,
    buffer: BytesMut,
}

impl<M: Wire> Writer<M> {
    async fn run(mut self) {
        let mut aborted = self.aborted.clone();
        let result = tokio::select! {
            biased;
            _ = aborted.wait_for(|a| *a) => {
                Err(Error::new(Kind::Cancelled, format!("connection to {} was cut", self.shared.peer)))
            }
            result = self.write_all() => result,
        };
        if let Err(e) = result {
            // Never set before: only this task does, and only here.
            let _ = self.shared.fault.set(e);
        }
        // Wakes those who wait for room; they find the fault.
        self.queued.close();
        self.shared.bodies.close();
    }

    /// Writes until all senders are gone or one of them wants the end.
    async fn write_all(&mut self) -> Result<()> {
        loop {
            let Some(first) = self.queued.recv().await else {
                self.shutdown().await;
                return Ok(());
            };
            let mut next = Some(first);
            while let Some(queued) = next.take() {
                match queued {
                    Queued::Message { message, body_bytes, _room } => {
                        self.write_one(message, body_bytes).await?
                    }
                    Queued::Close(done) => {
                        self.flush().await?;
                        self.shutdown().await;
                        // Whoever wanted the end may have stopped waiting for it.
                        let _ = done.send(());
                        return Ok(());
                    }
                }
                next = self.queued.try_recv().ok();
            }
            self.flush().await?;
        }
    }

    /// Encodes a message into the buffer; writes that out if it is full or if a large body has to follow.
    async fn write_one(&mut self, message: M, body_bytes: usize) -> Result<()> {
        let begin = self.buffer.len();
        let name = message.name();
        let large = encode(message, &mut self.buffer).map_err(|e| {
            tracing::error!(message = name, "cannot send: {e}");
            Error::from(e)
        })?;
        let encoded = self.buffer.len() - begin;
        match large {
            None => {
                self.shared.queued_bytes.fetch_add(encoded - body_bytes, Ordering::Relaxed);
                if self.buffer.len() >= WRITE_BYTES {
                    self.write_buffer().await?;
                }
            }
            Some(body) => {
                self.shared.queued_bytes.fetch_add(encoded, Ordering::Relaxed);
                self.write_buffer().await?;
                self.write.write_all(&body).await.map_err(|e| tls::broken(self.shared.peer, &e))?;
                self.shared.queued_bytes.fetch_sub(body.len(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn write_buffer(&mut self) -> Result<()> {
        self.write.write_all(&self.buffer).await.map_err(|e| tls::broken(self.shared.peer, &e))?;
        self.shared.queued_bytes.fetch_sub(self.buffer.len(), Ordering::Relaxed);
        self.buffer.clear();
        if self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.write_buffer().await?;
        self.write.flush().await.map_err(|e| tls::broken(self.shared.peer, &e))
    }

    /// Tells the peer that nothing more comes. If that fails the peer is gone, which is the same.
    async fn shutdown(&mut self) {
        let _ = self.write.shutdown().await;
    }
}
