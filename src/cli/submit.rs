//! `hpcdag submit`: a graph or a command from its reading to the exit code. Owns the order of things and what
//! Ctrl-C does; running is the client's and the cluster's.

use super::args::{Stdout, SubmitArgs};
use super::batch;
use super::command_graph::{self, Target};
use super::context::{Context, Role, run_as, run_long, run_short};
use super::dashboard;
use super::lock;
use super::output::{self, Out};
use super::progress::{Progress, summary_text};
use super::report::{self, Places};
use super::shape::Record;
use super::signals::Requests;
use crate::base::error::{Error, Kind, Result};
use crate::client::resume::{self, Recording};
use crate::client::summary::RunSummary;
use crate::client::{Client, Destination, RunEnd, SubmitOptions, Taker, Written, run_hook};
use crate::cluster::{LocalCluster, LocalOptions};
use crate::graph::{self, Graph, Origin};
use crate::worker::executor::native::Registry;
use crate::worker::executor::processes::Program;
use crate::worker::process;
use serde_json::json;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Runs the command; returns the exit code.
///
/// # Errors
/// What keeps the graph from running to its end. Tasks that fail are no error here but an exit code.
pub fn submit(context: &Context, args: &SubmitArgs) -> Result<u8> {
    args.batch.refuse_without_batch()?;
    if args.batch.batch.is_some() {
        return batch::submit(context, args, |stdout| read_for_job(args, stdout));
    }
    let (graph, target) = read(args)?;
    if args.check {
        let json = args.json.json.then(|| graph::check_json(&graph));
        let mut out = Out::stdout();
        match json {
            Some(json) => out.json(&json)?,
            None => out.line(graph::check_report(&graph))?,
        }
        return Ok(0);
    }
    let manifest = match args.resume {
        true => Some(manifest_of(args, &graph, &target)?),
        false => None,
    };
    let submission = Submission { context, args, graph, target, manifest };
    match args.local {
        true => run_long(submission.run_local()),
        false if args.detach => run_short(submission.detach()),
        false => {
            context.tell_threads(Role::Client);
            run_as(context, Role::Client, submission.run())
        }
    }
}

/// The graph that is meant.
fn read(args: &SubmitArgs) -> Result<(Graph, Target)> {
    if let Some(path) = &args.graph {
        let params = args.params.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
        let options = graph::Options { params, targets: args.targets.clone() };
        return Ok((graph::file::load(path, &options)?, Target::Files));
    }
    let base_dir = std::env::current_dir().map_err(|e| Error::os("cannot find the current directory", e))?;
    let origin = Origin { name: "command".into(), base_dir, umask: graph::file::umask() };
    command_graph::build(args, &origin)
}

/// The graph of a job, where no terminal is: what would go there goes to files in a directory.
fn read_for_job(args: &SubmitArgs, stdout: &Path) -> Result<Graph> {
    let mut args = args.clone();
    if args.graph.is_none() && args.output.is_none() && args.stdout.is_none() {
        args.stdout = Some(Stdout::Directory(stdout.to_owned()));
    }
    let (mut graph, target) = read(&args)?;
    if !matches!(target, Target::Files) {
        graph.outputs.clear();
    }
    Ok(graph)
}

/// Where `--resume` notes what was written.
fn manifest_of(args: &SubmitArgs, graph: &Graph, target: &Target) -> Result<PathBuf> {
    if !matches!(target, Target::Files) || graph.outputs.is_empty() {
        return Err(Error::new(Kind::Usage, "--resume needs outputs in files, which can be looked at")
            .hint("name them in [output], or with -o or --stdout DIR"));
    }
    if let Some(path) = &args.manifest {
        return Ok(path.clone());
    }
    let parent = args.graph.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    let name = match &args.graph {
        Some(path) => path.file_stem(),
        None => args.command.first().and_then(|program| Path::new(program).file_name()),
    };
    let name = name.map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
    let directory = parent.unwrap_or(Path::new(".")).join(".hpcdag");
    std::fs::create_dir_all(&directory).map_err(|e| Error::file("cannot make", &directory, &e))?;
    Ok(directory.join(format!("{name}.manifest.jsonl")))
}

struct Submission<'a> {
    context: &'a Context,
    args: &'a SubmitArgs,
    graph: Graph,
    target: Target,
    /// With `--resume`: what is noted of outputs.
    manifest: Option<PathBuf>,
}

