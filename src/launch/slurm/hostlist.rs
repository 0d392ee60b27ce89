//! Slurm's short form for lists of host names: `n[01-03,7],login`. Owns reading and writing it, so that no
//! `scontrol` has to be asked.

use crate::base::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// More hosts than any machine has: a list beyond it is a mistake.
const HOSTS_MAX: usize = 1 << 20;

/// The hosts of a list, in its order.
///
/// A name may hold several brackets (`rack[0-1]n[1-2]`), and the first number of a range says how many digits
/// all of it have (`[08-10]`).
///
/// # Errors
/// `Launch` when the list is none.
pub fn parse(text: &str) -> Result<Vec<String>> {
    let fault = |what: &str| Error::new(Kind::Launch, format!("{text:?} is not a list of hosts: {what}"));
    let mut hosts = Vec::new();
    for part in split(text).ok_or_else(|| fault("its brackets do not match"))? {
        if part.is_empty() {
            return Err(fault("a name is empty"));
        }
        expand(part, &mut hosts).map_err(|what| fault(&what))?;
    }
    Ok(hosts)
}

/// Splits at the commas outside of brackets.
fn split(text: &str) -> Option<Vec<&str>> {
    let text = text.trim();
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '[' if inside => return None,
            ']' if !inside => return None,
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return None;
    }
    if !text.is_empty() {
        parts.push(&text[begin..]);
    }
    Some(parts)
}

/// Adds the hosts of one part, whose brackets match.
fn expand(part: &str, hosts: &mut Vec<String>) -> Result<(), String> {
    let mut names = vec![String::new()];
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((ranges, behind)) = after.split_once(']') else { return Err("a bracket is open".into()) };
        let numbers = numbers(ranges)?;
        if names.len().saturating_mul(numbers.len()) > HOSTS_MAX {
            return Err(format!("it has more than {HOSTS_MAX} hosts"));
        }
        let with = |name: &String| numbers.iter().map(|n| format!("{name}{before}{n}")).collect::<Vec<_>>();
        names = names.iter().flat_map(with).collect();
        rest = behind;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    if hosts.len() + names.len() > HOSTS_MAX {
        return Err(format!("it has more than {HOSTS_MAX} hosts"));
    }
    hosts.append(&mut names);
    Ok(())
}

/// The numbers between brackets, as written in names.
fn numbers(ranges: &str) -> Result<Vec<String>, String> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.len() < 19 && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u64>().ok()).flatten().ok_or_else(|| format!("{text:?} is not a number"))
    };
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (low, high) = (number(first)?, number(last)?);
        if low > high {
            return Err(format!("{last} is before {first}"));
        }
        if numbers.len() as u64 + (high - low) >= HOSTS_MAX as u64 {
            return Err(format!("it has more than {HOSTS_MAX} hosts"));
        }
        let width = first.len();
        numbers.extend((low..=high).map(|n| format!("{n:0width$}")));
    }
    Ok(numbers)
}

/// What comes before a name's last number, how many digits that has if it is padded with zeros (0 if not),
/// and the number.
fn number_of(host: &str) -> Option<(&str, usize, u64)> {
    let digits = host.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, text) = host.split_at(host.len() - digits);
    let number = (digits < 19).then(|| text.parse().ok()).flatten()?;
    let padded = text.len() > 1 && text.starts_with('0');
    Some((prefix, if padded { digits } else { 0 }, number))
}

/// A list of these hosts in the short form: each host once, those with a common beginning together, numbers
/// in order.
pub fn format<S: AsRef<str>>(hosts: impl IntoIterator<Item = S>) -> String {
    let hosts: Vec<S> = hosts.into_iter().collect();
    let mut order: Vec<(&str, usize)> = Vec::new();
    let mut groups: BTreeMap<(&str, usize), Vec<u64>> = BTreeMap::new();
    let mut plain: Vec<&str> = Vec::new();
    for host in &hosts {
        let host = host.as_ref();
        match number_of(host) {
            Some((prefix, width, number)) => {
                let group = groups.entry((prefix, width)).or_default();
                if group.is_empty() {
                    order.push((prefix, width));
                }
                group.push(number);
            }
            None if plain.contains(&host) => {}
            None => plain.push(host),
        }
    }
    let mut parts: Vec<String> = Vec::new();
    for key in &order {
        let Some(group) = groups.get_mut(key) else { continue };
        group.sort_unstable();
        group.dedup();
        parts.push(format_group(*key, group));
    }
    parts.extend(plain.into_iter().map(str::to_owned));
    parts.join(",")
}

