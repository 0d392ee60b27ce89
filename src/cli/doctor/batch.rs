//! The batch system, what it allows, and the job that this process is in: a few calls with a short time
//! limit, and judging what they say.

use super::findings::{Area, Findings};
use crate::base::error::Result;
use crate::base::units::{Span, parse_duration};
use crate::launch::dialect::call::{Answer, call_within};
use crate::launch::dialect::{CommandLine, System, owner_of_qsub};
use crate::launch::settings::Settings;
use crate::launch::slurm::environment;
use crate::net::state_dir::batch_job_id;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// How long the batch system may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job that ends sooner is not worth starting anything in, seconds.
const SOON: u64 = 600;

/// What is shown of Slurm's configuration.
const SLURM_LIMITS: &[&str] =
    &["MaxArraySize", "MaxJobCount", "MaxStepCount", "MaxTasksPerNode", "KillWait", "DefMemPerNode"];

/// What is shown of a PBS server.
const PBS_LIMITS: &[&str] = &["max_array_size", "max_queued", "max_run", "resources_default.walltime"];

/// What is shown of Grid Engine's configuration; 0 is no limit there.
const SGE_LIMITS: &[&str] = &["max_aj_tasks", "max_aj_instances", "max_u_jobs", "max_jobs"];

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Queue {
    /// Its name.
    pub name: String,
    /// Jobs go there if they name none.
    pub default: bool,
    /// Whether it takes jobs, in the system's word.
    pub state: String,
    /// How long jobs may run, in the system's words.
    pub time_limit: String,
    /// How long they run if they do not say.
    pub default_time: String,
    /// Its nodes.
    pub nodes: String,
}

/// The job that this is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Job {
    /// Its id.
    pub id: String,
    /// Seconds until it ends.
    pub seconds_left: Option<u64>,
    /// It has no end.
    pub endless: bool,
    /// Why its end is not known.
    pub unknown_end: Option<String>,
}

/// What was read.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Readings {
    /// The batch system.
    pub system: Option<System>,
    /// Its version, in its words.
    pub version: Option<String>,
    /// Limits by name, in its words.
    pub limits: Vec<(String, String)>,
    /// Slurm's partitions; of PBS the default queue.
    pub queues: Vec<Queue>,
    /// Systems whose programs are here and do not answer, and what they said.
    pub faults: Vec<(System, String)>,
    /// The job.
    pub job: Option<Job>,
    /// The queue that the configuration names.
    #[serde(skip)]
    pub configured_queue: Option<String>,
    /// The configuration says how long jobs run.
    #[serde(skip)]
    pub has_walltime: bool,
}

impl Readings {
    /// Asks. `settings` reads those of a batch system.
    pub fn here(settings: impl Fn(System) -> Result<Settings>) -> Readings {
        let variable = |name: &str| std::env::var(name).ok();
        let mut readings = Readings::default();
        for system in candidates(&variable) {
            match readings.ask(system) {
                Ok(()) => {
                    readings.system = Some(system);
                    break;
                }
                Err(e) => readings.faults.push((system, e.message)),
            }
        }
        let ours = readings.system.or(of_job(&variable));
        if let Some(settings) = ours.and_then(|system| settings(system).ok()) {
            readings.configured_queue = settings.queue;
            readings.has_walltime = settings.walltime.is_some();
        }
        readings.job = of_job(&variable).and_then(|system| Some(job(system, batch_job_id()?, &variable)));
        readings
    }

    fn ask(&mut self, system: System) -> Result<()> {
        match system {
            System::Slurm => {
                let config = ask("scontrol", &["show", "config"])?;
                self.version = value(&config, "SLURM_VERSION").map(str::to_owned);
                self.limits = limits(&config, SLURM_LIMITS);
                // Without the list the rest is still worth knowing.
                let listed = ask("sinfo", &["--noheader", "--summarize", "--format=%P|%a|%l|%L|%D"]);
                self.queues = listed.map(|text| partitions(&text)).unwrap_or_default();
            }
            System::Pbs => {
                let server = ask("qstat", &["-B", "-f"])?;
                self.version = value(&server, "pbs_version").map(str::to_owned);
                self.limits = limits(&server, PBS_LIMITS);
                let queue = value(&server, "default_queue").map(|name| Queue {
                    name: name.into(),
                    default: true,
                    state: "up".into(),
                    time_limit: "unknown".into(),
                    default_time: "unknown".into(),
                    nodes: "unknown".into(),
                });
                self.queues = queue.into_iter().collect();
            }
            System::GridEngine => {
                let config = ask("qconf", &["-sconf"])?;
                self.limits = limits(&config, SGE_LIMITS);
            }
        }
        Ok(())
    }
}

