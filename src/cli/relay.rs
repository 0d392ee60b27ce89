//! Bytes between a login node and a scheduler that only nodes of its job can reach. Owns both ends: `hpcdag
//! relay`, which pumps between its stdin and stdout and the scheduler's socket, and the local port whose one
//! connection goes through it. TLS is between whoever connects and the scheduler: neither end can read it.

use super::args::RelayArgs;
use crate::base::error::{Error, Kind, Result};
use crate::launch::dialect::CommandLine;
use crate::launch::relay::GREETING;
use crate::net::address::Address;
use crate::net::scheduler_file;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a relay may take to start: steps wait for the batch system.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Before the greeting so many bytes may come that are none of it.
const NOISE_MAX: usize = 64 << 10;

/// Bytes at a time.
const PIECE: usize = 64 << 10;

/// `relay`: on a node that reaches the scheduler.
///
/// # Errors
/// `NoScheduler` when nobody answers there; what reading the scheduler file gives.
pub fn relay(args: &RelayArgs) -> Result<u8> {
    let Address { host, port } = scheduler_file::read(&args.scheduler_file)?.address;
    let fault = |e: io::Error| Error::new(Kind::NoScheduler, format!("cannot reach {host}:{port}: {e}"));
    let stream = TcpStream::connect((host.as_str(), port)).map_err(fault)?;
    stream.set_nodelay(true).map_err(fault)?;
    let to_scheduler = stream.try_clone().map_err(fault)?;
    let mut stdout = io::stdout().lock();
    let greeted = stdout.write_all(GREETING).and_then(|()| stdout.flush());
    greeted.map_err(|e| Error::os("nobody listens to this relay", e))?;
    std::thread::spawn(move || {
        pump(io::stdin().lock(), &to_scheduler);
        // Whoever speaks through this relay has ended; the scheduler's last words still go back.
        let _ = to_scheduler.shutdown(Shutdown::Write);
    });
    pump(&stream, stdout);
    Ok(0)
}

/// Copies until one side ends; each piece goes on at once. How it ended does not matter: both sides see it.
fn pump(mut from: impl Read, mut to: impl Write) {
    let mut piece = vec![0; PIECE];
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => return,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if to.write_all(&piece[..n]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// A relay that was started from here. It ends with this.
pub(super) struct Relay {
    child: Option<Child>,
    /// Where the scheduler can be reached through it, once.
    pub(super) address: Address,
}

impl Relay {
    /// Runs the command that starts a relay on another node, and waits until it has reached the scheduler.
    /// Blocks.
    ///
    /// # Errors
    /// `Launch` when it does not get there, with what the command said.
    pub(super) fn open(line: &CommandLine) -> Result<Relay> {
        let fault = |what: String| Error::new(Kind::Launch, format!("{}: {what}", line.program));
        let mut command = Command::new(&line.program);
        command.args(&line.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for whoever follows the run.
        command.process_group(0);
        let mut child = command.spawn().map_err(|e| fault(format!("cannot be run: {e}")))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let complaint = child.stderr.take().map(complaints);
        let mut relay =
            Relay { child: Some(child), address: Address { host: Ipv4Addr::LOCALHOST.to_string(), port: 0 } };
        let (Some(stdin), Some(mut stdout)) = (stdin, stdout) else { return Err(fault("no pipes".into())) };
        let (greeted, greeting) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            // Nobody waits any more when it took too long.
            let _ = greeted.send(wait_for_greeting(&mut stdout));
            stdout
        });
        match greeting.recv_timeout(START_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => {
                // It may still be about to say why.
                let said = complaint.and_then(|c| c.recv_timeout(Duration::from_secs(1)).ok());
                let said = said.filter(|text| !text.is_empty()).unwrap_or_else(|| "it ended at once".into());
                return Err(fault(said));
            }
            Err(_) => return Err(fault(format!("no answer within {} s", START_TIMEOUT.as_secs()))),
        }
        let stdout = waiting.join().map_err(|_| fault("its output cannot be read".into()))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| fault(e.to_string()))?;
        relay.address.port = listener.local_addr().map_err(|e| fault(e.to_string()))?.port();
        std::thread::spawn(move || join(&listener, stdin, stdout));
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = id {
            // It may have ended by itself.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        if let Some(mut child) = self.child.take() {
            // srun and ssh take a moment to end what they have started.
            std::thread::spawn(move || _ = child.wait());
        }
    }
}

/// The last line of what a command complains of, when it has ended.
fn complaints(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before a fault is still worth showing.
        let _ = Read::by_ref(&mut from).take(NOISE_MAX as u64).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let _ = tell.send(last.trim().to_owned());
        let _ = io::copy(&mut from, &mut io::sink());
    });
    told
}

/// Reads until the greeting has come; false if it does not.
fn wait_for_greeting(from: &mut impl Read) -> bool {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while seen.len() < NOISE_MAX && from.read_exact(&mut byte).is_ok() {
        seen.push(byte[0]);
        if seen.ends_with(GREETING) {
            return true;
        }
    }
    false
}

/// Joins the first connection to a port with a relay's pipes.
fn join(listener: &TcpListener, stdin: impl Write + Send + 'static, stdout: impl Read) {
    let Ok((stream, _)) = listener.accept() else { return };
    // Without it, it is only slower.
    let _ = stream.set_nodelay(true);
    let Ok(outward) = stream.try_clone() else { return };
    std::thread::spawn(move || pump(&outward, stdin));
    pump(stdout, &stream);
    // The relay is gone.
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(script: &str) -> Result<Relay> {
        Relay::open(&CommandLine::new("sh", &["-c", script]))
    }

    #[test]
    fn bytes_go_through_both_ways() {
        let relay = open("echo 'welcome to this host'; echo hpcdag relay 1; exec cat").unwrap();
        let mut stream = TcpStream::connect((relay.address.host.as_str(), relay.address.port)).unwrap();
        let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let sent = all.clone();
        let mut out = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            out.write_all(&sent).unwrap();
            out.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        sending.join().unwrap();
        assert!(back == all, "{} bytes came back", back.len());
    }

    #[test]
    fn what_does_not_get_there_says_why() {
        let error = open("echo some noise; echo 'srun: error: no such job' >&2; exit 1").err().unwrap();
        assert_eq!(error.message, "sh: srun: error: no such job");
        let error = Relay::open(&CommandLine::new("hpcdag-no-such-program", &[])).err().unwrap();
        assert!(error.message.contains("cannot be run"), "{error}");
    }

    #[test]
    fn the_end_of_a_relay_is_the_end_of_its_connection() {
        let relay = open("echo hpcdag relay 1; exec sleep 60").unwrap();
        let mut stream = TcpStream::connect((relay.address.host.as_str(), relay.address.port)).unwrap();
        drop(relay);
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
}
