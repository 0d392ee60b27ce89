//! `workers adapt` beyond a login session: an order in the cluster's directory, which the scheduler's process
//! follows by running `workers adapt` beside itself as long as the order is there; and notes of what each
//! `workers adapt` did last. Owns these files. The cluster's directory is for its owner alone.

use super::pool::is_held;
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::SchedulerOptions;
use crate::cli::context::{Context, absolute, run_short};
use crate::cli::detach::last_lines;
use crate::cli::output::{Out, open_log};
use crate::client::Client;
use crate::net::{discovery, private_file};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// The order's name in the directory of jobs.
const ORDER: &str = "adapt.order.json";
/// How the names of notes end.
const NOTES: &str = "adapt.json";
/// What the scheduler's `workers adapt` says.
const LOG: &str = "adapt.log";
/// How often the scheduler's process looks for an order.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take until an order is followed; attributes of files are kept for a while on NFS.
const PATIENCE: Duration = Duration::from_secs(60);
/// Variables that are handed on: where the batch system and hpcdag find their settings.
const HANDED_ON: &[&str] =
    &["HPCDAG_", "XDG_", "SBATCH_", "SGE_", "PBS_CONF", "PBS_DEFAULT", "PBS_SERVER", "PBS_STAND_IN"];
const HANDED_ON_NAMES: &[&str] = &["PATH", "SLURM_CONF", "HOME"];

/// What the scheduler's process is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    /// Tells it from others.
    token: String,
    args: Vec<String>,
    directory: PathBuf,
    variables: BTreeMap<String, String>,
}

impl Order {
    fn read(directory: &Path) -> Option<Order> {
        serde_json::from_slice(&private_file::read(&directory.join(ORDER)).ok()?).ok()
    }
}

/// The cluster that is meant: its scheduler file, and the directory of its jobs.
fn find(context: &Context, options: &SchedulerOptions) -> Result<(PathBuf, PathBuf)> {
    let wish = context.wish(options)?;
    run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let directory = super::directory(&path, client.scheduler())?;
        client.close().await;
        Ok((path, directory))
    })
}

