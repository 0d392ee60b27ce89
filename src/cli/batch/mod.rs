//! Whole runs as one job: `submit --batch`, `run --batch`, `resume`. Owns what the commands mean; the run's
//! directory, the job's script, what happens inside the job and what is seen from outside have modules of
//! their own.

mod chain;
mod directory;
mod follow;
mod inside;
mod job;
mod live;

use super::args::{BatchName, BatchOptions, JsonOption, ResumeArgs, RunArgs, SubmitArgs};
use super::context::{Context, absolute};
use super::output::Out;
use crate::base::error::{Error, Kind, Result};
use crate::client::resume;
use crate::graph::{self, Graph};
use crate::launch::dialect::System;
use crate::launch::jobs::{self, Record};
use directory::{Order, RunDirectory, What};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn system_of(name: BatchName) -> System {
    match name {
        BatchName::Slurm => System::Slurm,
        BatchName::Pbs => System::Pbs,
        BatchName::Sge => System::GridEngine,
    }
}

/// A run to submit.
struct Submission<'a> {
    context: &'a Context,
    options: &'a BatchOptions,
    json: JsonOption,
    check: bool,
    cpus: Option<u32>,
    /// What people call it.
    name: String,
    what: What,
    graph: Option<Graph>,
}

/// The directory of a run that is to be submitted: as was said, or beside what it runs.
fn directory(options: &BatchOptions, beside: &Path, name: &str) -> Result<RunDirectory> {
    match &options.run_directory {
        Some(path) => Ok(RunDirectory::at(absolute(path)?)),
        None => Ok(RunDirectory::new(&absolute(beside)?, name)),
    }
}

/// Where a run is kept unless it was said: beside its graph.
fn beside(args: &SubmitArgs) -> PathBuf {
    let parent = args.graph.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// `submit --batch`. `read` makes the graph, given the directory for what would go to the terminal.
pub(super) fn submit(
    context: &Context,
    args: &SubmitArgs,
    read: impl FnOnce(&Path) -> Result<Graph>,
) -> Result<u8> {
    let other = [("--local", args.local), ("--detach", args.detach)];
    if let Some((name, _)) = other.into_iter().find(|(_, given)| *given) {
        return Err(Error::new(Kind::Usage, format!("{name} and --batch exclude each other"))
            .hint("a job goes on without this command; --wait follows it"));
    }
    let name = match (&args.graph, args.command.first()) {
        (Some(path), _) => path.file_stem().map(|s| s.to_string_lossy().into_owned()),
        (None, Some(program)) => program_name(program),
        (None, None) => None,
    };
    let name = name.unwrap_or_else(|| "graph".into());
    let directory = directory(&args.batch, &beside(args), &name)?;
    let graph = read(&directory.file("stdout"))?;
    let max = args.failures_allowed();
    let what = What::Graph {
        max_fails: max.map(|n| u32::try_from(n.saturating_add(1)).unwrap_or(u32::MAX)),
        wait_workers: args.wait_workers.unwrap_or(0),
        max_processing: args.jobs,
    };
    let submission = Submission {
        context,
        options: &args.batch,
        json: args.json,
        check: args.check,
        cpus: args.cpus,
        name,
        what,
        graph: Some(graph),
    };
    submission.submit(&directory)
}

fn program_name(program: &std::ffi::OsStr) -> Option<String> {
    Some(Path::new(program).file_name()?.to_string_lossy().into_owned())
}

/// `run --batch`
pub(super) fn run(context: &Context, args: &RunArgs) -> Result<u8> {
    let words = args.command.iter().map(|word| {
        word.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::Usage, format!("the argument {} is not UTF-8", word.to_string_lossy()))
        })
    });
    let cwd = std::env::current_dir().map_err(|e| Error::os("cannot find the current directory", e))?;
    let name = args.command.first().and_then(|p| program_name(p)).unwrap_or_else(|| "run".into());
    let directory = directory(&args.batch, &cwd, &name)?;
    let cpus = match args.up.worker.nthreads.as_deref() {
        None | Some("auto") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::new(Kind::Usage, format!("-c {text} is no number of processors")))?,
        ),
    };
    let submission = Submission {
        context,
        options: &args.batch,
        json: args.up.json,
        check: args.check,
        cpus,
        name,
        what: What::Command { argv: words.collect::<Result<_>>()?, cwd },
        graph: None,
    };
    submission.submit(&directory)
}

