//! `workers start --launcher sbatch` and its likes: from options and settings to a submitted script. Owns
//! what a job of workers is by default; the script's form is the template's.

use super::pools;
use super::records::{self, DIRECTORY, Place};
use super::worker_settings::worker_settings;
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::{JobOptions, WorkersStartArgs};
use crate::cli::context::{Context, absolute, expand, run_short};
use crate::cli::output::Out;
use crate::client::Client;
use crate::config::PathTemplate;
use crate::launch::dialect::{JobStatus, Request, System};
use crate::launch::jobs::{self, Record};
use crate::launch::pools::Pool;
use crate::launch::settings::Settings;
use crate::launch::template::{self, Purpose, shell_quoted};
use crate::net::discovery;
use crate::net::private_file;
use crate::net::scheduler_file::SchedulerFile;
use crate::net::state_dir::ClusterDir;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How long jobs wait for the file of a scheduler that is a job too, in seconds.
const FILE_PATIENCE: u32 = 600;

/// `workers start` with a launcher that submits jobs.
pub(in crate::cli) fn start(context: &Context, args: &WorkersStartArgs, system: System) -> Result<u8> {
    let submitter = Submitter::new(context, args, system)?;
    if let Some(code) = submitter.only_asked()? {
        return Ok(code);
    }
    submitter.is_allowed()?;
    let record = submitter.submit(false)?;
    let json = record_json(&record);
    Out::stdout().value(args.json.json, &json, |_| {
        format!("submitted {system} job {} for {}, log {}", record.id, size_text(&record), record.log)
    })?;
    Ok(0)
}

/// What `--json` says of a submission.
pub(in crate::cli) fn record_json(record: &Record) -> serde_json::Value {
    json!({
        "system": record.system.key(),
        "id": record.id,
        "name": record.name,
        "nodes": record.nodes,
        "jobs": record.jobs,
        "script": record.script,
        "log": record.log,
    })
}

/// Submissions with the same options for a cluster, as many as are wanted.
pub(in crate::cli) struct Submitter<'a> {
    context: &'a Context,
    args: &'a WorkersStartArgs,
    pub(super) system: System,
    pub(super) settings: Settings,
    /// The pool that the jobs are in.
    pub(super) pool: Option<Pool>,
    /// The scheduler file.
    pub(super) path: PathBuf,
    /// The cluster's id.
    cluster: String,
    /// Where the jobs are kept.
    pub(super) directory: PathBuf,
}

impl<'a> Submitter<'a> {
    /// For the cluster that is meant, which must be alive.
    ///
    /// # Errors
    /// `Usage` for options that do not fit, `Config`, and what connecting gives.
    pub(super) fn new(context: &'a Context, args: &'a WorkersStartArgs, system: System) -> Result<Self> {
        refuse_other_placement(args)?;
        let pool = args.pool.as_deref().map(|name| pools::named(context, name)).transpose()?;
        let launch = &context.loaded.config.launch;
        let settings = Settings::of_pool(launch, system, pool.as_ref(), &super::origins(context))?;
        let (path, file) = find(context, args)?;
        let directory = super::directory(&path, &file)?;
        Ok(Submitter { context, args, system, settings, pool, path, cluster: file.id, directory })
    }

    /// For a cluster of which only the place is known: its scheduler's file may not be there yet.
    ///
    /// # Errors
    /// `Usage` for options that do not fit, `Config`.
    pub(in crate::cli) fn for_cluster(
        context: &'a Context,
        args: &'a WorkersStartArgs,
        system: System,
        (path, cluster, home): (&Path, &str, &ClusterDir),
    ) -> Result<Self> {
        refuse_other_placement(args)?;
        let settings = super::settings(context, system)?;
        let directory = home.path().join(DIRECTORY);
        let (path, cluster) = (path.to_owned(), cluster.to_owned());
        Ok(Submitter { context, args, system, settings, pool: None, path, cluster, directory })
    }

    /// Lets the jobs begin only when another one has, where the system can be told so, and wait a while for
    /// its scheduler's file. `marker` is a directory that is there as long as that file may still come.
    pub(in crate::cli) fn after(&mut self, job: &str, marker: &Path) {
        self.settings.options.extend(match self.system {
            System::Slurm => vec![format!("--dependency=after:{job}")],
            System::Pbs => vec!["-W".into(), format!("depend=after:{job}")],
            // It only knows to wait for the end of a job.
            System::GridEngine => Vec::new(),
        });
        let (file, marker) = (self.path.to_string_lossy(), marker.to_string_lossy());
        let (file, marker) = (shell_quoted(&file), shell_quoted(&marker));
        let wait = format!(
            "# The scheduler is a job too, and may have begun just now.\n\
             until [ -e {file} ] || [ ! -d {marker} ] || [ \"$SECONDS\" -ge {FILE_PATIENCE} ]; do\n    \
             sleep 1\ndone"
        );
        let own = std::mem::take(&mut self.settings.prologue);
        self.settings.prologue = if own.is_empty() { wait } else { format!("{wait}\n{own}") };
    }

