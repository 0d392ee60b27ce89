//! `[launch.pool.NAME]`: jobs of one kind under a name. Owns what a pool may say; the settings that it shares
//! with all jobs of its batch system are `settings`'.

use super::settings::{Reading, unknown};
use crate::base::error::{Error, Kind, Result};
use toml::{Table, Value};

/// The table of pools in `[launch]`.
pub(super) const TABLE: &str = "pool";

/// What only a pool may say.
pub(super) const OWN: &[&str] = &["launcher", "nodes", "min", "max", "preemptible"];

/// A pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Where its jobs are submitted: the word after `--launcher`.
    pub launcher: Option<String>,
    /// Nodes of each job.
    pub nodes: Option<u32>,
    /// Jobs that there are even without work.
    pub min: Option<u32>,
    /// Jobs that there are at most.
    pub max: Option<u32>,
    /// Whether its workers may be taken away at any time.
    pub preemptible: bool,
    /// All that it says, with the settings that win over those of the batch system.
    pub(super) table: Table,
}

impl Pool {
    /// Reads a pool from `[launch]`. `origin` tells where a setting, named with its dots, comes from.
    ///
    /// # Errors
    /// `Config`: there is no such pool, or a value does not fit.
    pub fn read(launch: &Table, name: &str, origin: &dyn Fn(&str) -> String) -> Result<Pool> {
        let all = launch.get(TABLE).and_then(Value::as_table);
        let Some(table) = all.and_then(|all| all.get(name)).and_then(Value::as_table) else {
            let known: Vec<&str> = all.into_iter().flat_map(|all| all.keys()).map(String::as_str).collect();
            let error = Error::new(Kind::Config, format!("there is no pool {name:?} in the configuration"));
            return Err(error.hint(match known.is_empty() {
                true => format!("describe it in [launch.{TABLE}.{name}]"),
                false => format!("there are {}", known.join(", ")),
            }));
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            let what = format!("{name:?} cannot be a pool's name");
            return Err(Error::new(Kind::Config, what).hint("letters, digits, '-' and '_'"));
        }
        let place = format!("launch.{TABLE}.{name}");
        let read = Reading { table, place: &place, over: None, origin };
        Ok(Pool {
            name: name.into(),
            launcher: read.get("launcher")?,
            nodes: read.count("nodes")?,
            min: read.get("min")?,
            max: read.count("max")?,
            preemptible: read.get("preemptible")?.unwrap_or(false),
            table: table.clone(),
        })
    }
}

/// Refuses what a pool cannot say.
pub(super) fn check(pool: &Pool, names: &[&str], origin: &dyn Fn(&str) -> String) -> Result<()> {
    let names: Vec<&str> = OWN.iter().chain(names).copied().collect();
    match pool.table.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(unknown(&format!("launch.{TABLE}.{}", pool.name), name, &names, origin)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::dialect::System;
    use crate::launch::settings::Settings;
    use std::time::Duration;

    const TEXT: &str = "[slurm]\naccount = 'a'\npartition = 'long'\nwalltime = '2h'\n\
        [pool.spot]\nlauncher = 'sbatch'\nnodes = 2\nmax = 8\npreemptible = true\npartition = 'cheap'\n\
        options = ['--requeue']\n[pool.stable]\nwaltime = '1h'\n[pool.bad]\nmax = 0\n";

    fn origin(key: &str) -> String {
        format!("site.toml ({key})")
    }

    #[test]
    fn a_pool_wins_over_its_batch_system() {
        let launch: Table = TEXT.parse().unwrap();
        let spot = Pool::read(&launch, "spot", &origin).unwrap();
        assert_eq!((spot.launcher.as_deref(), spot.nodes, spot.max), (Some("sbatch"), Some(2), Some(8)));
        assert!(spot.preemptible);
        let settings = Settings::of_pool(&launch, System::Slurm, Some(&spot), &origin).unwrap();
        assert_eq!((settings.account.as_deref(), settings.queue.as_deref()), (Some("a"), Some("cheap")));
        assert_eq!(
            (settings.walltime, settings.options),
            (Some(Duration::from_secs(7200)), vec!["--requeue".into()])
        );
        let plain = Settings::read(&launch, System::Slurm, &origin).unwrap();
        assert_eq!(plain.queue.as_deref(), Some("long"), "other jobs know nothing of it");
    }

    #[test]
    fn faults_in_pools_say_where() {
        let launch: Table = TEXT.parse().unwrap();
        let none = Pool::read(&launch, "spto", &origin).unwrap_err();
        assert!(none.hint.is_some_and(|hint| hint.contains("spot, stable")));
        let bad = Pool::read(&launch, "bad", &origin).unwrap_err();
        assert!(bad.message.contains("'launch.pool.bad.max': must be at least 1"), "{bad}");
        let stable = Pool::read(&launch, "stable", &origin).unwrap();
        let typo = Settings::of_pool(&launch, System::Slurm, Some(&stable), &origin).unwrap_err();
        assert!(typo.message.contains("no setting 'launch.pool.stable.waltime'"), "{typo}");
        assert!(typo.hint.is_some_and(|hint| hint.contains("'walltime'")));
    }
}
