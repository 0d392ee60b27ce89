//! A viewer's connection: HTTP over plain TCP or TLS, cut when the other side does not take what it is sent.
//! Owns these limits; what is answered is the router's.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

/// Within which a handshake must be over.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Within which a request must be there, from its first byte or from the end of the one before.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing of an answer may be taken.
const TAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// No request is longer, in bytes, and no more of an answer is copied ahead.
const BUFFER_MAX: usize = 64 << 10;

/// Serves a viewer until it goes or has to.
pub async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    // Without it, answers are only later.
    let _ = tcp.set_nodelay(true);
    match tls {
        None => speak(tcp, router).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp)).await {
                speak(stream, router).await;
            }
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let stream = Patient { stream, limit: TAKE_TIMEOUT, waiting: None };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(e) = served {
        // Not what was asked: that may hold the token.
        tracing::debug!("a viewer's connection ended: {e}");
    }
}

/// A stream whose other side has to take something now and then.
struct Patient<S> {
    stream: S,
    limit: Duration,
    /// When it must have taken something, while it does not.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Ends what has been waiting for too long.
    fn limit<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_takes_nothing_is_cut_off_and_who_is_slow_is_not() {
        let patient = |stream| Patient { stream, limit: Duration::from_millis(300), waiting: None };
        let (ours, _theirs) = tokio::io::duplex(100);
        let error = patient(ours).write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let (ours, mut theirs) = tokio::io::duplex(100);
        let reader = tokio::spawn(async move {
            let mut taken = [0; 100];
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
        });
        // In all it takes twice as long as is waited at most.
        patient(ours).write_all(&[0; 1000]).await.unwrap();
        reader.await.unwrap();
    }
}
