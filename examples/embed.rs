//! A program that has hpcdag inside: it registers a function of its own, is scheduler, worker and client in
//! one, runs a small graph built in code, and prints the result. `cargo run --example embed`

use hpcdag::base::error::{Error, Result};
use hpcdag::client::{Memory, SubmitOptions, Taker};
use hpcdag::cluster::{LocalCluster, LocalOptions};
use hpcdag::graph::diagnostic::Source;
use hpcdag::graph::file::{Format, parse};
use hpcdag::graph::{self, Graph, Origin};
use hpcdag::worker::executor::native::Registry;
use std::sync::Arc;

/// Terms of the series: each task sums a part of it.
const TERMS: u64 = 1_000_000;

/// Parts of the series, one task each.
const PARTS: u64 = 16;

/// Pi by Leibniz' series: a family of partial sums, and one task that adds them up.
fn graph() -> Result<Graph> {
    let text = format!(
        r#"
        version = 1
        [task.part]
        for-each = {{ range = [0, {PARTS}] }}
        native = "leibniz"
        [task.pi]
        from = {{ part = "all" }}
        native = "sum"
        [output]
        pi = "pi"
        "#
    );
    let here = std::env::current_dir().map_err(|e| Error::os("cannot find the current directory", e))?;
    let origin = Origin { name: "pi".into(), base_dir: here, umask: 0o022 };
    let source = Source { name: "the graph of this program".into(), text };
    parse(&source, Format::Toml, &origin, &graph::Options::default())
}

/// The functions that tasks name.
fn functions() -> Registry {
    let registry = Registry::default();
    registry.register("leibniz", |task| {
        let part = u64::from(task.index());
        let term = |k: u64| if k.is_multiple_of(2) { 4.0 } else { -4.0 } / (2 * k + 1) as f64;
        let sum: f64 = (part * TERMS / PARTS..(part + 1) * TERMS / PARTS).map(term).sum();
        task.write(sum.to_string().as_bytes()).map_err(|e| e.to_string())
    });
    registry.register("sum", |task| {
        let mut sum = 0.0;
        for input in task.inputs() {
            let bytes = input.bytes().map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            sum += text.parse::<f64>().map_err(|e| format!("{}: {text:?}: {e}", input.key))?;
        }
        task.write(format!("{sum:.5}").as_bytes()).map_err(|e| e.to_string())
    });
    registry
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = LocalOptions { nworkers: 2, natives: functions(), ..LocalOptions::default() };
    let cluster = LocalCluster::start(options).await?;
    let client = cluster.client().await?;

    let run = client.submit(graph()?, SubmitOptions::default()).await?;
    // Outputs could also go to files, as `[output]` says: `Files::of_graph`.
    let results = Memory::default();
    let end = Taker::new(run, Arc::new(results.clone())).finish(|_| {}).await?;

    for failure in &end.summary.failures {
        eprintln!("{} failed: {}", failure.key, failure.reason);
    }
    if let Some(pi) = results.stdout("pi") {
        println!("pi is about {} ({} tasks)", String::from_utf8_lossy(&pi), end.summary.succeeded);
    }
    client.close().await;
    cluster.stop().await
}
