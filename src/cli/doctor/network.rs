//! Interfaces and the way to the scheduler: which interface would be chosen and whether that is a good
//! choice, which ones reach the scheduler, whether it takes the credentials, and how its clock differs.

use super::findings::{Area, Findings};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::SchedulerOptions;
use crate::cli::context::Context;
use crate::client::Client;
use crate::net::address::{self, Address, Choice};
use crate::net::discovery;
use crate::net::scheduler_file;
use crate::protocol::messages::client::Question;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpSocket;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a whole session with the scheduler may take.
const SESSION: Duration = Duration::from_secs(10);

/// Differences of clocks that matter, seconds.
const CLOCK_MAX: f64 = 2.0;

/// An interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It is up and has its link.
    pub up: bool,
    /// It reaches this machine only.
    pub loopback: bool,
    /// Mbit/s, where the kernel knows.
    pub speed: Option<u64>,
    /// It is InfiniBand (or Omni-Path).
    pub infiniband: bool,
}

/// How the scheduler was reached from an address of this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Reach {
    /// The interface; `None` for what the kernel chooses.
    pub interface: Option<String>,
    /// Milliseconds until the connection stood.
    pub milliseconds: Option<f64>,
    /// Why there is none.
    pub fault: Option<String>,
}

/// What is known of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Scheduler {
    /// Its cluster.
    pub cluster: String,
    /// Its file.
    pub file: std::path::PathBuf,
    /// Where it was looked for.
    pub address: String,
    /// From where it can be reached.
    pub reach: Vec<Reach>,
    /// Why no session could be had; `None` if there was one, with valid credentials.
    pub fault: Option<String>,
    /// How much later its clock is than this one, and how inexact that is; seconds.
    pub clock_ahead: Option<(f64, f64)>,
}

/// What was read.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Readings {
    /// Those of this machine.
    pub interfaces: Vec<Interface>,
    /// The names that workers prefer.
    pub wanted: String,
    /// The address that a worker would listen on and why, or why there is none.
    pub choice: std::result::Result<(IpAddr, String), String>,
    /// The scheduler that commands would use.
    pub scheduler: Option<Scheduler>,
    /// Why there is none, and whether one was named.
    pub no_scheduler: Option<(String, bool)>,
}

impl Readings {
    /// Reads, and connects.
    pub async fn here(context: &Context, options: &SchedulerOptions) -> Result<Readings> {
        let plain = address::interfaces()?;
        let wanted = context.loaded.config.worker.interface.join(",");
        let wanted = if wanted.is_empty() { "auto".to_owned() } else { wanted };
        let choice = address::choose(&wanted, &plain);
        let choice = choice.map(|Choice { ip, reason }| (ip, reason)).map_err(|e| e.to_string());
        let interfaces: Vec<Interface> = plain.into_iter().map(with_speed).collect();
        let named = context.wish(options)?.named().is_some();
        let (scheduler, no_scheduler) = match scheduler(context, options, &interfaces).await {
            Ok(scheduler) => (Some(scheduler), None),
            Err(e) => (None, Some((e.message, named))),
        };
        Ok(Readings { interfaces, wanted, choice, scheduler, no_scheduler })
    }
}

fn with_speed(plain: address::Interface) -> Interface {
    let read = |file: &str| std::fs::read_to_string(format!("/sys/class/net/{}/{file}", plain.name)).ok();
    let number = |file: &str| read(file)?.trim().parse::<i64>().ok();
    Interface {
        // Unknown is an error or -1, depending on the driver.
        speed: number("speed").and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0 && *n < 1 << 31),
        infiniband: number("type") == Some(i64::from(libc::ARPHRD_INFINIBAND)),
        name: plain.name,
        addresses: plain.addresses,
        up: plain.up,
        loopback: plain.loopback,
    }
}

