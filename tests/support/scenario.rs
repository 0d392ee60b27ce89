//! Scenarios: shell scripts, as people write them on a login node, that run beside a batch system, and what
//! they said. Owns the shell functions that all of them may use; not what is checked.

use super::{Sandbox, repository};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long one may take; packages may have to be installed first.
pub const LIMIT: Duration = Duration::from_secs(240);

/// What all scripts begin with.
pub const PREAMBLE: &str = r#"
set -Eeuo pipefail
# Where a script ends that was not meant to end there, and what its commands have left in files.
died() {
    [ $BASHPID = $$ ] || return 0
    echo "scenario: line $2: exit code $1 of: $3" >&2
    local f
    for f in *.log err failed; do [ ! -s "$f" ] || tail -n 20 -v "$f" >&2; done
}
trap 'died $? $LINENO "$BASH_COMMAND"' ERR
say() { printf '%s\n' "$*"; }
# `json WORD COMMAND…`: what a command prints, on one line after a word.
json() { printf '%s ' "$1"; shift; "$@" | tr -d '\n'; echo; }
# Until a command succeeds.
until_ok() {
    local i
    for i in $(seq 1 600); do "$@" > /dev/null 2>&1 && return; sleep 0.1; done
    say "never: $*"
    return 1
}
# The first value of a key in JSON that stands one key to a line.
key() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" | head -n 1; }
# How many workers are there.
workers() { hpcdag workers list --json | grep -c '"joined"' || true; }
workers_are() { [ "$(workers)" = "$1" ]; }
"#;

/// What scripts beside a Slurm may use, too.
const SLURM: &str = r#"
# Whether a job is over; whether no job of ours, or no job at all, is left; how many of ours there are.
# No answer is not the answer that nothing is left; a job that Slurm has forgotten is over.
over() {
    local left
    left=$(squeue -h -j "$1" 2>&1) || { grep -qi 'invalid job id' <<< "$left"; return; }
    [ -z "$left" ]
}
no_job() { local left; left=$(squeue -h -o %j) && ! grep hpcdag <<< "$left"; }
nothing_queued() { local left; left=$(squeue -h) && [ -z "$left" ]; }
jobs() { squeue -h -t pd,r -o %j | grep -c hpcdag || true; }
jobs_are() { [ "$(jobs)" = "$1" ]; }
"#;

/// Runs a script beside a Slurm of four nodes with four processors each; what it printed.
pub fn in_slurm(sandbox: &Sandbox, script: &str) -> String {
    let mut command = sandbox.command("bash");
    command.arg(repository().join("scripts/slurm-testbed")).args(["run", "--nodes", "4", "--", "bash", "-c"]);
    command.arg(format!("{PREAMBLE}{SLURM}{script}"));
    put_in_path(&mut command, &[]);
    command.env("HPCDAG_SCHEDULER__HOST", "127.0.0.1").env("HPCDAG_WORKER__HOST", "127.0.0.1");
    sandbox.run("scenario", command, LIMIT)
}

/// Puts directories, and after them that of the binary, before all others in a command's path.
pub fn put_in_path(command: &mut Command, directories: &[&Path]) {
    let program = Path::new(env!("CARGO_BIN_EXE_hpcdag")).parent().expect("in a directory");
    let old = std::env::var_os("PATH").unwrap_or_default();
    let all = directories.iter().map(|d| d.to_path_buf()).chain([program.to_path_buf()]);
    let path = std::env::join_paths(all.chain(std::env::split_paths(&old))).expect("no colon in a directory");
    command.env("PATH", path);
}

/// What a script printed after a word on a line.
pub fn after<'a>(output: &'a str, word: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no line {word:?} in:\n{output}")).trim()
}

/// The JSON that a script printed after a word on a line.
pub fn json(output: &str, word: &str) -> Value {
    let text = after(output, word);
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{word}: {e}: {text}"))
}
