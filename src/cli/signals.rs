//! Requests to end, from the terminal or from a batch system. Owns which signals count; what is done about
//! them is the commands' business.

use crate::base::error::{Error, Result};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// In a batch job, requests to end that come so soon after one another are one: batch systems signal every
/// process, and may do it twice.
pub const SAME_REQUEST: Duration = Duration::from_secs(2);

/// SIGINT, SIGTERM and SIGHUP, from now on no longer deadly.
pub struct Requests {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    count: u32,
}

impl Requests {
    /// Begins to listen.
    ///
    /// # Errors
    /// `Internal` when the kernel refuses.
    pub fn listen() -> Result<Requests> {
        let listen = |kind| signal(kind).map_err(|e| Error::os("cannot listen for signals", e));
        Ok(Requests {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            count: 0,
        })
    }

    /// The next request, by the signal's name. Cancelling it loses nothing.
    pub async fn next(&mut self) -> &'static str {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        };
        self.count = self.count.saturating_add(1);
        name
    }

    /// Whether there has been a request.
    pub fn were_any(&self) -> bool {
        self.count > 0
    }
}
