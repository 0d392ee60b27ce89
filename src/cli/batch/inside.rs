//! A run inside its job: `resume --here`, which the job's script runs on the first node once the cluster is
//! there. Owns what is written about the run while it goes on and when it ends.

use super::directory::{End, Order, PROGRESS_INTERVAL, RunDirectory, Standing, What, now};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::ResumeArgs;
use crate::cli::context::{Context, run_long, run_short};
use crate::cli::output;
use crate::cli::progress::{Progress, summary_text};
use crate::cli::run::program;
use crate::cli::signals::{Requests, SAME_REQUEST};
use crate::cli::steer::{CANCEL_REASON, let_workers_go};
use crate::cli::submit::exit_code;
use crate::client::summary::{RunProgress, RunSummary};
use crate::client::{SubmitOptions, Taker, run_hook};
use crate::net::discovery;
use crate::net::state_dir;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs what is left of a run on the cluster that is meant; its exit code.
pub(super) fn run(
    context: &Context,
    args: &ResumeArgs,
    directory: &RunDirectory,
    order: &Order,
) -> Result<u8> {
    if directory.end()?.is_some_and(|end| end.exit_code == 0) {
        output::say("the run has ended well: nothing is left");
        return Ok(0);
    }
    directory.begin_again()?;
    let ended = match &order.what {
        What::Graph { max_fails, wait_workers, max_processing } => {
            let options = SubmitOptions {
                detached: false,
                max_fails: *max_fails,
                max_processing: *max_processing,
                wait_workers: *wait_workers,
            };
            run_long(graph(context, args, directory, options))
        }
        What::Command { argv, cwd } => command(context, args, directory, argv, cwd),
    };
    match ended {
        Ok(Some(end)) => {
            directory.write("summary.json", &end)?;
            Ok(end.exit_code)
        }
        Ok(None) => Ok(Kind::Cancelled.exit_code()),
        // The job is being ended, and the cluster went before this process.
        Err(error) if matches!(error.kind, Kind::NoScheduler | Kind::Cancelled) => {
            Report::new(directory, 0).write("interrupted", None);
            Err(error)
        }
        Err(error) => {
            let end = End {
                exit_code: error.kind.exit_code(),
                ended: now(),
                job_id: state_dir::batch_job_id(),
                kept: 0,
                error: Some(error.message.clone()),
                summary: None,
            };
            directory.write("summary.json", &end)?;
            Err(error)
        }
    }
}

/// A client program. Nothing is known of what it has done when it is run again.
fn command(
    context: &Context,
    args: &ResumeArgs,
    directory: &RunDirectory,
    argv: &[String],
    cwd: &Path,
) -> Result<Option<End>> {
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let wish = context.wish(&args.scheduler)?;
    let mut report = Report::new(directory, 0);
    report.write("running", None);
    std::env::set_current_dir(cwd).map_err(|e| Error::file("cannot go to", cwd, &e))?;
    let (exit_code, interrupted) = run_short(async {
        let file: PathBuf = discovery::find(&wish).await?.path;
        let mut requests = Requests::listen()?;
        let code = program(&argv, &file, &mut requests).await?;
        Ok((code, requests.were_any()))
    })?;
    if interrupted {
        report.write("interrupted", None);
        return Ok(None);
    }
    report.write("ended", None);
    let job_id = state_dir::batch_job_id();
    Ok(Some(End { exit_code, ended: now(), job_id, kept: 0, error: None, summary: None }))
}

