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

/// All files.
pub const ASSETS: &[Asset] = &[Asset { name: "index.html", text: include_str!("assets/index.html") }];
