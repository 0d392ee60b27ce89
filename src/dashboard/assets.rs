//! The files of the pages, as they are in `assets/`. Owns the table; a new file is one more line.

/// A file that is part of this program.
#[derive(Debug)]
pub struct Asset {
    /// Its name in addresses.
    pub name: &'static str,
    /// Its content.
    pub text: &'static str,
}

impl Asset {
    /// What it is, for browsers.
    pub fn kind(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("json") => "application/json",
            _ => "text/plain; charset=utf-8",
        }
    }
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        &[$(Asset { name: $name, text: include_str!(concat!("assets/", $name)) }),*]
    };
}

/// All files, the scripts in the order in which `index.html` loads them.
pub const ASSETS: &[Asset] = assets![
    "index.html",
    "icon.svg",
    "app.css",
    "base.js",
    "widgets.js",
    "chart.js",
    "overview.js",
    "spans.js",
    "stream.js",
    "progress.js",
    "workers.js",
    "memory.js",
    "actions.js",
    "graph.js",
    "tasks.js",
    "task.js",
    "events.js",
    "profile.js",
    "logs.js",
    "advice.js",
    "app.js",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_names_is_there_and_small() {
        let names: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        let page = ASSETS[0].text;
        let named: Vec<&str> = page
            .split(['"'])
            .filter(|word| [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end)))
            .collect();
        assert_eq!(named, names[1..], "assets.rs and index.html name the same files, in the same order");
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes < 200 << 10, "{bytes} bytes are much for a slow line");
    }

    #[test]
    fn nothing_is_asked_for_elsewhere_and_nothing_runs_inline() {
        for asset in ASSETS {
            let elsewhere = ["//www.w3.org/2000/svg"];
            for found in asset.text.match_indices("://").map(|(at, _)| &asset.text[at + 1..]) {
                assert!(
                    elsewhere.iter().any(|known| found.starts_with(known)),
                    "{}: {found:.40}",
                    asset.name
                );
            }
            for word in ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!asset.text.contains(word), "{} has {word}", asset.name);
            }
        }
        assert!(!ASSETS[0].text.contains("style=") && !ASSETS[0].text.contains(" on"), "index.html");
    }
}
