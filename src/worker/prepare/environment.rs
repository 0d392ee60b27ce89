//! The variables that a task finds: the worker's own, those of its `[env.X]`, what hpcdag tells it, its own.
//! Owns sourcing an `[env.X]` once per worker; where files lie is `place`'s business.

use super::Assignment;
use super::place::Place;
use crate::base::error::Result;
use crate::graph::command::variables;
use crate::graph::spec::Setup;
use crate::graph::template::{Names, Template};
use crate::worker::executor::command::{Capture, CommandExecutor, CommandJob, StdinSource};
use crate::worker::executor::control::Control;
pub use crate::worker::executor::variables::Variables;
use crate::worker::executor::variables::{Env, Shared};
use crate::worker::executor::{Executor, Failure, FailureKind};
use rustc_hash::FxHashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

/// What tasks and their variables need to know of the worker.
#[derive(Clone, Debug)]
pub struct WorkerFacts {
    /// The worker's name.
    pub name: String,
    /// The scheduler file, for tasks that submit themselves.
    pub scheduler_file: Option<PathBuf>,
    /// Where the tasks' directories are made: fast, this worker's own.
    pub local_directory: PathBuf,
    /// What runs `shell` lines, e.g. `bash -eo pipefail -c`; the line becomes the last argument.
    pub shell: Vec<String>,
    /// The variables that every task starts with; see `task_environment`.
    pub env: Arc<Shared>,
    /// The worker's umask.
    pub umask: u32,
    /// This worker's host, by the batch system's name for it where there is one.
    pub host: String,
    /// The words of `{mpirun}`, as `worker.mpirun` has them; empty for what is usual here.
    pub launcher: Vec<String>,
    /// How many GPUs the worker offers, 1/10,000.
    pub gpus: u64,
}

impl WorkerFacts {
    /// Whether tasks are inside a Slurm job.
    pub fn is_in_slurm(&self) -> bool {
        self.env.vars().contains_key(OsStr::new("SLURM_JOB_ID"))
    }
}

/// Variables of a Slurm step and of process managers: they describe the *worker's* place in its step, and an
/// `srun` or an MPI program started by a task would take them for its own.
const STEP_VARIABLES: [&str; 18] = [
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    "SLURM_SRUN_COMM_HOST",
    "SLURM_SRUN_COMM_PORT",
    "SLURM_LAUNCH_NODE_IPADDR",
    "SLURM_DISTRIBUTION",
    "SLURM_UMASK",
    "SLURM_PRIO_PROCESS",
    "SLURM_EXPORT_ENV",
    "SLURM_TASK_EPILOG",
    "SLURM_TASK_PROLOG",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_KILL_BAD_EXIT",
    "SLURM_LABELIO",
    "SLURM_STDIO_MODE",
];

/// The same, by how they begin.
const STEP_PREFIXES: [&str; 6] =
    ["SLURM_STEP", "SLURM_CPU_BIND", "SLURM_MEM_BIND", "SLURM_GPU_BIND", "PMI_", "PMIX_"];

/// The variables that tasks start with, made of the worker's own: without those of its Slurm step, so that a
/// nested `srun` works, and with the permission to overlap the worker's step.
pub fn task_environment(own: impl IntoIterator<Item = (OsString, OsString)>) -> Variables {
    let is_step = |name: &OsStr| {
        let name = name.to_string_lossy();
        STEP_VARIABLES.contains(&&*name) || STEP_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut env: Variables = own.into_iter().filter(|(name, _)| !is_step(name)).collect();
    if env.contains_key(OsStr::new("SLURM_JOB_ID")) {
        env.insert("SLURM_OVERLAP".into(), "1".into());
    }
    env
}

/// The umask of this process. Reading it the classic way sets it for a moment, for all threads.
pub fn own_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// By which libraries learn how many threads they may use.
const THREAD_VARIABLES: [&str; 6] = [
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

/// What one task's variables are made of.
pub(super) struct Environment<'a> {
    pub facts: &'a WorkerFacts,
    pub setup: Option<&'a Arc<Shared>>,
    pub assignment: &'a Assignment,
    pub cwd: &'a Path,
    /// Which GPUs it has, as variables.
    pub devices: &'a [(&'static str, String)],
}

impl Environment<'_> {
    /// The whole environment. Later ones win: worker, `[env.X]`, hpcdag's, the task's `env`. A thread count
    /// that the `[env.X]` itself sets is kept.
    pub fn build(&self, names: &Names, own: &[(String, Template)], place: &Place<'_>) -> Result<Env> {
        let mut env = Env::on(self.setup.unwrap_or(&self.facts.env).clone());
        let mut set = |name: &str, value: &OsStr| env.insert(name.into(), value.into());
        let threads = self.assignment.family.spec().nthreads.max(1).to_string();
        for name in THREAD_VARIABLES {
            let before = self.facts.env.vars().get(OsStr::new(name));
            if self.setup.is_none_or(|setup| setup.vars().get(OsStr::new(name)) == before) {
                set(name, OsStr::new(&threads));
            }
        }
        for (name, value) in variables(names, place)? {
            set(&name, OsStr::new(&value));
        }
        set("HPCDAG_ATTEMPT", OsStr::new(&self.assignment.attempt.n.to_string()));
        set("HPCDAG_WORKER", OsStr::new(&self.facts.name));
        set("HPCDAG_TASK_DIR", place.dir().as_os_str());
        set("HPCDAG_ERROR_FILE", place.error_file().as_os_str());
        if let Some(path) = &self.facts.scheduler_file {
            set("HPCDAG_SCHEDULER_FILE", path.as_os_str());
        }
        set("PWD", self.cwd.as_os_str());
        for (name, value) in self.devices {
            set(name, OsStr::new(value));
        }
        if self.assignment.family.spec().nodes.is_some() {
            let ranks = place.ranks();
            let (hosts, list) = ranks.write_files(place.dir())?;
            set("HPCDAG_NODES", OsStr::new(&self.assignment.nodes.len().max(1).to_string()));
            set("HPCDAG_NODELIST", OsStr::new(&ranks.list()));
            set("HPCDAG_HOSTFILE", hosts.as_os_str());
            if self.facts.is_in_slurm() {
                for (name, value) in ranks.slurm_variables(&list) {
                    set(name, OsStr::new(&value));
                }
            }
        }
        for (name, value) in own {
            set(name, OsStr::new(&value.render(place)?));
        }
        Ok(env)
    }
}

