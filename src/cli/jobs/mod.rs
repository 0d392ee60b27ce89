//! Jobs of batch systems that hold workers: submitting, listing and cancelling them, and what is kept about
//! them in the cluster's directory. Owns the order of these; batch systems are `launch`'s.

pub(super) mod adapt;
pub(super) mod join;
pub(super) mod lasting;
pub(super) mod list;
mod pool;
pub(super) mod pools;
pub(super) mod records;
pub(super) mod scale;
pub(super) mod start;
pub(super) mod stop;
mod trouble;
pub(super) mod wait;
mod worker_settings;

use super::args::LauncherName;
use super::context::Context;
use crate::base::error::{Error, Kind, Result};
use crate::launch::dialect::{CommandLine, System, call, owner_of_qsub};
use crate::launch::relay::Follow;
use crate::launch::settings::Settings;
use crate::net::scheduler_file::SchedulerFile;
use crate::net::state_dir::StateDir;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The batch system that a launcher submits to; `None` for launchers without jobs.
pub(super) fn system_of(launcher: LauncherName) -> Result<Option<System>> {
    Ok(match launcher {
        LauncherName::Local | LauncherName::Srun | LauncherName::Ssh => None,
        LauncherName::Sbatch => Some(System::Slurm),
        LauncherName::Sge => Some(System::GridEngine),
        LauncherName::Pbs => Some(System::Pbs),
        LauncherName::Qsub => {
            let version = call::call(&CommandLine::new("qsub", &["--version"]))?;
            let said = format!("{}{}", version.stdout, version.stderr);
            let owner = owner_of_qsub(Some(&said), &|name| std::env::var(name).ok());
            Some(owner.ok_or_else(|| {
                Error::new(
                    Kind::Launch,
                    format!("this qsub is neither PBS's nor Grid Engine's: {}", version.said()),
                )
                .hint("say which one it is: --launcher pbs or --launcher sge")
            })?)
        }
    })
}

/// The batch system of this host, by its commands; `None` without any.
///
/// # Errors
/// `Launch` when there is a `qsub` of which it is not clear whose it is.
pub(super) fn present() -> Result<Option<System>> {
    match (is_command("sbatch"), is_command("qsub")) {
        (true, _) => Ok(Some(System::Slurm)),
        (false, true) => system_of(LauncherName::Qsub),
        (false, false) => Ok(None),
    }
}

/// Whether the commands of a batch system are there.
pub(super) fn has_commands() -> bool {
    is_command("sbatch") || is_command("qsub")
}

/// Whether a command of this name is in `PATH`.
fn is_command(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// The settings of a batch system, with what is wrong in them said by origin.
pub(super) fn settings(context: &Context, system: System) -> Result<Settings> {
    Settings::read(&context.loaded.config.launch, system, &origins(context))
}

/// The least time between two questions to a batch system.
///
/// # Errors
/// `Config`.
pub(super) fn poll_interval(context: &Context, system: System) -> Result<Duration> {
    Ok(settings(context, system)?.poll_interval_of(system))
}

/// How runs in jobs are followed.
pub(super) fn follow(context: &Context) -> Result<Follow> {
    Follow::read(&context.loaded.config.launch, &origins(context))
}

/// Tells where a setting, or a table of settings, comes from.
pub(super) fn origins(context: &Context) -> impl Fn(&str) -> String {
    let origins = context.loaded.origins();
    move |key: &str| {
        let inside = |k: &str| k == key || k.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        let found = origins.iter().find(|(k, ..)| inside(k));
        found.map_or_else(|| "the configuration".into(), |(_, _, origin)| origin.to_string())
    }
}

/// Where a cluster's jobs are kept: in the cluster's directory, which is the scheduler file's if that has
/// been put to its usual place.
fn directory(path: &Path, file: &SchedulerFile) -> Result<PathBuf> {
    directory_of(path, &file.id)
}

/// The same by the cluster's id.
fn directory_of(path: &Path, id: &str) -> Result<PathBuf> {
    let home = match path.parent() {
        Some(parent) if parent.file_name().is_some_and(|name| name == id) => parent.to_owned(),
        _ => StateDir::of_user()?.cluster(id)?.path().to_owned(),
    };
    Ok(home.join(records::DIRECTORY))
}
