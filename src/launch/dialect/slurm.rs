//! Slurm from outside of a job: the options of `sbatch`, and what `squeue`, `scontrol` and `sacct` print.
//! Owns Slurm's words and formats. Slurm from inside is `launch::slurm`.

use super::call::{call, call_again};
use super::{
    CommandLine, JobState, JobStatus, Request, System, clock, meaningful, mebibytes, missing, value,
};
use crate::base::error::{Error, Kind, Result};

/// The columns that `squeue` is asked for. The node list comes last: it is the longest.
const COLUMNS: &str = "%i|%A|%F|%T|%r|%S|%e|%j|%N";

/// The head of a job's script.
pub(super) fn directives(request: &Request) -> Result<Vec<String>> {
    request.lacks(System::Slurm, &[("project", request.project.is_some())])?;
    let mut all = vec![format!("--job-name={}", value(&request.name))];
    let mut add = |option: &str, text: Option<String>| {
        all.extend(text.map(|text| format!("--{option}={}", value(&text))));
    };
    add("comment", request.comment.clone());
    add("account", request.account.clone());
    add("partition", request.queue.clone());
    add("qos", request.qos.clone());
    add("constraint", request.constraint.clone());
    add("array", (request.jobs > 1).then(|| format!("0-{}", request.jobs - 1)));
    add("nodes", Some(request.nodes.to_string()));
    add("ntasks-per-node", Some("1".into()));
    add("cpus-per-task", request.cpus.map(|n| n.to_string()));
    add("mem", request.memory.map(|bytes| format!("{}M", mebibytes(bytes))));
    add("gpus-per-node", request.gpus.map(|n| n.to_string()));
    add("time", request.walltime.map(clock));
    // To the tasks of the steps; a script that is the worker itself gets it with `B:`.
    let to = if request.nodes > 1 { "" } else { "B:" };
    add("signal", request.warning.map(|w| format!("{to}TERM@{}", w.as_secs())));
    add("output", request.output.clone());
    if request.cpus.is_none() {
        all.push("--exclusive".into());
        if request.memory.is_none() {
            all.push("--mem=0".into());
        }
    }
    all.push(if request.requeue { "--requeue" } else { "--no-requeue" }.into());
    if request.requeue {
        all.push("--open-mode=append".into());
    }
    Ok(all)
}

/// The id in `12` or `12;cluster`.
pub(super) fn submitted(stdout: &str) -> Option<String> {
    let line = stdout.lines().rfind(|line| !line.trim().is_empty())?.trim();
    let id = line.split(';').next()?;
    let id = id.strip_prefix("Submitted batch job ").unwrap_or(id);
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())).then(|| id.to_owned())
}

/// Asks after jobs: one query for all; for those that `squeue` has forgotten the accounting, or else the
/// controller.
///
/// # Errors
/// `Launch` when Slurm does not answer.
pub(super) fn status(ids: &[String]) -> Result<Vec<JobStatus>> {
    let squeue = CommandLine::new("squeue", &["-h", "-t", "all", "-o", COLUMNS, "-j", &ids.join(",")]);
    let answer = call_again(&squeue)?;
    let mut found = from_squeue(&answer.stdout);
    let is_unknown = answer.stderr.to_lowercase().contains("invalid job id");
    if !answer.is_success() && !is_unknown {
        return Err(Error::new(Kind::Launch, format!("squeue failed: {}", answer.said()))
            .hint("Slurm's controller may be down; `sinfo` and `scontrol ping` tell"));
    }
    let rest = missing(ids, &found).into_iter().cloned().collect::<Vec<_>>();
    if !rest.is_empty() {
        let format = "JobID,JobIDRaw,State,Start,End,JobName,NodeList";
        let sacct = CommandLine::new("sacct", &["-X", "-P", "-n", "-j", &rest.join(","), "-o", format]);
        match call(&sacct) {
            Ok(answer) if answer.is_success() => found.extend(from_sacct(&answer.stdout)),
            // Without accounting only the controller may know more.
            _ => {
                for id in &rest {
                    let answer = call(&CommandLine::new("scontrol", &["-o", "show", "job", id]))?;
                    found.extend(from_scontrol(&answer.stdout));
                }
            }
        }
    }
    Ok(found)
}

