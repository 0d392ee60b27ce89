//! Bytes, durations and fractions as people write them. Parses and prints; owns no defaults.
//!
//! Sizes: `2G` = `2GiB` = 2^30, `2GB` = 10^9, a bare number is refused. Durations: `45m`, `1h30m`, `500ms`,
//! and clock forms as Slurm reads them: `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`. A bare number is
//! refused there too (Slurm takes minutes, PBS and Grid Engine seconds); only `0` needs no unit, except as a
//! walltime.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How finely amounts of threads and named resources are divided: 1/10,000.
pub const AMOUNT_ONE: u64 = 10_000;

/// Why a text is not a size, duration or amount: a lower-case sentence that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub String);

fn fail<T>(message: impl Into<String>) -> Result<T, UnitError> {
    Err(UnitError(message.into()))
}

/// Digits with an optional decimal fraction, exact: `1.50` is 150 with two decimals.
struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// Splits a number off the front of a text; `None` if there is no digit or there are far too many.
    fn split(text: &str) -> Option<(Decimal, &str)> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() > 27 {
            return None;
        }
        let decimals = u32::try_from(fraction.len()).ok()?;
        Some((Decimal { digits: format!("{whole}{fraction}").parse().ok()?, decimals }, rest))
    }

    /// The number times `unit`, rounded to the nearest whole; `None` if it does not fit.
    fn times(&self, unit: u64) -> Option<u64> {
        let scale = 10u128.checked_pow(self.decimals)?;
        let product = self.digits.checked_mul(u128::from(unit))?;
        u64::try_from(product.checked_add(scale / 2)? / scale).ok()
    }

    /// The number times `unit` if that is whole.
    fn times_exact(&self, unit: u64) -> Option<u64> {
        let product = self.digits.checked_mul(u128::from(unit))?;
        let scale = 10u128.checked_pow(self.decimals)?;
        if product % scale != 0 { None } else { u64::try_from(product / scale).ok() }
    }
}

/// Parses a size in bytes: `2G`, `1.5 GiB`, `100MB`, `512B`; upper and lower case mean the same.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let Some((number, unit)) = Decimal::split(text) else {
        return fail(format!(
            "'{text}' is not a size; write a number and a unit, such as 2G, 1.5GiB or 500MB"
        ));
    };
    let unit = unit.trim_start();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => {
            return fail(format!(
                "the size '{text}' has no unit; write {text}M or {text}G (powers of 1024), {text}MB or {text}GB \
                 (powers of 1000), or {text}B for bytes"
            ));
        }
        "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "p" | "pi" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => {
            return fail(format!(
                "'{unit}' in '{text}' is not a unit of size; use B, K, M, G, T, P (powers of 1024) or KB, MB, GB, \
                 TB, PB (powers of 1000)"
            ));
        }
    };
    number.times(factor).map_or_else(|| fail(format!("the size '{text}' is too large")), Ok)
}

const NANOS: [(&str, u64); 8] = [
    ("w", 604_800_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses a duration: `45m`, `1h30m`, `1.5s`, `500ms`, `0`, or a clock form (see the module's header).
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.contains(':') || text.contains('-') {
        return parse_clock(text);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return fail(format!("the duration '{text}' has no unit; write {text}s, {text}m or {text}h"));
    }
    parse_units(text)
}

/// Parses the time that a batch job may take: a duration of which not even zero may lack its unit.
pub fn parse_walltime(text: &str) -> Result<Duration, UnitError> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return fail(format!(
            "the walltime '{text}' has no unit: Slurm would read minutes, PBS and Grid Engine seconds; write \
             {text}m, {text}s or HH:MM:SS"
        ));
    }
    match parse_duration(text)? {
        Duration::ZERO => fail("a walltime of zero lets nothing run; write for example 1h30m or 01:30:00"),
        walltime => Ok(walltime),
    }
}