    /// What is asked for, as one submission.
    pub(super) fn request(&self, place: &Place) -> Result<Request> {
        request(self.args, &self.settings, self.system, &self.cluster, place)
    }

    /// Request, script, and the workers' settings.
    fn render(&self, place: &Place) -> Result<(Request, String, String)> {
        let request = self.request(place)?;
        let worker_settings = worker_settings(self.context, self.args, self.pool.as_ref(), &request);
        let cluster = (self.path.as_path(), self.cluster.as_str());
        let script = script(self.context, self.args, &self.settings, self.system, &request, place, cluster)?;
        Ok((request, script, worker_settings))
    }

    fn native(&self) -> Vec<String> {
        self.settings.options.iter().chain(&self.args.jobs.native).cloned().collect()
    }

    fn write(&self, place: &Place, script: &str, worker_settings: &str) -> Result<()> {
        private_file::make_directory(&self.directory)?;
        private_file::write(&place.file(".toml"), worker_settings.as_bytes())?;
        private_file::write(&place.file(".sh"), script.as_bytes())
    }

    /// Answers `--dry-run` and `--check`; `None` if neither was given.
    ///
    /// # Errors
    /// As [`jobs::check`].
    pub(super) fn only_asked(&self) -> Result<Option<u8>> {
        let (args, system) = (self.args, self.system);
        if !args.jobs.dry_run && !args.jobs.check {
            return Ok(None);
        }
        let place = Place::new(&self.directory);
        let (_, script, worker_settings) = self.render(&place)?;
        if args.jobs.dry_run {
            return dry_run(args, system, &place, &script, &worker_settings, &self.native()).map(Some);
        }
        self.write(&place, &script, &worker_settings)?;
        let said = jobs::check(system, &place.file(".sh"), &self.native());
        place.remove();
        let said = said?;
        let json = json!({ "system": system.key(), "accepted": true, "said": said });
        Out::stdout().value(args.json.json, &json, |_| format!("{system} would take it: {said}"))?;
        Ok(Some(0))
    }

    /// Whether one submission more is within what the configuration allows.
    ///
    /// # Errors
    /// `Launch` when it is not, or when the batch system does not say which jobs are left.
    pub(in crate::cli) fn is_allowed(&self) -> Result<()> {
        let Some(most) = self.settings.max_jobs else { return Ok(()) };
        let more = self.request(&Place::new(&self.directory))?.jobs;
        let mut kept: Vec<Record> =
            records::read(&self.directory)?.into_iter().map(|(_, record)| record).collect();
        kept.retain(|record| record.ended.is_none());
        let count = |statuses: &Vec<JobStatus>| statuses.iter().filter(|s| !s.state.is_over()).count() as u32;
        let mut there = kept.iter().map(|record| record.jobs).sum::<u32>();
        if there + more > most && !kept.is_empty() {
            there = jobs::status(&kept)?.iter().map(count).sum();
        }
        match there + more > most {
            true => Err(self.over_limit(&format!("{there} jobs are there and {more} would be added"), most)),
            false => Ok(()),
        }
    }

    /// More jobs than the configuration allows.
    pub(super) fn over_limit(&self, what: &str, most: u32) -> Error {
        let key = self.system.key();
        Error::new(Kind::Launch, format!("{what}, of {most} that a cluster may have")).hint(format!(
            "launch.{key}.max-jobs is the limit; `hpcdag config show --origin` says whose it is"
        ))
    }

    /// Submits once. `scaled` jobs may be ended again by `workers scale` and `workers adapt`.
    ///
    /// # Errors
    /// `Launch` when it is refused: then nothing is left of it.
    pub(in crate::cli) fn submit(&self, scaled: bool) -> Result<Record> {
        let place = Place::new(&self.directory);
        let (request, script, worker_settings) = self.render(&place)?;
        self.write(&place, &script, &worker_settings)?;
        let id = match jobs::submit(self.system, &place.file(".sh"), &self.native()) {
            Ok(id) => id,
            Err(e) => {
                place.remove();
                return Err(e);
            }
        };
        let record = Record {
            system: self.system,
            id,
            name: request.name.clone(),
            nodes: request.nodes,
            jobs: request.jobs,
            submitted: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            script: place.file(".sh"),
            log: request.output.clone().unwrap_or_default(),
            pool: self.pool.as_ref().map(|pool| pool.name.clone()),
            scaled,
            ended: None,
        };
        if let Err(e) = place.keep(&record) {
            // A job that nobody knows of would be nobody's to end.
            let undone = jobs::cancel(std::slice::from_ref(&record));
            let fate = if undone.is_ok() { "it was cancelled again" } else { "cancel it yourself" };
            return Err(Error {
                message: format!("{}; job {} was submitted and {fate}", e.message, record.id),
                ..e
            });
        }
        Ok(record)
    }
}