async fn scheduler(
    context: &Context,
    options: &SchedulerOptions,
    interfaces: &[Interface],
) -> Result<Scheduler> {
    let wish = context.wish(options)?;
    let path = discovery::find(&wish).await?.path;
    let file = scheduler_file::read(&path)?;
    let address = wish.address.clone().unwrap_or_else(|| file.address.clone());
    let mut found = Scheduler {
        cluster: file.id.clone(),
        file: path.clone(),
        address: address.to_string(),
        reach: reaches(&address, interfaces).await,
        ..Scheduler::default()
    };
    let session = tokio::time::timeout(SESSION, async {
        let mut config = context.loaded.config.clone();
        config.client.timeout = crate::base::units::Span(CONNECT);
        let client = Client::open(&path, &wish, &config).await?;
        let clock = clock_ahead(&client).await;
        client.close().await;
        clock
    });
    match session.await {
        Ok(Ok(clock)) => found.clock_ahead = clock,
        Ok(Err(e)) => found.fault = Some(e.message),
        Err(_) => found.fault = Some(format!("it has not answered for {} s", SESSION.as_secs())),
    }
    Ok(found)
}

/// From the scheduler's answer, which says what time it is there. `None` if it does not say.
async fn clock_ahead(client: &Client) -> Result<Option<(f64, f64)>> {
    let (before, begin) = (SystemTime::now(), Instant::now());
    let answer = client.ask(Question::Status).await?;
    let half = begin.elapsed() / 2;
    let there = answer["scheduler"]["time"].as_str().and_then(|t| humantime::parse_rfc3339(t).ok());
    Ok(there.map(|there| (seconds_between(before + half, there), half.as_secs_f64())))
}

fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(d) => d.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    }
}

