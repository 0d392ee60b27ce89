//! Batch systems as hpcdag sees them: which programs they have, what a job's head says, how jobs are
//! submitted, asked after and cancelled, and what their words mean. Owns what the systems have in common;
//! each system's own ways are in the module of its name. Everything here is text in, text out: `call` runs
//! the programs.

pub mod call;
pub mod grid_engine;
pub mod pbs;
pub mod slurm;

use crate::base::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A batch system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum System {
    /// Slurm: `sbatch`, `squeue`, `scancel`.
    #[serde(rename = "slurm")]
    Slurm,
    /// OpenPBS and PBS Pro: `qsub`, `qstat`, `qdel`.
    #[serde(rename = "pbs")]
    Pbs,
    /// Grid Engine in its many versions: `qsub`, `qstat`, `qdel` too, with other options.
    #[serde(rename = "sge")]
    GridEngine,
}

impl System {
    /// All of them.
    pub const ALL: [System; 3] = [System::Slurm, System::Pbs, System::GridEngine];

    /// The name in the configuration (`[launch.slurm]`) and in `--json`.
    pub fn key(self) -> &'static str {
        match self {
            System::Slurm => "slurm",
            System::Pbs => "pbs",
            System::GridEngine => "sge",
        }
    }

    /// What the lines of a job's head begin with.
    pub fn directive_prefix(self) -> &'static str {
        match self {
            System::Slurm => "#SBATCH",
            System::Pbs => "#PBS",
            System::GridEngine => "#$",
        }
    }

    /// The program that submits jobs.
    pub fn submitter(self) -> &'static str {
        match self {
            System::Slurm => "sbatch",
            System::Pbs | System::GridEngine => "qsub",
        }
    }

    /// How long to leave between two questions about jobs, at least: sites ask for it.
    pub fn poll_interval(self) -> Duration {
        match self {
            System::Slurm | System::GridEngine => Duration::from_secs(30),
            System::Pbs => Duration::from_secs(60),
        }
    }

    /// The head of a job's script, as arguments of the submitting program.
    ///
    /// # Errors
    /// `Usage` when something is asked for that the system does not have, or needs something that is missing.
    pub fn directives(self, request: &Request) -> Result<Vec<String>> {
        let mut directives = match self {
            System::Slurm => slurm::directives(request),
            System::Pbs => pbs::directives(request),
            System::GridEngine => grid_engine::directives(request),
        }?;
        directives.retain(|d| !request.removed_directives.iter().any(|removed| is_option(d, removed)));
        directives.extend(request.extra_directives.iter().cloned());
        match directives.iter().find(|d| d.chars().any(char::is_control)) {
            Some(bad) => Err(Error::new(Kind::Usage, format!("a job's option cannot hold {bad:?}"))
                .hint("line breaks and control characters would change the job's script")),
            None => Ok(directives),
        }
    }

    /// The command that submits a script; `native` are the user's own options, which win over the script's.
    pub fn submit(self, script: &Path, native: &[String]) -> CommandLine {
        let fixed: &[&str] = match self {
            System::Slurm => &["--parsable"],
            System::Pbs => &[],
            System::GridEngine => &["-terse"],
        };
        let mut line = CommandLine::new(self.submitter(), fixed);
        line.args.extend(native.iter().cloned());
        line.args.push(script.to_string_lossy().into_owned());
        line
    }

    /// Options by which a job waits for the end of another one, however that ends.
    pub fn after(self, id: &str) -> Vec<String> {
        match self {
            System::Slurm => vec![format!("--dependency=afterany:{id}")],
            System::Pbs => vec!["-W".into(), format!("depend=afterany:{id}")],
            System::GridEngine => vec!["-hold_jid".into(), id.into()],
        }
    }

    /// The id of the job that was submitted, from what the program printed.
    ///
    /// # Errors
    /// `Launch` when that is no id.
    pub fn submitted(self, stdout: &str) -> Result<String> {
        let id = match self {
            System::Slurm => slurm::submitted(stdout),
            System::Pbs => pbs::submitted(stdout),
            System::GridEngine => grid_engine::submitted(stdout),
        };
        id.ok_or_else(|| {
            let said = stdout.trim();
            Error::new(Kind::Launch, format!("{} printed no job id but {said:?}", self.submitter()))
                .hint("look with the batch system's own command whether the job was accepted")
        })
    }

    /// The command that checks a script without submitting it; `None` where the system has no such thing.
    pub fn check(self, script: &Path, native: &[String]) -> Option<CommandLine> {
        let fixed: &[&str] = match self {
            System::Slurm => &["--test-only"],
            System::Pbs => return None,
            System::GridEngine => &["-w", "v"],
        };
        let mut line = CommandLine::new(self.submitter(), fixed);
        line.args.extend(native.iter().cloned());
        line.args.push(script.to_string_lossy().into_owned());
        Some(line)
    }

    /// The command that cancels jobs.
    pub fn cancel(self, ids: &[String]) -> CommandLine {
        let program = match self {
            System::Slurm => "scancel",
            System::Pbs | System::GridEngine => "qdel",
        };
        let mut line = CommandLine::new(program, &[]);
        line.args.extend(ids.iter().cloned());
        line
    }

    /// Asks after jobs by the ids of their submissions. Arrays are answered job by job; ids that the system
    /// does not know any more are answered as [`JobState::Gone`].
    ///
    /// # Errors
    /// `Launch` when the system does not answer.
    pub fn status(self, ids: &[String]) -> Result<Vec<JobStatus>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = match self {
            System::Slurm => slurm::status(ids),
            System::Pbs => pbs::status(ids),
            System::GridEngine => grid_engine::status(ids),
        }?;
        let gone: Vec<JobStatus> = missing(ids, &found).into_iter().map(|id| JobStatus::gone(id)).collect();
        found.extend(gone);
        Ok(found)
    }

    /// Whether a failed cancellation, by all that it said, only found jobs that are over or about to be,
    /// beside those that it cancelled.
    pub fn is_over_already(self, said: &str) -> bool {
        let words: &[&str] = match self {
            System::Slurm => &["invalid job id", "completing or completed"],
            System::Pbs => &["job has finished", "unknown job", "request invalid for state of job"],
            // It tells of every job, and all of it on stdout.
            System::GridEngine => &[
                "does not exist",
                "do not exist",
                "already in deletion",
                "has registered the job",
                "has deleted job",
            ],
        };
        let mut lines = said.lines().filter(|line| !line.trim().is_empty()).peekable();
        lines.peek().is_some() && lines.all(|line| words.iter().any(|w| line.to_lowercase().contains(w)))
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            System::Slurm => "Slurm",
            System::Pbs => "PBS",
            System::GridEngine => "Grid Engine",
        })
    }
}

