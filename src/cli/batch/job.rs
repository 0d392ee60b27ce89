//! The job of a whole run: its request, its script, the settings of the processes in it. Owns what such a
//! job is by default; the script's form is the template's.

use super::directory::RunDirectory;
use crate::base::error::{Error, Result};
use crate::cli::args::{BatchOptions, JsonOption};
use crate::cli::context::Context;
use crate::cli::jobs as cli_jobs;
use crate::cli::output::Out;
use crate::config::Origin;
use crate::launch::dialect::{Request, System};
use crate::launch::template::{self, Purpose, shell_quoted};
use crate::net::private_file;
use serde_json::json;

/// A job that was made and not submitted.
pub(super) struct Job {
    system: System,
    pub(super) request: Request,
    pub(super) native: Vec<String>,
    script: String,
    settings: String,
}

/// Files of a job that was not submitted.
const FILES: [&str; 4] = ["job.sh", "settings.toml", "run.json", "graph.json"];

impl Job {
    pub(super) fn new(
        context: &Context,
        options: &BatchOptions,
        system: System,
        cpus: Option<u32>,
        name: &str,
        directory: &RunDirectory,
    ) -> Result<Job> {
        let settings = cli_jobs::settings(context, system)?;
        let id = directory.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let log = match system {
            System::Slurm => "job-%j.log",
            System::Pbs => "job.log",
            System::GridEngine => "job.$JOB_ID.log",
        };
        let own = format!("hpcdag-{}", harmless(name));
        let request = Request {
            name: options.job_name.clone().unwrap_or(own),
            comment: Some(format!("hpcdag run {id}")),
            nodes: options.nodes.unwrap_or(1),
            jobs: 1,
            output: Some(directory.file(log).to_string_lossy().into_owned()),
            requeue: true,
            ..cli_jobs::start::resources(&options.to_jobs(), &settings, cpus)
        };
        let mut native = settings.options.clone();
        native.extend(options.native.iter().cloned());
        let program = cli_jobs::start::program(&settings)?;
        let path = directory.path().to_string_lossy();
        let context_of_script = template::Context {
            system: system.key().into(),
            directives: system.directives(&request)?,
            about: vec![format!("A whole run as one job, written by hpcdag; its files are in {path}.")],
            name: request.name.clone(),
            nodes: request.nodes,
            jobs: 1,
            cpus: request.cpus,
            command: format!("{} resume --here {}", shell_quoted(&program), shell_quoted(&path)),
            program,
            scheduler_file_word: shell_quoted(&directory.scheduler_file().to_string_lossy()),
            ended_word: shell_quoted(&directory.file("summary.json").to_string_lossy()),
            state_word: shell_quoted(&directory.file("state").to_string_lossy()),
            settings_file: Some(directory.file("settings.toml").to_string_lossy().into_owned()),
            prologue: settings.prologue.clone(),
            epilogue: settings.epilogue.clone(),
            ..template::Context::default()
        };
        let text = template::built_in(system, Purpose::Run);
        let script = template::render("the built-in template", text, &context_of_script.complete())?;
        Ok(Job { system, settings: job_settings(context, &request), request, native, script })
    }

    /// Writes its files.
    pub(super) fn write(&self, directory: &RunDirectory) -> Result<()> {
        let path = directory.path();
        // What is above it is the user's, and need not be hidden.
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).map_err(|e| Error::file("cannot make", above, &e))?;
        }
        private_file::make_directory(path)?;
        private_file::write(&directory.file("settings.toml"), self.settings.as_bytes())?;
        private_file::write(&directory.script(), self.script.as_bytes())
    }

    /// Removes them: nothing was submitted.
    pub(super) fn remove(&self, directory: &RunDirectory) {
        for name in FILES {
            // Another attempt has a directory of its own.
            let _ = std::fs::remove_file(directory.file(name));
        }
        // They go only if nothing else is in them.
        let _ = std::fs::remove_dir(directory.path());
        if let Some(above) = directory.path().parent() {
            let _ = std::fs::remove_dir(above);
        }
    }

    pub(super) fn dry_run(&self, json: JsonOption, directory: &RunDirectory) -> Result<u8> {
        let command = self.system.submit(&directory.script(), &self.native).to_string();
        let value = json!({
            "system": self.system.key(),
            "command": command,
            "run-directory": directory.path(),
            "script": self.script,
            "settings": self.settings,
        });
        Out::stdout().value(json.json, &value, |_| {
            let settings = directory.file("settings.toml");
            format!("# {command}\n\n{}\n# ---- {}\n{}", self.script, settings.display(), self.settings)
        })?;
        Ok(0)
    }
}

/// A name as every batch system takes it.
fn harmless(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

/// The settings of everything in the job as TOML: what is not the default here must not depend on what a
/// node sees of this environment or this home directory.
fn job_settings(context: &Context, request: &Request) -> String {
    let rows = context.loaded.origins();
    let mut lines = vec!["# Settings of a run's job; read through HPCDAG_CONFIG.".to_owned()];
    for (key, value, origin) in &rows {
        // The file of a scheduler elsewhere has nothing to do with this one.
        if *origin != Origin::Default && !key.starts_with("launch.") && key != "network.scheduler-file" {
            lines.push(format!("{key} = {value}"));
        }
    }
    if let Some(gpus) = request.gpus
        && !lines.iter().any(|line| line.starts_with("worker.resources.gpus "))
    {
        lines.push(format!("worker.resources.gpus = {gpus}"));
    }
    lines.push(String::new());
    lines.join("\n")
}
