//! Where to listen and which address to tell others: interfaces, ports, and the text form of addresses. Owns
//! the choice; accepting connections is `connection`'s.

use crate::base::error::{Error, Kind, Result};
use nix::net::if_::InterfaceFlags;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps until they are accepted; it may keep fewer. Many workers start at once.
const BACKLOG: u32 = 4096;

/// Where a scheduler or worker can be reached. As text `tls://10.1.2.3:40123` or `tls://[fd00::2]:4000`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// An IP address, without brackets, or a host name (for tunnels; nobody announces one).
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "tls://[{}]:{}", self.host, self.port),
            false => write!(f, "tls://{}:{}", self.host, self.port),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(a: SocketAddr) -> Address {
        Address { host: a.ip().to_string(), port: a.port() }
    }
}

impl From<Address> for String {
    fn from(a: Address) -> String {
        a.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Address> {
        text.parse()
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads the text form; `tls://` may be missing.
    fn from_str(text: &str) -> Result<Address> {
        let fault = |what: &str| {
            Error::new(Kind::Usage, format!("{text:?} is not an address: {what}"))
                .hint("write tls://HOST:PORT, and an IPv6 address in brackets")
        };
        let rest = match text.split_once("://") {
            Some(("tls", rest)) => rest,
            Some((other, _)) => return Err(fault(&format!("connections are tls, not {other}"))),
            None => text,
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| fault("the port is missing"))?;
        let port = port.parse().ok().filter(|p| *p > 0).ok_or_else(|| fault("the port is not a number"))?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(fault("what is in brackets is not an IPv6 address")),
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !(host.chars().all(plain) || rest.starts_with('[')) {
            return Err(fault("the host is not a name or an address"));
        }
        Ok(Address { host: host.to_owned(), port })
    }
}

/// The ports to try, in order. As text `0` (any free one), `4000` or `4000-4100`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// The first; 0 alone stands for any free port.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last && (first > 0 || last == 0) => {
                Ok(PortRange { first, last })
            }
            _ => Err(Error::new(Kind::Usage, format!("{text:?} is not a port"))
                .hint("write a port such as 4000, a range such as 4000-4100, or 0 for any free port")),
        }
    }
}

/// A network interface, as far as the choice needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, e.g. `hsn0`.
    pub name: String,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// Whether it is up and has its link.
    pub up: bool,
    /// Whether it reaches this machine only.
    pub loopback: bool,
}

/// An address that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub ip: IpAddr,
    /// Why this one, for the log.
    pub reason: String,
}

/// The interfaces of this machine, in the kernel's order.
pub fn interfaces() -> Result<Vec<Interface>> {
    let all = nix::ifaddrs::getifaddrs().map_err(|e| Error::os("cannot list the network interfaces", e))?;
    let mut found: Vec<Interface> = Vec::new();
    for entry in all {
        let at = found.iter().position(|i| i.name == entry.interface_name).unwrap_or_else(|| {
            found.push(Interface {
                name: entry.interface_name.clone(),
                addresses: Vec::new(),
                up: entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            });
            found.len() - 1
        });
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found[at].addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found[at].addresses.push(v6.ip().into());
        }
    }
    Ok(found)
}

/// Chooses an address. `wanted` is a list of names in order of preference, separated by commas, in which
/// `auto` stands for the choice that is made without any list. The error says which interfaces exist.
pub fn choose(wanted: &str, interfaces: &[Interface]) -> Result<Choice> {
    let mut refused = Vec::new();
    for name in wanted.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        if name == "auto" {
            return choose_auto(interfaces);
        }
        let Some(interface) = interfaces.iter().find(|i| i.name == name) else {
            refused.push(format!("there is no interface {name}"));
            continue;
        };
        match best_address(interface) {
            Some(_) if !interface.up => refused.push(format!("interface {name} is down")),
            Some(ip) => return Ok(Choice { ip, reason: format!("interface {name} as wanted by {wanted}") }),
            None => refused.push(format!("interface {name} has no address beyond its own link")),
        }
    }
    if refused.is_empty() {
        refused.push("no interface is named".into());
    }
    let exist: Vec<String> = interfaces.iter().map(describe).collect();
    Err(Error::new(Kind::Usage, refused.join("; ")).hint(format!("there are: {}", exist.join(", "))))
}

