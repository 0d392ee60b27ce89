//! Graphs of a size that must not hurt: twenty thousand commands, a million native functions.

mod support;

use std::time::Duration;
use support::Sandbox;

const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn twenty_thousand_commands() {
    let sandbox = Sandbox::new();
    let graph = "version = 1\n[task.true]\nfor-each = { range = [0, 20000] }\nargv = [\"true\"]\n";
    all_succeed(&sandbox, graph, 20_000);
}

#[test]
fn a_million_native_functions() {
    let sandbox = Sandbox::new();
    let graph = "version = 1\n[task.noop]\nfor-each = { range = [0, 1000000] }\nnative = \"noop\"\n";
    all_succeed(&sandbox, graph, 1_000_000);
}

fn all_succeed(sandbox: &Sandbox, graph: &str, tasks: u64) {
    sandbox.write("large.toml", graph);
    let output = sandbox.run("submit", sandbox.hpcdag(&["submit", "large.toml", "--local", "--json"]), LIMIT);
    let summary: serde_json::Value = serde_json::from_str(&output).expect("a summary in JSON");
    assert_eq!(summary["tasks"], tasks, "{summary}");
    assert_eq!(summary["succeeded"], tasks, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
}