fn format_group((prefix, width): (&str, usize), numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            // A range's digits are those of its first number.
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => ranges.push((*n, *n)),
        }
    }
    let range = |(first, last): &(u64, u64)| match first == last {
        true => format!("{first:0width$}"),
        false => format!("{first:0width$}-{last:0width$}"),
    };
    let text = ranges.iter().map(range).collect::<Vec<_>>().join(",");
    if numbers.len() == 1 { format!("{prefix}{text}") } else { format!("{prefix}[{text}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> String {
        parse(text).unwrap().join(" ")
    }

    #[test]
    fn lists_are_read() {
        for (text, expanded) in [
            ("", ""),
            ("n1", "n1"),
            ("a,b,c", "a b c"),
            ("n[1-3]", "n1 n2 n3"),
            ("n[01-03,7],b2", "n01 n02 n03 n7 b2"),
            ("n[08-11]", "n08 n09 n10 n11"),
            ("n[9-10]", "n9 n10"),
            ("n[099-100,2]x", "n099x n100x n2x"),
            ("r[0-1]n[1-2]", "r0n1 r0n2 r1n1 r1n2"),
            ("r[0-1]c[00-01]s[2]", "r0c00s2 r0c01s2 r1c00s2 r1c01s2"),
            ("nid[000012-000014]", "nid000012 nid000013 nid000014"),
            ("a-b[1,3]-ib,c-d", "a-b1-ib a-b3-ib c-d"),
            (" n[1-2] ", "n1 n2"),
        ] {
            assert_eq!(hosts(text), expanded, "{text}");
        }
        assert_eq!(parse("n[00000-65535]").unwrap().len(), 65536);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, part) in [
            ("n[1-2", "brackets"),
            ("n1-2]", "brackets"),
            ("n[1[2-3]]", "brackets"),
            ("a,,b", "empty"),
            ("a,", "empty"),
            ("n[]", "not a number"),
            ("n[1-]", "not a number"),
            ("n[a-b]", "not a number"),
            ("n[3-1]", "before"),
            ("n[1-99999999999]", "more than"),
            ("n[0-9999]m[0-9999]", "more than"),
            ("n[1-99999999999999999999]", "not a number"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn lists_are_written_short_and_mean_the_same() {
        for (names, short) in [
            ("", ""),
            ("n1", "n1"),
            ("n1 n2 n3", "n[1-3]"),
            ("n3 n1 n2 n2 n7", "n[1-3,7]"),
            ("n08 n09 n010", "n[08-09],n010"),
            ("n9 n10", "n[9-10]"),
            ("b a1 a2 b", "a[1-2],b"),
            ("r0n1 r0n2 r1n1", "r0n[1-2],r1n1"),
            ("0 1", "[0-1]"),
            ("n00 n01", "n[00-01]"),
            ("x99999999999999999999", "x99999999999999999999"),
        ] {
            let list: Vec<&str> = names.split_whitespace().collect();
            assert_eq!(format(&list), short, "{names}");
            let mut again = parse(short).unwrap();
            let mut wanted: Vec<String> = list.iter().map(|n| (*n).to_owned()).collect();
            again.sort();
            wanted.sort();
            wanted.dedup();
            assert_eq!(again, wanted, "{short}");
        }
        // Padded and unpadded numbers of the same width, in one list.
        let mixed = format(["n08", "n09", "n10", "n11"]);
        assert_eq!(parse(&mixed).unwrap(), ["n08", "n09", "n10", "n11"], "{mixed}");
    }
}