fn ask(program: &str, args: &[&str]) -> Result<String> {
    let answer: Answer = call_within(&CommandLine::new(program, args), PATIENCE)?;
    match answer.is_success() {
        true => Ok(answer.stdout),
        false => Err(crate::base::error::Error::new(
            crate::base::error::Kind::Launch,
            format!("{program}: {}", answer.said()),
        )),
    }
}

/// The batch system whose job this is.
fn of_job(variable: &dyn Fn(&str) -> Option<String>) -> Option<System> {
    let is_set = |name: &str| variable(name).is_some_and(|v| !v.is_empty());
    if is_set("SLURM_JOB_ID") {
        Some(System::Slurm)
    } else if is_set("PBS_JOBID") {
        Some(System::Pbs)
    } else {
        (is_set("JOB_ID") && is_set("SGE_ROOT")).then_some(System::GridEngine)
    }
}

/// Batch systems that may be here: the job's, else all whose programs are.
fn candidates(variable: &dyn Fn(&str) -> Option<String>) -> Vec<System> {
    if let Some(system) = of_job(variable) {
        return vec![system];
    }
    let path = variable("PATH").unwrap_or_default();
    let is_here = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut found = Vec::new();
    if is_here("scontrol") {
        found.push(System::Slurm);
    }
    if is_here("qsub") {
        let said = call_within(&CommandLine::new("qsub", &["--version"]), PATIENCE);
        let said = said.ok().map(|answer| format!("{}{}", answer.stdout, answer.stderr));
        found.extend(owner_of_qsub(said.as_deref(), variable));
    }
    found
}

/// The value of a line `name = value` or `name value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let of_line = |line: &'a str| {
        let (key, value) = line.split_once('=').or_else(|| line.trim().split_once(char::is_whitespace))?;
        (key.trim() == name).then_some(value.trim())
    };
    text.lines().find_map(of_line).filter(|v| !v.is_empty() && *v != "(null)")
}

fn limits(text: &str, names: &[&str]) -> Vec<(String, String)> {
    names.iter().filter_map(|name| Some(((*name).to_owned(), value(text, name)?.to_owned()))).collect()
}

/// Partitions as `sinfo --format=%P|%a|%l|%L|%D` lists them.
fn partitions(text: &str) -> Vec<Queue> {
    let of_line = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let name = fields.next().filter(|name| !name.is_empty())?;
        let mut next = || Some(fields.next()?.to_owned());
        Some(Queue {
            name: name.trim_end_matches('*').to_owned(),
            default: name.ends_with('*'),
            state: next()?,
            time_limit: next()?,
            default_time: next()?,
            nodes: next()?,
        })
    };
    text.lines().filter_map(of_line).collect()
}

fn job(system: System, id: String, variable: &dyn Fn(&str) -> Option<String>) -> Job {
    let mut job = Job { id, ..Job::default() };
    let left = match system {
        System::Slurm => environment::end_of_job(variable)
            .map_err(|e| e.message)
            .map(|end| end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())),
        System::Pbs => ask("qstat", &["-f", &job.id]).map_err(|e| e.message).map(|text| pbs_left(&text)),
        System::GridEngine => Err("Grid Engine does not tell jobs".into()),
    };
    match left {
        Ok(Some(left)) => job.seconds_left = Some(left.as_secs()),
        Ok(None) => job.endless = true,
        Err(why) => job.unknown_end = Some(why),
    }
    job
}