impl Submission<'_> {
    fn options(&self) -> SubmitOptions {
        let max = self.args.failures_allowed();
        SubmitOptions {
            detached: self.args.detach,
            // So many are allowed; the one after them ends the run.
            max_fails: max.map(|n| u32::try_from(n.saturating_add(1)).unwrap_or(u32::MAX)),
            wait_workers: self.args.wait_workers.unwrap_or(0),
            max_processing: self.args.jobs,
        }
    }

    /// Hands the graph over and leaves.
    async fn detach(self) -> Result<u8> {
        let client = self.context.client(&self.args.scheduler).await?;
        let options = self.options();
        let mut handle = client.submit(self.graph, options).await?;
        let tasks = handle.accepted().await?;
        let (run, mut out) = (handle.run(), Out::stdout());
        drop(handle);
        client.close().await;
        match self.args.json.json {
            true => out.json(&json!({ "run": run, "tasks": tasks }))?,
            false => out.line(run.to_string())?,
        }
        if matches!(self.target, Target::Kept) && self.context.verbosity.quiet == 0 {
            output::say(
                "the stdout of its tasks stays in the cluster: get it with hpcdag fetch KEY, or use -o",
            );
        }
        Ok(0)
    }

    async fn run(self) -> Result<u8> {
        let client = self.context.client(&self.args.scheduler).await?;
        let ended = self.follow(client.clone()).await;
        client.close().await;
        match ended? {
            Followed::Ended(code) | Followed::Left(code) => Ok(code),
        }
    }

    async fn run_local(self) -> Result<u8> {
        let mut options = LocalOptions {
            nworkers: self.args.nworkers.unwrap_or(1),
            nthreads: None,
            config: self.context.config(),
            natives: Registry::default(),
            executor: Some(Program::this()),
            ..LocalOptions::default()
        };
        if self.args.dashboard_address.is_some() {
            options.dashboard = options.config.scheduler.dashboard_address.clone();
        }
        if self.args.nworkers.is_none() && self.args.nthreads.is_none() {
            // A cluster of its own has as many threads as tasks are to run at once.
            options.nthreads = self.args.jobs;
        }
        let cluster = LocalCluster::start(options).await?;
        if let Some(url) = cluster.dashboard() {
            output::say(&format!("dashboard: {}", dashboard::shown(url, std::io::stderr().is_terminal())));
        }
        let client = match cluster.client().await {
            Ok(client) => client,
            Err(e) => {
                cluster.kill().await;
                return Err(e);
            }
        };
        let ended = self.follow(client.clone()).await;
        match ended {
            Ok(Followed::Ended(code)) => {
                client.close().await;
                stop(cluster).await?;
                Ok(code)
            }
            Ok(Followed::Left(code)) => {
                // At once means that tasks are not asked any more.
                process::kill_descendants();
                cluster.kill().await;
                Ok(code)
            }
            Err(e) => {
                cluster.kill().await;
                Err(e)
            }
        }
    }

    /// Submits the graph and sees it through.
    async fn follow(&self, client: Client) -> Result<Followed> {
        let _lock = match &self.args.lock {
            Some(name) => {
                let patience = self.args.lock_timeout.map_or(Duration::ZERO, |time| time.0);
                Some(lock::take(name, &self.name(), patience).await?)
            }
            None => None,
        };
        let mut requests = Requests::listen()?;
        let (destination, files) = self.target.destination(&self.graph)?;
        let record = self.record_file()?;
        let args = self.args;
        let places = Places::open(args.report.as_deref(), args.trace.as_deref(), args.events.as_deref())?;
        let (graph, destination, recording) = self.rest(destination)?;
        let handle = client.submit(graph, self.options()).await?;
        let run = handle.run();
        let mut progress = Progress::new(self.context.verbosity.quiet > 0 || self.is_one_command());
        let taker = Taker::new(handle, destination);
        let mut finish = Box::pin(taker.finish(|p| progress.update(p)));
        let mut interrupted = false;
        let end = loop {
            tokio::select! {
                end = &mut finish => break end,
                signal = requests.next() => {
                    if interrupted {
                        drop(finish);
                        progress.finish();
                        output::say("left at once");
                        return Ok(Followed::Left(Kind::Cancelled.exit_code()));
                    }
                    interrupted = true;
                    output::say(&format!("{signal}: cancelling the run; once more leaves at once"));
                    client.cancel(run, &format!("{signal} at the client")).await?;
                }
            }
        };
        drop(finish);
        progress.finish();
        // Without its lines the outputs are there all the same.
        if let Some(Err(error)) = recording.map(Recording::finish) {
            output::print_error(&error);
        }
        if let Target::Terminal(ordered) = &self.target {
            ordered.finish()?;
        }
        let written = files.map_or_else(Vec::new, |f| f.written());
        let end = end?;
        let recorded = match record {
            Some((file, path)) => {
                let record = Record::gather(&client, &self.graph, run, &end.summary).await;
                record.and_then(|r| r.write(file, path))
            }
            None => Ok(()),
        };
        let reported = match places.is_empty() {
            true => Ok(Vec::new()),
            false => report::of_run(&client, run).await.and_then(|data| places.write(data)),
        };
        let code = self.conclude(&end, &written, interrupted).await?;
        // The run is worth more than its record.
        let lines = recorded.and(reported)?;
        if self.context.verbosity.quiet == 0 {
            lines.iter().for_each(|line| output::say(line));
        }
        Ok(Followed::Ended(code))
    }

    /// The file of `--record`, open before anything runs: what keeps it from being written is said at once.
    fn record_file(&self) -> Result<Option<(File, &Path)>> {
        let Some(path) = &self.args.record else { return Ok(None) };
        let file = File::create(path).map_err(|e| Error::file("cannot write", path, &e))?;
        Ok(Some((file, path)))
    }

    /// What people know the run by.
    fn name(&self) -> String {
        match &self.args.graph {
            Some(path) => path.display().to_string(),
            None => self.args.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }

    /// What is left to run, and where its outputs go, with `--resume` noted on the way.
    fn rest(&self, files: Arc<dyn Destination>) -> Result<(Graph, Arc<dyn Destination>, Option<Recording>)> {
        let Some(manifest) = &self.manifest else { return Ok((self.graph.clone(), files, None)) };
        let rest = resume::rest_beside(self.graph.clone(), manifest)?;
        if rest.kept > 0 && self.context.verbosity.quiet == 0 {
            output::say(&format!("{} tasks have been done before and do not run again", rest.kept));
        }
        let (destination, recording) = rest.recorder.beside(files);
        Ok((rest.graph, destination, Some(recording)))
    }

    fn is_one_command(&self) -> bool {
        !self.args.command.is_empty() && self.args.each_line.is_none() && self.args.array.is_none()
    }

    /// Says what the run came to, runs the hook, and finds the exit code.
    async fn conclude(&self, end: &RunEnd, written: &[Written], interrupted: bool) -> Result<u8> {
        let summary = &end.summary;
        let mut failed_items: Option<PathBuf> = None;
        if !summary.is_success() && !self.args.command.is_empty() {
            let here =
                std::env::current_dir().map_err(|e| Error::os("cannot find the current directory", e))?;
            failed_items = command_graph::list_failed(&self.graph, end, summary.run, &here)?;
        }
        if self.args.json.json {
            let mut json = serde_json::to_value(summary).map_err(|e| Error::os("cannot print as JSON", e))?;
            json["failed-items"] = json!(failed_items);
            let output = |w: &Written| json!({ "of": w.of, "path": w.path, "files": w.files });
            json["outputs"] = written.iter().map(output).collect();
            Out::stdout().json(&json)?;
        } else if self.context.verbosity.quiet == 0 && (!self.is_one_command() || !summary.is_success()) {
            output::say(&summary_text(summary));
            let here = std::env::current_dir().unwrap_or_default();
            written.iter().for_each(|w| output::say(&written_text(w, &here)));
        }
        if let Some(list) = &failed_items {
            output::say(&format!("items to run again: hpcdag submit --each-line {}", list.display()));
        }
        let hook = run_hook(&self.graph, summary).await;
        let code = exit_code(summary, interrupted);
        match hook {
            Err(e) if code == 0 => Err(e),
            Err(e) => {
                output::print_error(&e);
                Ok(code)
            }
            Ok(()) => Ok(code),
        }
    }
}

