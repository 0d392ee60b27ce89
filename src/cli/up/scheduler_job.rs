//! The scheduler as a small job of its own: what is asked for it, its script, and what is kept about it in
//! the cluster's directory. Owns these files; workers are `jobs::start`'s.

use crate::base::error::{Error, Kind, Result};
use crate::cli::args::{JobOptions, UpArgs};
use crate::cli::context::Context;
use crate::cli::jobs::records::{self, Place};
use crate::cli::jobs::{self as workers, start};
use crate::config::Origin;
use crate::launch::dialect::{Request, System};
use crate::launch::jobs::{self, Record};
use crate::launch::settings::Settings;
use crate::launch::template::{self, Purpose, shell_quoted};
use crate::net::private_file;
use crate::net::state_dir::{ClusterDir, StateDir};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The directory in that of the cluster. It is there as long as the scheduler may still come.
pub(in crate::cli) const DIRECTORY: &str = "scheduler-job";

/// The file in there that names the scheduler file.
const FILE: &str = "scheduler-file";

/// The memory of the job: a scheduler of a million tasks needs a third of it.
const MEMORY: u64 = 1 << 30;

/// Submits the scheduler of a cluster whose id and place are known before it runs.
///
/// # Errors
/// `Launch` when the job is refused, `Config`, `File`: then nothing is left of it.
pub(super) fn submit(
    context: &Context,
    args: (&UpArgs, &JobOptions),
    system: System,
    (path, cluster, home): (&Path, &str, &ClusterDir),
) -> Result<Record> {
    let settings = workers::settings(context, system)?;
    let directory = home.path().join(DIRECTORY);
    let place = Place::named(&directory, "scheduler");
    let request = request(args.1, &settings, system, cluster, &place);
    let script = script(&settings, system, &request, &place, (path, cluster, home))?;
    home.create()?;
    private_file::make_directory(&directory)?;
    private_file::write(&place.file(".toml"), scheduler_settings(context, args.0).as_bytes())?;
    private_file::write(&place.file(".sh"), script.as_bytes())?;
    private_file::write(&directory.join(FILE), path.to_string_lossy().as_bytes())?;
    let native: Vec<String> = settings.options.iter().chain(&args.1.native).cloned().collect();
    let id =
        jobs::submit(system, &place.file(".sh"), &native).inspect_err(|_| records::forget(&directory))?;
    let record = Record {
        system,
        id,
        name: request.name.clone(),
        nodes: 1,
        jobs: 1,
        submitted: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        script: place.file(".sh"),
        log: request.output.clone().unwrap_or_default(),
        pool: None,
        scaled: false,
        ended: None,
    };
    place.keep(&record).map_err(|e| {
        let undone = jobs::cancel(std::slice::from_ref(&record));
        let fate = if undone.is_ok() { "it was cancelled again" } else { "cancel it yourself" };
        Error { message: format!("{}; job {} was submitted and {fate}", e.message, record.id), ..e }
    })?;
    Ok(record)
}

/// One processor and little memory, from the same account and partition as the workers.
fn request(
    options: &JobOptions,
    settings: &Settings,
    system: System,
    cluster: &str,
    place: &Place,
) -> Request {
    let end = if system == System::Slurm { "-%j.log" } else { ".log" };
    Request {
        name: format!("hpcdag-{cluster}-scheduler"),
        comment: Some(format!("scheduler of hpcdag cluster {cluster}")),
        nodes: 1,
        jobs: 1,
        cpus: Some(1),
        memory: Some(MEMORY),
        gpus: None,
        constraint: None,
        output: Some(place.file(end).to_string_lossy().into_owned()),
        requeue: false,
        ..start::resources(options, settings, Some(1))
    }
}

fn script(
    settings: &Settings,
    system: System,
    request: &Request,
    place: &Place,
    (path, cluster, home): (&Path, &str, &ClusterDir),
) -> Result<String> {
    let state = home.path().parent().unwrap_or(Path::new("/"));
    let context = template::Context {
        system: system.key().into(),
        directives: system.directives(request)?,
        about: vec![format!("The scheduler of hpcdag cluster {cluster}; written by `hpcdag up --batch`.")],
        name: request.name.clone(),
        cluster: cluster.to_owned(),
        nodes: 1,
        jobs: 1,
        cpus: request.cpus,
        program: start::program(settings)?,
        scheduler_file_word: shell_quoted(&path.to_string_lossy()),
        state_word: shell_quoted(&state.to_string_lossy()),
        settings_file: Some(place.file(".toml").to_string_lossy().into_owned()),
        prologue: settings.prologue.clone(),
        ..template::Context::default()
    };
    let text = template::built_in(system, Purpose::Scheduler);
    template::render("the built-in template", text, &context.complete())
}

/// The scheduler's settings as TOML: what is not the default here.
fn scheduler_settings(context: &Context, args: &UpArgs) -> String {
    let rows = context.loaded.origins();
    let is_for_it = |key: &str| {
        ["scheduler.", "network.connect-timeout", "log."].iter().any(|start| key.starts_with(start))
    };
    let mut lines =
        vec!["# Settings of a scheduler that hpcdag submitted; read through HPCDAG_CONFIG.".to_owned()];
    let chosen = rows.iter().filter(|(key, _, origin)| *origin != Origin::Default && is_for_it(key));
    lines.extend(chosen.map(|(key, value, _)| format!("{key} = {value}")));
    if let Some(interface) = &args.interface {
        lines.retain(|line| !line.starts_with("scheduler.interface = "));
        lines.push(format!("scheduler.interface = {}", toml::Value::from(interface.as_str())));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The job of a cluster's scheduler, if it is one.
///
/// # Errors
/// `File` when the record cannot be read.
pub(in crate::cli) fn of(home: &Path) -> Result<Option<Record>> {
    Ok(records::read(&home.join(DIRECTORY))?.pop().map(|(_, record)| record))
}

/// Whether the job of a cluster's scheduler is known to be over.
pub(super) fn is_over(home: &Path) -> bool {
    let Ok(Some(record)) = of(home) else { return false };
    jobs::status(&[record]).is_ok_and(|statuses| jobs::summary(&statuses.concat()).is_over())
}

/// Clusters whose scheduler is a job that has not begun, or has ended: id, scheduler file and directory.
///
/// # Errors
/// `File` when the state directory cannot be read.
pub(super) fn without_file(state: &StateDir) -> Result<Vec<(String, PathBuf, ClusterDir)>> {
    let mut found = Vec::new();
    for home in state.own_clusters()? {
        let Ok(text) = std::fs::read_to_string(home.path().join(DIRECTORY).join(FILE)) else { continue };
        let path = PathBuf::from(text);
        if !path.exists() {
            found.push((home.id().to_owned(), path, home));
        }
    }
    Ok(found)
}

/// The only one of these, or the one of a scheduler file.
///
/// # Errors
/// As [`without_file`]; `Usage` when there are several and none is named.
pub(super) fn meant(state: &StateDir, named: Option<&Path>) -> Result<Option<(String, PathBuf, ClusterDir)>> {
    let mut found = without_file(state)?;
    if let Some(named) = named {
        return Ok(found.into_iter().find(|(_, path, _)| path == named));
    }
    if found.len() > 1 {
        let lines: Vec<String> =
            found.iter().map(|(id, path, _)| format!("  {id}: {}", path.display())).collect();
        let what =
            format!("{} clusters of yours wait for their scheduler:\n{}", found.len(), lines.join("\n"));
        return Err(Error::new(Kind::Usage, what).hint("choose one with --scheduler-file"));
    }
    Ok(found.pop())
}