/// How long a job still runs, by `qstat -f`.
fn pbs_left(text: &str) -> Option<Duration> {
    let time = |name: &str| parse_duration(value(text, name)?).ok();
    let used = time("resources_used.walltime").unwrap_or_default();
    Some(time("Resource_List.walltime")?.saturating_sub(used))
}

/// What to say about it.
pub(super) fn judge(r: &Readings) -> Findings {
    let mut found = Findings::new(Area::Batch);
    for (system, said) in &r.faults {
        let text = format!("{system} does not answer: {said}");
        match &r.job {
            // This is its job; whatever starts steps or asks for the end of the job will fail.
            Some(_) => {
                found.problem(text, "look with the batch system's own commands; ask its administrators")
            }
            None => found.warning(
                text,
                "load its module, or run this on a login node; without it `workers start` can submit nothing",
            ),
        }
    }
    match r.system {
        Some(system) => judge_system(r, system, &mut found),
        None if r.faults.is_empty() => {
            found.note("no batch system here: workers are processes of this machine, or started by hand");
        }
        None => {}
    }
    match &r.job {
        Some(job) => judge_job(job, &mut found),
        None if r.system.is_some() => found.ok("not inside a job"),
        None => {}
    }
    found
}

fn judge_system(r: &Readings, system: System, found: &mut Findings) {
    found.ok(format!("{system} {}", r.version.as_deref().unwrap_or("answers")));
    if !r.limits.is_empty() {
        let limits: Vec<String> = r.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        found.ok(format!("limits: {}", limits.join(", ")));
    }
    let arrays = r.limits.iter().find(|(name, _)| name == "MaxArraySize");
    if arrays.is_some_and(|(_, size)| matches!(size.as_str(), "0" | "1")) {
        found.note("no job arrays: --per-job submits no more than one job at a time");
    }
    for q in r.queues.iter().filter(|q| q.default) {
        let times = match system {
            System::Slurm if q.default_time == "n/a" => format!(", time limit {}", q.time_limit),
            System::Slurm => format!(", time limit {}, {} if not asked for", q.time_limit, q.default_time),
            System::Pbs | System::GridEngine => String::new(),
        };
        found.ok(format!("default queue: {}{times}", q.name));
    }
    let key = if system == System::Slurm { "partition" } else { "queue" };
    let names: Vec<&str> = r.queues.iter().map(|q| q.name.as_str()).collect();
    let set =
        format!("set {key} in [launch.{}], or give --{key}; there are: {}", system.key(), names.join(", "));
    let queue = match &r.configured_queue {
        // Only Slurm's list is complete.
        Some(name) if system == System::Slurm && !r.queues.is_empty() => {
            let queue = r.queues.iter().find(|q| q.name == *name);
            if queue.is_none() {
                found.warning(format!("the configuration names partition {name}, which is not here"), &set);
            }
            queue
        }
        Some(_) => None,
        None => r.queues.iter().find(|q| q.default),
    };
    if r.configured_queue.is_none() && !r.queues.is_empty() && queue.is_none() {
        found.warning("no queue is the default one: jobs that name none are refused", &set);
    }
    if let Some(queue) = queue {
        if queue.state != "up" {
            found.warning(format!("{key} {} is {}: jobs wait there", queue.name, queue.state), &set);
        }
        if system == System::Slurm && !r.has_walltime && parse_duration(&queue.default_time).is_ok() {
            found.note(format!("jobs without --walltime end after {} ({})", queue.default_time, queue.name));
        }
    }
}

