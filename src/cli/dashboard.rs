//! `hpcdag dashboard`: the dashboard on the user's own machine, with what a scheduler anywhere knows. Owns
//! the browser that is opened and when it ends; pages and paths are `crate::dashboard`'s.

use super::args::DashboardArgs;
use super::context::{Context, run_short};
use super::output::{self, Out};
use super::serve::tell;
use super::signals::Requests;
use crate::base::error::{Error, Kind, Result};
use crate::client::{Client, ConnectOptions};
use crate::cluster::Viewer;
use crate::config::{DashboardAddress, Ports};
use crate::dashboard::{Front, without_token};
use crate::net::address::PortRange;
use crate::net::discovery;
use serde_json::json;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A dashboard's address as it may be shown: what opens it is for the user's eyes, not for logs.
pub(super) fn shown(url: &str, is_terminal: bool) -> String {
    if is_terminal { url.to_owned() } else { without_token(url) }
}

/// `dashboard`
pub fn dashboard(context: &Context, args: &DashboardArgs) -> Result<u8> {
    let wanted = match &args.port {
        None => DashboardAddress::Auto,
        Some(port) => {
            let PortRange { first, last } = port.parse()?;
            DashboardAddress::At { host: None, port: Ports { first, last } }
        }
    };
    let wish = context.wish(&args.scheduler)?;
    run_short(async {
        let mut requests = Requests::listen()?;
        let config = &context.loaded.config;
        // Whether it is there, and lets us in, is to be known before a browser shows that it is not.
        let found = discovery::find(&wish).await?;
        let client = Client::open(&found.path, &wish, config).await?;
        let file = client.scheduler().clone();
        client.close().await;
        let nothing = || Error::new(Kind::Internal, "the dashboard has no place");
        let front = Front::bind(&wanted).await?.ok_or_else(nothing)?;
        let (url, id) = (front.url(), file.id.clone());
        let viewer = Viewer::of_scheduler(file, ConnectOptions::of(config));
        let _serving = front.serve(&id, Arc::new(viewer));
        Out::stdout().value(args.json.json, &json!({ "cluster": id, "url": url }), |_| {
            shown(&url, std::io::stdout().is_terminal())
        })?;
        if !args.no_open && std::io::stdout().is_terminal() {
            open(&url);
        }
        tell(context, "it is there until Ctrl-C");
        requests.next().await;
        Ok(0)
    })
}

/// Opens an address in the user's browser, if there is one.
fn open(url: &str) {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let program = match std::env::var_os("BROWSER").filter(|value| !value.is_empty()) {
        Some(program) => program,
        None if cfg!(target_os = "macos") => "open".into(),
        None if is_set("DISPLAY") || is_set("WAYLAND_DISPLAY") => "xdg-open".into(),
        None => return,
    };
    let mut command = Command::new(&program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Somebody has to take note of its end.
        Ok(mut browser) => drop(std::thread::spawn(move || browser.wait())),
        Err(e) => output::say(&format!("cannot start {}: {e}", program.to_string_lossy())),
    }
}