/// Connects as the kernel likes, and from each interface that could.
async fn reaches(to: &Address, interfaces: &[Interface]) -> Vec<Reach> {
    let resolved = tokio::time::timeout(CONNECT, tokio::net::lookup_host((to.host.as_str(), to.port))).await;
    let target = match resolved {
        Ok(Ok(mut found)) => found.next(),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(target) = target else {
        let fault = Some(format!("{} has no address", to.host));
        return vec![Reach { interface: None, milliseconds: None, fault }];
    };
    let mut all = vec![reach(None, None, target).await];
    for interface in interfaces.iter().filter(|i| i.up && i.loopback == target.ip().is_loopback()) {
        let usable = |ip: &&IpAddr| match ip {
            IpAddr::V4(_) => target.is_ipv4(),
            IpAddr::V6(v6) => target.is_ipv6() && !v6.is_unicast_link_local(),
        };
        if let Some(source) = interface.addresses.iter().find(usable) {
            all.push(reach(Some(&interface.name), Some(*source), target).await);
        }
    }
    all
}

async fn reach(interface: Option<&str>, source: Option<IpAddr>, target: SocketAddr) -> Reach {
    let begin = Instant::now();
    let connect = async {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(target).await
    };
    let fault = match tokio::time::timeout(CONNECT, connect).await {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some(e.to_string()),
        Err(_) => Some(format!("no answer within {} s", CONNECT.as_secs())),
    };
    let took = begin.elapsed().as_secs_f64() * 1e3;
    Reach { interface: interface.map(str::to_owned), milliseconds: fault.is_none().then_some(took), fault }
}

/// What to say about it. `batch` is whether there are nodes that other workers may be on.
pub(super) fn judge(r: &Readings, batch: bool) -> Findings {
    let mut found = Findings::new(Area::Network);
    r.interfaces.iter().filter(|i| !i.loopback).for_each(|i| found.ok(describe(i)));
    judge_choice(r, batch, &mut found);
    match (&r.scheduler, &r.no_scheduler) {
        (Some(scheduler), _) => judge_scheduler(scheduler, r, &mut found),
        (None, Some((why, true))) => {
            found.problem(why, "start a scheduler, or name the file of one that runs (hpcdag clusters)");
        }
        (None, Some((why, false))) => found.note(format!("no scheduler to be looked at: {why}")),
        (None, None) => {}
    }
    found
}

fn describe(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(IpAddr::to_string).collect();
    let addresses = if addresses.is_empty() { "no address".into() } else { addresses.join(" ") };
    let speed = interface.speed.map_or(String::new(), |mbit| format!(", {mbit} Mbit/s"));
    let kind = if interface.infiniband { ", InfiniBand" } else { "" };
    let down = if interface.up { "" } else { ", down" };
    format!("interface {}: {addresses}{speed}{kind}{down}", interface.name)
}

fn judge_choice(r: &Readings, batch: bool, found: &mut Findings) {
    let (ip, reason) = match &r.choice {
        Ok(choice) => choice,
        Err(why) => {
            found.problem(
                format!("workers could listen nowhere: {why}"),
                "set interface in [worker] and [scheduler] to one that exists, e.g. [\"auto\"]",
            );
            return;
        }
    };
    let text = format!("workers would listen on {ip}: {reason}");
    if ip.is_loopback() && batch {
        found
            .warning(text, "name an interface that other nodes reach: --interface, or interface in [worker]");
    } else {
        found.ok(text);
    }
    let Some(chosen) = r.interfaces.iter().find(|i| i.addresses.contains(ip)) else { return };
    // Addresses that mean something on their own link only are no use.
    let usable = |i: &&Interface| match address::choose(&i.name, &[plain(i)]) {
        Ok(choice) => !i.loopback && !choice.ip.is_loopback(),
        Err(_) => false,
    };
    let faster = r.interfaces.iter().filter(usable);
    let faster = faster.filter(|i| i.speed > chosen.speed && chosen.speed.is_some()).max_by_key(|i| i.speed);
    if let Some(faster) = faster {
        found.warning(
            format!("{} is slower than {}", describe(chosen), describe(faster)),
            format!("if all nodes have it: --interface {},auto", faster.name),
        );
    }
    for silent in r.interfaces.iter().filter(|i| i.infiniband && (i.addresses.is_empty() || !i.up)) {
        found.note(format!("{} cannot be used: it has no address, or is down", silent.name));
    }
}

fn plain(i: &Interface) -> address::Interface {
    address::Interface {
        name: i.name.clone(),
        addresses: i.addresses.clone(),
        up: i.up,
        loopback: i.loopback,
    }
}

fn judge_scheduler(s: &Scheduler, r: &Readings, found: &mut Findings) {
    let whom = format!("scheduler of cluster {} at {}", s.cluster, s.address);
    for reach in &s.reach {
        let from = reach.interface.as_deref().map_or(String::new(), |name| format!(" from {name}"));
        match (&reach.milliseconds, &reach.fault, &reach.interface) {
            (Some(ms), ..) => found.ok(format!("{whom} is reached{from} in {ms:.1} ms")),
            (None, fault, None) => found.problem(
                format!("{whom} is not reached: {}", fault.as_deref().unwrap_or("no answer")),
                "run this on a node that reaches it, start it with another --interface, or use a tunnel and \
                 --address",
            ),
            (None, fault, Some(_)) => judge_unreached(s, r, reach, fault.as_deref(), found),
        }
    }
    match &s.fault {
        Some(why) => found.problem(
            format!("{whom} is no use: {why}"),
            "use the scheduler file and the version of hpcdag of the scheduler that runs there",
        ),
        None => found.ok("it takes the credentials of its scheduler file"),
    }
    match s.clock_ahead {
        Some((ahead, inexact)) if ahead.abs() > CLOCK_MAX + inexact => found.warning(
            format!("its clock differs from this one by {ahead:.1} s (± {inexact:.2} s, by asking it)"),
            "ask for the clocks to be set: certificates and files' dates go by them",
        ),
        Some((ahead, inexact)) => {
            // No "-0.00".
            let ahead = (ahead * 100.0).round() / 100.0 + 0.0;
            found.ok(format!("its clock differs by {ahead:.2} s (± {inexact:.2} s, by asking it)"));
        }
        None if s.fault.is_none() => found.note("it does not say what time it is there: an older version"),
        None => {}
    }
}

/// An interface that does not reach the scheduler matters if workers would announce its address.
fn judge_unreached(s: &Scheduler, r: &Readings, reach: &Reach, why: Option<&str>, found: &mut Findings) {
    let name = reach.interface.as_deref().unwrap_or_default();
    let why = why.unwrap_or("no answer");
    let text = format!("the scheduler is not reached from {name}: {why}");
    let chosen = r.choice.as_ref().ok().map(|(ip, _)| *ip);
    let is_chosen =
        r.interfaces.iter().any(|i| i.name == name && chosen.is_some_and(|ip| i.addresses.contains(&ip)));
    let other = s.reach.iter().find(|other| other.milliseconds.is_some() && other.interface.is_some());
    match other.and_then(|other| other.interface.as_deref()) {
        Some(other) if is_chosen => found.warning(
            format!("{text}; workers would listen there"),
            format!("start workers with --interface {other}, which reaches it"),
        ),
        _ => found.note(text),
    }
}

/// An error as a finding would say it.
pub(super) fn unread(error: &Error) -> Findings {
    let mut found = Findings::new(Area::Network);
    let todo = error.hint.clone().unwrap_or_else(|| match error.kind {
        Kind::Usage => "see hpcdag help doctor".into(),
        _ => "look at the network by `ip address`".into(),
    });
    found.problem(&error.message, todo);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;

    fn interface(name: &str, address: &str, speed: Option<u64>) -> Interface {
        Interface {
            name: name.into(),
            addresses: address.parse().into_iter().collect(),
            up: true,
            loopback: name == "lo",
            speed,
            infiniband: name.starts_with("ib"),
        }
    }

    fn readings(interfaces: Vec<Interface>, chosen: &str) -> Readings {
        let choice = Ok((chosen.parse().unwrap(), "because".into()));
        Readings { interfaces, wanted: "auto".into(), choice, scheduler: None, no_scheduler: None }
    }

    fn reached(interface: Option<&str>, ok: bool) -> Reach {
        Reach {
            interface: interface.map(str::to_owned),
            milliseconds: ok.then_some(0.5),
            fault: (!ok).then(|| "refused".into()),
        }
    }

    #[test]
    fn the_choice_is_judged() {
        let level = |r: &Readings, batch| judge(r, batch).level();
        let two = |ib| vec![interface("eth0", "10.0.0.1", Some(1000)), interface("ib0", ib, Some(100_000))];
        assert_eq!(level(&readings(two("10.1.0.1"), "10.1.0.1"), true), Level::Ok);
        let slow = judge(&readings(two("10.1.0.1"), "10.0.0.1"), true);
        assert_eq!(slow.level(), Level::Warning);
        assert!(slow.list.iter().any(|f| f.todo.as_deref().is_some_and(|t| t.contains("ib0,auto"))));
        assert_eq!(level(&readings(two(""), "10.0.0.1"), true), Level::Note, "no address on ib0");
        assert_eq!(level(&readings(two("fe80::1"), "10.0.0.1"), true), Level::Ok, "its own link only");
        let alone = readings(vec![interface("lo", "127.0.0.1", None)], "127.0.0.1");
        assert_eq!([level(&alone, false), level(&alone, true)], [Level::Ok, Level::Warning]);
        assert_eq!(level(&Readings { choice: Err("no hsn0".into()), ..alone }, false), Level::Problem);
    }

    #[test]
    fn the_way_to_the_scheduler_is_judged() {
        let level = |reach: &[Reach], fault: Option<&str>, clock_ahead| {
            let interfaces = vec![interface("eth0", "10.0.0.1", None), interface("ib0", "10.1.0.1", None)];
            let mut r = readings(interfaces, "10.0.0.1");
            r.scheduler = Some(Scheduler {
                reach: reach.to_vec(),
                fault: fault.map(str::to_owned),
                clock_ahead,
                ..Scheduler::default()
            });
            judge(&r, true).level()
        };
        let all = [reached(None, true), reached(Some("eth0"), true), reached(Some("ib0"), true)];
        assert_eq!(level(&all, None, Some((0.1, 0.0))), Level::Ok);
        assert_eq!(level(&all, None, Some((-30.0, 0.1))), Level::Warning);
        assert_eq!(level(&all, None, Some((3.0, 1.5))), Level::Ok, "not known that exactly");
        assert_eq!(level(&all, Some("refused"), None), Level::Problem);
        let other = [reached(None, true), reached(Some("eth0"), true), reached(Some("ib0"), false)];
        assert_eq!(level(&other, None, Some((0.0, 0.0))), Level::Note);
        let chosen = [reached(None, true), reached(Some("eth0"), false), reached(Some("ib0"), true)];
        assert_eq!(level(&chosen, None, Some((0.0, 0.0))), Level::Warning);
        assert_eq!(level(&[reached(None, false)], Some("no"), None), Level::Problem);
    }

    #[test]
    fn a_missing_scheduler_matters_if_one_was_named() {
        let level = |named| {
            let mut r = readings(vec![interface("eth0", "10.0.0.1", None)], "10.0.0.1");
            r.no_scheduler = Some(("none".into(), named));
            judge(&r, false).level()
        };
        assert_eq!([level(false), level(true)], [Level::Note, Level::Problem]);
    }
}
