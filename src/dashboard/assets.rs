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

/// A file of the directory, under its own name.
macro_rules! asset {
    ($name:literal) => {
        Asset { name: $name, text: include_str!(concat!("assets/", $name)) }
    };
}

/// All files.
pub const ASSETS: &[Asset] = &[
    asset!("index.html"),
    asset!("app.css"),
    asset!("icon.svg"),
    asset!("base.js"),
    asset!("widgets.js"),
    asset!("chart.js"),
    asset!("overview.js"),
    asset!("spans.js"),
    asset!("stream.js"),
    asset!("progress.js"),
    asset!("workers.js"),
    asset!("memory.js"),
    asset!("actions.js"),
    asset!("graph.js"),
    asset!("tasks.js"),
    asset!("task.js"),
    asset!("events.js"),
    asset!("profile.js"),
    asset!("logs.js"),
    asset!("advice.js"),
    asset!("app.js"),
];
