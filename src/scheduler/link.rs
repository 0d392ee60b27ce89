//! The queue from the driver to one session, counted in bytes, so that a slow peer costs bounded memory and
//! never makes the driver wait. Owns the count and its limit; what an order means is the sessions' affair.

use crate::net::connection::Sender;
use crate::protocol::wire::Wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// What may wait for one peer, in bytes as the driver estimates them. A peer that is so far behind is cut
/// off.
pub const LINK_BYTES_MAX: usize = 256 << 20;

/// The driver's end: orders `T` go in, and the session makes messages `M` of them.
#[derive(Debug)]
pub struct Link<T, M: Wire> {
    queue: mpsc::UnboundedSender<(T, usize)>,
    bytes: Arc<AtomicUsize>,
    sender: Sender<M>,
}

/// The session's end.
#[derive(Debug)]
pub struct Orders<T> {
    queue: mpsc::UnboundedReceiver<(T, usize)>,
    bytes: Arc<AtomicUsize>,
    in_work: usize,
}

/// The peer is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overfull;

/// Makes a queue for the session that sends with `sender`.
pub fn link<T, M: Wire>(sender: Sender<M>) -> (Link<T, M>, Orders<T>) {
    let (send, receive) = mpsc::unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let orders = Orders { queue: receive, bytes: Arc::clone(&bytes), in_work: 0 };
    (Link { queue: send, bytes, sender }, orders)
}

impl<T, M: Wire> Link<T, M> {
    /// Queues an order of about `bytes`. An order for a session that is ending vanishes: its end is
    /// reported to the driver by itself.
    pub fn push(&self, order: T, bytes: usize) -> Result<(), Overfull> {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > LINK_BYTES_MAX {
            return Err(Overfull);
        }
        // An error means that the session is ending.
        let _ = self.queue.send((order, bytes));
        Ok(())
    }

    /// Bytes that wait, as estimated.
    pub fn waiting(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Cuts the connection at once.
    pub fn cut(&self) {
        self.sender.abort();
    }
}

impl<T> Orders<T> {
    /// The next order; the one before it counts as written from now on. `None` once the driver has dropped
    /// its end and nothing is left.
    pub async fn next(&mut self) -> Option<T> {
        self.bytes.fetch_sub(std::mem::take(&mut self.in_work), Ordering::Relaxed);
        let (order, bytes) = self.queue.recv().await?;
        self.in_work = bytes;
        Some(order)
    }
}