/// `16 nodes`, `16 jobs of 1 node`.
pub(in crate::cli) fn size_text(record: &Record) -> String {
    let nodes = if record.nodes == 1 { "1 node".into() } else { format!("{} nodes", record.nodes) };
    if record.jobs == 1 { nodes } else { format!("{} jobs of {nodes}", record.jobs) }
}

/// What says where workers go inside an allocation means nothing to a job.
fn refuse_other_placement(args: &WorkersStartArgs) -> Result<()> {
    let other = [
        ("--hosts", args.placement.hosts.is_some(), "the batch system finds the nodes of a job"),
        ("--hostfile", args.placement.hostfile.is_some(), "the batch system finds the nodes of a job"),
        ("-n", args.placement.nworkers.is_some(), "-N says how many nodes, each with one worker"),
        ("--per", args.placement.per.is_some(), "each node of a job gets one worker"),
        ("--min-workers", args.placement.min_workers.is_some(), "`hpcdag workers wait N` waits for workers"),
    ];
    match other.into_iter().find(|(_, given, _)| *given) {
        Some((name, _, why)) => {
            Err(Error::new(Kind::Usage, format!("{name} is not for workers in jobs of a batch system"))
                .hint(why))
        }
        None => Ok(()),
    }
}

/// The cluster that is meant, which must be alive.
fn find(context: &Context, args: &WorkersStartArgs) -> Result<(PathBuf, SchedulerFile)> {
    let wish = context.wish(&args.scheduler)?;
    run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let file = client.scheduler().clone();
        client.close().await;
        Ok((path, file))
    })
}

/// Nodes of each job, and how many jobs.
fn split(options: &JobOptions) -> Result<(u32, u32)> {
    let nodes = options.nodes.unwrap_or(1);
    let per_job = options.per_job.unwrap_or(nodes);
    if !nodes.is_multiple_of(per_job) {
        let what = format!("{nodes} nodes cannot be split into jobs of {per_job}");
        return Err(Error::new(Kind::Usage, what).hint("let -N be a multiple of --per-job"));
    }
    Ok((per_job, nodes / per_job))
}

fn request(
    args: &WorkersStartArgs,
    settings: &Settings,
    system: System,
    cluster: &str,
    place: &Place,
) -> Result<Request> {
    let options = &args.jobs;
    let (nodes, count) = split(options)?;
    let cpus = match args.worker.nthreads.as_deref() {
        None | Some("auto") => settings.cpus,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::new(Kind::Usage, format!("-c {text} is no number of processors")))?,
        ),
    };
    let output = match &options.output {
        Some(path) => absolute(path)?,
        None => place.file(log_end(system, count)),
    };
    let own = format!("hpcdag-{cluster}");
    Ok(Request {
        name: match &options.job_name {
            // Only Slurm's jobs have a comment; elsewhere the name says whose the job is.
            Some(name) if system == System::Slurm => name.clone(),
            Some(name) => format!("{name}-{cluster}"),
            None => own,
        },
        comment: Some(format!("hpcdag cluster {cluster}")),
        nodes,
        jobs: count,
        output: Some(output.to_string_lossy().into_owned()),
        requeue: false,
        ..resources(options, settings, cpus)
    })
}

/// What a job asks for on each node, and of whom: options win over settings.
pub(in crate::cli) fn resources(options: &JobOptions, settings: &Settings, cpus: Option<u32>) -> Request {
    Request {
        cpus: cpus.or(settings.cpus),
        memory: options.mem.map(|size| size.0).or(settings.memory),
        gpus: options.gpus.or(settings.gpus),
        walltime: options.walltime.or(settings.walltime),
        warning: settings.warning,
        account: options.account.clone().or_else(|| settings.account.clone()),
        queue: options.partition.clone().or_else(|| settings.queue.clone()),
        qos: options.qos.clone().or_else(|| settings.qos.clone()),
        constraint: options.constraint.clone().or_else(|| settings.constraint.clone()),
        project: settings.project.clone(),
        parallel_environment: settings.parallel_environment.clone(),
        memory_resource: Some(settings.memory_resource.clone().unwrap_or_else(|| "h_vmem".into())),
        gpu_resource: settings.gpu_resource.clone(),
        extra_directives: settings.directives.clone(),
        removed_directives: settings.remove_directives.clone(),
        ..Request::default()
    }
}

