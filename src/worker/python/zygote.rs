//! A process that has imported what calls need and forks executors. Owns the process, what was asked of it,
//! and how its children ended; what they are used for is the pool's.

use super::environment::Environment;
use super::messages::{Exited, Fork, Forked, Load, tag};
use crate::worker::executor::processes::channel::{Channel, Frame};
use crate::worker::executor::processes::warm::{Ends, Warm};
use crate::worker::executor::processes::{Parent, Program};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What its kind begins with, before the version.
const KIND: &str = "python-zygote ";

/// From this version on it forks processes of several threads.
const THREADS_VERSION: u16 = 2;

/// From this version on it takes modules to import, and forks at once what need not have them.
const MODULES_VERSION: u16 = 3;

/// Threads of an executor process at most: their descriptors go into one frame.
pub(super) const THREADS_MAX: u32 = 60;

/// How long its thread waits at a time; it wakes by itself.
const LISTEN_TIME: Duration = Duration::from_secs(3600);

/// How long it may take to fork: before the first time, it imports what will be needed.
const FORK_TIME: Duration = Duration::from_secs(180);

/// What is known of its children.
#[derive(Debug, Default)]
struct Children {
    asked: u64,
    /// Process ids, and whether something was lacking, by the number of the question.
    forked: FxHashMap<u64, (i32, bool)>,
    /// How they ended, by process id, until somebody wants to know.
    ended: FxHashMap<i32, Result<i32, i32>>,
    /// Why there is no zygote any more.
    gone: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    children: Mutex<Children>,
    changed: Condvar,
}

impl Shared {
    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parent for Shared {
    fn end_of(&self, pid: i32) -> io::Result<Option<Result<i32, i32>>> {
        let mut children = self.children();
        match children.ended.remove(&pid) {
            Some(end) => Ok(Some(end)),
            None if children.gone.is_some() => Err(io::ErrorKind::NotConnected.into()),
            None => Ok(None),
        }
    }
}

/// A zygote. Ends when it is dropped, with all its executors.
#[derive(Debug)]
pub(super) struct Zygote {
    channel: Arc<Channel>,
    /// Held while something is sent.
    sending: Mutex<()>,
    shared: Arc<Shared>,
    version: u16,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Its thread sees that, and waits for its end.
        self.channel.close();
    }
}

