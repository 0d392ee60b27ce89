//! How a run that is one job of a real Slurm is followed from outside of it: by a connection to its
//! scheduler, through a relay, by its files; and what becomes of whoever follows when the connection is lost.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm};

const GRAPH: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 6] }
shell = "[ {item} -lt 3 ] || while [ ! -e go ]; do sleep 0.1; done; echo {item}"
cwd = "."
[task.b]
from = { a = "all" }
shell = "sort"
[output]
b = "b.txt"
"#;

/// Three follow one job, each in its own way. What happened less than ten seconds ago is known only to those
/// who have a connection. The relay is ended in the middle; all three see the run's end.
#[test]
fn by_connection_by_relay_and_by_files() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag submit graph.toml --batch slurm -N 2 -c 4 --mem 500M -t 10m --run-directory run > /dev/null
until_ok test -e run/scheduler.json
for way in direct relay files; do
    (HPCDAG_LAUNCH__FOLLOW=$way hpcdag resume run --wait 2> $way.err && echo ended >> $way.err) &
done
until_ok grep 'following through a relay in job' relay.err
until_ok grep 'following by a connection to tls' direct.err
until_ok grep 'following .*progress.json' files.err
until_ok grep '3 of 7 tasks' direct.err
until_ok grep '3 of 7 tasks' relay.err
# Without its first process the step ends.
relay_step() { squeue -h -s -o '%i %j' | sed -n 's/ hpcdag-relay$//p'; }
say steps $(relay_step | wc -l)
scancel $(relay_step)
until_ok grep 'following .*progress.json: ' relay.err
touch go
wait
say b $(tr '\n' ' ' < b.txt)
say ended $(grep -l '^ended$' *.err | tr '\n' ' ')
until_ok nothing_queued
say state-files $(find "$XDG_STATE_HOME" -type f | wc -l)
"#,
    );
    assert_eq!(after(&output, "steps"), "1");
    assert_eq!(after(&output, "b"), "0 1 2 3 4 5");
    assert_eq!(after(&output, "ended"), "direct.err files.err relay.err");
    let direct = sandbox.read("direct.err");
    assert!(!direct.contains("progress.json"), "the end of the cluster is no loss: {direct}");
    assert_eq!(after(&output, "state-files"), "0");
}
