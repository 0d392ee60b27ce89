//! Workers, and where needed the scheduler, on the nodes of the Slurm allocation that this command runs in.
//! Owns the decision whether it does, and the processes of `srun`; the command lines are `launch::slurm`'s.

use super::args::{LauncherName, Per, PlacementOptions};
use super::background::{self, SchedulerOrder, StartedScheduler, anchored_variables};
use super::detach::Background;
use super::gather::{Source, task_logs};
use super::processes::{self, Record, StepRecord};
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::launch::own_job;
use crate::launch::slurm::environment::{self, Allocation, Node};
use crate::launch::slurm::hostlist;
use crate::launch::slurm::srun::{self, Spread, Step};
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::net::state_dir::{ClusterDir, StateDir};
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// What workers leave to a scheduler on their node, and to the batch system's daemon.
const SCHEDULER_MEMORY: &str = "1GiB";

/// How a worker is told when its job ends, so that not every one of them asks: `JOB:SECONDS`, or `JOB:` for
/// one without an end.
pub const END_VARIABLE: &str = "HPCDAG_INTERNAL_JOB_END";

/// The allocation to start in; `None` for this machine.
///
/// # Errors
/// `Usage` when one is asked for where there is none; `Launch` when the environment makes no sense.
pub fn detect(placement: &PlacementOptions) -> Result<Option<Allocation>> {
    if let Some(LauncherName::Sbatch | LauncherName::Qsub | LauncherName::Pbs | LauncherName::Sge) =
        placement.launcher
    {
        return Err(Error::new(Kind::Usage, "a cluster's scheduler is not started by a job of its workers")
            .hint("first `hpcdag scheduler --detach`, then `hpcdag workers start` with this launcher"));
    }
    if placement.launcher == Some(LauncherName::Local) {
        if placement.per == Some(Per::Numa) {
            let what = "--per numa is for workers on the nodes of an allocation";
            return Err(Error::new(Kind::Usage, what).hint("use -n and --nthreads with --launcher local"));
        }
        return Ok(None);
    }
    if placement.launcher == Some(LauncherName::Ssh) {
        return Ok(None);
    }
    let found = Allocation::of_process();
    if placement.launcher == Some(LauncherName::Srun) && matches!(found, Ok(None)) {
        return Err(Error::new(
            Kind::Usage,
            "this is not inside a Slurm job, so srun has no nodes for workers",
        )
        .hint("get some with salloc -N 4, or start workers here with --launcher local"));
    }
    found.map_err(|e| {
        let hint = e.hint.clone().unwrap_or_else(|| "--launcher local starts workers on this machine".into());
        e.hint(hint)
    })
}

/// A process that runs `srun`.
fn srun_process(
    what: &str,
    step: &Step,
    args: Vec<OsString>,
    log: impl Into<std::path::PathBuf>,
) -> Background {
    let mut background =
        Background::of(format!("srun for {what} on {}", hostlist::format(&step.nodes)), "srun", args, log);
    background.env_remove = srun::NOT_INHERITED.to_vec();
    background
}

/// The path of this program, as other nodes know it.
fn this_program() -> Result<OsString> {
    let path = std::env::current_exe().map_err(|e| Error::os("cannot find this program's file", e))?;
    Ok(path.into())
}

fn step_name() -> String {
    format!("hpcdag-{:08x}", fastrand::u32(..))
}

/// What workers of this job are told about its end. One question for all of them.
fn end_of_job(allocation: &Allocation) -> (OsString, OsString) {
    let end = environment::end_of_job(&environment::of_process).unwrap_or_else(|error| {
        tracing::warn!("workers will not know when their job ends: {}", error.message);
        None
    });
    (END_VARIABLE.into(), end_text(&allocation.job_id, end).into())
}

fn end_text(job_id: &str, end: Option<SystemTime>) -> String {
    let seconds = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|d| d.as_secs());
    format!("{job_id}:{}", seconds.map(|s| s.to_string()).unwrap_or_default())
}

