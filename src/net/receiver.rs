//! The receiving half of a connection: cuts many messages out of each read. Owns the read buffer and what is
//! made of a stream that breaks or that makes no sense.

use crate::base::error::{Error, Kind, Result};
use crate::net::connection::KEEP_BYTES;
use crate::net::tls::{self, Stream};
use crate::protocol::framing::{
    BODY_BYTES_LARGE, Decoder, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_WELCOME, FrameError,
};
use crate::protocol::wire::Wire;
use bytes::BytesMut;
use std::marker::PhantomData;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::watch;

/// What one read makes room for at first, in bytes.
const READ_BYTES_MIN: usize = 8 << 10;

/// What one read makes room for at most, in bytes, when reads keep filling it.
const READ_BYTES_MAX: usize = 64 << 10;

/// Receives messages in order.
#[derive(Debug)]
pub struct Receiver<M: Wire> {
    read: ReadHalf<Stream>,
    buffer: BytesMut,
    decoder: Decoder,
    read_bytes: usize,
    /// What `recv_many` found after messages that it gave out first.
    fault: Option<Error>,
    aborted: watch::Receiver<bool>,
    peer: SocketAddr,
    messages: PhantomData<fn() -> M>,
}

impl<M: Wire> Receiver<M> {
    pub(super) fn new(
        read: ReadHalf<Stream>,
        aborted: watch::Receiver<bool>,
        peer: SocketAddr,
    ) -> Receiver<M> {
        Receiver {
            read,
            buffer: BytesMut::new(),
            decoder: Decoder::new(FRAME_BYTES_MAX_BEFORE_WELCOME),
            read_bytes: READ_BYTES_MIN,
            fault: None,
            aborted,
            peer,
            messages: PhantomData,
        }
    }

    /// Accepts frames of the full size from now on.
    pub fn welcome(&mut self) {
        self.decoder.set_limit(FRAME_BYTES_MAX);
    }

    /// The next message; `None` when the peer has ended the connection in order. Errors are final: the
    /// connection broke, was cut, or the peer sent what it must not. Cancelling it loses nothing.
    pub async fn recv(&mut self) -> Result<Option<M>> {
        if let Some(e) = self.fault.take() {
            return Err(e);
        }
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for at least one message and appends to `out` all that have arrived; returns how many, 0 when
    /// the peer has ended the connection in order. Errors as `recv`, but only once all messages before them
    /// have been given out.
    pub async fn recv_many(&mut self, out: &mut Vec<M>) -> Result<usize> {
        let begin = out.len();
        loop {
            if let Some(e) = self.fault.take() {
                return Err(e);
            }
            loop {
                match self.decode() {
                    Ok(Some(message)) => out.push(message),
                    Ok(None) => break,
                    Err(e) if out.len() > begin => {
                        self.fault = Some(e);
                        return Ok(out.len() - begin);
                    }
                    Err(e) => return Err(e),
                }
            }
            if out.len() > begin || !self.fill().await? {
                return Ok(out.len() - begin);
            }
        }
    }

    fn decode(&mut self) -> Result<Option<M>> {
        self.decoder.next_message(&mut self.buffer).map_err(|e| self.wrong(e))
    }

    fn wrong(&self, e: FrameError) -> Error {
        let e = Error::from(e);
        Error::new(e.kind, format!("{} sent what it must not: {}", self.peer, e.message))
    }

    /// Reads once; false at the orderly end.
    async fn fill(&mut self) -> Result<bool> {
        self.make_room();
        let spare = self.buffer.capacity() - self.buffer.len();
        let read = tokio::select! {
            biased;
            read = self.read.read_buf(&mut self.buffer) => read,
            // An error means that nobody is left who could cut it.
            Ok(_) = self.aborted.wait_for(|a| *a) => {
                return Err(Error::new(Kind::Cancelled, format!("connection to {} was cut", self.peer)));
            }
        };
        match read {
            Ok(0) => {
                self.decoder.finish(&self.buffer).map_err(|e| self.wrong(e))?;
                Ok(false)
            }
            Ok(n) => {
                if n == spare {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                }
                Ok(true)
            }
            Err(e) => Err(tls::broken(self.peer, &e)),
        }
    }

    /// Makes room for the next read. A large frame gets room for exactly its rest, so that its body becomes a
    /// buffer of its own and nothing is moved when it is nearly there.
    fn make_room(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        let missing = self.decoder.missing(&self.buffer);
        let spare = self.buffer.capacity() - self.buffer.len();
        if self.buffer.len() + missing >= BODY_BYTES_LARGE {
            self.buffer.reserve(missing);
        } else if spare < missing.max(self.read_bytes / 2) {
            self.buffer.reserve(missing.max(self.read_bytes));
        }
    }
}
