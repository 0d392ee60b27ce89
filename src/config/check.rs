//! Values that are valid alone but contradict each other or make no sense together. Owns these rules; each
//! refusal names both settings, where they come from, and the reason.

use super::layers::{Layers, dotted};
use super::schema::Config;
use crate::base::error::{Error, Kind, Result};
use std::time::Duration;

/// Checks the whole configuration.
pub(super) fn config(config: &Config, layers: &Layers) -> Result<()> {
    let check = Check { layers };
    let (scheduler, worker) = (&config.scheduler, &config.worker);
    for (key, span) in [
        ("scheduler.heartbeat-interval", scheduler.heartbeat_interval),
        ("scheduler.session-lease", scheduler.session_lease),
        ("worker.death-timeout", worker.death_timeout),
        ("client.timeout", config.client.timeout),
        ("client.progress-interval", config.client.progress_interval),
        ("network.connect-timeout", config.network.connect_timeout),
    ] {
        if span.0 == Duration::ZERO {
            return Err(check.wrong(key, "must be longer than zero"));
        }
    }
    if scheduler.worker_loss_timeout.0 < scheduler.heartbeat_interval.0.saturating_mul(2) {
        let why =
            "a worker would be taken for lost as soon as one report is late; leave room for at least two";
        return Err(check.contradict("scheduler.worker-loss-timeout", "scheduler.heartbeat-interval", why));
    }
    if scheduler.allowed_failures == 0 {
        return Err(
            check.wrong("scheduler.allowed-failures", "must be at least 1: the worker's death is a failure")
        );
    }
    if worker.lifetime.is_some_and(|lifetime| lifetime <= worker.lifetime_stagger) {
        let why = "a worker could be asked to leave before it has started";
        return Err(check.contradict("worker.lifetime", "worker.lifetime-stagger", why));
    }
    thresholds(config, &check)?;
    log_level(&config.log.level).map_err(|why| check.wrong("log.level", &why))
}

fn thresholds(config: &Config, check: &Check) -> Result<()> {
    let memory = &config.worker.memory;
    let set = [
        ("worker.memory.target", memory.target),
        ("worker.memory.spill", memory.spill),
        ("worker.memory.pause", memory.pause),
        ("worker.memory.terminate", memory.terminate),
    ];
    let set: Vec<_> = set.into_iter().filter_map(|(key, fraction)| Some((key, fraction?))).collect();
    for pair in set.windows(2) {
        let ((key, lower), (other, upper)) = (pair[0], pair[1]);
        if lower > upper {
            let why = match key {
                "worker.memory.target" => {
                    "results would still be kept in memory when the process is too large"
                }
                "worker.memory.spill" => "no task could start before anything is spilled",
                _ => "tasks would be ended while new ones still start",
            };
            return Err(check.contradict(key, other, &format!("it must not be the larger one: {why}")));
        }
    }
    Ok(())
}

fn log_level(text: &str) -> Result<(), String> {
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or(directive).trim();
        if !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
            return Err(format!("'{level}' is not a level; use error, warn, info, debug, trace or off"));
        }
    }
    Ok(())
}

/// Words the refusals.
struct Check<'a> {
    layers: &'a Layers,
}

impl Check<'_> {
    /// A key with its value and origin.
    fn shown(&self, key: &str) -> (String, String) {
        let key: Vec<String> = key.split('.').map(str::to_owned).collect();
        match self.layers.leaf(&key) {
            Some(leaf) => (format!("{} = {}", dotted(&key), leaf.value), leaf.origin.to_string()),
            None => (dotted(&key), "unset".into()),
        }
    }

    fn wrong(&self, key: &str, why: &str) -> Error {
        let (shown, origin) = self.shown(key);
        Error::new(Kind::Config, format!("{origin}: {shown}: {why}"))
    }

    fn contradict(&self, key: &str, other: &str, why: &str) -> Error {
        let ((shown, origin), (other, other_origin)) = (self.shown(key), self.shown(other));
        let message = format!("{shown} ({origin}) contradicts {other} ({other_origin})");
        Error::new(Kind::Config, message).hint(why)
    }
}