/// The variable for workers of a job of which it is known how long it may still run.
pub fn end_in(job_id: &str, left: Option<Duration>) -> (OsString, OsString) {
    let end = left.and_then(|left| SystemTime::now().checked_add(left));
    (END_VARIABLE.into(), end_text(job_id, end).into())
}

/// When the job of this worker ends: as it was told, else as the batch system says. `None` if it does not.
pub fn end_for_worker() -> Option<SystemTime> {
    let job = job_of_process()?;
    let told = environment::of_process(END_VARIABLE);
    if let Some((_, end)) = told.as_deref().and_then(|t| t.split_once(':')).filter(|(of, _)| *of == job) {
        let seconds = end.parse().ok()?;
        return SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    }
    let asked = match own_job::id(&environment::of_process) {
        Some((system, id)) => own_job::ask(system, &id, &environment::of_process)
            .map(|job| job.left.and_then(|left| SystemTime::now().checked_add(left))),
        None => environment::end_of_job(&environment::of_process),
    };
    asked.unwrap_or_else(|error| {
        tracing::warn!("it is not known when this job ends: {}", error.message);
        None
    })
}

/// The job that this process is in.
fn job_of_process() -> Option<String> {
    let of_others = || own_job::id(&environment::of_process).map(|(_, id)| id);
    environment::of_process("SLURM_JOB_ID").or_else(of_others)
}

/// The variable that tells a nanny or a worker what [`end_for_worker`] has found out.
pub fn end_variable(end: Option<SystemTime>) -> Option<(OsString, OsString)> {
    let job = job_of_process()?;
    Some((END_VARIABLE.into(), end_text(&job, end).into()))
}

/// How workers are spread over an allocation.
///
/// # Errors
/// `Launch` when a node does not say how many NUMA domains it has.
pub fn spread(placement: &PlacementOptions, allocation: &Allocation) -> Result<Spread> {
    match (placement.per, placement.nworkers) {
        (Some(Per::Numa), _) => domains(allocation).map(Spread::Domains),
        (_, Some(n)) => Ok(Spread::Total(n)),
        (_, None) => Ok(Spread::OnePerNode),
    }
}

/// The NUMA domains with processors of the job's first node; the others are taken to be like it.
fn domains(allocation: &Allocation) -> Result<u32> {
    let this = allocation.nodes.iter().find(|n| Some(&n.name) == allocation.node.as_ref());
    let Some(node) = this.or(allocation.nodes.first()) else { return Ok(1) };
    let list = "cat /sys/devices/system/node/has_cpu 2>/dev/null || echo 0";
    let program = ["/bin/sh", "-c", list].map(OsString::from);
    let args = Step::single(node).arguments(&step_name(), None, &program);
    let mut command = Command::new("srun");
    srun::NOT_INHERITED.iter().for_each(|name| _ = command.env_remove(name));
    let fault = |what: String| {
        Error::new(Kind::Launch, format!("cannot ask {} for its NUMA domains: {what}", node.name))
    };
    let asked = command.args(args).stdin(Stdio::null()).output().map_err(|e| fault(e.to_string()))?;
    let text = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    let domains = hostlist::parse(&format!("[{text}]")).map(|list| list.len());
    match domains {
        Ok(n) if asked.status.success() => Ok(u32::try_from(n).unwrap_or(1).max(1)),
        _ => Err(fault(String::from_utf8_lossy(&asked.stderr).trim().to_owned())),
    }
}

/// Starts workers: one `srun` for each group of nodes that are alike. Those that were started before a fault
/// are returned with it.
pub fn start_workers(
    config: &Config,
    allocation: &Allocation,
    steps: Vec<Step>,
    args: &[OsString],
    home: &ClusterDir,
) -> (Vec<Source>, Result<()>) {
    let mut sources = Vec::new();
    let end = end_of_job(allocation);
    for step in steps {
        match start_step(config, allocation, step, args, home, &end) {
            Ok(source) => sources.push(source),
            Err(error) => return (sources, Err(error)),
        }
    }
    (sources, Ok(()))
}

