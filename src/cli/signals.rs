//! Requests to end, from the terminal or from a batch system. Owns which signals count; what is done about
//! them is the commands' business.

use crate::base::error::{Error, Kind, Result};
use nix::sys::signal::{self as os, SaFlags, SigAction, SigHandler, SigSet};
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};
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

/// The signal by which this process was asked to end, for commands that look now and then; 0 for none.
static ASKED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: c_int) {
    ASKED.store(signal, Ordering::Relaxed);
}

/// From now on the first SIGINT, SIGTERM or SIGHUP is noted for [`go_on`]; the second one ends this process.
///
/// # Errors
/// `Internal` when the kernel refuses.
pub fn note_requests() -> Result<()> {
    // SA_RESETHAND brings the usual meaning back for the second one.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND, SigSet::empty());
    for signal in [os::Signal::SIGINT, os::Signal::SIGTERM, os::Signal::SIGHUP] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { os::sigaction(signal, &action) }.map_err(|e| Error::os("cannot listen for signals", e))?;
    }
    Ok(())
}

/// The name of the signal that has asked this process to end, if one has.
pub fn asked() -> Option<&'static str> {
    let signal = ASKED.load(Ordering::Relaxed);
    os::Signal::try_from(signal).ok().map(os::Signal::as_str)
}

/// Whether to go on.
///
/// # Errors
/// `Cancelled` when this process was asked to end.
pub fn go_on() -> Result<()> {
    match asked() {
        None => Ok(()),
        Some(signal) => Err(Error::new(Kind::Cancelled, format!("{signal}: given up"))),
    }
}
