//! `--pool NAME`: what the configuration says about jobs of a pool, under what the command line says. Owns
//! this order; what a pool is belongs to `launch::pools`.

use crate::base::error::{Error, Kind, Result};
use crate::cli::args::{LauncherName, WorkersStartArgs};
use crate::cli::context::Context;
use crate::launch::pools::Pool;
use clap::ValueEnum;

/// A pool by its name.
///
/// # Errors
/// `Config` when there is none of that name, or when it says what it cannot.
pub(super) fn named(context: &Context, name: &str) -> Result<Pool> {
    Pool::read(&context.loaded.config.launch, name, &super::origins(context))
}

/// The launcher that a pool names.
fn launcher(pool: &Pool) -> Result<Option<LauncherName>> {
    let Some(word) = &pool.launcher else { return Ok(None) };
    let known = LauncherName::from_str(word, false).ok();
    let fits = known.filter(|name| !matches!(name, LauncherName::Local | LauncherName::Srun));
    fits.map(Some).ok_or_else(|| {
        let what = format!("'launch.pool.{}.launcher': no batch system is meant by {word:?}", pool.name);
        Error::new(Kind::Config, what).hint("sbatch, qsub, pbs or sge")
    })
}

/// The arguments of `workers start` with what the pool that they name adds; `None` if they name none.
///
/// # Errors
/// As [`named`]; `Usage` when nobody says where jobs are submitted.
pub(in crate::cli) fn apply(context: &Context, args: &WorkersStartArgs) -> Result<Option<WorkersStartArgs>> {
    let Some(name) = &args.pool else { return Ok(None) };
    let pool = named(context, name)?;
    let mut args = args.clone();
    args.jobs.nodes = args.jobs.nodes.or(pool.nodes);
    args.placement.launcher = match args.placement.launcher {
        None => launcher(&pool)?,
        given => given,
    };
    if args.placement.launcher.is_none() {
        let what = format!("nothing says where jobs of pool {name} are submitted");
        return Err(Error::new(Kind::Usage, what)
            .hint(format!("--launcher sbatch, qsub, pbs or sge, or launch.pool.{name}.launcher")));
    }
    Ok(Some(args))
}
