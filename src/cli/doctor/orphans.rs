//! Clusters in the state directories whose schedulers are dead, and what they have left: processes of this
//! host, jobs, directories. Owns the decision what is dead, which errs on the side of life: a scheduler that
//! merely does not answer may be behind a firewall.

use super::findings::{Area, Findings};
use super::{say, this_host};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::DoctorArgs;
use crate::cli::context::run_short;
use crate::cli::jobs::{records, stop};
use crate::cli::output::{Out, harmless};
use crate::cli::processes::{self, Record};
use crate::cli::up;
use crate::launch::dialect::JobStatus;
use crate::launch::jobs;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::{ClusterDir, Listed, StateDir};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Files are written this long after their process has begun, at most; clocks may be set in between.
const START_TIME: Duration = Duration::from_secs(60);

/// Whether a cluster's scheduler lives.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    /// It answers.
    Alive,
    /// It does not answer and its process is gone.
    Dead(String),
    /// It does not answer, and that is all that is known here.
    Silent(String),
    /// Its file cannot be read.
    Unreadable(String),
}

impl Life {
    fn word(&self) -> &'static str {
        match self {
            Life::Alive => "alive",
            Life::Dead(_) => "dead",
            Life::Silent(_) => "silent",
            Life::Unreadable(_) => "unreadable",
        }
    }

    fn why(&self) -> &str {
        match self {
            Life::Alive => "",
            Life::Dead(why) | Life::Silent(why) | Life::Unreadable(why) => why,
        }
    }
}

/// A cluster in a state directory.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    listed: Listed,
    life: Life,
}

impl Cluster {
    /// For scripts.
    pub fn json(&self) -> Value {
        let file = self.listed.file.as_ref().ok();
        json!({
            "id": self.listed.id,
            "state": self.life.word(),
            "why": self.life.why(),
            "scheduler-file": self.listed.path,
            "host": file.map(|f| &f.host),
            "pid": file.map(|f| f.pid),
            "job-id": file.and_then(|f| f.job_id.as_ref()),
        })
    }

    fn home(&self) -> Result<ClusterDir> {
        let root = self.listed.path.parent().and_then(Path::parent);
        StateDir::at(root.unwrap_or(Path::new("/"))).cluster(&self.listed.id)
    }
}

/// All clusters of this user, each with whether it lives.
///
/// # Errors
/// `File` when a state directory cannot be read.
pub(super) async fn clusters() -> Result<Vec<Cluster>> {
    let listed = StateDir::of_user()?.clusters()?;
    let mut probes = tokio::task::JoinSet::new();
    for (at, l) in listed.iter().enumerate() {
        if let Ok(file) = l.file.clone() {
            probes.spawn(async move { (at, scheduler_file::probe(&file).await) });
        }
    }
    let mut answers = vec![Liveness::NobodyAnswers("no answer".into()); listed.len()];
    while let Some(probed) = probes.join_next().await {
        let (at, answer) = probed.map_err(|e| Error::os("cannot look for clusters", e))?;
        answers[at] = answer;
    }
    let cluster = |(listed, answer): (Listed, Liveness)| {
        let life = match &listed.file {
            Ok(file) => life(&answer, || is_gone(file, listed.path.parent().unwrap_or(Path::new("/")))),
            Err(e) => Life::Unreadable(e.to_string()),
        };
        Cluster { listed, life }
    };
    Ok(listed.into_iter().zip(answers).map(cluster).collect())
}

/// Whether a scheduler lives. `gone` tells whether its process is known to be gone, and how.
fn life(answer: &Liveness, gone: impl FnOnce() -> Option<String>) -> Life {
    match answer {
        Liveness::Alive => Life::Alive,
        Liveness::NobodyAnswers(why) | Liveness::OtherAnswers(why) => match gone() {
            Some(how) => Life::Dead(format!("{why}; {how}")),
            None => Life::Silent(why.clone()),
        },
    }
}

