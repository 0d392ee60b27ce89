//! The command that runs `hpcdag relay` on a node of a job, for login nodes that cannot reach it otherwise,
//! and the setting that says how runs are followed. Owns both; who starts the relay speaks through it.

use super::dialect::{CommandLine, System};
use super::template::shell_quoted;
use crate::base::error::{Error, Kind, Result};
use std::path::Path;
use toml::{Table, Value};

/// What a relay says first. Whatever comes before was printed by a login shell's start-up files.
pub const GREETING: &[u8] = b"hpcdag relay 1\n";

/// How `--wait` sees what a job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// The best way that works.
    #[default]
    Auto,
    /// A connection to the scheduler, else files.
    Direct,
    /// A connection through a relay, else files.
    Relay,
    /// Files only.
    Files,
}

impl Follow {
    /// `launch.follow`; `origin` tells where a setting comes from.
    ///
    /// # Errors
    /// `Config`, with the origin, when it is something else.
    pub fn read(launch: &Table, origin: &dyn Fn(&str) -> String) -> Result<Follow> {
        let key = "launch.follow";
        match launch.get("follow") {
            None => Ok(Follow::default()),
            Some(Value::String(text)) if text == "auto" => Ok(Follow::Auto),
            Some(Value::String(text)) if text == "direct" => Ok(Follow::Direct),
            Some(Value::String(text)) if text == "relay" => Ok(Follow::Relay),
            Some(Value::String(text)) if text == "files" => Ok(Follow::Files),
            Some(other) => {
                let what = format!("{}: '{key}': {other} is no way to follow a run", origin(key));
                Err(Error::new(Kind::Config, what).hint("\"auto\", \"direct\", \"relay\" or \"files\""))
            }
        }
    }

    /// Whether a connection to the scheduler is tried.
    pub fn tries_direct(self) -> bool {
        matches!(self, Follow::Auto | Follow::Direct)
    }

    /// Whether a relay is tried.
    pub fn tries_relay(self) -> bool {
        matches!(self, Follow::Auto | Follow::Relay)
    }
}

/// The command that starts a relay beside a job: as a step of it where steps may be started from outside,
/// else by ssh on the scheduler's host. Only paths are in it.
pub fn command(system: System, job: &str, host: &str, program: &str, scheduler_file: &Path) -> CommandLine {
    let file = scheduler_file.to_string_lossy();
    let relay = [program, "relay", "--scheduler-file", &file];
    match system {
        System::Slurm => {
            // Slurm holds back what does not end in a line break, unless it is told not to.
            let step = ["--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--unbuffered", "--cpu-bind=none"];
            let rest = ["--mpi=none", "--quiet", "--chdir=/", "--job-name=hpcdag-relay"];
            let mut line = CommandLine::new("srun", &[&format!("--jobid={job}")]);
            line.args.extend(step.into_iter().chain(rest).chain(relay).map(str::to_owned));
            line
        }
        System::Pbs | System::GridEngine => {
            let options = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host];
            let mut line = CommandLine::new("ssh", &options);
            // ssh hands one line to a shell there.
            let words: Vec<String> = relay.into_iter().map(shell_quoted).collect();
            line.args.push(words.join(" "));
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_read() {
        let read = |text: &str| Follow::read(&text.parse().unwrap(), &|key| format!("site.toml ({key})"));
        assert_eq!(read("").unwrap(), Follow::Auto);
        assert_eq!(read("follow = 'files'").unwrap(), Follow::Files);
        for wrong in ["follow = 'smoke'", "follow = 3"] {
            let error = read(wrong).unwrap_err();
            assert!(error.message.starts_with("site.toml (launch.follow): "), "{error}");
        }
        assert!(Follow::Auto.tries_direct() && Follow::Auto.tries_relay());
        assert!(!Follow::Relay.tries_direct() && !Follow::Direct.tries_relay());
        assert!(!Follow::Files.tries_direct() && !Follow::Files.tries_relay());
    }

    #[test]
    fn commands() {
        let file = Path::new("/r/a b/scheduler.json");
        let slurm = command(System::Slurm, "12", "n1", "/opt/hpcdag", file).to_string();
        assert!(
            slurm.starts_with("srun --jobid=12 --overlap ") && slurm.contains(" --unbuffered "),
            "{slurm}"
        );
        assert!(slurm.ends_with("/opt/hpcdag relay --scheduler-file '/r/a b/scheduler.json'"), "{slurm}");
        let pbs = command(System::Pbs, "12.s", "n1", "/opt/hpcdag", file);
        assert_eq!(pbs.program, "ssh");
        assert_eq!(
            pbs.args.last().unwrap(),
            "/opt/hpcdag relay --scheduler-file '/r/a b/scheduler.json'",
            "quoted for the shell there"
        );
    }
}