impl Zygote {
    /// Starts one for an environment in which `python` is the interpreter.
    ///
    /// # Errors
    /// What the user should know: it does not start, or is of another version.
    pub fn start(
        (bytes, environment): (&Bytes, &Environment),
        python: &Path,
        env: &BTreeMap<OsString, OsString>,
        dir: &Path,
    ) -> Result<Zygote, String> {
        let mut env = env.clone();
        if let Some(package) = environment.package() {
            let old = env.get(std::ffi::OsStr::new("PYTHONPATH")).cloned().unwrap_or_default();
            let old = std::env::split_paths(&old).filter(|p| !p.as_os_str().is_empty()).collect::<Vec<_>>();
            let all = std::iter::once(package.into()).chain(old);
            env.insert("PYTHONPATH".into(), std::env::join_paths(all).unwrap_or_else(|_| package.into()));
        }
        let args = ["-m", "hpcdag._zygote"].map(OsString::from).to_vec();
        let program = Program { path: python.into(), args };
        let warm = Warm::start(&program, &env, Some(dir)).map_err(|why| {
            // One that is too old may not even understand the package.
            let mismatch = version(python, &env).and_then(|version| environment.mismatch(python, &version));
            mismatch.unwrap_or(why)
        })?;
        let kind = warm.kind().to_owned();
        if let Some(mismatch) = environment.mismatch(python, kind.strip_prefix(KIND).unwrap_or_default()) {
            warm.bury();
            return Err(mismatch);
        }
        let (channel, version) = (warm.channel().clone(), warm.version());
        let load = Load { kind: "environment", id: ByteBuf::new() };
        if let Err(error) = channel.send(tag::LOAD, &load, std::slice::from_ref(bytes), &[]) {
            let (_, said) = warm.bury();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(format!("{} does not take the environment: {error}: {said}", python.display()));
        }
        let shared = Arc::new(Shared::default());
        let listening = shared.clone();
        let thread = std::thread::Builder::new().name("zygote".into());
        thread.spawn(move || listen(warm, &listening)).map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Zygote { channel, sending: Mutex::new(()), shared, version })
    }

    /// Whether it cannot be used any more.
    pub fn is_gone(&self) -> bool {
        self.shared.children().gone.is_some()
    }

    /// Has it import modules, as soon as it has nothing else to do or somebody needs them.
    pub fn load_modules(&self, modules: &[String]) {
        if self.version < MODULES_VERSION {
            return;
        }
        let Ok(body) = rmp_serde::to_vec(modules) else { return };
        let load = Load { kind: "modules", id: ByteBuf::new() };
        let _one = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        // If it has gone, whoever wants an executor finds out.
        let _ = self.channel.send(tag::LOAD, &load, &[Bytes::from(body)], &[]);
    }

    /// One more process, with so many threads: an executor each. `at_once`: they need not have the modules
    /// that are still to be imported; whether some were lacking.
    pub fn fork(&self, threads: u32, at_once: bool) -> Result<(Vec<Warm>, bool), String> {
        let say = |e: io::Error| format!("cannot start an executor: {e}");
        let threads = if self.version < THREADS_VERSION { 1 } else { threads };
        let (ends, theirs) = Ends::make(threads).map_err(say)?;
        let number = {
            let mut children = self.shared.children();
            children.asked += 1;
            children.asked
        };
        let sent = {
            let _one = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
            self.channel.send(tag::FORK, &Fork { number, at_once }, &[], &descriptors)
        };
        drop(theirs);
        let child = self.await_child(number);
        // Why it has gone says more than that nothing could be sent.
        let child = child.map_err(|why| why.or_else(|| Some(say(sent.err()?))));
        let (pid, cold) = child.map_err(|why| why.unwrap_or_else(|| "the zygote does not fork".into()))?;
        Ok((Warm::adopt(ends, pid, self.shared.clone())?, cold))
    }

    /// The process id of what was asked for, and whether it lacks something; else why the zygote has gone, if
    /// it has.
    fn await_child(&self, number: u64) -> Result<(i32, bool), Option<String>> {
        let until = Instant::now() + FORK_TIME;
        let mut children = self.shared.children();
        loop {
            if let Some(child) = children.forked.remove(&number) {
                // Its stderr says more.
                let forked = Some(child).filter(|(pid, _)| *pid > 0);
                return forked.ok_or_else(|| Some("an executor could not be forked".into()));
            }
            if let Some(why) = &children.gone {
                return Err(Some(why.clone()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(None);
            }
            let waited = self.shared.changed.wait_timeout(children, left);
            children = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Notes what a zygote says, until its end.
fn listen(mut warm: Warm, shared: &Shared) {
    let why = loop {
        match warm.next(Instant::now() + LISTEN_TIME) {
            Ok(Some(frame)) => {
                if let Err(error) = note(&frame, shared) {
                    break Some(format!("it broke the protocol: {error}"));
                }
            }
            Ok(None) => break None,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => break Some(error.to_string()),
        }
    };
    let (exit, said) = warm.bury();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let end = exit.map_or_else(|| "it is stuck".into(), |exit| exit.to_string());
    let why = format!("the Python process that starts executors has ended: {}", why.unwrap_or(end));
    let why = if said.is_empty() { why } else { format!("{why}: {said}") };
    shared.children().gone = Some(why);
    shared.changed.notify_all();
}

fn note(frame: &Frame, shared: &Shared) -> io::Result<()> {
    let mut children = shared.children();
    match frame.tag {
        tag::FORKED => {
            let Forked { number, pid, cold } = frame.control()?;
            // What was left of an earlier process of this number is nobody's concern.
            children.ended.remove(&pid);
            children.forked.insert(number, (pid, cold));
        }
        tag::EXITED => {
            let Exited { pid, status } = frame.control()?;
            let signalled = libc::WIFSIGNALED(status);
            let end = if signalled { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) };
            children.ended.insert(pid, end);
        }
        other => return Err(io::Error::other(format!("it said {other}"))),
    }
    drop(children);
    shared.changed.notify_all();
    Ok(())
}

/// The version of an interpreter, by its own account.
fn version(python: &Path, env: &BTreeMap<OsString, OsString>) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
    command.env_clear().envs(env).stdin(Stdio::null());
    let output = command.output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
