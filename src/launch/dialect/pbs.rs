//! OpenPBS and PBS Pro: the options of `qsub`, and what `qstat` prints. Owns PBS's words and formats. Written
//! after OpenPBS's documentation and recorded answers of version 23.06; `tests/recordings/pbs` has those.

use super::call::{Answer, call_again, is_silence};
use super::{CommandLine, JobState, JobStatus, Request, System, clock, meaningful, mebibytes, value};
use crate::base::error::{Error, Kind, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What PBS writes as the exit status of a job whose time was up.
const EXIT_WALLTIME: i64 = -29;

/// The substate of a job that was deleted.
const SUBSTATE_TERMINATED: &str = "91";

/// The head of a job's script.
pub(super) fn directives(request: &Request) -> Result<Vec<String>> {
    let missing = [("qos", request.qos.is_some()), ("constraint", request.constraint.is_some())];
    request.lacks(System::Pbs, &missing)?;
    let Some(cpus) = request.cpus else {
        return Err(Error::new(Kind::Usage, "PBS must be told how many processors of each node a job takes")
            .hint("add -c N, or cpus = N to [launch.pbs] in the configuration"));
    };
    let mut all = vec![format!("-N {}", value(&request.name))];
    let mut add = |option: &str, text: Option<String>| {
        all.extend(text.map(|text| format!("-{option} {}", value(&text))));
    };
    add("A", request.account.clone());
    add("P", request.project.clone());
    add("q", request.queue.clone());
    add("J", (request.jobs > 1).then(|| format!("0-{}", request.jobs - 1)));
    // One line of the node file, so one worker, for each node.
    let mut select = format!("{}:ncpus={cpus}:mpiprocs=1", request.nodes);
    if let Some(bytes) = request.memory {
        select.push_str(&format!(":mem={}mb", mebibytes(bytes)));
    }
    if let Some(gpus) = request.gpus {
        select.push_str(&format!(":ngpus={gpus}"));
    }
    add("l", Some(format!("select={select}")));
    add("l", Some("place=scatter".into()));
    add("l", request.walltime.map(|w| format!("walltime={}", clock(w))));
    add("j", Some("oe".into()));
    add("o", request.output.clone());
    add("r", Some(if request.requeue { "y" } else { "n" }.into()));
    Ok(all)
}

/// The id in `12.server`, `6[].server`.
pub(super) fn submitted(stdout: &str) -> Option<String> {
    let id = stdout.lines().rfind(|line| !line.trim().is_empty())?.trim();
    let number = id.split(['.', '[']).next()?;
    let is_id = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_id && !id.contains(char::is_whitespace)).then(|| id.to_owned())
}

/// Asks after jobs, ended ones included: one query for all. Where the server keeps no history, or its JSON is
/// broken (old servers do not quote), it is asked again in the way that it understands.
///
/// # Errors
/// `Launch` when PBS does not answer.
pub(super) fn status(ids: &[String]) -> Result<Vec<JobStatus>> {
    let ask = |flags: &[&str]| -> Result<Answer> {
        let mut line = CommandLine::new("qstat", flags);
        line.args.extend(ids.iter().cloned());
        call_again(&line)
    };
    let mut history: &[&str] = &["-x"];
    let mut answer = ask(&["-t", "-f", "-x", "-F", "json"])?;
    if answer.stderr.to_lowercase().contains("job history") {
        history = &[];
        answer = ask(&["-t", "-f", "-F", "json"])?;
    }
    if let Some(found) = from_json(&answer.stdout) {
        return Ok(without_arrays(found));
    }
    let fault = |answer: &Answer| {
        Error::new(Kind::Launch, format!("qstat failed: {}", answer.said()))
            .hint("PBS's server may be down; `qstat -B` tells")
    };
    if !answer.is_success() && is_silence(&answer.all()) {
        return Err(fault(&answer));
    }
    let flags: Vec<&str> = ["-t", "-f"].iter().chain(history).copied().collect();
    let answer = ask(&flags)?;
    let found = from_text(&answer.stdout);
    if found.is_empty() && !answer.is_success() && !System::Pbs.is_over_already(&answer.stderr) {
        return Err(fault(&answer));
    }
    Ok(without_arrays(found))
}