/// Whether a directive is of an option: `--mem` is that of `--mem=4G` and of `--mem 4G`, not of
/// `--mem-per-cpu=1G`; `-l walltime` is that of `-l walltime=1:0:0`.
fn is_option(directive: &str, option: &str) -> bool {
    let option = option.trim();
    let rest = directive.strip_prefix(option);
    !option.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ' ', ':']))
}

/// Which of the two systems a `qsub` belongs to. `version` is what `qsub --version` printed, if it ran.
pub fn owner_of_qsub(version: Option<&str>, variable: &dyn Fn(&str) -> Option<String>) -> Option<System> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let version = version.unwrap_or_default().to_lowercase();
    if version.contains("pbs") {
        return Some(System::Pbs);
    }
    if is_set("SGE_ROOT") {
        return Some(System::GridEngine);
    }
    is_set("PBS_CONF_FILE").then_some(System::Pbs)
}

/// A command to run: program and arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program, looked for in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

impl CommandLine {
    /// A command with its first arguments.
    pub fn new(program: &str, args: &[&str]) -> CommandLine {
        CommandLine { program: program.into(), args: args.iter().map(|a| (*a).to_owned()).collect() }
    }
}

impl fmt::Display for CommandLine {
    /// As one would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", super::template::shell_quoted(arg)))
    }
}