fn parse_units(text: &str) -> Result<Duration, UnitError> {
    let bad =
        || fail(format!("'{text}' is not a duration; write for example 10s, 45m, 1h30m, 500ms or HH:MM:SS"));
    let (mut rest, mut nanos, mut next) = (text, 0u64, 0);
    while !rest.is_empty() {
        let Some((number, tail)) = Decimal::split(rest) else { return bad() };
        let tail = tail.trim_start();
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(end);
        let unit = match name {
            "min" => "m",
            "sec" => "s",
            other => other,
        };
        // Units come from large to small and each at most once, so `5m1h` and `1m1m` are typing errors.
        let Some(at) = NANOS.iter().position(|(n, _)| *n == unit).filter(|at| *at >= next) else {
            return bad();
        };
        let sum = number.times(NANOS[at].1).and_then(|n| nanos.checked_add(n));
        let Some(sum) = sum else { return fail(format!("the duration '{text}' is too long")) };
        (nanos, next, rest) = (sum, at + 1, tail.trim_start());
    }
    if next == 0 { bad() } else { Ok(Duration::from_nanos(nanos)) }
}

fn parse_clock(text: &str) -> Result<Duration, UnitError> {
    let bad = || {
        fail(format!(
            "'{text}' is not a time; write MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS, or units as in 1h30m"
        ))
    };
    let field = |s: &str| s.parse::<u32>().ok().filter(|_| s.bytes().all(|b| b.is_ascii_digit()));
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (field(days), clock),
        None => (Some(0), text),
    };
    let (Some(days), Some(fields)) = (days, clock.split(':').map(field).collect::<Option<Vec<u32>>>()) else {
        return bad();
    };
    let (hours, minutes, seconds) = match (text.contains('-'), fields.as_slice()) {
        (true, &[h]) => (h, 0, 0),
        (true, &[h, m]) => (h, m, 0),
        (false, &[m, s]) => (0, m, s),
        (_, &[h, m, s]) => (h, m, s),
        _ => return bad(),
    };
    // Only the leading field may exceed its clock: `90:00` is plain, `1:90:00` is a slip.
    let leads = |n: usize| !text.contains('-') && fields.len() == n;
    if seconds > 59 || (minutes > 59 && !leads(2)) || (hours > 23 && !leads(3)) {
        return fail(format!(
            "'{text}' is not a time: minutes and seconds end at 59, hours after days at 23"
        ));
    }
    let (days, hours, minutes) = (u64::from(days), u64::from(hours), u64::from(minutes));
    Ok(Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + u64::from(seconds)))
}

/// Parses an amount of threads or of a named resource in 1/10,000: `2` is 20,000, `0.25` is 2,500.
pub fn parse_amount(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    match Decimal::split(text) {
        Some((number, "")) => match number.times_exact(AMOUNT_ONE) {
            Some(amount) => Ok(amount),
            None if number.times(AMOUNT_ONE).is_none() => fail(format!("the amount '{text}' is too large")),
            None => fail(format!("the amount '{text}' is too fine; at most four decimals are kept")),
        },
        _ => fail(format!("'{text}' is not an amount; write a number such as 1, 2 or 0.25")),
    }
}

/// A size in bytes. Reads and writes itself as text with a unit; prints rounded (`1.5 GiB`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A duration. Reads and writes itself as text with units; prints rounded (`1m03s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// An amount of threads or of a named resource, in 1/10,000. Reads and writes itself as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u64);

impl ByteSize {
    /// The size without rounding, as `parse_bytes` reads it: `1536K`, `1000000001B`.
    pub fn exact(self) -> String {
        let units = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
        let whole = units.iter().find(|(_, shift)| self.0 > 0 && self.0 % (1 << shift) == 0);
        whole.map_or_else(|| format!("{}B", self.0), |(unit, shift)| format!("{}{unit}", self.0 >> shift))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            // 1023.95 would print as 1024.0 of the smaller unit.
            if value < 1023.95 {
                break;
            }
            (value, unit) = (value / 1024.0, next);
        }
        let number = format!("{value:.1}");
        f.pad(&format!("{} {unit}", number.strip_suffix(".0").unwrap_or(&number)))
    }
}

