//! The settings of workers in jobs, as the file beside the job's script says them. Owns which settings go
//! there and what is otherwise than usual in a job.

use crate::cli::args::WorkersStartArgs;
use crate::cli::context::Context;
use crate::config::Origin;
use crate::launch::dialect::Request;
use crate::launch::pools::Pool;

/// What a worker of a job does unless it was told otherwise: an allocation costs money.
const JOB_DEFAULTS: [(&str, &str); 1] = [("worker.idle-timeout", "15m")];

/// The workers' settings as TOML: what is not the default here must not depend on what a node sees of this
/// environment, this home directory or these flags.
pub(super) fn worker_settings(
    context: &Context,
    args: &WorkersStartArgs,
    pool: Option<&Pool>,
    request: &Request,
) -> String {
    let rows = context.loaded.origins();
    let is_for_workers =
        |key: &str| ["worker.", "network.connect-timeout", "log."].iter().any(|start| key.starts_with(start));
    let mut lines =
        vec!["# Settings of workers that hpcdag submitted; read through HPCDAG_CONFIG.".to_owned()];
    let chosen = |key: &str| rows.iter().any(|(k, _, origin)| k == key && *origin != Origin::Default);
    for (key, value) in JOB_DEFAULTS {
        if !chosen(key) {
            lines.push(format!("{key} = {}", toml::Value::from(value)));
        }
    }
    for (key, value, origin) in &rows {
        if *origin != Origin::Default && is_for_workers(key) {
            lines.push(format!("{key} = {value}"));
        }
    }
    // On the nodes the flag counts what the job got, where it is a number of slots.
    if let Some(gpus) = request.gpus
        && !chosen("worker.resources.gpus")
    {
        lines.push(format!("worker.resources.gpus = {gpus}"));
    }
    let text = |value: &Option<String>| value.as_deref().map(toml::Value::from);
    let own = [
        ("host", text(&args.listen.host)),
        ("port", text(&args.listen.port)),
        ("interface", text(&args.listen.interface)),
        ("pool", pool.map(|pool| toml::Value::from(pool.name.as_str()))),
        ("preemptible", pool.map(|pool| toml::Value::from(pool.preemptible))),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            lines.retain(|line| !line.starts_with(&format!("worker.{name} = ")));
            lines.push(format!("worker.{name} = {value}"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}