/// Jobs that are to be submitted in one go. Sizes and times are exact; each system rounds as it must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The jobs' name.
    pub name: String,
    /// What the jobs' comment says, where the system has comments.
    pub comment: Option<String>,
    /// Nodes of each job.
    pub nodes: u32,
    /// How many jobs, as an array if more than one.
    pub jobs: u32,
    /// Processors on each node; whole nodes if `None`.
    pub cpus: Option<u32>,
    /// Memory on each node, in bytes.
    pub memory: Option<u64>,
    /// GPUs on each node.
    pub gpus: Option<u32>,
    /// How long the jobs may run.
    pub walltime: Option<Duration>,
    /// How long before the end of its time a job is warned by SIGTERM.
    pub warning: Option<Duration>,
    /// Whom the jobs are charged to.
    pub account: Option<String>,
    /// Partition or queue.
    pub queue: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Features that the nodes must have.
    pub constraint: Option<String>,
    /// The project, where that is not the account.
    pub project: Option<String>,
    /// Grid Engine's parallel environment.
    pub parallel_environment: Option<String>,
    /// Grid Engine's name for memory, per slot.
    pub memory_resource: Option<String>,
    /// Grid Engine's name for GPUs.
    pub gpu_resource: Option<String>,
    /// Where the job's own output goes, with the system's placeholders.
    pub output: Option<String>,
    /// Whether the system may start the job again from its beginning.
    pub requeue: bool,
    /// Options for the head, as written.
    pub extra_directives: Vec<String>,
    /// Options that are left out of the head.
    pub removed_directives: Vec<String>,
}

impl Request {
    /// Refuses what a system does not have.
    fn lacks(&self, system: System, what: &[(&str, bool)]) -> Result<()> {
        match what.iter().find(|(_, asked)| *asked) {
            None => Ok(()),
            Some((option, _)) => {
                Err(Error::new(Kind::Usage, format!("{system} has nothing that --{option} could mean")).hint(
                    "give what your site has for it as a native option after --, or in `directives` of the \
                     configuration",
                ))
            }
        }
    }
}

/// A value in a job's head: quoted if it must be. Control characters are refused later, for all options.
fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:%@+,=^[]$~{}".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// `HH:MM:SS`, rounded up.
fn clock(time: Duration) -> String {
    let seconds = seconds_up(time);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Whole MiB, rounded up.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// What a job is doing, in words that mean the same for every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Waits for its turn.
    Pending,
    /// Waits until somebody releases it.
    Held,
    /// Has its nodes, which are being made ready.
    Starting,
    /// Runs.
    Running,
    /// Was stopped for a while.
    Suspended,
    /// Its processes are being ended.
    Completing,
    /// Ended by itself, with success.
    Finished,
    /// Ended by itself, without success.
    Failed,
    /// Was ended because its time was up.
    TimeLimit,
    /// Was ended for another job.
    Preempted,
    /// Was ended because it used too much memory.
    OutOfMemory,
    /// Lost a node.
    NodeFailure,
    /// Was cancelled.
    Cancelled,
    /// The system does not know it any more: it has ended some time ago.
    Gone,
    /// In a state that hpcdag has no word for.
    Unknown,
}

impl JobState {
    /// Whether it will not run (any more).
    pub fn is_over(self) -> bool {
        use JobState::*;
        matches!(
            self,
            Finished | Failed | TimeLimit | Preempted | OutOfMemory | NodeFailure | Cancelled | Gone
        )
    }

    /// The words for people.
    pub fn words(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Held => "held",
            JobState::Starting => "starting",
            JobState::Running => "running",
            JobState::Suspended => "suspended",
            JobState::Completing => "completing",
            JobState::Finished => "finished",
            JobState::Failed => "failed",
            JobState::TimeLimit => "ended by time limit",
            JobState::Preempted => "preempted",
            JobState::OutOfMemory => "out of memory",
            JobState::NodeFailure => "node failure",
            JobState::Cancelled => "cancelled",
            JobState::Gone => "gone",
            JobState::Unknown => "unknown",
        }
    }
}

/// What the system says about a job, or one of an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobStatus {
    /// The id as the user types it: `12`, `12_3`, `7.pbs`, `7[3].pbs`, `12.3`.
    pub id: String,
    /// The id that processes of the job find in their environment, where that is another one.
    pub inner_id: Option<String>,
    /// The id that was printed at submission.
    pub submission: String,
    /// The job's name, to tell it from another one that has got its number.
    pub name: Option<String>,
    /// What it is doing.
    pub state: JobState,
    /// The same in the system's words.
    pub word: String,
    /// Why it waits, or how it ended, in the system's words.
    pub reason: Option<String>,
    /// When it is expected to start, in the system's words.
    pub start_estimate: Option<String>,
    /// When it ends or ended, in the system's words.
    pub end: Option<String>,
    /// Its nodes, in the system's words.
    pub nodes: Option<String>,
}

impl JobStatus {
    /// A job that the system does not know.
    pub fn gone(submission: &str) -> JobStatus {
        JobStatus {
            id: submission.into(),
            inner_id: None,
            submission: submission.into(),
            name: None,
            state: JobState::Gone,
            word: "-".into(),
            reason: None,
            start_estimate: None,
            end: None,
            nodes: None,
        }
    }
}

