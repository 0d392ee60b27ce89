//! `/individual-plots.json`: the plots that have an address of their own, listed as Dask does, whose
//! extensions for notebooks read it. Owns titles and names; the pages draw what has a name here.

use serde_json::Value;

/// Titles, and the names in addresses.
pub const PLOTS: [(&str, &str); 14] = [
    ("Task Stream", "task-stream"),
    ("Progress", "progress"),
    ("Throughput", "throughput"),
    ("CPU", "cpu"),
    ("Memory", "memory"),
    ("Memory by Worker", "memory-by-worker"),
    ("Workers", "workers"),
    ("Time per Action", "time-per-action"),
    ("Time per Group", "time-per-group"),
    ("Scheduler", "scheduler"),
    ("Graph", "graph"),
    ("Events", "events"),
    ("Profile", "profile"),
    ("Transfers and Disk", "bandwidth"),
];

/// What comes before a plot's name in its address.
pub const PREFIX: &str = "individual-";

/// The list.
pub fn list() -> String {
    let one =
        |(title, name): &(&str, &str)| (format!("Individual {title}"), format!("/{PREFIX}{name}").into());
    Value::Object(PLOTS.iter().map(one).collect()).to_string()
}

/// Whether a path, without its first slash, is that of a plot.
pub fn is_plot(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|name| PLOTS.iter().any(|(_, known)| *known == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::assets::ASSETS;

    #[test]
    fn every_plot_is_drawn() {
        let scripts: String = ASSETS.iter().filter(|a| a.name.ends_with(".js")).map(|a| a.text).collect();
        for (_, name) in PLOTS {
            let keys = [format!("\"{name}\": "), format!(" {name}: ")];
            assert!(keys.iter().any(|key| scripts.contains(key)), "no page draws {name}");
            assert!(is_plot(&format!("individual-{name}")), "{name}");
        }
        assert!(!is_plot("individual-") && !is_plot("task-stream"));
    }
}