fn memory_of(het_group: u32) -> [(&'static str, Option<String>); 2] {
    environment::memory_of_component(&environment::of_process, het_group)
}

fn start_step(
    config: &Config,
    allocation: &Allocation,
    step: Step,
    args: &[OsString],
    home: &ClusterDir,
    end: &(OsString, OsString),
) -> Result<Source> {
    home.create()?;
    let name = step_name();
    let log = home.path().join(format!("{name}.log"));
    let program = [this_program()?, "worker".into()].into_iter().chain(args.iter().cloned());
    let program: Vec<OsString> = program.collect();
    let line = step.arguments(&name, Some(&task_logs(home.path(), &name)), &program);
    let mut background = srun_process("workers", &step, line, &log);
    background.env = anchored_variables()?;
    background.env.push(end.clone());
    for (name, value) in step.het_group.map(memory_of).into_iter().flatten() {
        match value {
            Some(value) => background.env.push((name.into(), value.into())),
            None => background.env_remove.push(name),
        }
    }
    if step.beside_scheduler && config.worker.memory_reserve.is_none() {
        background.env.push(("HPCDAG_WORKER__MEMORY_RESERVE".into(), SCHEDULER_MEMORY.into()));
    }
    // Its workers are waited for with all others.
    let started = background.start(background::SCHEDULER_TIMEOUT, |_| Ok(Some(())))?;
    let job_id = allocation.job_id.clone();
    let of_step = Some(StepRecord { job_id, name: name.clone(), scheduler_on: None });
    processes::note(home.path(), &[Record { step: of_step, ..Record::of_any(started.pid, &log) }])?;
    Ok(Source::Srun { pid: started.pid, log, step, name })
}

/// Starts a scheduler as a step of the allocation, and returns its node's name too: the node that this
/// process is on, else the first. Slurm may not end a process in the background with its job, but always a
/// step.
///
/// # Errors
/// As [`background::start_scheduler`].
pub fn start_scheduler(
    order: &SchedulerOrder,
    allocation: &Allocation,
    timeout: Duration,
) -> Result<(StartedScheduler, String)> {
    let Some(node) = allocation.nodes.first() else {
        return Err(Error::new(Kind::Launch, format!("job {} has no nodes", allocation.job_id)));
    };
    let name = step_name();
    let step = Step::single(node);
    let program = this_program()?;
    let identity = |file: &SchedulerFile| (file.id.clone(), file.pid, file.started.clone());
    let listed = StateDir::of_user()?.clusters()?.into_iter().filter_map(|l| l.file.ok());
    let named = order.file.as_deref().and_then(|path| scheduler_file::read(path).ok());
    let before: Vec<_> = listed.chain(named).map(|file| identity(&file)).collect();
    let process = |args: Vec<OsString>, log: &std::path::Path| {
        let line: Vec<OsString> = std::iter::once(program).chain(args).collect();
        srun_process("the scheduler", &step, step.arguments(&name, None, &line), log)
    };
    let job_id = allocation.job_id.clone();
    let is_ours = |file: &SchedulerFile, _| {
        file.job_id.as_deref() == Some(job_id.as_str()) && !before.contains(&identity(file))
    };
    let mark =
        StepRecord { job_id: job_id.clone(), name: name.clone(), scheduler_on: Some(node.name.clone()) };
    let started = background::start_scheduler_as(order, timeout, process, is_ours, Some(mark))?;
    Ok((started, node.name.clone()))
}

/// The node of the allocation that a scheduler is on, if it is on one.
pub fn node_of_scheduler(allocation: &Allocation, file: &SchedulerFile, home: &ClusterDir) -> Option<String> {
    let noted = processes::noted(home.path()).into_iter().filter_map(|r| r.step?.scheduler_on);
    let noted: Vec<String> = noted.collect();
    let short = file.host.split('.').next().unwrap_or_default();
    let is_it = |node: &&Node| noted.contains(&node.name) || node.name == file.host || node.name == short;
    allocation.nodes.iter().find(is_it).map(|node| node.name.clone())
}
