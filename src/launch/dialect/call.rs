//! Running a batch system's programs: with a time limit, with their output kept, and with one clear message
//! when they refuse. Owns the processes and the wording; what is run is the dialects'.

use super::CommandLine;
use crate::base::error::{Error, Kind, Result};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program of the batch system may take. Controllers that are busy answer late.
const PATIENCE: Duration = Duration::from_secs(60);

/// For how long a system that was not reached is asked again: a master that is busy or starts anew.
const AGAIN: Duration = Duration::from_secs(5);

/// Longer answers are cut, in bytes.
const OUTPUT_MAX: u64 = 16 << 20;

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Answer {
    /// Whether it succeeded.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// All that it printed: Grid Engine complains on stdout.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stderr, self.stdout)
    }

    /// What it said, in one line without the program's name: its complaint or else its output.
    pub fn said(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines = text.lines().map(without_prefix).filter(|line| !line.is_empty());
        let lines: Vec<&str> = lines.take(6).collect();
        match lines.is_empty() {
            true => self.code.map_or("it was ended by a signal".into(), |code| format!("exit code {code}")),
            false => lines.join("; "),
        }
    }
}

/// A line without `sbatch: error: ` and the like.
fn without_prefix(line: &str) -> &str {
    let mut line = line.trim();
    for _ in 0..3 {
        let Some((head, rest)) = line.split_once(": ") else { break };
        let programs = ["sbatch", "squeue", "scancel", "scontrol", "qsub", "qstat", "qdel", "qacct"];
        let is_prefix = programs.contains(&head) || matches!(head, "error" | "fatal");
        if !is_prefix {
            break;
        }
        line = rest.trim();
    }
    line
}

/// Runs a program of a batch system to its end.
///
/// # Errors
/// `Launch` when it is not there, cannot be run, or does not answer.
pub fn call(line: &CommandLine) -> Result<Answer> {
    call_within(line, PATIENCE)
}

/// As [`call`], for what may be said twice: again for a while as long as only the system was not reached.
///
/// # Errors
/// As [`call`].
pub fn call_again(line: &CommandLine) -> Result<Answer> {
    let deadline = Instant::now() + AGAIN;
    let mut pause = Duration::from_millis(100);
    loop {
        let answer = call(line)?;
        let is_final = answer.is_success() || !is_silence(&answer.all());
        if is_final || Instant::now() + pause > deadline {
            return Ok(answer);
        }
        tracing::debug!("{} again: {}", line.program, answer.said());
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Whether what a batch system's program said only means that the system itself was not reached.
pub fn is_silence(said: &str) -> bool {
    let said = said.to_lowercase();
    let words = [
        "unable to contact slurm controller",
        "socket timed out",
        "unexpected message received",
        "zero bytes were transmitted or received",
        "cannot connect to server",
        "communication failure",
        "connection refused",
        "connection reset",
        "connection timed out",
        "no route to host",
        "unable to send message to qmaster",
        "unable to contact qmaster",
        "failed receiving gdi request",
        "commlib error",
        "has not answered for",
    ];
    words.iter().any(|word| said.contains(word))
}

/// As [`call`], for those who cannot wait as long.
///
/// # Errors
/// As [`call`].
pub fn call_within(line: &CommandLine, patience: Duration) -> Result<Answer> {
    let mut command = Command::new(&line.program);
    command.args(&line.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The words are compared with English ones, and times are shown as they are.
    command.env("LC_ALL", "C").env("SLURM_TIME_FORMAT", "standard");
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Launch, format!("there is no {} here", line.program))
                .hint("run this on a login node of the cluster, or load the batch system's module first")
        }
        _ => Error::new(Kind::Launch, format!("cannot run {}: {e}", line.program)),
    })?;
    let outputs = (reader(child.stdout.take()), reader(child.stderr.take()));
    let code = wait(&mut child, patience)?;
    let Some(code) = code else {
        let what = format!("{} has not answered for {} s", line.program, patience.as_secs());
        return Err(Error::new(Kind::Launch, what)
            .hint("the batch system may be busy or down; look with its own commands, and try again later"));
    };
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    Ok(Answer { code, stdout: text(outputs.0), stderr: text(outputs.1) })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before a fault is still worth showing.
            let _ = Read::by_ref(&mut pipe).take(OUTPUT_MAX).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        bytes
    })
}

/// The exit code, itself `None` after a signal; `None` when time was up, and the program is killed.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<Option<i32>>> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        let ended = child.try_wait().map_err(|e| Error::os("cannot wait for a program", e))?;
        if let Some(status) = ended {
            return Ok(Some(status.code()));
        }
        if Instant::now() >= deadline {
            // It may have ended in this moment, which is as good.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> CommandLine {
        CommandLine::new("sh", &["-c", script])
    }

    #[test]
    fn answers_are_kept() {
        let answer = call(&shell("echo out; echo 'sbatch: error: no such thing' >&2; exit 3")).unwrap();
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(3), "out\n"));
        assert_eq!(answer.said(), "no such thing");
        let killed = call(&shell("kill -9 $$")).unwrap();
        assert_eq!((killed.code, killed.said().as_str()), (None, "it was ended by a signal"));
    }

    #[test]
    fn much_output_does_not_block() {
        let answer = call(&shell("head -c 3000000 /dev/zero | tr '\\0' x")).unwrap();
        assert_eq!(answer.stdout.len(), 3_000_000);
    }

    #[test]
    fn a_system_that_is_not_reached_is_asked_again_and_a_refusal_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let tries = || std::fs::read_to_string(&count).unwrap_or_default().len();
        let path = count.display();
        // As Grid Engine says it while its master starts anew.
        let busy = format!(
            "printf x >> {path}; [ $(wc -c < {path}) -ge 3 ] && echo fine && exit 0\n\
             echo 'error: commlib error: got select error (Connection reset by peer)' >&2; exit 1"
        );
        let answer = call_again(&shell(&busy)).unwrap();
        assert_eq!((answer.stdout.as_str(), tries()), ("fine\n", 3));
        std::fs::remove_file(&count).unwrap();
        let refused = format!("printf x >> {path}; echo 'denied: job \"7\" does not exist'; exit 1");
        let answer = call_again(&shell(&refused)).unwrap();
        assert_eq!((answer.code, tries()), (Some(1), 1));
    }

    #[test]
    fn what_is_missing_or_hangs_is_said() {
        let none = call(&CommandLine::new("hpcdag-no-such-program", &[])).unwrap_err();
        assert!(none.kind == Kind::Launch && none.message.contains("there is no hpcdag-no-such"), "{none}");
        let slow = call_within(&shell("exec sleep 30"), Duration::from_millis(50)).unwrap_err();
        assert!(slow.message.contains("has not answered"), "{slow}");
    }
}