/// How long sourcing an `[env.X]` may take: modules and conda on a busy file system are slow.
const SETUP_TIME: Duration = Duration::from_secs(600);

/// The environments that have been sourced on this worker.
#[derive(Default)]
pub(super) struct Setups {
    sourced: Mutex<FxHashMap<String, Slot>>,
}

/// One environment: locked while a thread sources it.
type Slot = Arc<Mutex<Option<Arc<Shared>>>>;

impl Setups {
    /// The variables after a setup. The first task that wants it sources it while others wait. A failure is
    /// not kept: the next task tries again, for what failed may have been a file system.
    pub fn find_or_source(
        &self,
        setup: &Setup,
        shell: &[String],
        base_dir: &Path,
        facts: &WorkerFacts,
        commands: &CommandExecutor,
        control: &Control,
    ) -> Result<Arc<Shared>, Failure> {
        let id = format!("{setup:?} {shell:?} {base_dir:?}");
        let slot = self.sourced.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone();
        loop {
            let mut sourced = match slot.try_lock() {
                Ok(sourced) => sourced,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    if control.sleep(Duration::from_millis(20)) {
                        let mut failure = Failure::new(FailureKind::Cancelled);
                        failure.reason = control.reason();
                        return Err(failure);
                    }
                    continue;
                }
            };
            if let Some(env) = &*sourced {
                return Ok(env.clone());
            }
            let env = Arc::new(Shared::of(source(setup, shell, base_dir, facts, commands, control)?));
            *sourced = Some(env.clone());
            return Ok(env);
        }
    }
}

/// Runs the lines of a setup and reads the variables that it leaves.
fn source(
    setup: &Setup,
    shell: &[String],
    base_dir: &Path,
    facts: &WorkerFacts,
    commands: &CommandExecutor,
    control: &Control,
) -> Result<Variables, Failure> {
    // What the lines print is no variable: it goes to stderr.
    let script = format!("exec 3>&1 1>&2\n{}\nexec 1>&3 3>&-\ncommand env -0\n", setup.lines.join("\n"));
    let mut env = Env::on(facts.env.clone());
    setup.vars.iter().for_each(|(name, value)| env.insert(name.into(), value.into()));
    let job = CommandJob {
        key: format!("env.{}", setup.name),
        argv: shell.iter().cloned().chain([script]).collect(),
        shown: setup.lines.join("; "),
        env,
        cwd: if base_dir.is_dir() { base_dir.into() } else { "/".into() },
        stdin: StdinSource::Inputs(Vec::new()),
        capture: Capture::Pipe,
        ok_exit: vec![0],
        max_output: Some(16 << 20),
        time_limit: Some(SETUP_TIME),
        umask: None,
        error_file: None,
        group: None,
    };
    let failed = |what: &str| Failure::new(FailureKind::Prepare(format!("[env.{}] {what}", setup.name)));
    let result = match commands.run(job, control).result {
        Ok(result) => result,
        Err(failure) if failure.kind == FailureKind::Cancelled => return Err(failure),
        Err(failure) => {
            let said = String::from_utf8_lossy(&failure.stderr_tail);
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            let last = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
            let new = failed(&format!("cannot be set up: {failure}{last}"));
            return Err(Failure { stderr_tail: failure.stderr_tail, ..new });
        }
    };
    let bytes = result.find_part("").map(|data| data.bytes()).transpose();
    let bytes = bytes.map_err(|e| failed(&format!("cannot be read: {e}")))?.unwrap_or_default();
    let pairs = bytes.split(|&b| b == 0).filter_map(|pair| {
        let equals = pair.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
        Some((OsString::from_vec(pair[..equals].to_vec()), OsStr::from_bytes(&pair[equals + 1..]).to_owned()))
    });
    let mut env: Variables = pairs.collect();
    // The shell's own.
    for name in ["_", "SHLVL", "PWD", "OLDPWD"] {
        env.remove(OsStr::new(name));
    }
    // Set besides: also if a line has changed them.
    env.extend(setup.vars.iter().map(|(name, value)| (name.into(), value.into())));
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_workers_step_is_left() {
        let own = [
            ("PATH", "/bin"),
            ("SLURM_JOB_ID", "7"),
            ("SLURM_STEP_ID", "1"),
            ("SLURM_STEPID", "1"),
            ("SLURM_PROCID", "3"),
            ("SLURM_CPU_BIND_LIST", "0x1"),
            ("PMI_RANK", "3"),
        ];
        let env = task_environment(own.map(|(name, value)| (name.into(), value.into())));
        let names: Vec<_> = env.keys().map(|n| n.to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["PATH", "SLURM_JOB_ID", "SLURM_OVERLAP"]);
        assert!(task_environment([("A".into(), "b".into())]).len() == 1);
    }

    #[test]
    fn the_umask_is_read_without_setting_it() {
        assert!(own_umask() <= 0o777);
    }
}