fn judge_job(job: &Job, found: &mut Findings) {
    match (job.seconds_left, &job.unknown_end) {
        (Some(left), _) if left < SOON => found.warning(
            format!("job {} ends in {}", job.id, Span(Duration::from_secs(left))),
            "ask for a longer one (--walltime); results that only its workers have are lost then",
        ),
        (Some(left), _) => found.ok(format!("job {} ends in {}", job.id, Span(Duration::from_secs(left)))),
        (None, Some(why)) => found.warning(
            format!("it is not known when job {} ends: {why}", job.id),
            "give workers --lifetime, somewhat less than the job has",
        ),
        (None, None) => found.ok(format!("job {} has no end", job.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;

    const CONFIG: &str = "Configuration data as of 2026-01-01T00:00:00\n\
        DefMemPerNode           = UNLIMITED\nMaxArraySize            = 1001\n\
        MaxJobCount             = 10000\nSLURM_VERSION           = 22.05.8\nPrologFlags = (null)\n";

    #[test]
    fn answers_are_read() {
        let read = limits(CONFIG, SLURM_LIMITS);
        let read: Vec<String> = read.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(read, ["MaxArraySize=1001", "MaxJobCount=10000", "DefMemPerNode=UNLIMITED"]);
        assert_eq!((value(CONFIG, "SLURM_VERSION"), value(CONFIG, "PrologFlags")), (Some("22.05.8"), None));
        let server = "Server: login\n    max_array_size = 10000\n    pbs_version = 23.06.06\n";
        assert_eq!(limits(server, PBS_LIMITS), [("max_array_size".into(), "10000".into())]);
        assert_eq!(value("max_u_jobs                   0\n", "max_u_jobs"), Some("0"));
        let all = partitions("main*|up|infinite|30:00|4\ngpu|down|1-00:00:00|n/a|2\nnonsense\n");
        assert_eq!(all.len(), 2);
        assert!(all[0].default && all[0].name == "main" && all[0].default_time == "30:00");
        assert!(!all[1].default && all[1].state == "down");
        let job = "    resources_used.walltime = 00:10:00\n    Resource_List.walltime = 01:00:00\n";
        assert_eq!(pbs_left(job), Some(Duration::from_secs(3000)));
        assert_eq!(pbs_left("Job Id: 1\n"), None);
    }

    #[test]
    fn jobs_tell_their_batch_system() {
        let with = |set: &'static [(&str, &str)]| {
            of_job(&move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(with(&[("SLURM_JOB_ID", "1")]), Some(System::Slurm));
        assert_eq!(with(&[("PBS_JOBID", "1.s")]), Some(System::Pbs));
        assert_eq!(with(&[("JOB_ID", "1"), ("SGE_ROOT", "/sge")]), Some(System::GridEngine));
        assert_eq!([with(&[("JOB_ID", "1")]), with(&[("SLURM_JOB_ID", "")])], [None, None]);
    }

    fn slurm(list: &str) -> Readings {
        Readings {
            system: Some(System::Slurm),
            limits: limits(CONFIG, SLURM_LIMITS),
            queues: partitions(list),
            has_walltime: true,
            ..Readings::default()
        }
    }

    #[test]
    fn queues_are_judged() {
        let level = |r: &Readings| judge(r).level();
        let good = slurm("main*|up|infinite|30:00|4\n");
        assert_eq!(level(&good), Level::Ok);
        assert_eq!(level(&Readings { has_walltime: false, ..good.clone() }), Level::Note);
        assert_eq!(level(&slurm("main|up|infinite|n/a|4\n")), Level::Warning, "no default");
        assert_eq!(level(&slurm("main*|down|infinite|n/a|4\n")), Level::Warning);
        let named = |name: &str| level(&Readings { configured_queue: Some(name.into()), ..good.clone() });
        assert_eq!([named("main"), named("gone")], [Level::Ok, Level::Warning]);
        assert_eq!(level(&Readings::default()), Level::Note);
        let silent = Readings { faults: vec![(System::Slurm, "timed out".into())], ..Readings::default() };
        assert_eq!(level(&silent), Level::Warning);
        assert_eq!(level(&Readings { job: Some(Job::default()), ..silent }), Level::Problem);
    }

    #[test]
    fn the_end_of_the_job_is_judged() {
        let level = |job: Job| judge(&Readings { job: Some(job), ..slurm("m*|up|1:00|n/a|1\n") }).level();
        let left = |seconds| level(Job { seconds_left: Some(seconds), ..Job::default() });
        assert_eq!([left(3600), left(60)], [Level::Ok, Level::Warning]);
        assert_eq!(level(Job { endless: true, ..Job::default() }), Level::Ok);
        assert_eq!(level(Job { unknown_end: Some("x".into()), ..Job::default() }), Level::Warning);
    }
}