impl Span {
    /// The duration without rounding, as `parse_duration` reads it: `1h30m`, `1s500ms`.
    pub fn exact(self) -> String {
        let mut text = String::new();
        let mut rest = self.0.as_nanos();
        for (name, nanos) in &NANOS[1..] {
            let count = rest / u128::from(*nanos);
            rest %= u128::from(*nanos);
            if count > 0 {
                text.push_str(&format!("{count}{name}"));
            }
        }
        if text.is_empty() { "0s".into() } else { text }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nanos, ms) = (self.0.as_nanos(), (self.0.as_nanos() + 500_000) / 1_000_000);
        let s = (ms + 500) / 1000;
        let text = match () {
            () if nanos == 0 => "0s".to_owned(),
            () if nanos < 999_500 => format!("{}us", (nanos + 500) / 1000),
            () if ms < 1000 => format!("{ms}ms"),
            // 59.95 s would print as 60.0s.
            () if ms < 59_950 => {
                let number = format!("{:.1}", ms as f64 / 1000.0);
                format!("{}s", number.strip_suffix(".0").unwrap_or(&number))
            }
            () if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
            () if s < 86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
            () => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
        };
        f.pad(&text)
    }
}

impl Amount {
    /// The amount as a number.
    pub fn value(self) -> f64 {
        self.0 as f64 / AMOUNT_ONE as f64
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / AMOUNT_ONE, self.0 % AMOUNT_ONE);
        match part {
            0 => f.pad(&whole.to_string()),
            _ => f.pad(format!("{whole}.{part:04}").trim_end_matches('0')),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<ByteSize, UnitError> {
        parse_bytes(text).map(ByteSize)
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Span, UnitError> {
        parse_duration(text).map(Span)
    }
}

impl FromStr for Amount {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Amount, UnitError> {
        parse_amount(text).map(Amount)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.exact())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.exact())
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % AMOUNT_ONE {
            0 => serializer.serialize_u64(self.0 / AMOUNT_ONE),
            _ => serializer.serialize_f64(self.value()),
        }
    }
}