/// The program as the nodes find it.
///
/// # Errors
/// `Internal` when this process does not know its own file.
pub(in crate::cli) fn program(settings: &Settings) -> Result<String> {
    if let Some(program) = &settings.program {
        return Ok(program.clone());
    }
    let path = std::env::current_exe();
    Ok(path.map_err(|e| Error::os("cannot find this program's file", e))?.to_string_lossy().into_owned())
}

/// How the name of the jobs' output ends, with the system's placeholders.
fn log_end(system: System, jobs: u32) -> &'static str {
    match (system, jobs > 1) {
        (System::Slurm, false) => "-%j.log",
        (System::Slurm, true) => "-%A_%a.log",
        (System::Pbs, false) => ".log",
        (System::Pbs, true) => ".^array_index^.log",
        (System::GridEngine, false) => ".$JOB_ID.log",
        (System::GridEngine, true) => ".$JOB_ID.$TASK_ID.log",
    }
}

fn script(
    context: &Context,
    args: &WorkersStartArgs,
    settings: &Settings,
    system: System,
    request: &Request,
    place: &Place,
    (path, cluster): (&Path, &str),
) -> Result<String> {
    let mut worker_args = vec!["--join".to_owned(), cluster.to_owned()];
    if let Some(address) = &args.scheduler.address {
        worker_args.extend(["--address".into(), address.clone()]);
    }
    if let Some(processes) = args.worker.processes {
        // Among the settings, too; here people see how the job's processors are used.
        worker_args.extend(["--processes".into(), processes.to_string()]);
    }
    let worker_args: Vec<String> = worker_args.iter().map(|arg| format!(" {}", shell_quoted(arg))).collect();
    let program = program(settings)?;
    // Each worker of a step has a log of its own.
    let log = place.file("-%j-%N-%t.log").to_string_lossy().into_owned();
    let template_context = template::Context {
        system: system.key().into(),
        directives: system.directives(request)?,
        about: vec![format!("Workers of hpcdag cluster {cluster}; written by `hpcdag workers start`.")],
        name: request.name.clone(),
        cluster: cluster.to_owned(),
        nodes: request.nodes,
        jobs: request.jobs,
        cpus: request.cpus,
        program,
        scheduler_file_word: shell_quoted(&path.to_string_lossy()),
        settings_file: Some(place.file(".toml").to_string_lossy().into_owned()),
        worker_args: worker_args.concat(),
        worker_log: (system == System::Slurm && args.jobs.output.is_none()).then_some(log),
        prologue: settings.prologue.clone(),
        epilogue: settings.epilogue.clone(),
        ..template::Context::default()
    };
    let template_context = template_context.complete();
    let (name, text) = match &settings.template {
        None => ("the built-in template".to_owned(), template::built_in(system, Purpose::Workers).to_owned()),
        Some(written) => {
            let path = expand(&PathTemplate::new(written.clone())?)?;
            let text = std::fs::read_to_string(&path).map_err(|e| Error::file("cannot read", &path, &e))?;
            (path.display().to_string(), text)
        }
    };
    tracing::debug!(verbosity = ?context.verbosity, "rendering {name}");
    template::render(&name, &text, &template_context)
}

fn dry_run(
    args: &WorkersStartArgs,
    system: System,
    place: &Place,
    script: &str,
    worker_settings: &str,
    native: &[String],
) -> Result<u8> {
    let command = system.submit(&place.file(".sh"), native).to_string();
    let settings = place.file(".toml");
    let json = json!({
        "system": system.key(),
        "command": command,
        "script": script,
        "settings-file": settings,
        "settings": worker_settings,
    });
    Out::stdout().value(args.json.json, &json, |_| {
        format!("# {command}\n\n{script}\n# ---- {}\n{worker_settings}", settings.display())
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_split_evenly() {
        let split = |nodes, per_job| split(&JobOptions { nodes, per_job, ..JobOptions::default() });
        assert_eq!(split(None, None).unwrap(), (1, 1));
        assert_eq!(split(Some(16), None).unwrap(), (16, 1));
        assert_eq!(split(Some(16), Some(1)).unwrap(), (1, 16));
        assert_eq!(split(Some(16), Some(4)).unwrap(), (4, 4));
        assert!(split(Some(16), Some(5)).unwrap_err().message.contains("cannot be split"));
    }
}
