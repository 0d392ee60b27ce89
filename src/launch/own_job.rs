//! What PBS and Grid Engine answer about the job that this process is in: what is the job's on each node, and
//! how long it may still run. Owns the questions, one for each job, and how the answers are read; Slurm's are
//! `slurm::environment`'s.

use super::dialect::call::{Answer, call_within};
use super::dialect::{CommandLine, System};
use crate::base::error::{Error, Kind, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Where OpenPBS puts its programs unless a site says otherwise.
const PBS_EXEC: &str = "/opt/pbs";

/// How long an answer may take: a worker that does not know its end is better than none.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is known about a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnJob {
    /// Processors and bytes on each node, by name; no bytes where none were asked for.
    pub shares: BTreeMap<String, (u32, u64)>,
    /// How long it may still run; `None` without a limit.
    pub left: Option<Duration>,
}

/// The job of PBS or Grid Engine that this process is in; `None` in none, and in one of Slurm.
pub fn id(variable: &dyn Fn(&str) -> Option<String>) -> Option<(System, String)> {
    let value = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
    if value("SLURM_JOB_ID").is_some() {
        return None;
    }
    let of_pbs = || Some((System::Pbs, value("PBS_JOBID")?));
    let of_grid_engine = || value("SGE_ROOT").and_then(|_| Some((System::GridEngine, value("JOB_ID")?)));
    of_pbs().or_else(of_grid_engine)
}

/// Asks the batch system once.
///
/// # Errors
/// `Launch` when it does not answer.
pub fn ask(system: System, id: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<OwnJob> {
    let refused = |answer: &Answer| {
        Error::new(Kind::Launch, format!("qstat says nothing about job {id}: {}", answer.said()))
    };
    match system {
        System::Slurm => Ok(OwnJob::default()),
        System::Pbs => {
            let qstat = pbs_program("qstat", variable).unwrap_or_else(|| "qstat".into());
            let answer = call_within(&CommandLine::new(&qstat, &["-f", "-F", "json", id]), PATIENCE)?;
            of_pbs(&answer.stdout).ok_or_else(|| refused(&answer))
        }
        System::GridEngine => {
            let answer = call_within(&CommandLine::new("qstat", &["-j", id]), PATIENCE)?;
            if !answer.is_success() {
                return Err(refused(&answer));
            }
            // It does not say when the job began; its directory on this host is made then.
            let began = variable("SGE_JOB_SPOOL_DIR").map(|dir| Path::new(&dir).join("config"));
            let began = began.and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
            let used = began.and_then(|began| SystemTime::now().duration_since(began).ok());
            let left = limit_of_grid_engine(&answer.stdout)
                .map(|limit| Duration::from_secs(limit).saturating_sub(used.unwrap_or_default()));
            Ok(OwnJob { left, ..OwnJob::default() })
        }
    }
}

/// The lesser of the soft and the hard limit in an answer of `qstat -j`, seconds.
fn limit_of_grid_engine(text: &str) -> Option<u64> {
    let lists = text.lines().filter_map(|line| line.split_once("resource_list:"));
    let all = lists.flat_map(|(_, list)| list.split(','));
    let limits = all.filter_map(|one| {
        let one = one.trim();
        seconds(one.strip_prefix("h_rt=").or_else(|| one.strip_prefix("s_rt="))?)
    });
    limits.min()
}

/// Seconds, or `HH:MM:SS`.
fn seconds(text: &str) -> Option<u64> {
    let parts = text.trim().split(':').map(|part| part.parse::<u64>().ok());
    let parts: Vec<u64> = parts.collect::<Option<_>>()?;
    parts.into_iter().try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part))
}

/// What an answer of PBS's `qstat -f -F json` says about its only job; `None` when there is none in it.
fn of_pbs(text: &str) -> Option<OwnJob> {
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = json["Jobs"].as_object()?.values().next()?;
    let time = |value: &Value| seconds(value.as_str()?);
    let used = time(&job["resources_used"]["walltime"]).unwrap_or(0);
    let left = time(&job["Resource_List"]["walltime"]).map(|limit| limit.saturating_sub(used));
    let shares = shares(job["exec_vnode"].as_str().unwrap_or_default());
    Some(OwnJob { shares, left: left.map(Duration::from_secs) })
}

/// Processors and bytes of each node in PBS's `(n1:ncpus=2:mem=65536kb)+(n2:ncpus=2)`. Where a node has
/// several parts they are added up.
fn shares(exec_vnode: &str) -> BTreeMap<String, (u32, u64)> {
    let mut shares: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for part in exec_vnode.split(['+', '(', ')']).filter(|part| !part.is_empty()) {
        let mut fields = part.split(':');
        // A host with several virtual nodes numbers them: `n1[0]`.
        let name = fields.next().unwrap_or_default().split('[').next().unwrap_or_default();
        let share = shares.entry(name.to_owned()).or_default();
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "ncpus" => share.0 = share.0.saturating_add(value.parse().unwrap_or(0)),
                "mem" => share.1 = share.1.saturating_add(bytes(value).unwrap_or(0)),
                _ => {}
            }
        }
    }
    shares.retain(|_, (cpus, _)| *cpus > 0);
    shares
}

/// A size as PBS writes it: `65536kb`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        "tb" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The path of one of PBS's programs, which need not be in `PATH` of a job.
pub fn pbs_program(name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if is_in_path(name, variable) {
        return Some(name.into());
    }
    let root = variable("PBS_EXEC").unwrap_or_else(|| PBS_EXEC.into());
    let path = Path::new(&root).join("bin").join(name);
    path.exists().then(|| path.to_string_lossy().into_owned())
}

/// Whether a program is found by its name.
pub fn is_in_path(program: &str, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_job_of_pbs() {
        let found = shares("(n1:ncpus=2:mem=65536kb)+(n2[0]:ncpus=1:mem=1gb+n2[1]:ncpus=3)");
        assert_eq!((found["n1"], found["n2"]), ((2, 64 << 20), (4, 1 << 30)));
        assert!(shares("").is_empty() && shares("(n1:mem=1kb)").is_empty());
        let recorded = of_pbs(include_str!("../../tests/recordings/pbs/qstat-running-json")).unwrap();
        assert_eq!((recorded.shares["n2"], recorded.left), ((2, 64 << 20), Some(Duration::from_secs(300))));
        assert_eq!(of_pbs("qstat: cannot connect"), None);
    }

    #[test]
    fn limits_of_grid_engine() {
        let text = "job_number:  1\nhard resource_list:         h_rt=100,s_rt=0:1:30,h_vmem=1G\n";
        assert_eq!(limit_of_grid_engine(text), Some(90));
        assert_eq!(limit_of_grid_engine("hard resource_list:  mem_free=1G\n"), None);
        assert_eq!(limit_of_grid_engine("hard resource_list:  h_rt=INFINITY\n"), None);
    }

    #[test]
    fn jobs_are_told_by_variables() {
        let of = |set: &[(&str, &str)]| {
            id(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of(&[("PBS_JOBID", "1.s")]), Some((System::Pbs, "1.s".into())));
        assert_eq!(of(&[("JOB_ID", "1"), ("SGE_ROOT", "/s")]), Some((System::GridEngine, "1".into())));
        assert_eq!(of(&[("JOB_ID", "1")]), None, "anybody's variable");
        assert_eq!(of(&[("SLURM_JOB_ID", "1"), ("PBS_JOBID", "1.s")]), None);
    }
}
