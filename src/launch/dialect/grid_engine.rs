//! Grid Engine (Son of Grid Engine, Univa, Altair): the options of its `qsub`, and what its `qstat` and
//! `qacct` print. Owns its words and formats.

use super::call::{call, call_again};
use super::{
    CommandLine, JobState, JobStatus, Request, System, meaningful, mebibytes, missing, seconds_up, value,
};
use crate::base::error::{Error, Kind, Result};

/// The head of a job's script.
pub(super) fn directives(request: &Request) -> Result<Vec<String>> {
    let missing = [("qos", request.qos.is_some()), ("constraint", request.constraint.is_some())];
    request.lacks(System::GridEngine, &missing)?;
    let Some(cpus) = request.cpus else {
        let what = "Grid Engine must be told how many slots of each node a job takes";
        return Err(
            Error::new(Kind::Usage, what).hint("add -c N, or cpus = N to [launch.sge] in the configuration")
        );
    };
    let slots = u64::from(cpus) * u64::from(request.nodes);
    if slots > 1 && request.parallel_environment.is_none() {
        let what = "Grid Engine needs a parallel environment for more than one slot";
        return Err(Error::new(Kind::Usage, what).hint(
            "set parallel-environment in [launch.sge] of the configuration to one that puts -c slots on each \
             node; `qconf -spl` lists them",
        ));
    }
    let mut all = vec!["-S /bin/bash".to_owned(), format!("-N {}", value(&request.name))];
    let mut add = |option: &str, text: Option<String>| {
        all.extend(text.map(|text| format!("-{option} {}", value(&text))));
    };
    add("A", request.account.clone());
    add("P", request.project.clone());
    add("q", request.queue.clone());
    add("t", (request.jobs > 1).then(|| format!("1-{}", request.jobs)));
    add("l", request.walltime.map(|w| format!("h_rt={}", seconds_up(w))));
    if let (Some(bytes), Some(name)) = (request.memory, &request.memory_resource) {
        // Asked for by slot.
        add("l", Some(format!("{name}={}M", mebibytes(bytes.div_ceil(u64::from(cpus.max(1)))))));
    }
    if let Some(gpus) = request.gpus {
        add("l", Some(format!("{}={gpus}", request.gpu_resource.as_deref().unwrap_or("gpu"))));
    }
    add("j", Some("y".into()));
    add("o", request.output.clone());
    add("r", Some(if request.requeue { "y" } else { "n" }.into()));
    if let Some(name) = request.parallel_environment.as_ref().filter(|_| slots > 1) {
        all.push(format!("-pe {} {slots}", value(name)));
    }
    Ok(all)
}

/// The id in `12`, or in `12.1-4:1` for an array.
pub(super) fn submitted(stdout: &str) -> Option<String> {
    let line = stdout.lines().rfind(|line| !line.trim().is_empty())?.trim();
    let line = match line.strip_prefix("Your job-array ").or_else(|| line.strip_prefix("Your job ")) {
        Some(rest) => rest.split_whitespace().next()?,
        None => line,
    };
    let id = line.split('.').next()?;
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())).then(|| id.to_owned())
}

/// Asks after jobs: one query for all of mine; those that have ended are looked up in the accounting, one by
/// one, which is once for each job.
///
/// # Errors
/// `Launch` when Grid Engine does not answer.
pub(super) fn status(ids: &[String]) -> Result<Vec<JobStatus>> {
    let answer = call_again(&CommandLine::new("qstat", &["-xml"]))?;
    if !answer.is_success() {
        return Err(Error::new(Kind::Launch, format!("qstat failed: {}", answer.said()))
            .hint("Grid Engine's master may be down; `qhost` tells"));
    }
    let mut found = from_xml(&answer.stdout);
    found.retain(|status| ids.contains(&status.submission));
    let waiting: Vec<&str> =
        found.iter().filter(|s| s.state == JobState::Pending).map(|s| s.submission.as_str()).collect();
    if !waiting.is_empty() {
        // Says why only where the site has switched that on, and is not worth a failure.
        if let Ok(answer) = call(&CommandLine::new("qstat", &["-j", &waiting.join(",")])) {
            let reasons = reasons(&answer.stdout);
            for status in found.iter_mut().filter(|s| s.state == JobState::Pending) {
                status.reason =
                    reasons.iter().find(|(id, _)| *id == status.submission).map(|(_, r)| r.clone());
            }
        }
    }
    for id in missing(ids, &found).into_iter().cloned().collect::<Vec<_>>() {
        // Where there is no accounting they are just gone.
        if let Ok(answer) = call(&CommandLine::new("qacct", &["-j", &id])) {
            found.extend(from_accounting(&answer.stdout));
        }
    }
    Ok(found)
}