/// Text that says something: not empty, and none of the words that mean nothing.
fn meaningful(text: &str) -> Option<String> {
    let text = text.trim();
    let nothing = ["", "None", "N/A", "NONE", "(null)", "Unknown", "n/a", "NOT_SET"];
    (!nothing.contains(&text)).then(|| text.to_owned())
}

/// The ids of which no status says anything.
fn missing<'a>(ids: &'a [String], found: &[JobStatus]) -> Vec<&'a String> {
    let known: BTreeSet<&str> = found.iter().map(|s| s.submission.as_str()).collect();
    ids.iter().filter(|id| !known.contains(id.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_qsubs_are_told_apart() {
        let none = |_: &str| None;
        let sge = |name: &str| (name == "SGE_ROOT").then(|| "/opt/sge".to_owned());
        let pbs = |name: &str| (name == "PBS_CONF_FILE").then(|| "/etc/pbs.conf".to_owned());
        assert_eq!(owner_of_qsub(Some("pbs_version = 23.06.06\n"), &none), Some(System::Pbs));
        assert_eq!(owner_of_qsub(Some("pbs_version = 23.06.06\n"), &sge), Some(System::Pbs));
        assert_eq!(owner_of_qsub(Some("qsub: Unknown option --version"), &sge), Some(System::GridEngine));
        assert_eq!(owner_of_qsub(None, &pbs), Some(System::Pbs));
        assert_eq!(owner_of_qsub(None, &none), None);
    }

    #[test]
    fn options_are_removed_whole() {
        assert!(is_option("--mem=4G", "--mem") && is_option("--exclusive", "--exclusive"));
        assert!(is_option("-l walltime=1:0:0", "-l walltime") && is_option("-r n", "-r"));
        assert!(is_option("-l select=2:ncpus=4", "-l"));
        assert!(!is_option("--mem-per-cpu=1G", "--mem") && !is_option("-rn", "-r") && !is_option("-r n", ""));
    }

    #[test]
    fn values_are_quoted_where_needed() {
        assert_eq!(value("/a/b-%j.log"), "/a/b-%j.log");
        assert_eq!(value("a b"), "\"a b\"");
        assert_eq!(value("a\"b"), "\"a\\\"b\"");
        let request = Request { name: "x\n#SBATCH --wrap=y".into(), nodes: 1, jobs: 1, ..Request::default() };
        assert!(System::Slurm.directives(&request).unwrap_err().message.contains("cannot hold"));
    }

    #[test]
    fn times_and_sizes_round_up() {
        assert_eq!(clock(Duration::from_millis(3_599_001)), "01:00:00");
        assert_eq!(clock(Duration::from_secs(100 * 3600)), "100:00:00");
        assert_eq!((mebibytes(1), mebibytes(1 << 20), mebibytes((1 << 20) + 1)), (1, 1, 2));
    }

    #[test]
    fn a_cancelled_job_that_is_over_is_no_fault() {
        assert!(
            System::Slurm
                .is_over_already("scancel: error: Kill job error on job id 99: Invalid job id specified\n")
        );
        assert!(System::Pbs.is_over_already("qdel: Job has finished 0.login\n"));
        assert!(System::Pbs.is_over_already("qdel: Unknown Job Id 9999.login\n"));
        let sge = |said: &str| System::GridEngine.is_over_already(said);
        assert!(sge("denied: job \"77\" does not exist\n"));
        assert!(sge("job \"1\" task \"7\" does not exist\n"));
        assert!(sge(
            "job 1 is already in deletion\ndenied: job \"2\" does not exist\nroot has deleted job 3\n"
        ));
        assert!(sge(
            "root has registered the job-array task 3.2 for deletion\ndenied: job \"4\" does not exist"
        ));
        let others = "nobody - you do not have the necessary privileges to delete the job \"1\"\n";
        assert!(!sge(others) && !sge(&format!("{others}denied: job \"99\" does not exist\n")));
        assert!(!sge("unable to send message to qmaster using port 6444 on host \"login\": got send error"));
        assert!(System::Pbs.is_over_already("qdel: Request invalid for state of job 1.login\n"));
        assert!(!System::Pbs.is_over_already("qdel: Unknown Job Id 1.l\nqdel: Unauthorized Request  2.l\n"));
        assert!(!System::Pbs.is_over_already("") && !sge(""));
    }
}
