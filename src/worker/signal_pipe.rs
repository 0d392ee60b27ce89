//! Signals as something to wait for, in a process without a runtime. Owns the handler and its pipe, of which
//! there is one per process; the nanny decides what signals mean.

use crate::base::error::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The signals that a nanny acts on.
const SIGNALS: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
    Signal::SIGCHLD,
];

/// Where the handler writes. There is one pipe per process.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Signals as bytes in a pipe. Not a signalfd: that needs the signals blocked, and the worker would inherit
/// the mask.
pub(super) struct SignalPipe {
    reader: OwnedFd,
    /// Kept open for the handler.
    _writer: OwnedFd,
}

extern "C" fn on_any_signal(number: libc::c_int) {
    let errno = Errno::last_raw();
    let fd: RawFd = SIGNAL_PIPE.load(Ordering::Relaxed);
    let byte = number as u8;
    // SAFETY: write is async-signal-safe, the buffer is one byte of this frame, and a closed descriptor or a
    // full pipe gives an error that loses nothing: unread bytes already wake the reader.
    unsafe { libc::write(fd, std::ptr::from_ref(&byte).cast(), 1) };
    Errno::set_raw(errno);
}

impl SignalPipe {
    /// Handles the signals from now on. The process keeps the handlers for the rest of its life.
    pub(super) fn install() -> Result<SignalPipe> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|e| Error::os("cannot create a pipe for signals", e))?;
        SIGNAL_PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
        let action = SigAction::new(SigHandler::Handler(on_any_signal), SaFlags::SA_RESTART, SigSet::empty());
        for signal in SIGNALS {
            let what = format!("cannot handle {signal}");
            // SAFETY: the handler is async-signal-safe (see there).
            let before = unsafe { sigaction(signal, &action) }.map_err(|e| Error::os(&what, e))?;
            // Under nohup, and in the background of a script, these are ignored on purpose.
            let may_be_ignored = matches!(signal, Signal::SIGHUP | Signal::SIGINT);
            if may_be_ignored && matches!(before.handler(), SigHandler::SigIgn) {
                // SAFETY: gives back what was set before.
                unsafe { sigaction(signal, &before) }.map_err(|e| Error::os(&what, e))?;
            }
        }
        Ok(SignalPipe { reader, _writer: writer })
    }

    /// The signals that have come; waits for one. With a limit of time there may be none.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Result<Vec<Signal>> {
        let timeout = match limit {
            None => PollTimeout::NONE,
            // One millisecond more: rounded down, the caller's clock would not have arrived.
            Some(limit) if limit.is_zero() => PollTimeout::ZERO,
            Some(limit) => {
                PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut waiting = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::os("cannot wait for signals", e)),
        }
        let mut buffer = [0_u8; 64];
        match nix::unistd::read(&self.reader, &mut buffer) {
            Ok(n) => Ok(buffer[..n].iter().filter_map(|b| Signal::try_from(i32::from(*b)).ok()).collect()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
            Err(e) => Err(Error::os("cannot read from the signal pipe", e)),
        }
    }

    /// One that no signal reaches, for tests in a process that others need.
    #[cfg(test)]
    pub(super) fn idle() -> SignalPipe {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        SignalPipe { reader, _writer: writer }
    }
}