impl Submission<'_> {
    fn submit(&self, directory: &RunDirectory) -> Result<u8> {
        let system = system_of(self.options.batch.unwrap_or(BatchName::Slurm));
        let job = job::Job::new(self.context, self.options, system, self.cpus, &self.name, directory)?;
        if self.options.dry_run {
            return job.dry_run(self.json, directory);
        }
        if directory.file("run.json").exists() {
            let what = format!("{} is the directory of another run", directory.path().display());
            return Err(
                Error::new(Kind::Usage, what).hint("`hpcdag resume` goes on with that; or name another")
            );
        }
        job.write(directory)?;
        if self.check {
            let said = jobs::check(system, &directory.script(), &job.native);
            job.remove(directory);
            let said = said?;
            let json = json!({ "system": system.key(), "accepted": true, "said": said });
            Out::stdout().value(self.json.json, &json, |_| match &self.graph {
                Some(graph) => format!("{}{system} would take it: {said}", graph::check_report(graph)),
                None => format!("{system} would take it: {said}"),
            })?;
            return Ok(0);
        }
        let order = Order {
            name: self.name.clone(),
            system,
            native: job.native.clone(),
            nodes: job.request.nodes,
            job_name: job.request.name.clone(),
            log: job.request.output.clone().unwrap_or_default(),
            chain: self.options.chain.unwrap_or(1),
            what: self.what.clone(),
        };
        if let Some(graph) = &self.graph {
            directory.write("graph.json", graph)?;
        }
        directory.write("run.json", &order)?;
        let records = match chain::send(directory, &order) {
            Ok(records) => records,
            Err(e) => {
                job.remove(directory);
                return Err(e);
            }
        };
        tell(self.json, directory, &records)?;
        match self.options.wait {
            true => follow::follow(self.context, directory, &order, self.json),
            false => Ok(0),
        }
    }
}

fn tell(json: JsonOption, directory: &RunDirectory, records: &[Record]) -> Result<()> {
    let Some(record) = records.first() else { return Ok(()) };
    let value = json!({
        "system": record.system.key(),
        "id": record.id,
        "name": record.name,
        "nodes": record.nodes,
        "run-directory": directory.path(),
        "script": record.script,
        "log": record.log,
        "chain": records.iter().map(|r| &r.id).collect::<Vec<_>>(),
    });
    Out::stdout().value(json.json, &value, |_| {
        let nodes = if record.nodes == 1 { "1 node".into() } else { format!("{} nodes", record.nodes) };
        let path = directory.path().display();
        let names = chain::names(records);
        format!("submitted {} {names} of {nodes}, run directory {path}", record.system)
    })
}

/// A run that has ended is asked about this often, and so often, until its job is over too: batch systems
/// take a while to clear nodes.
const COMPLETING_TRIES: u32 = 20;
const COMPLETING_PAUSE: Duration = Duration::from_secs(3);

/// `resume`
pub(super) fn resume(context: &Context, args: &ResumeArgs) -> Result<u8> {
    let directory = RunDirectory::at(absolute(&args.directory)?);
    let mut order = directory.order()?;
    if args.here {
        return inside::run(context, args, &directory, &order);
    }
    let end = directory.end()?;
    if end.as_ref().is_some_and(|end| end.exit_code == 0) {
        let value = json!({ "run-directory": directory.path(), "exit-code": 0 });
        Out::stdout().value(args.json.json, &value, |_| "the run has ended well: nothing is left".into())?;
        return Ok(0);
    }
    let records = directory.chain(&order)?;
    if !records.is_empty() {
        let mut tries = if end.is_some() { COMPLETING_TRIES } else { 1 };
        while let (record, state) = chain::current(&records)?
            && !state.is_over()
        {
            tries -= 1;
            if args.wait && end.is_none() {
                return follow::follow(context, &directory, &order, args.json);
            }
            if tries == 0 {
                let what = format!("its {}", chain::state_text(&records, &record, state));
                return Err(Error::new(Kind::Usage, what)
                    .hint("--wait follows it; `hpcdag cancel DIR` first to submit it anew"));
            }
            std::thread::sleep(COMPLETING_PAUSE);
        }
    }
    if let Some(chain) = args.chain {
        order.chain = chain;
        directory.write("run.json", &order)?;
    }
    directory.begin_again()?;
    // That of a job that was killed would be taken for the new one's.
    let _ = std::fs::remove_file(directory.scheduler_file());
    let records = chain::send(&directory, &order)?;
    tell(args.json, &directory, &records)?;
    if args.wait { follow::follow(context, &directory, &order, args.json) } else { Ok(0) }
}

/// `cancel` of a run that is one job, by its directory: the ids of the jobs that were cancelled.
pub(super) fn cancel(path: &Path) -> Result<Vec<String>> {
    let directory = RunDirectory::at(absolute(path)?);
    let order = directory.order()?;
    chain::cancel(&directory.chain(&order)?)
}

/// What is left of the graph of a run.
fn rest(directory: &RunDirectory) -> Result<resume::Rest> {
    let graph: Option<Graph> = directory.read("graph.json")?;
    let graph = graph.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("{} has no graph.json", directory.path().display()))
    })?;
    resume::rest(graph, &directory.manifest(), &directory.checkpoint())
}