/// How it is known that a scheduler's process is gone, if it is: by this host, which it ran on.
fn is_gone(file: &SchedulerFile, home: &Path) -> Option<String> {
    let noted = processes::noted(home);
    let step = noted.iter().find(|r| r.step.as_ref().is_some_and(|s| s.scheduler_on.is_some()));
    if let Some(step) = step {
        // One that ran as a step ends with its `srun`.
        return (step.is_of_this_host() && !step.is_running())
            .then(|| format!("the srun of its step, process {}, is gone", step.pid));
    }
    if file.host != this_host() {
        return None;
    }
    let gone = match (noted.iter().find(|r| r.pid == file.pid), Record::of(file.pid, Path::new(""))) {
        (Some(record), _) => !record.is_running(),
        (None, None) => true,
        (None, Some(now)) => is_another(file, began_at(now.began)),
    };
    gone.then(|| format!("its process {} is gone", file.pid))
}

/// Whether a process with a scheduler's number began too late to be it.
fn is_another(file: &SchedulerFile, began: Option<SystemTime>) -> bool {
    let started = humantime::parse_rfc3339(&file.started).ok();
    started.zip(began).is_some_and(|(started, began)| began > started + START_TIME)
}

/// The time of so many of the kernel's ticks.
fn began_at(ticks: u64) -> Option<SystemTime> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let seconds = ticks / u64::try_from(per_second).ok().filter(|n| *n > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(boot + seconds))
}

/// What to say about them.
pub(super) fn judge(clusters: &[Cluster], host: &str) -> Findings {
    let mut found = Findings::new(Area::Clusters);
    if clusters.is_empty() {
        found.ok("none");
    }
    for c in clusters {
        let file = c.listed.file.as_ref().ok();
        let place = file.map_or(String::new(), |f| {
            let job = f.job_id.as_ref().map(|job| format!(", job {job}")).unwrap_or_default();
            format!(" (on {}{job})", f.host)
        });
        let who = format!("cluster {}{place}", c.listed.id);
        match &c.life {
            Life::Alive => found.ok(format!("{who} is alive")),
            Life::Dead(why) => found.warning(
                format!("{who} is stale: {why}"),
                "hpcdag doctor --orphans shows what it has left, and with --end ends it",
            ),
            Life::Silent(why) => {
                let elsewhere = file.is_some_and(|f| f.host != host);
                let there = if elsewhere { "run this on its host; or, " } else { "" };
                found.warning(
                    format!("{who} is stale: {why}; whether it is dead cannot be told from here"),
                    format!(
                        "{there}if you know that it is: hpcdag doctor --orphans --end --cluster {}",
                        c.listed.id
                    ),
                );
            }
            Life::Unreadable(why) => found.warning(format!("{who}: {why}"), "see what that file is"),
        }
    }
    found
}

/// What a cluster has left.
struct Left {
    cluster: Cluster,
    home: ClusterDir,
    /// Processes of this host that are still there.
    here: Vec<Record>,
    /// Processes of other hosts, of which nothing is known.
    elsewhere: Vec<Record>,
    /// Jobs that are not over, or why that is not known.
    jobs: Result<Vec<(jobs::Record, Vec<JobStatus>)>>,
    /// It may be ended.
    dead: bool,
    /// The user named it.
    named: bool,
}

impl Left {
    fn of(cluster: Cluster, named: bool) -> Result<Left> {
        let home = cluster.home()?;
        let (here, elsewhere): (Vec<Record>, Vec<Record>) =
            processes::noted(home.path()).into_iter().partition(Record::is_of_this_host);
        let here = here.into_iter().filter(Record::is_running).collect();
        let jobs = open_jobs(home.path());
        let dead = match cluster.life {
            Life::Dead(_) => true,
            Life::Silent(_) => named,
            Life::Alive | Life::Unreadable(_) => false,
        };
        Ok(Left { cluster, home, here, elsewhere, jobs, dead, named })
    }

