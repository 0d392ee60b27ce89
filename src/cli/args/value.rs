//! Values that the command line writes in its own way: `NAME=VALUE`, the numbers of `--array`, counts.

use clap::builder::RangedI64ValueParser;
use std::str::FromStr;

/// A count of at least one.
pub(super) fn positive() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// What stands before the first `=`; never empty.
    pub name: String,
    /// What follows it.
    pub value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Assignment, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Assignment { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("expected NAME=VALUE".to_owned()),
        }
    }
}

/// A run of numbers: `first`, `first + step` and so on, none beyond `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayPart {
    /// The first number.
    pub first: u64,
    /// The bound, which is included if the steps meet it; not below `first`.
    pub last: u64,
    /// From one number to the next; not 0.
    pub step: u64,
}

impl ArrayPart {
    /// The numbers.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.len()).map(move |i| self.first + i * self.step)
    }

    /// How many numbers there are.
    fn len(self) -> u64 {
        ((self.last - self.first) / self.step).saturating_add(1)
    }
}

/// Numbers as sbatch's `--array` writes them: `1-1000`, `0-15:4`, `1,3,5-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The parts between the commas, in their order; never empty.
    pub parts: Vec<ArrayPart>,
}

/// A graph has no more elements than fit in its columns.
const ARRAY_MAX: u64 = u32::MAX as u64;

impl Array {
    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.len()))
    }

    /// All numbers in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.parts.iter().flat_map(|part| part.numbers())
    }
}

fn parse_part(text: &str) -> Result<ArrayPart, String> {
    let number = |text: &str| match text.trim().parse::<u64>() {
        Ok(n) => Ok(n),
        Err(_) => Err(format!("expected numbers such as 1-1000, 0-15:4 or 1,3,5-7, found {text:?}")),
    };
    let (range, step) = match text.split_once(':') {
        Some((range, step)) => (range, number(step)?),
        None => (text, 1),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if step == 0 {
        return Err("a step of 0 never ends".to_owned());
    }
    if last < first {
        return Err(format!("{last} is before {first}"));
    }
    Ok(ArrayPart { first, last, step })
}

impl FromStr for Array {
    type Err = String;

    fn from_str(text: &str) -> Result<Array, String> {
        if text.contains('%') {
            return Err("use -j to limit how many run at once".to_owned());
        }
        let parts = text.split(',').map(parse_part).collect::<Result<Vec<_>, _>>()?;
        let array = Array { parts };
        match array.count() {
            n if n > ARRAY_MAX => Err(format!("{n} elements are too many, at most {ARRAY_MAX} are possible")),
            _ => Ok(array),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u64> {
        text.parse::<Array>().expect(text).numbers().collect()
    }

    #[test]
    fn arrays_read_as_in_sbatch() {
        assert_eq!(numbers("3"), [3]);
        assert_eq!(numbers("1-4"), [1, 2, 3, 4]);
        assert_eq!(numbers("0-15:4"), [0, 4, 8, 12]);
        assert_eq!(numbers("0-16:4"), [0, 4, 8, 12, 16]);
        assert_eq!(numbers("9,1-2"), [9, 1, 2]);
        assert_eq!(numbers("18446744073709551615"), [u64::MAX]);
        assert_eq!("1-1000000".parse::<Array>().expect("right").count(), 1_000_000);
    }

    #[test]
    fn wrong_arrays_say_why() {
        for (text, part) in [
            ("", "expected"),
            ("a", "expected"),
            ("1-", "expected"),
            ("1--3", "expected"),
            ("-3", "expected"),
            ("1,,2", "expected"),
            ("1-3:0", "step"),
            ("5-4", "before"),
            ("1-10%2", "-j"),
            ("0-18446744073709551615", "too many"),
            ("1-4000000000,1-4000000000", "too many"),
        ] {
            let error = text.parse::<Array>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn assignments_split_at_the_first_sign() {
        let assignment: Assignment = "a=b=c".parse().expect("right");
        assert_eq!((assignment.name.as_str(), assignment.value.as_str()), ("a", "b=c"));
        assert_eq!("a=".parse::<Assignment>().expect("empty is a value").value, "");
        assert!("=b".parse::<Assignment>().is_err());
        assert!("ab".parse::<Assignment>().is_err());
    }
}