/// A graph; nothing if it was interrupted.
async fn graph(
    context: &Context,
    args: &ResumeArgs,
    directory: &RunDirectory,
    options: SubmitOptions,
) -> Result<Option<End>> {
    let mut requests = Requests::listen()?;
    let rest = super::rest(directory)?;
    let (graph, kept) = (rest.graph, rest.kept);
    if kept > 0 {
        output::say(&format!("{kept} tasks have been done before and do not run again"));
    }
    let client = context.client(&args.scheduler).await?;
    let handle = client.submit(graph.clone(), options).await?;
    let run = handle.run();
    let (destination, recording) = rest.recorder.split();
    let mut report = Report::new(directory, kept);
    let mut progress = Progress::new(context.verbosity.quiet > 0);
    report.write("running", None);
    let mut finish = Box::pin(Taker::new(handle, destination).finish(|p| {
        progress.update(p);
        report.update(p);
    }));
    let mut interrupted: Option<Instant> = None;
    let grace = context.loaded.config.worker.signal_grace.0;
    let mut leaving = tokio::task::JoinSet::new();
    let end = loop {
        tokio::select! {
            end = &mut finish => break end,
            Some(_) = leaving.join_next() => client.cancel(run, "the job is being ended").await?,
            signal = requests.next() => {
                if interrupted.is_some_and(|since| since.elapsed() < SAME_REQUEST) {
                    continue;
                }
                output::say(&format!("{signal}: the run is cut off; what was written need not run again"));
                if interrupted.is_some() {
                    break Err(Error::new(Kind::Cancelled, format!("{signal}: left at once")));
                }
                interrupted = Some(Instant::now());
                leaving.spawn(let_workers_go(client.clone(), grace));
            }
        }
    };
    leaving.abort_all();
    drop(finish);
    progress.finish();
    let lines = recording.finish();
    copy_logs(directory, client.scheduler().id.as_str());
    client.close().await;
    // The scheduler, too, is told when the job is being ended, perhaps before this process.
    let is_cut_off = |summary: &RunSummary| {
        exit_code(summary, false) == Kind::Cancelled.exit_code()
            && summary.cancel_reason.as_deref() != Some(CANCEL_REASON)
    };
    if interrupted.is_some() || end.as_ref().is_ok_and(|end| is_cut_off(&end.summary)) {
        report.write("interrupted", None);
        return Ok(None);
    }
    let summary = end?.summary;
    // Without its lines the outputs are there all the same.
    match lines {
        Ok(n) => tracing::debug!("{n} outputs were written"),
        Err(error) => output::print_error(&error),
    }
    output::say(&summary_text(&summary));
    let mut exit_code = exit_code(&summary, false);
    let mut fault = None;
    if let Err(error) = run_hook(&graph, &summary).await {
        output::print_error(&error);
        exit_code = if exit_code == 0 { error.kind.exit_code() } else { exit_code };
        fault = Some(error.message);
    }
    report.write("ended", Some(&progress_of(&summary)));
    if exit_code == 0 {
        forget_checkpoint(directory);
    }
    let job_id = state_dir::batch_job_id();
    Ok(Some(End { exit_code, ended: now(), job_id, kept, error: fault, summary: Some(summary) }))
}

/// Removes what workers left for a later run: there is none.
fn forget_checkpoint(directory: &RunDirectory) {
    let path = directory.checkpoint();
    match std::fs::remove_dir_all(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{}", Error::file("cannot remove", &path, &e).message);
        }
        _ => {}
    }
}

/// The progress of a run that is over.
fn progress_of(summary: &RunSummary) -> RunProgress {
    RunProgress {
        total: Some(summary.tasks),
        done: summary.succeeded,
        failed: summary.failed + summary.skipped,
        elapsed: summary.wall,
        bytes_moved: summary.bytes_moved,
        ..RunProgress::default()
    }
}

/// Keeps the logs of scheduler and workers, which go with their cluster's directory.
fn copy_logs(directory: &RunDirectory, cluster: &str) {
    let copied = || -> Result<()> {
        let home = state_dir::StateDir::of_user()?.cluster(cluster)?;
        let to = directory.file("logs");
        let fault = |e: std::io::Error| Error::file("cannot keep logs in", &to, &e);
        std::fs::create_dir_all(&to).map_err(fault)?;
        for entry in std::fs::read_dir(home.path()).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "log")) {
                std::fs::copy(&path, to.join(name)).map_err(fault)?;
            }
        }
        Ok(())
    };
    if let Err(error) = copied() {
        tracing::warn!("{}", error.message);
    }
}

/// What is written about a run while it goes on.
struct Report<'a> {
    directory: &'a RunDirectory,
    kept: u64,
    written: Option<Instant>,
}

impl<'a> Report<'a> {
    fn new(directory: &'a RunDirectory, kept: u64) -> Report<'a> {
        Report { directory, kept, written: None }
    }

    fn update(&mut self, progress: &RunProgress) {
        if self.written.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL) {
            self.written = Some(Instant::now());
            self.write("running", Some(progress));
        }
    }

    fn write(&mut self, state: &str, progress: Option<&RunProgress>) {
        let standing = Standing {
            state: state.into(),
            updated: now(),
            job_id: state_dir::batch_job_id(),
            kept: self.kept,
            progress: progress.cloned(),
        };
        // A run does not fail because nobody can look at it.
        if let Err(error) = self.directory.write("progress.json", &standing) {
            tracing::warn!("{}", error.message);
        }
    }
}