    fn text(&self) -> String {
        let Cluster { listed, life } = &self.cluster;
        let mut lines = vec![format!("cluster {}, {}: {}", listed.id, life.word(), life.why())];
        lines.push(format!("  directory {}", self.home.path().display()));
        for r in &self.here {
            lines.push(format!("  process {}, log {}", r.pid, r.log.display()));
        }
        for r in &self.elsewhere {
            lines.push(format!("  perhaps process {} on {}: look there", r.pid, r.host));
        }
        match &self.jobs {
            Ok(jobs) => {
                for (record, statuses) in jobs {
                    let state = jobs::summary(statuses).words();
                    lines.push(format!("  {} job {}, {state}", record.system, record.id));
                }
            }
            Err(e) => lines.push(format!("  perhaps jobs: {}", e.message)),
        }
        if !self.dead {
            lines.push(format!("  it is left alone unless you say --cluster {}", listed.id));
        }
        harmless(&lines.join("\n")).into_owned()
    }

    fn json(&self) -> Value {
        let process = |r: &Record| json!({ "pid": r.pid, "host": r.host, "log": r.log });
        let job = |(record, statuses): &(jobs::Record, Vec<JobStatus>)| {
            let state = jobs::summary(statuses);
            json!({ "system": record.system, "id": record.id, "state": state })
        };
        let mut json = self.cluster.json();
        json["directory"] = json!(self.home.path());
        json["processes"] = self.here.iter().map(process).collect();
        json["elsewhere"] = self.elsewhere.iter().map(process).collect();
        json["jobs"] = self.jobs.iter().flatten().map(job).collect();
        json["ends"] = json!(self.dead);
        json
    }

    /// Ends it, and says what could not be.
    fn end(&self) -> Result<usize> {
        let Ok(file) = &self.cluster.listed.file else { return Ok(0) };
        if !scheduler_file::is_ours(&self.cluster.listed.path, file) {
            let what = format!("cluster {} has another scheduler by now, or none", file.id);
            return Err(Error::new(Kind::Refused, what).hint("look again: hpcdag doctor --orphans"));
        }
        let killed = processes::end(&self.here, Duration::ZERO);
        if !self.elsewhere.is_empty() && !self.named {
            // The list is what they are found by on their hosts.
            stop::clear(self.home.path())?;
            say(&format!(
                "the directory of cluster {} stays: it notes processes of other hosts; run this there, or \
                 add --cluster {0}",
                file.id
            ));
            return Ok(killed);
        }
        stop::clear(self.home.path())?;
        scheduler_file::remove(&self.cluster.listed.path, file)?;
        Ok(killed + up::clear(&self.home, Duration::ZERO))
    }
}

/// The jobs of a cluster that its batch systems still have.
fn open_jobs(home: &Path) -> Result<Vec<(jobs::Record, Vec<JobStatus>)>> {
    let kept = records::read(&home.join(records::DIRECTORY))?.into_iter().map(|(_, record)| record);
    let kept: Vec<jobs::Record> = kept.filter(|r| r.ended.is_none()).collect();
    let statuses = jobs::status(&kept)?;
    let is_open = |all: &[JobStatus]| all.iter().any(|s| !s.state.is_over());
    Ok(kept.into_iter().zip(statuses).filter(|(_, all)| is_open(all)).collect())
}

