//! Single values: how each type of setting is read from TOML and what it accepts. Owns the types that only
//! the configuration has; sizes and durations are `base::units`'.

use super::path::PathTemplate;
use crate::base::units::{Amount, ByteSize, Span, UnitError, parse_bytes, parse_duration};
use std::num::NonZeroU32;
use std::time::Duration;
use toml::Value;

/// A value of the configuration.
pub(super) trait Setting: Sized {
    /// What is accepted, completing "expected …".
    fn expected() -> String;
    /// The value; else what is wrong with it, or `None` if it is simply of another kind.
    fn from_value(value: &Value) -> Result<Self, Option<String>>;
}

/// A fraction of a limit, above 0 and up to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Fraction(pub f64);

/// Delays that double from the first to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay before attempt `n`; the first repetition is 1.
    pub fn delay(&self, n: u32) -> Duration {
        let factor = 2u32.saturating_pow(n.saturating_sub(1));
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// A port or a range of ports, both ends included. 0 means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first port to try.
    pub first: u16,
    /// The last port to try.
    pub last: u16,
}

/// The number of task slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nthreads {
    /// As many as the processors that are found.
    Auto,
    /// A number.
    Count(NonZeroU32),
}

/// The memory of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// All that is granted.
    Auto,
    /// Without limit.
    None,
    /// A size.
    Size(ByteSize),
    /// A part of what is granted.
    Fraction(Fraction),
}

/// Where the dashboard is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DashboardAddress {
    /// On this machine only, at the usual port if that is free.
    Auto,
    /// Nowhere.
    None,
    /// At an address or name of this machine, or an interface of it; on this machine only without one.
    At {
        /// The address, name or interface.
        host: Option<String>,
        /// The port or ports to try.
        port: Ports,
    },
}

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A JSON object for each event.
    Json,
}

fn unit<T>(result: Result<T, UnitError>) -> Result<T, Option<String>> {
    result.map_err(|error| Some(error.0))
}

/// A number written as such or, in the environment, as text.
fn number(value: &Value) -> Result<f64, Option<String>> {
    match value {
        Value::Integer(n) => Ok(*n as f64),
        Value::Float(x) => Ok(*x),
        _ => Err(None),
    }
}