/// The choice without any wish: high-speed networks, then ordinary ones, then tunnels; among equals a private
/// address before a public one (compute nodes reach those of their cluster), then the kernel's order.
fn choose_auto(interfaces: &[Interface]) -> Result<Choice> {
    let usable = interfaces.iter().filter(|i| i.up && !i.loopback && !is_virtual(&i.name));
    let candidates = usable.filter_map(|i| best_address(i).map(|ip| (i, ip)));
    if let Some((i, ip)) = candidates.min_by_key(|(i, ip)| (rank(&i.name), !is_private(*ip))) {
        return Ok(Choice { ip, reason: format!("interface {}, chosen among {}", i.name, interfaces.len()) });
    }
    let loopback = interfaces.iter().filter(|i| i.loopback).find_map(best_address);
    Ok(Choice {
        ip: loopback.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        reason: "loopback, no other interface is usable; other machines cannot connect".into(),
    })
}

/// The address that others would use: IPv4 first, never a link-local one (it means nothing without an
/// interface).
fn best_address(interface: &Interface) -> Option<IpAddr> {
    let usable = interface.addresses.iter().copied().filter(|ip| match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_unspecified() && !v6.is_multicast(),
    });
    usable.min_by_key(|ip| ip.is_ipv6())
}

/// Bridges and pairs made by container and virtual machine software: they lead nowhere outside.
fn is_virtual(name: &str) -> bool {
    const PREFIXES: [&str; 16] = [
        "docker", "virbr", "veth", "br-", "cni", "flannel", "cali", "lxcbr", "lxdbr", "podman", "vmnet",
        "vboxnet", "kube", "dummy", "nerdctl", "vnet",
    ];
    PREFIXES.iter().any(|p| name.starts_with(p))
}

/// How much an interface is liked by its name; less is better.
fn rank(name: &str) -> u8 {
    const FAST: [&str; 4] = ["hsn", "ib", "ipogif", "opa"];
    const TUNNEL: [&str; 6] = ["tun", "tap", "wg", "tailscale", "ppp", "zt"];
    if let Some(at) = FAST.iter().position(|p| name.starts_with(p)) {
        return at as u8;
    }
    if TUNNEL.iter().any(|p| name.starts_with(p)) { 20 } else { 10 }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn describe(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(IpAddr::to_string).collect();
    let addresses = if addresses.is_empty() { "no address".into() } else { addresses.join(" ") };
    let down = if interface.up { "" } else { ", down" };
    format!("{} ({addresses}{down})", interface.name)
}

/// What the user says about listening.
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    /// `--host`: an address or name of this machine; `0.0.0.0` and `::` listen everywhere and announce the
    /// address that `interface` gives.
    pub host: Option<String>,
    /// `--interface`: names in order of preference; `auto` if absent.
    pub interface: Option<String>,
    /// `--port`.
    pub port: PortRange,
}

/// A socket that listens, and what to say about it.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub listener: TcpListener,
    /// The address to announce.
    pub address: Address,
    /// Why this address, for the log.
    pub reason: String,
}

/// Chooses an address and listens on it alone.
pub async fn bind(options: &ListenOptions) -> Result<Bound> {
    let by_interface =
        |default: &str| choose(options.interface.as_deref().unwrap_or(default), &interfaces()?);
    let (listen, choice) = match &options.host {
        None => {
            let choice = by_interface("auto")?;
            (choice.ip, choice)
        }
        Some(host) => {
            let ip = resolve_own(host).await?;
            if ip.is_unspecified() {
                (ip, by_interface("auto")?)
            } else if options.interface.is_some() {
                return Err(Error::new(Kind::Usage, "host and interface both name where to listen")
                    .hint("give one of --host and --interface"));
            } else {
                (ip, Choice { ip, reason: format!("host {host} as wanted") })
            }
        }
    };
    let listener = bind_port(listen, options.port)?;
    let port = listener.local_addr().map_err(|e| Error::os("cannot read the own port", e))?.port();
    Ok(Bound { listener, address: SocketAddr::new(choice.ip, port).into(), reason: choice.reason })
}

async fn resolve_own(host: &str) -> Result<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let found = tokio::net::lookup_host((bare, 0))
        .await
        .map_err(|e| Error::new(Kind::Usage, format!("host {host} has no address: {e}")))?;
    let first = found.map(|a| a.ip()).min_by_key(IpAddr::is_ipv6);
    first.ok_or_else(|| Error::new(Kind::Usage, format!("host {host} has no address")))
}