/// `doctor --orphans`
pub(super) fn orphans(args: &DoctorArgs) -> Result<u8> {
    let all = run_short(clusters())?;
    let unknown = args.cluster.iter().find(|id| !all.iter().any(|c| c.listed.id == **id));
    if let Some(unknown) = unknown {
        return Err(Error::new(
            Kind::NotFound,
            format!("there is no cluster {unknown} in the state directory"),
        )
        .hint("hpcdag clusters lists them"));
    }
    let named = |c: &Cluster| args.cluster.contains(&c.listed.id);
    let is_meant = |c: &Cluster| args.cluster.is_empty() || named(c);
    let is_left = |c: &Cluster| !matches!(c.life, Life::Alive | Life::Unreadable(_));
    if let Some(alive) = all.iter().find(|c| named(c) && !is_left(c)) {
        let what = format!("cluster {} is {}", alive.listed.id, alive.life.word());
        return Err(Error::new(Kind::Refused, what).hint("`hpcdag down` ends clusters that are alive"));
    }
    let meant: Vec<Cluster> = all.into_iter().filter(|c| is_left(c) && is_meant(c)).collect();
    let left: Result<Vec<Left>> = meant
        .into_iter()
        .map(|c| {
            let named = named(&c);
            Left::of(c, named)
        })
        .collect();
    let left = left?;
    let mut out = Out::stdout();
    if !args.json.json {
        // Before anything is ended.
        let texts: Vec<String> = left.iter().map(Left::text).collect();
        out.line(if texts.is_empty() { "dead clusters have left nothing".into() } else { texts.join("\n") })?;
    }
    let mut json: Vec<Value> = left.iter().map(Left::json).collect();
    let mut failed = None;
    for (left, json) in left.iter().zip(&mut json).filter(|(left, _)| args.end && left.dead) {
        match left.end() {
            Ok(killed) => {
                json["ended"] = json!(true);
                json["killed"] = json!(killed);
                if !args.json.json {
                    out.line(format!("cluster {}: ended", left.cluster.listed.id))?;
                }
            }
            Err(e) => {
                json["ended"] = json!(false);
                json["why-not"] = json!(e.message);
                failed = Some(e);
            }
        }
    }
    if args.json.json {
        out.json(&json!({ "host": this_host(), "clusters": json }))?;
    }
    failed.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;
    use crate::protocol::credentials::ClusterCredentials;

    fn file() -> SchedulerFile {
        let cluster = ClusterCredentials::create("ab12").unwrap();
        SchedulerFile::new(&cluster, "tls://127.0.0.1:1".parse().unwrap(), 1).unwrap()
    }

    fn cluster(life: Life) -> Cluster {
        let path = "/state/hpcdag/ab12/scheduler.json".into();
        Cluster { listed: Listed { id: "ab12".into(), path, file: Ok(file()) }, life }
    }

    #[test]
    fn only_those_whose_process_is_gone_are_dead() {
        let silent = Liveness::NobodyAnswers("refused".into());
        assert_eq!(life(&Liveness::Alive, || Some("gone".into())), Life::Alive);
        assert_eq!(life(&silent, || None), Life::Silent("refused".into()));
        assert_eq!(life(&silent, || Some("gone".into())), Life::Dead("refused; gone".into()));
        let home = tempfile::tempdir().unwrap();
        let mut other = file();
        assert_eq!(is_gone(&other, home.path()), None, "it is this very process");
        other.host = "elsewhere".into();
        other.pid = u32::MAX - 1;
        assert_eq!(is_gone(&other, home.path()), None, "not this host's to say");
        other.host = this_host();
        assert!(is_gone(&other, home.path()).is_some());
    }

    #[test]
    fn a_number_may_be_another_process_by_now() {
        let mut file = file();
        let now = began_at(Record::of(std::process::id(), Path::new("")).unwrap().began);
        assert!(now.is_some_and(|t| t <= SystemTime::now() + Duration::from_secs(2)));
        assert!(!is_another(&file, now));
        file.started = "2020-01-01T00:00:00Z".into();
        assert!(is_another(&file, now) && !is_another(&file, None));
        file.started = "nonsense".into();
        assert!(!is_another(&file, now));
    }

    #[test]
    fn what_may_be_ended_is_dead_or_named() {
        let may = |life: Life, named| Left::of(cluster(life), named).unwrap().dead;
        assert!(may(Life::Dead(String::new()), false));
        assert!(!may(Life::Silent(String::new()), false) && may(Life::Silent(String::new()), true));
        assert!(!may(Life::Alive, true));
        let level = |life| judge(&[cluster(life)], "h").level();
        assert_eq!([level(Life::Alive), judge(&[], "h").level()], [Level::Ok; 2]);
        assert_eq!([level(Life::Dead("x".into())), level(Life::Silent("x".into()))], [Level::Warning; 2]);
    }
}