/// Where one output went, seen from the directory `here`.
fn written_text(written: &Written, here: &Path) -> String {
    let path = written.path.strip_prefix(here).unwrap_or(&written.path).display();
    match written.files {
        Some(1) => format!("output: {} -> {path}", written.of),
        Some(0) => format!("output: {} -> nothing written ({path})", written.of),
        Some(n) => format!("output: {} -> {path} ({n} files)", written.of),
        None => format!("output: {} -> {path} (written by the workers)", written.of),
    }
}

/// Ends a cluster in order. Tasks that were cancelled may take their time to end; whoever asks again does not
/// want to wait for them.
async fn stop(cluster: LocalCluster) -> Result<()> {
    let mut requests = Requests::listen()?;
    let mut stopped = Box::pin(cluster.stop());
    loop {
        tokio::select! {
            stopped = &mut stopped => return stopped,
            _ = requests.next() => drop(process::kill_descendants()),
        }
    }
}

/// How following a run ended.
enum Followed {
    /// The run is over.
    Ended(u8),
    /// The user did not wait for that.
    Left(u8),
}

/// The exit code for a run's end.
pub(super) fn exit_code(summary: &RunSummary, interrupted: bool) -> u8 {
    match summary {
        s if s.is_success() => 0,
        _ if interrupted => Kind::Cancelled.exit_code(),
        s if s.failed > 0 || s.skipped > 0 => Kind::TasksFailed.exit_code(),
        _ => Kind::Cancelled.exit_code(),
    }
}