fn bind_port(ip: IpAddr, ports: PortRange) -> Result<TcpListener> {
    for port in ports.first..=ports.last {
        match listen(SocketAddr::new(ip, port)) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(e) => {
                return Err(Error::new(Kind::Usage, format!("cannot listen on {ip} port {port}: {e}")));
            }
        }
    }
    Err(Error::new(Kind::Usage, format!("cannot listen on {ip}: port {ports} is in use"))
        .hint("give a range of ports, or 0 for any free port"))
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            up: true,
            loopback: name == "lo",
        }
    }

    fn chosen(wanted: &str, interfaces: &[Interface]) -> String {
        choose(wanted, interfaces).unwrap().ip.to_string()
    }

    fn login_node() -> Vec<Interface> {
        vec![
            interface("lo", &["127.0.0.1", "::1"]),
            interface("docker0", &["172.17.0.1"]),
            interface("eth0", &["fe80::1", "192.0.2.10"]),
            interface("eth1", &["10.0.0.5"]),
            interface("ib0", &["fe80::2", "fd00::2", "10.9.0.5"]),
            interface("tun0", &["10.8.0.1"]),
        ]
    }

    #[test]
    fn auto_is_sane() {
        let mut all = login_node();
        assert_eq!(chosen("auto", &all), "10.9.0.5");
        all[4].up = false;
        assert_eq!(chosen("auto", &all), "10.0.0.5");
        all.remove(3);
        assert_eq!(chosen("auto", &all), "192.0.2.10");
        all.remove(2);
        assert_eq!(chosen("auto", &all), "10.8.0.1");
        all.truncate(2);
        assert_eq!(chosen("auto", &all), "127.0.0.1");
        assert!(choose("auto", &all).unwrap().reason.starts_with("loopback"));
        assert_eq!(chosen("auto", &[]), "127.0.0.1");
    }

    #[test]
    fn high_speed_networks_come_first_and_ipv6_alone_will_do() {
        let all = [interface("ib0", &["10.9.0.5"]), interface("hsn1", &["fd00::7"])];
        assert_eq!(chosen("auto", &all), "fd00::7");
    }

    #[test]
    fn lists_are_ordered_wishes() {
        let all = login_node();
        assert_eq!(chosen("hsn0,ib0,auto", &all), "10.9.0.5");
        assert_eq!(chosen("hsn0, eth0", &all), "192.0.2.10");
        assert_eq!(chosen("docker0", &all), "172.17.0.1");
        assert_eq!(chosen("lo", &all), "127.0.0.1");
    }

    #[test]
    fn unknown_names_list_what_exists() {
        let mut all = login_node();
        all.push(interface("eth9", &["fe80::9", "169.254.0.1"]));
        all[3].up = false;
        let e = choose("hsn0,eth9,eth1", &all).unwrap_err();
        assert_eq!(
            e.message,
            "there is no interface hsn0; interface eth9 has no address beyond its own link; \
             interface eth1 is down"
        );
        let hint = e.hint.unwrap();
        assert!(
            hint.contains("ib0 (fe80::2 fd00::2 10.9.0.5)") && hint.contains("eth1 (10.0.0.5, down)"),
            "{hint}"
        );
        assert!(choose(" ,", &all).is_err());
    }

    #[test]
    fn addresses_as_text() {
        for text in ["tls://10.1.2.3:40123", "tls://[fd00::2]:4000", "tls://login-1.site:4000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:5".parse::<Address>().unwrap().to_string(), "tls://[::1]:5");
        for bad in [
            "",
            "tls://",
            "tcp://a:1",
            "a",
            "a:",
            "a:0",
            "a:70000",
            ":1",
            "fd00::2:1",
            "[a]:1",
            "a b:1",
            "[::1:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_as_text() {
        for text in ["0", "4000", "4000-4100"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for bad in ["", "a", "5-4", "0-5", "70000", "1-2-3"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_has_loopback() {
        assert!(interfaces().unwrap().iter().any(|i| i.loopback && i.up));
    }

    #[tokio::test]
    async fn ranges_skip_ports_in_use() {
        let at = |port| ListenOptions { host: Some("127.0.0.1".into()), interface: None, port };
        let first = bind(&at(PortRange::default())).await.unwrap();
        let taken = first.address.port;
        let e = bind(&at(PortRange { first: taken, last: taken })).await.unwrap_err();
        assert!(e.message.contains("in use"), "{e}");
        if taken < u16::MAX - 50 {
            let second = bind(&at(PortRange { first: taken, last: taken + 50 })).await.unwrap();
            assert!(second.address.port > taken);
        }
        assert_eq!(first.address.host, "127.0.0.1");
    }

    #[tokio::test]
    async fn listening_everywhere_announces_one_address() {
        let options = ListenOptions {
            host: Some("0.0.0.0".into()),
            interface: Some("lo".into()),
            ..Default::default()
        };
        let bound = bind(&options).await.unwrap();
        assert_eq!(bound.address.host, "127.0.0.1");
        assert!(bound.listener.local_addr().unwrap().ip().is_unspecified());
        let both = ListenOptions { host: Some("127.0.0.1".into()), interface: Some("lo".into()), ..options };
        assert!(bind(&both).await.is_err());
    }
}