/// `workers adapt --in-scheduler`
pub(super) fn order(context: &Context, options: &SchedulerOptions) -> Result<u8> {
    let (path, directory) = find(context, options)?;
    if Order::read(&directory).is_some() {
        return Err(Error::new(Kind::Usage, "the scheduler's process adapts this cluster already")
            .hint("`hpcdag workers adapt --stop` ends that"));
    }
    let is_handed_on =
        |name: &str| HANDED_ON_NAMES.contains(&name) || HANDED_ON.iter().any(|start| name.starts_with(start));
    let mut variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_handed_on(name))
        .collect();
    variables.insert("HPCDAG_SCHEDULER_FILE".into(), path.to_string_lossy().into_owned());
    let token = format!("{:08x}", fastrand::u32(..));
    let mut args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let Some(at) = args.iter().position(|arg| arg == "--in-scheduler") else {
        return Err(Error::new(Kind::Usage, "--in-scheduler is to be written out"));
    };
    args.splice(at..=at, ["--by-scheduler".to_owned(), token.clone()]);
    let directory_now = std::env::current_dir().map_err(|e| Error::os("cannot find this directory", e))?;
    let order = Order { token: token.clone(), args, directory: directory_now, variables };
    let text = serde_json::to_vec_pretty(&order).map_err(|e| Error::os("cannot write an order", e))?;
    private_file::make_directory(&directory)?;
    private_file::write(&directory.join(ORDER), &text)?;
    let begin = Instant::now();
    loop {
        let ours = notes(&directory).into_iter().find(|note| note["order"] == token.as_str());
        match ours.as_ref().map(|note| note["ended"].as_str()) {
            Some(Some(why)) => {
                return Err(Error::new(
                    Kind::Launch,
                    format!("the scheduler's process did not adapt: {why}"),
                )
                .hint("without --in-scheduler it runs here, as long as this session lasts"));
            }
            Some(None) => break,
            None if begin.elapsed() > PATIENCE => {
                // Nobody follows it.
                let _ = std::fs::remove_file(directory.join(ORDER));
                return Err(Error::new(Kind::Timeout, "the scheduler's process does not follow the order")
                    .hint(
                        "it must see this directory, and be a process of its own (`hpcdag scheduler`, `up`)",
                    ));
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    let log = directory.join(LOG);
    Out::stdout().line(format!("the scheduler's process adapts the cluster, log {}", log.display()))?;
    Ok(0)
}

/// `workers adapt --stop`
pub(super) fn stop(context: &Context, options: &SchedulerOptions) -> Result<u8> {
    let (_, directory) = find(context, options)?;
    if !withdraw(&directory)? {
        let here: Vec<Value> = notes(&directory).into_iter().filter(|note| note["running"] == true).collect();
        let error = Error::new(Kind::NotFound, "the scheduler's process does not adapt this cluster");
        return Err(match here.first() {
            None => error,
            Some(note) => {
                error.hint(format!("process {} on {} does; end it there", note["pid"], note["host"]))
            }
        });
    }
    Out::stdout().line("the cluster is not adapted any more; jobs and workers stay as they are")?;
    Ok(0)
}

/// Takes an order back, and waits until it is not followed any more; false if there was none.
///
/// # Errors
/// `Timeout` when that takes too long; `File` when the order cannot be removed.
pub(super) fn withdraw(directory: &Path) -> Result<bool> {
    let Some(order) = Order::read(directory) else { return Ok(false) };
    let path = directory.join(ORDER);
    std::fs::remove_file(&path).map_err(|e| Error::file("cannot remove", &path, &e))?;
    let begin = Instant::now();
    let is_followed = || {
        notes(directory).iter().any(|note| note["order"] == order.token.as_str() && note["running"] == true)
    };
    while is_followed() {
        if begin.elapsed() > PATIENCE {
            return Err(Error::new(Kind::Timeout, "the scheduler's process goes on adapting the cluster"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(true)
}

/// What is noted of each `workers adapt` of a cluster: `running`, or `ended` and why.
pub(super) fn notes(directory: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(NOTES));
    let read = |path: PathBuf| {
        let mut note: Value = serde_json::from_slice(&private_file::read(&path).ok()?).ok()?;
        // Its own lock tells best whether it is still there.
        let lock = path.to_string_lossy().strip_suffix(NOTES).map(|start| format!("{start}scale.lock"))?;
        note["running"] = json!(note["ended"].is_null() && is_held(Path::new(&lock)));
        Some(note)
    };
    paths.filter_map(read).collect()
}

/// A line about each, for people.
pub(in crate::cli) fn lines(path: &Path, cluster: &str) -> Vec<String> {
    let Ok(directory) = super::directory_of(path, cluster) else { return Vec::new() };
    let line = |note: Value| {
        let text = |key: &str| note[key].as_str().unwrap_or("-").to_owned();
        let pools = note["pools"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let pools: Vec<&str> = pools.collect();
        let of = if pools.is_empty() { String::new() } else { format!(" of {}", pools.join(", ")) };
        let place = match note["order"].is_null() {
            true => format!("by process {} on {}", note["pid"], text("host")),
            false => "by the scheduler's process".into(),
        };
        let last = format!("{} {}", text("at"), text("last"));
        match (note["running"] == true, note["ended"].as_str()) {
            (true, _) => format!("adapted{of} {place}; last: {last}"),
            (false, Some(why)) => format!("no longer adapted{of}: {why}"),
            (false, None) => format!("no longer adapted{of}, which ended without a word; last: {last}"),
        }
    };
    notes(&directory).into_iter().map(line).collect()
}

/// What this `workers adapt` leaves for others to read.
pub(super) struct Notes {
    path: PathBuf,
    order: Option<String>,
    parent: u32,
    note: RefCell<Value>,
}

impl Notes {
    /// Begins them.
    ///
    /// # Errors
    /// `File` when they cannot be written.
    pub(super) fn begin(directory: &Path, pools: &[String], order: Option<&str>) -> Result<Notes> {
        let name = pools.first().map_or_else(|| NOTES.to_owned(), |pool| format!("{pool}.{NOTES}"));
        let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
        let pid = std::process::id();
        let note = json!({ "pid": pid, "host": host, "order": order, "pools": pools, "since": now() });
        let parent = std::os::unix::process::parent_id();
        let notes = Notes {
            path: directory.join(name),
            order: order.map(str::to_owned),
            parent,
            note: RefCell::new(note),
        };
        notes.write()?;
        Ok(notes)
    }

    fn write(&self) -> Result<()> {
        private_file::write(&self.path, self.note.borrow().to_string().as_bytes())
    }

    /// What was decided last.
    pub(super) fn last(&self, text: &str) {
        self.set(&[("last", text), ("at", &now())]);
    }

    /// It has ended by itself, and why.
    pub(super) fn ended(&self, why: &str) {
        self.set(&[("ended", why)]);
    }

    /// It has ended as it was asked to.
    pub(super) fn over(&self) {
        // If it cannot be removed it says that it does not run.
        let _ = std::fs::remove_file(&self.path);
    }

    fn set(&self, values: &[(&str, &str)]) {
        for (key, value) in values {
            self.note.borrow_mut()[*key] = json!(value);
        }
        if let Err(e) = self.write() {
            tracing::debug!("{}", e.message);
        }
    }

    /// Whether the scheduler's process that has started this one is gone.
    pub(super) fn is_orphan(&self) -> bool {
        self.order.is_some() && std::os::unix::process::parent_id() != self.parent
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A `workers adapt` that was started for an order. It is asked to end when this is dropped.
struct Followed {
    order: Order,
    child: Child,
}

impl Followed {
    fn ask_to_end(&mut self) {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        if matches!(self.child.try_wait(), Ok(None)) {
            // It was not reaped yet, so the number is its own.
            let _ = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.ask_to_end();
    }
}

/// Follows orders for a cluster, beside its scheduler, for as long as this future is polled.
pub(in crate::cli) async fn follow(path: &Path, cluster: &str) -> Infallible {
    let Ok(directory) = super::directory_of(path, cluster) else { return std::future::pending().await };
    let mut followed: Option<Followed> = None;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let order = if directory.join(ORDER).exists() { Order::read(&directory) } else { None };
        if let Some(now) = &mut followed {
            match now.child.try_wait() {
                Ok(Some(status)) => {
                    if !status.success() && order.as_ref() == Some(&now.order) {
                        fail(
                            &directory,
                            &now.order,
                            &last_lines(&directory.join(LOG), 0).unwrap_or_default(),
                        );
                    }
                    followed = None;
                }
                _ if order.as_ref() != Some(&now.order) => now.ask_to_end(),
                _ => {}
            }
            continue;
        }
        if let Some(order) = order {
            match start(&directory, &order) {
                Ok(child) => followed = Some(Followed { order, child }),
                Err(e) => fail(&directory, &order, &e.message),
            }
        }
    }
}

fn start(directory: &Path, order: &Order) -> Result<Child> {
    let path = directory.join(LOG);
    let log = open_log(&path)?;
    let errors = log.try_clone().map_err(|e| Error::file("cannot use the log", &path, &e))?;
    let mut command = Command::new("/proc/self/exe");
    // A scheduler in a job has that job's variables, which would change what is submitted.
    for (name, _) in std::env::vars_os() {
        let of_job = ["SLURM_", "PBS_", "SGE_", "JOB_ID"];
        if of_job.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command.args(&order.args).envs(&order.variables).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.current_dir(if order.directory.is_dir() { &order.directory } else { Path::new("/") });
    command.spawn().map_err(|e| Error::os("cannot start `workers adapt`", e))
}

/// The order is not followed any more, and why; it stays withdrawn.
fn fail(directory: &Path, order: &Order, said: &str) {
    let of_ours = notes(directory).into_iter().find(|note| note["order"] == order.token.as_str());
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    tracing::warn!("`workers adapt` has ended: {said}");
    if of_ours.as_ref().is_none_or(|note| note["ended"].is_null()) {
        let note = json!({ "order": order.token, "ended": said, "pools": [], "since": now() });
        if let Err(e) = private_file::write(&directory.join(NOTES), note.to_string().as_bytes()) {
            tracing::warn!("{}", e.message);
        }
    }
    let _ = std::fs::remove_file(directory.join(ORDER));
}