/// What Slurm's word for a state means. Words are compared without what accounting adds: `CANCELLED by 1000`.
pub fn state(word: &str, reason: &str) -> JobState {
    match word.split_whitespace().next().unwrap_or_default().trim_end_matches('+') {
        "PENDING" | "PD" => match reason.starts_with("JobHeld") || reason == "job_requeued_in_held_state" {
            true => JobState::Held,
            false => JobState::Pending,
        },
        "REQUEUED" | "REQUEUE_FED" | "RESV_DEL_HOLD" => JobState::Pending,
        "REQUEUE_HOLD" | "SPECIAL_EXIT" => JobState::Held,
        "CONFIGURING" | "POWER_UP_NODE" => JobState::Starting,
        "RUNNING" | "RESIZING" | "SIGNALING" => JobState::Running,
        "SUSPENDED" | "STOPPED" => JobState::Suspended,
        "COMPLETING" | "STAGE_OUT" => JobState::Completing,
        "COMPLETED" => JobState::Finished,
        "FAILED" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => JobState::Failed,
        "TIMEOUT" | "DEADLINE" => JobState::TimeLimit,
        "PREEMPTED" => JobState::Preempted,
        "OUT_OF_MEMORY" => JobState::OutOfMemory,
        "NODE_FAIL" | "BOOT_FAIL" => JobState::NodeFailure,
        "CANCELLED" | "REVOKED" => JobState::Cancelled,
        _ => JobState::Unknown,
    }
}

/// The lines of `squeue` with our columns.
pub fn from_squeue(text: &str) -> Vec<JobStatus> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        // A job's name may hold the separator.
        let [id, inner, base, word, reason, start, end, name @ .., nodes] = &fields[..] else { return None };
        let name = name.join("|");
        let state = state(word, reason);
        let base = if base.is_empty() || *base == "N/A" { inner } else { base };
        Some(JobStatus {
            inner_id: (inner != id).then(|| (*inner).to_owned()),
            start_estimate: meaningful(start).filter(|_| matches!(state, JobState::Pending | JobState::Held)),
            end: meaningful(end).filter(|_| !matches!(state, JobState::Pending | JobState::Held)),
            ..status_of(id, base, &name, word, reason, nodes)
        })
    };
    text.lines().filter_map(line).collect()
}

/// The lines of `sacct -X -P -n -o JobID,JobIDRaw,State,Start,End,JobName,NodeList`.
fn from_sacct(text: &str) -> Vec<JobStatus> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let [id, inner, word, _, end, name @ .., nodes] = &fields[..] else { return None };
        let base = id.split(['_', '+']).next().unwrap_or(id);
        Some(JobStatus {
            inner_id: (inner != id).then(|| (*inner).to_owned()),
            end: meaningful(end),
            ..status_of(id, base, &name.join("|"), word, "", nodes)
        })
    };
    text.lines().filter_map(line).collect()
}

/// The lines of `scontrol -o show job`.
pub fn from_scontrol(text: &str) -> Vec<JobStatus> {
    let line = |line: &str| {
        let field = |name: &str| {
            let find = |word: &str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            line.split_whitespace().find_map(find)
        };
        let inner = field("JobId")?;
        let base = field("ArrayJobId");
        let id = match (&base, field("ArrayTaskId")) {
            (Some(base), Some(task)) => format!("{base}_{task}"),
            _ => inner.clone(),
        };
        let (word, reason) = (field("JobState")?, field("Reason").unwrap_or_default());
        let base = base.unwrap_or_else(|| inner.clone());
        let nodes = field("NodeList").unwrap_or_default();
        let waits = state(&word, &reason) == JobState::Pending;
        Some(JobStatus {
            inner_id: (inner != id).then_some(inner),
            start_estimate: field("StartTime").and_then(|t| meaningful(&t)).filter(|_| waits),
            end: field("EndTime").and_then(|t| meaningful(&t)).filter(|_| !waits),
            ..status_of(&id, &base, &field("JobName").unwrap_or_default(), &word, &reason, &nodes)
        })
    };
    text.lines().filter_map(line).collect()
}

