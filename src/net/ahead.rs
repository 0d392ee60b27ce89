//! A TCP stream that is read ahead of TLS while much arrives. Owns a buffer for that, and when there is one:
//! TLS asks for a record at a time, and a large result would take a system call for each 16 KiB.
//! (tokio's `BufReader` would have its buffer on each of a scheduler's thousands of connections.)

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one read takes at most while much arrives, in bytes.
const AHEAD_BYTES: usize = 128 << 10;

/// A read that brings less than this, in bytes, is the end of much.
const MUCH_BYTES: usize = 16 << 10;

/// Reads in a row that filled what was asked for, after which much arrives. A handshake has fewer.
const FULL_READS: u8 = 8;

/// A TCP stream beneath TLS.
#[derive(Debug)]
pub struct ReadAhead {
    tcp: TcpStream,
    /// None unless much arrives.
    buffer: Option<Box<[u8]>>,
    /// What was read and not asked for yet.
    start: usize,
    end: usize,
    full_reads: u8,
}

impl ReadAhead {
    /// Reads what is asked for at first.
    pub fn new(tcp: TcpStream) -> ReadAhead {
        ReadAhead { tcp, buffer: None, start: 0, end: 0, full_reads: 0 }
    }

    /// Reads into the buffer, which is empty.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffer = self.buffer.get_or_insert_with(|| vec![0; AHEAD_BYTES].into_boxed_slice());
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
        (self.start, self.end) = (0, read.filled().len());
        if self.end < MUCH_BYTES {
            self.full_reads = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            if this.full_reads < FULL_READS {
                let (before, room) = (out.filled().len(), out.remaining());
                ready!(Pin::new(&mut this.tcp).poll_read(cx, out))?;
                let is_full = room > 0 && out.filled().len() - before == room;
                this.full_reads = if is_full { this.full_reads + 1 } else { 0 };
                return Poll::Ready(Ok(()));
            }
            ready!(this.fill(cx))?;
        }
        if let Some(buffer) = &this.buffer {
            let n = out.remaining().min(this.end - this.start);
            out.put_slice(&buffer[this.start..this.start + n]);
            this.start += n;
        }
        if this.start == this.end && this.full_reads < FULL_READS {
            this.buffer = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, ReadAhead) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, ReadAhead::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn bytes_come_in_order_whatever_is_asked_for() {
        let (mut near, mut far) = pair().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
        let (copy, mut got) = (sent.clone(), Vec::new());
        let sender = tokio::spawn(async move {
            near.write_all(&copy).await.unwrap();
            near
        });
        let mut was_ahead = false;
        for ask in [4096, 100, 16 << 10, 1].iter().cycle() {
            let mut piece = vec![0; *ask.min(&(sent.len() - got.len()))];
            far.read_exact(&mut piece).await.unwrap();
            got.extend(piece);
            was_ahead |= far.buffer.is_some();
            if got.len() == sent.len() {
                break;
            }
        }
        assert!(got == sent && was_ahead);
        // What comes after much is little, and then there is no buffer.
        let mut near = sender.await.unwrap();
        for _ in 0..2 {
            near.write_all(b"end").await.unwrap();
            let mut end = [0; 3];
            far.read_exact(&mut end).await.unwrap();
            assert_eq!(&end, b"end");
        }
        assert!(far.buffer.is_none());
        drop(near);
        assert_eq!(far.read(&mut [0; 9]).await.unwrap(), 0);
        assert_eq!(far.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_end_comes_after_what_was_read_ahead() {
        let (mut near, mut far) = pair().await;
        let sender = tokio::spawn(async move { near.write_all(&[7; 1_000_000]).await.unwrap() });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        sender.await.unwrap();
        assert!(got.len() == 1_000_000 && got.iter().all(|byte| *byte == 7));
    }
}