/// Without the arrays whose jobs are there one by one.
fn without_arrays(mut found: Vec<JobStatus>) -> Vec<JobStatus> {
    let has_jobs: BTreeSet<String> =
        found.iter().filter(|s| s.id != s.submission).map(|s| s.submission.clone()).collect();
    found.retain(|s| s.id != s.submission || !has_jobs.contains(&s.id));
    found
}

/// The jobs in the answer of `qstat -f -F json`; `None` when it is not JSON.
pub fn from_json(text: &str) -> Option<Vec<JobStatus>> {
    // Complaints about single jobs may stand before it.
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let jobs = json["Jobs"].as_object().into_iter().flatten();
    let attributes = |job: &Value| {
        let mut flat = BTreeMap::new();
        for (name, value) in job.as_object().into_iter().flatten() {
            match value {
                Value::Object(inner) => {
                    flat.extend(inner.iter().map(|(n, v)| (format!("{name}.{n}"), plain(v))));
                }
                value => {
                    flat.insert(name.clone(), plain(value));
                }
            }
        }
        flat
    };
    Some(jobs.map(|(id, job)| status_of(id, &attributes(job))).collect())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The jobs in the answer of `qstat -f`. Long lines are folded: what follows begins with a tab.
pub fn from_text(text: &str) -> Vec<JobStatus> {
    let mut jobs: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("Job Id:") {
            jobs.push((id.trim().to_owned(), BTreeMap::new()));
            last = None;
        } else if let Some((_, attributes)) = jobs.last_mut() {
            if let Some(more) = line.strip_prefix('\t') {
                let value = last.as_ref().and_then(|name| attributes.get_mut(name));
                value.into_iter().for_each(|value| value.push_str(more));
            } else if let Some((name, value)) = line.trim_start().split_once(" = ") {
                attributes.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
        }
    }
    jobs.iter().map(|(id, attributes)| status_of(id, attributes)).collect()
}

fn status_of(id: &str, attributes: &BTreeMap<String, String>) -> JobStatus {
    let get = |name: &str| attributes.get(name).and_then(|text| meaningful(text));
    let word = get("job_state").unwrap_or_else(|| "-".into());
    let exit = get("Exit_status").and_then(|text| text.parse().ok());
    let comment = get("comment").unwrap_or_default();
    let is_deleted = get("substate").as_deref() == Some(SUBSTATE_TERMINATED);
    let state = state(&word, exit, &comment, is_deleted);
    JobStatus {
        id: id.into(),
        name: get("Job_Name"),
        state,
        word,
        reason: meaningful(&comment),
        start_estimate: get("estimated.start_time"),
        end: get("obittime").filter(|_| state.is_over()),
        nodes: get("exec_host"),
        ..JobStatus::gone(&array_of(id))
    }
}

/// The array that a subjob belongs to: `6[].login` for `6[3].login`; other ids as they are.
fn array_of(id: &str) -> String {
    match (id.split_once('['), id.split_once(']')) {
        (Some((number, _)), Some((_, server))) => format!("{number}[]{server}"),
        _ => id.to_owned(),
    }
}

/// What PBS's letter means; for ended jobs together with the exit status and the comment.
pub fn state(letter: &str, exit: Option<i64>, comment: &str, is_deleted: bool) -> JobState {
    match letter {
        "Q" | "T" | "W" => JobState::Pending,
        "H" => JobState::Held,
        "R" | "B" => JobState::Running,
        "E" => JobState::Completing,
        "S" | "U" => JobState::Suspended,
        "F" | "X" => {
            let comment = comment.to_lowercase();
            let exceeded = |what: &str| comment.contains(&format!("exceeded resource {what}"));
            match exit {
                Some(EXIT_WALLTIME) => JobState::TimeLimit,
                _ if exceeded("walltime") => JobState::TimeLimit,
                _ if ["mem", "pmem", "vmem", "pvmem"].into_iter().any(exceeded) => JobState::OutOfMemory,
                _ if is_deleted || (exit.is_none() && comment.contains("terminated")) => JobState::Cancelled,
                Some(0) | None => JobState::Finished,
                Some(_) => JobState::Failed,
            }
        }
        _ => JobState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../../tests/recordings/pbs/", $name))
        };
    }

    fn one(text: &str) -> JobStatus {
        let mut all = from_json(text).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn recorded_jobs_are_understood() {
        for (text, id, state) in [
            (recorded!("qstat-running-json"), "0.login", JobState::Running),
            (recorded!("qstat-queued-json"), "1.login", JobState::Pending),
            (recorded!("qstat-held-json"), "2.login", JobState::Held),
            (recorded!("qstat-finished-json"), "0.login", JobState::Cancelled),
            (recorded!("qstat-deleted-queued-json"), "1.login", JobState::Cancelled),
            (recorded!("qstat-exit7-json"), "8.login", JobState::Failed),
            (recorded!("qstat-walltime-exceeded-json"), "7.login", JobState::TimeLimit),
        ] {
            let status = one(text);
            assert_eq!((status.id.as_str(), status.submission.as_str(), status.state), (id, id, state));
        }
        let queued = one(recorded!("qstat-queued-json"));
        assert!(queued.reason.unwrap().starts_with("Can Never Run: Insufficient amount of resource: ncpus"));
        let running = one(recorded!("qstat-running-json"));
        assert_eq!(
            (running.name.as_deref(), running.nodes.as_deref()),
            (Some("demo"), Some("n1/0*2+n2/0*2"))
        );
    }

    #[test]
    fn text_says_the_same_as_json() {
        let text = from_text(recorded!("qstat-running-text"));
        assert_eq!(text, [one(recorded!("qstat-running-json"))], "folded lines are joined");
    }

    #[test]
    fn unknown_jobs_are_no_fault() {
        assert_eq!(from_json(recorded!("qstat-unknown")), Some(vec![]));
        assert_eq!(from_json(recorded!("qstat-array-t-json")), Some(vec![]));
        assert_eq!(
            from_json("{ \"Jobs\": { \"1.s\": { \"x\": \"a\"b\" } } }"),
            None,
            "old servers do not quote"
        );
        assert_eq!(from_json("qstat: cannot connect to server login (errno=111)"), None);
        assert_eq!(state("Z", None, "", false), JobState::Unknown);
    }

    #[test]
    fn every_letter_of_pbs_has_a_meaning() {
        for letter in ["B", "E", "F", "H", "Q", "R", "S", "T", "U", "W", "X"] {
            assert_ne!(state(letter, None, "", false), JobState::Unknown, "{letter}");
        }
        assert_eq!(state("F", Some(137), "Job run and exceeded resource mem", false), JobState::OutOfMemory);
        assert_eq!(state("F", Some(0), "Job run at ... and finished", false), JobState::Finished);
    }

    #[test]
    fn ids() {
        assert_eq!(submitted("0.login\n"), Some("0.login".into()));
        assert_eq!(submitted("6[].login\n"), Some("6[].login".into()));
        assert_eq!((submitted("qsub: nothing\n"), submitted("")), (None, None));
        assert_eq!(array_of("6[12].login"), "6[].login");
        assert_eq!(array_of("6.login"), "6.login");
    }

    #[test]
    fn heads() {
        let request = Request {
            name: "hpcdag-a1".into(),
            nodes: 2,
            jobs: 1,
            cpus: Some(8),
            memory: Some(3 << 30),
            gpus: Some(1),
            walltime: Some(Duration::from_secs(5400)),
            queue: Some("workq".into()),
            output: Some("/h/x.log".into()),
            ..Request::default()
        };
        assert_eq!(
            System::Pbs.directives(&request).unwrap(),
            [
                "-N hpcdag-a1",
                "-q workq",
                "-l select=2:ncpus=8:mpiprocs=1:mem=3072mb:ngpus=1",
                "-l place=scatter",
                "-l walltime=01:30:00",
                "-j oe",
                "-o /h/x.log",
                "-r n",
            ]
        );
        let none = System::Pbs.directives(&Request { cpus: None, ..request.clone() }).unwrap_err();
        assert!(none.hint.unwrap().contains("[launch.pbs]"));
        let qos = System::Pbs.directives(&Request { qos: Some("high".into()), ..request }).unwrap_err();
        assert!(qos.message.contains("--qos"), "{qos}");
    }
}