/// Reads a value from text or, where a number is written, from the number's own text.
struct FromText<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError>> de::Visitor<'_> for FromText<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        deserializer.deserialize_any(FromText("a size such as \"2G\"", std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_any(FromText("a duration such as \"1h30m\"", std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        deserializer.deserialize_any(FromText("a number such as 2 or 0.25", std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(text: &str) -> u64 {
        parse_duration(text).unwrap().as_secs()
    }

    #[test]
    fn sizes() {
        for text in ["2G", "2GiB", "2g", " 2 GiB ", "2048M", "2147483648B", "2.0Gi"] {
            assert_eq!(parse_bytes(text), Ok(1 << 31), "{text}");
        }
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("1.5K"), Ok(1536));
        assert_eq!(parse_bytes("0.1K"), Ok(102), "rounded to whole bytes");
        let bare = parse_bytes("2000").unwrap_err().0;
        assert!(bare.contains("2000M") && bare.contains("2000MB"), "{bare}");
        for text in
            ["", "G", "-1G", "1.G", ".5G", "1..2G", "1 Q", "1e9", "20000P", "99999999999999999999999999999B"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(secs("45m"), 2700);
        assert_eq!(secs("1h30m"), 5400);
        assert_eq!(secs("1h 30min"), 5400);
        assert_eq!(secs("1.5h"), 5400);
        assert_eq!(secs("1m03s"), 63);
        assert_eq!(secs("1w"), 604_800);
        assert_eq!(secs("0"), 0);
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for text in ["", "30", "5m1h", "1m1m", "m", "-5s", "5 parsecs", "5S", "9999999999w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn clocks_are_slurms() {
        assert_eq!(secs("30:00"), 1800);
        assert_eq!(secs("90:00"), 5400);
        assert_eq!(secs("01:30:00"), 5400);
        assert_eq!(secs("48:00:00"), 172_800);
        assert_eq!(secs("1-12"), 129_600);
        assert_eq!(secs("1-12:30"), 131_400);
        assert_eq!(secs("2-03:04:05"), 183_845);
        for text in
            ["1:2:3:4", "1-", "-12", "1-2-3", "1:60", "1:60:00", "1-24", "1-1:60", "1:+5", ":30", "a:b"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn walltimes_name_their_unit() {
        assert_eq!(parse_walltime("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_walltime("30:00"), Ok(Duration::from_secs(1800)));
        let bare = parse_walltime("30").unwrap_err().0;
        assert!(bare.contains("Slurm") && bare.contains("30m"), "{bare}");
        assert!(parse_walltime("0").is_err());
        assert!(parse_walltime("00:00:00").is_err());
    }

    #[test]
    fn amounts() {
        assert_eq!(parse_amount("2"), Ok(20_000));
        assert_eq!(parse_amount("0.25"), Ok(2_500));
        assert_eq!(parse_amount("0.0001"), Ok(1));
        assert!(parse_amount("0.00001").unwrap_err().0.contains("too fine"));
        assert!(parse_amount("999999999999999999999").unwrap_err().0.contains("too large"));
        for text in ["", "-1", "1x", "1e3", "nan", "inf"] {
            assert!(parse_amount(text).is_err(), "{text}");
        }
        assert_eq!(Amount(2_500).to_string(), "0.25");
        assert_eq!(Amount(30_000).to_string(), "3");
        assert_eq!(Amount(100_000).to_string(), "10");
    }

    #[test]
    fn sizes_print() {
        let show = |n: u64| ByteSize(n).to_string();
        assert_eq!(show(0), "0 B");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(3 << 29), "1.5 GiB");
        assert_eq!(show(2 << 30), "2 GiB");
        assert_eq!(show((1 << 20) - 1), "1 MiB");
        assert_eq!(show(u64::MAX), "16 EiB");
        assert_eq!(format!("{:>8}|", ByteSize(5)), "     5 B|");
    }

    #[test]
    fn durations_print() {
        let show = |n: u64| Span(Duration::from_micros(n)).to_string();
        assert_eq!(show(0), "0s");
        assert_eq!(show(120), "120us");
        assert_eq!(show(999_700), "1s");
        assert_eq!(show(250_000), "250ms");
        assert_eq!(show(12_340_000), "12.3s");
        assert_eq!(show(59_960_000), "1m00s");
        assert_eq!(show(63_000_000), "1m03s");
        assert_eq!(show(7_500_000_000), "2h05m");
        assert_eq!(show(100_800_000_000), "1d04h");
    }

    #[test]
    fn exact_forms_come_back() {
        for n in [0, 1, 1023, 1024, 1536, 1 << 30, 3 << 40, 1_000_000_001, u64::MAX] {
            assert_eq!(parse_bytes(&ByteSize(n).exact()), Ok(n));
        }
        for n in [0, 1, 999, 1_500_000_000, 5_400_000_000_000, 700_000_123_456_789, 1 << 62] {
            let span = Span(Duration::from_nanos(n));
            assert_eq!(parse_duration(&span.exact()), Ok(span.0), "{}", span.exact());
        }
    }

    #[test]
    fn serde_reads_text_and_advises_on_numbers() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Limits {
            size: ByteSize,
            time: Span,
            cpus: Amount,
        }
        let limits: Limits = toml::from_str("size = '2G'\ntime = '1h30m'\ncpus = 0.5").unwrap();
        assert_eq!(limits.size.0, 1 << 31);
        assert_eq!(limits.time.0.as_secs(), 5400);
        assert_eq!(limits.cpus.0, 5_000);
        assert_eq!(toml::from_str::<Limits>(&toml::to_string(&limits).unwrap()).unwrap(), limits);
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"size":"2G","time":"1h30m","cpus":0.5}"#);
        let error = toml::from_str::<Limits>("size = 5\ntime = '1s'\ncpus = 1").unwrap_err().to_string();
        assert!(error.contains("has no unit"), "{error}");
        let error = toml::from_str::<Limits>("size = '5K'\ntime = '1s'\ncpus = -1").unwrap_err().to_string();
        assert!(error.contains("not an amount"), "{error}");
    }
}