/// The jobs in `qstat -xml`: flat lists of elements without attributes that matter.
pub fn from_xml(text: &str) -> Vec<JobStatus> {
    let mut all = Vec::new();
    for part in text.split("<job_list").skip(1) {
        let part = part.split("</job_list>").next().unwrap_or(part);
        let element = |name: &str| {
            let (_, rest) = part.split_once(&format!("<{name}>"))?;
            let (content, _) = rest.split_once(&format!("</{name}>"))?;
            meaningful(&unescaped(content))
        };
        let (Some(number), Some(word)) = (element("JB_job_number"), element("state")) else { continue };
        let tasks = element("tasks");
        all.push(JobStatus {
            id: tasks.map_or_else(|| number.clone(), |tasks| format!("{number}.{tasks}")),
            name: element("JB_name"),
            state: state(&word),
            nodes: element("queue_name"),
            word,
            ..JobStatus::gone(&number)
        });
    }
    all
}

fn unescaped(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Why jobs wait, by id, from `qstat -j`.
fn reasons(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let (mut id, mut inside) = (String::new(), false);
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("job_number:") {
            (id, inside) = (number.trim().to_owned(), false);
        } else if let Some(first) = line.strip_prefix("scheduling info:") {
            inside = true;
            all.extend(meaningful(first).map(|reason| (id.clone(), reason)));
        } else if inside && line.starts_with(' ') {
            match (all.last_mut(), meaningful(line)) {
                (Some((of, reason)), Some(more)) if *of == id => reason.push_str(&format!("; {more}")),
                _ => {}
            }
        } else {
            inside = false;
        }
    }
    all
}

/// What Grid Engine's letters mean: several may stand together.
pub fn state(letters: &str) -> JobState {
    let has = |letter: char| letters.contains(letter);
    match () {
        () if !letters.chars().all(|c| "dEhrRsStTwqNPz".contains(c)) || letters.is_empty() => {
            JobState::Unknown
        }
        () if has('d') => JobState::Completing,
        () if has('E') || has('h') => JobState::Held,
        () if has('s') || has('S') || has('T') || has('N') || has('P') => JobState::Suspended,
        () if has('q') => JobState::Pending,
        () if has('t') => JobState::Starting,
        () if has('r') || has('R') => JobState::Running,
        () if has('w') => JobState::Pending,
        () => JobState::Finished,
    }
}

/// The records of `qacct -j`: one for each job or task of an array (and several for one that was restarted).
pub fn from_accounting(text: &str) -> Vec<JobStatus> {
    let mut all: Vec<JobStatus> = Vec::new();
    for record in text.split("=====").filter(|r| r.contains("jobnumber")) {
        let field = |name: &str| {
            let line = record.lines().find(|line| line.split_whitespace().next() == Some(name))?;
            meaningful(line.split_once(char::is_whitespace)?.1)
        };
        let Some(number) = field("jobnumber") else { continue };
        let task = field("taskid").filter(|task| task != "undefined");
        let failed = field("failed").unwrap_or_default();
        let exit = field("exit_status").unwrap_or_default();
        let status = JobStatus {
            id: task.map_or_else(|| number.clone(), |task| format!("{number}.{task}")),
            name: field("jobname"),
            state: end_state(&failed, &exit),
            word: format!("exit {}", exit.split_whitespace().next().unwrap_or("?")),
            reason: meaningful(&failed).filter(|f| f != "0"),
            end: field("end_time"),
            nodes: field("hostname"),
            ..JobStatus::gone(&number)
        };
        all.retain(|earlier| earlier.id != status.id);
        all.push(status);
    }
    all
}

