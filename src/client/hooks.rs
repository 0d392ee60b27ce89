//! What the client runs once a graph has ended: `[on]` of a graph file. Owns its start and what its failure
//! means.

use super::summary::RunSummary;
use crate::base::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::graph::command::Command;
use crate::graph::items::Item;
use crate::graph::spec::Action;
use crate::graph::template::{Names, Plain};
use std::process::Stdio;

/// The interpreter of hooks that are shell lines: a failure early in a pipe counts.
const SHELL: [&str; 4] = ["bash", "-eo", "pipefail", "-c"];

/// Runs the graph's hook for this end, if it has one, in the graph file's directory. It finds the run's id
/// and figures in `HPCDAG_RUN`, `HPCDAG_TASKS`, `HPCDAG_SUCCEEDED` and `HPCDAG_FAILED`.
///
/// # Errors
/// `Launch` when it cannot be started or fails.
pub async fn run_hook(graph: &Graph, summary: &RunSummary) -> Result<()> {
    let (name, hook) = match summary.is_success() {
        true => ("success", &graph.on_success),
        false => ("failure", &graph.on_failure),
    };
    let Some(action) = hook else { return Ok(()) };
    let fault = |what: String| Error::new(Kind::Launch, format!("the hook for {name} {what}"));
    let names = Names { params: graph.params.clone(), ..Names::default() };
    let command = Command::parse(action, &names).map_err(|f| fault(format!("is wrong: {}", f.message)))?;
    let mut argv = command.render(&Plain { item: &Item::None, index: 0, key: "" })?;
    match action {
        Action::Shell(_) => argv.splice(0..0, SHELL.map(String::from)).for_each(drop),
        Action::Argv(_) => {}
        Action::Native { .. } => {
            return Err(fault("is a native function; only commands can be hooks".into()));
        }
    }
    let Some((program, args)) = argv.split_first() else { return Err(fault("is empty".into())) };
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.env("HPCDAG_RUN", summary.run.to_string());
    let figures = [
        ("HPCDAG_TASKS", summary.tasks),
        ("HPCDAG_SUCCEEDED", summary.succeeded),
        ("HPCDAG_FAILED", summary.failed),
    ];
    command.envs(figures.map(|(name, n)| (name, n.to_string())));
    if let Some(family) = graph.families.first() {
        command.current_dir(&family.spec.base_dir);
    }
    let ended = tokio::task::spawn_blocking(move || command.status()).await;
    match ended.map_err(|e| Error::os("waiting for a hook was given up", e))? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(fault(format!("failed: {status}"))),
        Err(e) => Err(fault(format!("cannot be started: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::single::{Each, command};
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn hooks_run_in_the_graphs_directory() {
        let directory = tempfile::tempdir().unwrap();
        let origin =
            crate::graph::Origin { name: "t".into(), base_dir: directory.path().into(), umask: 0o022 };
        let mut graph = command(vec!["true".into()], Each::Once, &origin).unwrap();
        graph.params = BTreeMap::from([("day".to_string(), "mon day".to_string())]);
        graph.on_success = Some(Action::Shell("echo {day} $HPCDAG_TASKS > said".into()));
        graph.on_failure = Some(Action::Argv(vec!["false".into()]));
        let mut summary = RunSummary { tasks: 7, succeeded: 7, ..RunSummary::default() };
        run_hook(&graph, &summary).await.unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("said")).unwrap(), "mon day 7\n");
        summary.failed = 1;
        let error = run_hook(&graph, &summary).await.unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::Launch, "the hook for failure failed: exit status: 1")
        );
    }
}