fn status_of(id: &str, base: &str, name: &str, word: &str, reason: &str, nodes: &str) -> JobStatus {
    JobStatus {
        id: id.into(),
        name: meaningful(name),
        state: state(word, reason),
        word: word.into(),
        reason: meaningful(reason),
        nodes: meaningful(nodes),
        ..JobStatus::gone(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids() {
        assert_eq!(submitted("12\n"), Some("12".into()));
        assert_eq!(
            submitted("sbatch: Warning: can't run 1 processes on 2 nodes\n12;cluster\n"),
            Some("12".into())
        );
        assert_eq!(submitted("Submitted batch job 7\n"), Some("7".into()));
        assert_eq!((submitted(""), submitted("job_12\n")), (None, None));
    }

    #[test]
    fn heads() {
        let request = Request {
            name: "hpcdag-a1".into(),
            comment: Some("hpcdag cluster a1".into()),
            nodes: 2,
            jobs: 1,
            cpus: Some(8),
            memory: Some((3 << 30) + 1),
            walltime: Some(Duration::from_secs(5400)),
            warning: Some(Duration::from_secs(90)),
            queue: Some("short".into()),
            removed_directives: vec!["--signal".into()],
            extra_directives: vec!["--reservation=x".into()],
            ..Request::default()
        };
        let head = System::Slurm.directives(&request).unwrap();
        assert_eq!(
            head,
            [
                "--job-name=hpcdag-a1",
                "--comment=\"hpcdag cluster a1\"",
                "--partition=short",
                "--nodes=2",
                "--ntasks-per-node=1",
                "--cpus-per-task=8",
                "--mem=3073M",
                "--time=01:30:00",
                "--no-requeue",
                "--reservation=x",
            ]
        );
        let whole = Request {
            nodes: 1,
            jobs: 16,
            removed_directives: vec![],
            extra_directives: vec![],
            cpus: None,
            memory: None,
            ..request
        };
        let head = System::Slurm.directives(&whole).unwrap();
        for option in ["--array=0-15", "--exclusive", "--mem=0", "--signal=B:TERM@90"] {
            assert!(head.contains(&option.to_owned()), "{option}: {head:?}");
        }
    }

    /// As Slurm 22.05 printed it.
    const SQUEUE: &str = "\
1_2|1|1|PENDING|None|2027-11-21T05:27:25|NONE|hpcdag-x|
2|2|2|PENDING|PartitionConfig|N/A|N/A|wrap|
3|3|3|PENDING|JobHeldUser|N/A|N/A|a|b|
1_0|6|1|RUNNING|None|2026-11-21T05:27:25|2027-11-21T05:27:25|hpcdag-x|n1
8|8|8|CANCELLED|None|2026-11-21T05:27:25|2026-11-21T05:27:26|hpcdag-x|n[1-2]
4_[3-5]|4|4|TELEPORTING|None|N/A|N/A|x|
";

    #[test]
    fn squeue_is_understood() {
        let all = from_squeue(SQUEUE);
        let states: Vec<_> = all.iter().map(|s| (s.id.as_str(), s.submission.as_str(), s.state)).collect();
        assert_eq!(
            states,
            [
                ("1_2", "1", JobState::Pending),
                ("2", "2", JobState::Pending),
                ("3", "3", JobState::Held),
                ("1_0", "1", JobState::Running),
                ("8", "8", JobState::Cancelled),
                ("4_[3-5]", "4", JobState::Unknown),
            ]
        );
        assert_eq!(all[0].start_estimate.as_deref(), Some("2027-11-21T05:27:25"));
        assert_eq!((all[1].reason.as_deref(), &all[1].start_estimate), (Some("PartitionConfig"), &None));
        assert_eq!(all[2].name.as_deref(), Some("a|b"));
        assert_eq!((all[3].inner_id.as_deref(), all[3].nodes.as_deref()), (Some("6"), Some("n1")));
        assert_eq!(all[4].inner_id, None);
        assert_eq!(all[5].word, "TELEPORTING");
        assert!(from_squeue("nonsense\n\n").is_empty());
    }

    #[test]
    fn scontrol_and_sacct_are_understood() {
        let text = "JobId=7 ArrayJobId=1 ArrayTaskId=1 JobName=hpcdag-x UserId=root(0) JobState=TIMEOUT \
                    Reason=TimeLimit Dependency=(null) StartTime=2026-11-21T05:27:25 \
                    EndTime=2026-11-21T05:29:25 ReqNodeList=(null) NodeList=n2 BatchHost=n2\n\
                    JobId=9 JobName=y JobState=PENDING Reason=Resources StartTime=Unknown \
                    EndTime=Unknown NodeList=\n";
        let all = from_scontrol(text);
        assert_eq!(
            (all[0].id.as_str(), all[0].submission.as_str(), all[0].state),
            ("1_1", "1", JobState::TimeLimit)
        );
        assert_eq!((all[0].nodes.as_deref(), all[0].inner_id.as_deref()), (Some("n2"), Some("7")));
        assert_eq!(
            (all[1].state, all[1].reason.as_deref(), &all[1].start_estimate),
            (JobState::Pending, Some("Resources"), &None)
        );
        let all = from_sacct(
            "12|12|CANCELLED by 1000|2026-11-21T05:27:25|2026-11-21T05:29:25|n|None assigned\n\
             12_3|15|OUT_OF_MEMORY|a|b|n|n7\n",
        );
        assert_eq!((all[0].state, all[0].word.as_str()), (JobState::Cancelled, "CANCELLED by 1000"));
        assert_eq!((all[1].state, all[1].submission.as_str()), (JobState::OutOfMemory, "12"));
    }

    #[test]
    fn every_word_of_slurm_has_a_meaning() {
        for word in
            "BOOT_FAIL CANCELLED COMPLETED COMPLETING CONFIGURING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY \
                     PENDING PREEMPTED REQUEUED REQUEUE_HOLD RESIZING REVOKED RUNNING SIGNALING SPECIAL_EXIT \
                     STAGE_OUT STOPPED SUSPENDED TIMEOUT"
                .split_whitespace()
        {
            assert_ne!(state(word, ""), JobState::Unknown, "{word}");
        }
        assert_eq!(state("CANCELLED+", ""), JobState::Cancelled);
        assert_eq!(state("", ""), JobState::Unknown);
    }
}