/// How a job ended, by the accounting's `failed` (a number, and words) and `exit_status`.
fn end_state(failed: &str, exit: &str) -> JobState {
    let number = failed.split_whitespace().next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let words = failed.to_lowercase();
    match number {
        0 => match exit.split_whitespace().next() {
            Some("0") => JobState::Finished,
            _ => JobState::Failed,
        },
        37 | 44 => JobState::TimeLimit,
        100 if words.contains("h_rt") || words.contains("s_rt") => JobState::TimeLimit,
        // Killed by a signal: by qdel, or for using more than it may.
        100 => JobState::Cancelled,
        19 | 20 | 22 | 23 => JobState::NodeFailure,
        _ => JobState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids() {
        assert_eq!(submitted("12\n"), Some("12".into()));
        assert_eq!(submitted("12.1-4:1\n"), Some("12".into()));
        assert_eq!(submitted("Your job-array 3.1-2:1 (\"x\") has been submitted\n"), Some("3".into()));
        assert_eq!(submitted("Your job 4 (\"x\") has been submitted\n"), Some("4".into()));
        assert_eq!(submitted("denied\n"), None);
    }

    #[test]
    fn letters() {
        for (letters, meaning) in [
            ("qw", JobState::Pending),
            ("hqw", JobState::Held),
            ("Eqw", JobState::Held),
            ("t", JobState::Starting),
            ("r", JobState::Running),
            ("Rr", JobState::Running),
            ("dr", JobState::Completing),
            ("S", JobState::Suspended),
            ("X?", JobState::Unknown),
            ("", JobState::Unknown),
        ] {
            assert_eq!(state(letters), meaning, "{letters}");
        }
    }

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../../tests/recordings/sge/", $name))
        };
    }

    #[test]
    fn recorded_lists_are_understood() {
        let all = from_xml(recorded!("qstat-xml"));
        let states: Vec<_> =
            all.iter().map(|s| (s.id.as_str(), s.submission.as_str(), s.word.as_str(), s.state)).collect();
        assert_eq!(
            states,
            [
                ("1", "1", "r", JobState::Running),
                ("2.3", "2", "r", JobState::Running),
                ("4", "4", "r", JobState::Running),
                ("5", "5", "t", JobState::Starting),
                ("6", "6", "qw", JobState::Pending),
                ("3", "3", "hqw", JobState::Held),
            ]
        );
        assert_eq!((all[0].name.as_deref(), all[0].nodes.as_deref()), (Some("jobA"), Some("all.q@n2")));
        assert_eq!(all[4].nodes, None);
        let reasons = reasons(recorded!("qstat-j"));
        assert_eq!(reasons[0], ("1".into(), "queue instance \"all.q@n2\" dropped because it is full".into()));
    }

    #[test]
    fn recorded_accounts_are_understood() {
        let one = |text: &str| {
            let mut all = from_accounting(text);
            assert_eq!(all.len(), 1, "{all:?}");
            all.remove(0)
        };
        let failed = one(recorded!("qacct-exit3"));
        assert_eq!(
            (failed.id.as_str(), failed.state, failed.word.as_str()),
            ("1", JobState::Failed, "exit 3")
        );
        assert_eq!(one(recorded!("qacct-time-limit")).state, JobState::TimeLimit);
        let deleted = one(recorded!("qacct-deleted"));
        assert_eq!((deleted.state, deleted.name.as_deref()), (JobState::Cancelled, Some("par")));
        assert!(from_accounting("error: job id 77 not found\n").is_empty());
    }

    #[test]
    fn heads() {
        let request = Request {
            name: "hpcdag-a1".into(),
            nodes: 2,
            jobs: 1,
            cpus: Some(4),
            memory: Some(8 << 30),
            memory_resource: Some("h_vmem".into()),
            parallel_environment: Some("mpi".into()),
            walltime: Some(Duration::from_secs(5400)),
            output: Some("/h/x.$JOB_ID.log".into()),
            ..Request::default()
        };
        assert_eq!(
            System::GridEngine.directives(&request).unwrap(),
            [
                "-S /bin/bash",
                "-N hpcdag-a1",
                "-l h_rt=5400",
                "-l h_vmem=2048M",
                "-j y",
                "-o /h/x.$JOB_ID.log",
                "-r n",
                "-pe mpi 8",
            ]
        );
        let array =
            Request { jobs: 3, nodes: 1, cpus: Some(1), parallel_environment: None, ..request.clone() };
        let head = System::GridEngine.directives(&array).unwrap();
        assert!(
            head.contains(&"-t 1-3".to_owned()) && !head.iter().any(|d| d.starts_with("-pe")),
            "{head:?}"
        );
        let none = Request { parallel_environment: None, ..request };
        assert!(System::GridEngine.directives(&none).unwrap_err().message.contains("parallel environment"));
    }
}
