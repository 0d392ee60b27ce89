//! `doctor`: says what hpcdag sees on this host and what to change, and what dead clusters have left. Owns
//! the order; each file reads its part and judges what it read by functions that do nothing else.

mod batch;
mod files;
mod findings;
mod memory;
mod network;
mod orphans;
mod system;

use super::args::DoctorArgs;
use super::context::{Context, run_short};
use super::jobs;
use super::output::{Out, say};
use crate::base::error::Result;
use crate::net::state_dir::{StateDir, batch_job_id};
use crate::worker::directory::local_directory;
use findings::{Area, Findings, Report};
use serde_json::json;
use std::time::Duration;

/// `doctor`
pub fn doctor(context: &Context, args: &DoctorArgs) -> Result<u8> {
    if args.orphans {
        return orphans::orphans(args);
    }
    let host = this_host();
    let batch = batch::Readings::here(|system| jobs::settings(context, system));
    let system = system::Readings::here();
    let memory = crate::worker::explain_memory(&context.loaded.config);
    let (network, clusters) = run_short(async {
        let network = network::Readings::here(context, &args.scheduler).await;
        Ok((network, orphans::clusters().await))
    })?;
    let files = directories(context, &host)?;
    let has_nodes = batch.system.is_some() || batch.job.is_some();
    let all = vec![
        batch::judge(&batch),
        system::judge(&system),
        memory::judge(&memory, batch.job.is_some()),
        match &network {
            Ok(readings) => network::judge(readings, has_nodes),
            Err(e) => network::unread(e),
        },
        files::judge(&files),
        judge_clusters(clusters.as_deref(), &host),
    ];
    let readings = json!({
        "batch": batch,
        "system": system,
        "memory": memory,
        "network": network.ok(),
        "files": files,
        "clusters": clusters.iter().flatten().map(orphans::Cluster::json).collect::<Vec<_>>(),
    });
    let report = Report::new(host, all, readings);
    Out::stdout().value(args.json.json, &report, Report::text)?;
    Ok(report.exit_code())
}

fn judge_clusters(clusters: Result<&[orphans::Cluster], &crate::base::error::Error>, host: &str) -> Findings {
    match clusters {
        Ok(clusters) => orphans::judge(clusters, host),
        Err(e) => {
            let mut found = Findings::new(Area::Clusters);
            found.problem(&e.message, "see that the state directory can be read");
            found
        }
    }
}

/// What is written to: workers' files, home, state.
fn directories(context: &Context, host: &str) -> Result<Vec<files::Readings>> {
    let job = batch_job_id();
    let scratch = local_directory(&context.loaded.config, job.as_deref(), host)?;
    let mut all = vec![files::Readings::of(files::Use::Scratch, &scratch)];
    if let Ok(home) = etcetera::home_dir() {
        all.push(files::Readings::of(files::Use::Home, &home));
    }
    // Where a cluster that is started here would keep its files.
    let state = StateDir::of_user()?.cluster("doctor")?;
    all.extend(state.path().parent().map(|state| files::Readings::of(files::Use::State, state)));
    Ok(all)
}

fn this_host() -> String {
    hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a function returns, unless it takes longer: file systems may never answer. Its thread stays behind
/// then, and ends with this process.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::channel();
    // Nobody listens any more if it took too long.
    std::thread::spawn(move || drop(send.send(work())));
    receive.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_ever() {
        assert_eq!(within(Duration::from_secs(10), || 7), Some(7));
        let slow = || std::thread::sleep(Duration::from_secs(2));
        assert_eq!(within(Duration::from_millis(10), slow), None);
    }
}