impl Setting for Value {
    fn expected() -> String {
        "a value".into()
    }
    fn from_value(value: &Value) -> Result<Value, Option<String>> {
        Ok(value.clone())
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn from_value(value: &Value) -> Result<bool, Option<String>> {
        value.as_bool().ok_or(None)
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text in quotes".into()
    }
    fn from_value(value: &Value) -> Result<String, Option<String>> {
        match value.as_str() {
            Some("") => Err(Some("an empty text means nothing here".into())),
            text => text.map(str::to_owned).ok_or(None),
        }
    }
}

impl Setting for Vec<String> {
    fn expected() -> String {
        "a list of texts, or one text with commas or spaces between them".into()
    }
    fn from_value(value: &Value) -> Result<Vec<String>, Option<String>> {
        let items: Vec<String> = match value {
            Value::String(text) => {
                text.split([',', ' ']).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(None)?,
            _ => return Err(None),
        };
        if items.is_empty() { Err(Some("the list must not be empty".into())) } else { Ok(items) }
    }
}

impl Setting for u32 {
    fn expected() -> String {
        "a whole number".into()
    }
    fn from_value(value: &Value) -> Result<u32, Option<String>> {
        value.as_integer().and_then(|n| u32::try_from(n).ok()).ok_or(None)
    }
}

impl Setting for f64 {
    fn expected() -> String {
        "a number above 0".into()
    }
    fn from_value(value: &Value) -> Result<f64, Option<String>> {
        number(value).and_then(|x| if x > 0.0 { Ok(x) } else { Err(None) })
    }
}

impl Setting for Span {
    fn expected() -> String {
        "a duration such as \"10s\", \"45m\" or \"1h30m\"".into()
    }
    fn from_value(value: &Value) -> Result<Span, Option<String>> {
        match value {
            Value::String(text) => unit(text.parse()),
            Value::Integer(n) => unit(n.to_string().parse()),
            _ => Err(None),
        }
    }
}

impl Setting for ByteSize {
    fn expected() -> String {
        "a size such as \"8G\"".into()
    }
    fn from_value(value: &Value) -> Result<ByteSize, Option<String>> {
        match value {
            Value::String(text) => unit(parse_bytes(text)).map(ByteSize),
            Value::Integer(n) => unit(parse_bytes(&n.to_string())).map(ByteSize),
            _ => Err(None),
        }
    }
}

impl Setting for Amount {
    fn expected() -> String {
        "an amount such as 2 or 0.25".into()
    }
    fn from_value(value: &Value) -> Result<Amount, Option<String>> {
        match value {
            Value::Integer(n) => unit(n.to_string().parse()),
            Value::Float(x) => unit(x.to_string().parse()),
            _ => Err(None),
        }
    }
}

impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{}, or false", T::expected())
    }
    fn from_value(value: &Value) -> Result<Option<T>, Option<String>> {
        match value {
            Value::Boolean(false) => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl Setting for Fraction {
    fn expected() -> String {
        "a fraction of the memory limit, above 0 and up to 1".into()
    }
    fn from_value(value: &Value) -> Result<Fraction, Option<String>> {
        number(value).and_then(|x| if x > 0.0 && x <= 1.0 { Ok(Fraction(x)) } else { Err(None) })
    }
}

impl Setting for Backoff {
    fn expected() -> String {
        "a first and a longest delay, such as \"1s..60s\"".into()
    }
    fn from_value(value: &Value) -> Result<Backoff, Option<String>> {
        let (initial, max) = value.as_str().and_then(|text| text.split_once("..")).ok_or(None)?;
        let backoff = Backoff { initial: unit(parse_duration(initial))?, max: unit(parse_duration(max))? };
        if backoff.initial > backoff.max {
            return Err(Some("the first delay is longer than the longest".into()));
        }
        Ok(backoff)
    }
}

impl Setting for Ports {
    fn expected() -> String {
        "a port, a range such as \"40000-40100\", or 0 for any".into()
    }
    fn from_value(value: &Value) -> Result<Ports, Option<String>> {
        let text = match value {
            Value::Integer(n) => n.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(None),
        };
        let port = |s: &str| s.trim().parse::<u16>().map_err(|_| None);
        match text.split_once('-') {
            None => port(&text).map(|port| Ports { first: port, last: port }),
            Some((first, last)) => {
                let ports = Ports { first: port(first)?, last: port(last)? };
                if ports.first == 0 || ports.first > ports.last {
                    return Err(Some("a range of ports starts above 0 and does not go backwards".into()));
                }
                Ok(ports)
            }
        }
    }
}

impl Setting for Nthreads {
    fn expected() -> String {
        "a whole number from 1, or \"auto\"".into()
    }
    fn from_value(value: &Value) -> Result<Nthreads, Option<String>> {
        match value {
            Value::String(text) if text == "auto" => Ok(Nthreads::Auto),
            value => u32::from_value(value).and_then(|n| NonZeroU32::new(n).ok_or(None)).map(Nthreads::Count),
        }
    }
}

impl Setting for MemoryLimit {
    fn expected() -> String {
        "a size such as \"8G\", a fraction of the memory granted such as 0.5, \"auto\" or \"none\"".into()
    }
    fn from_value(value: &Value) -> Result<MemoryLimit, Option<String>> {
        match value {
            Value::String(text) if text == "auto" => Ok(MemoryLimit::Auto),
            Value::String(text) if text == "none" => Ok(MemoryLimit::None),
            Value::String(text) => match unit(parse_bytes(text))? {
                0 => Err(Some("a limit of zero lets nothing run; \"none\" means no limit".into())),
                size => Ok(MemoryLimit::Size(ByteSize(size))),
            },
            // `1` might mean all of it or one byte: whole numbers get the advice for sizes without a unit.
            Value::Integer(n) => unit(parse_bytes(&n.to_string())).and(Err(None)),
            value => Fraction::from_value(value).map(MemoryLimit::Fraction),
        }
    }
}

impl Setting for PathTemplate {
    fn expected() -> String {
        "a path in quotes".into()
    }
    fn from_value(value: &Value) -> Result<PathTemplate, Option<String>> {
        String::from_value(value)
            .and_then(|text| PathTemplate::new(text).map_err(|error| Some(error.message)))
    }
}

impl Setting for DashboardAddress {
    fn expected() -> String {
        "\"auto\", \"none\", \"HOST:PORT\" or \":PORT\"".into()
    }
    fn from_value(value: &Value) -> Result<DashboardAddress, Option<String>> {
        let text = match value {
            Value::Boolean(false) => return Ok(DashboardAddress::None),
            Value::Integer(_) => {
                return Ports::from_value(value).map(|port| DashboardAddress::At { host: None, port });
            }
            Value::String(text) => text.trim(),
            _ => return Err(None),
        };
        match text {
            "auto" => return Ok(DashboardAddress::Auto),
            "none" | "false" => return Ok(DashboardAddress::None),
            _ => {}
        }
        let (host, port) = text.rsplit_once(':').ok_or(None)?;
        let port = Ports::from_value(&Value::String(port.into()))?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        // Without brackets the last part of an IPv6 address would be taken for the port.
        if bare.is_none() && host.contains(':') {
            return Err(Some(format!("write an IPv6 address in brackets: [{host}]:PORT")));
        }
        let host = bare.unwrap_or(host);
        Ok(DashboardAddress::At { host: (!host.is_empty()).then(|| host.to_owned()), port })
    }
}

impl Setting for LogFormat {
    fn expected() -> String {
        "\"text\" or \"json\"".into()
    }
    fn from_value(value: &Value) -> Result<LogFormat, Option<String>> {
        match value.as_str() {
            Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            _ => Err(None),
        }
    }
}
