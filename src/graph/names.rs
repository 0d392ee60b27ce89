//! The names of all families of a graph, in one text. Owns how they are packed; what a name may be is
//! `validate`'s to say.

use crate::base::ids::FamilyIx;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// Names in the order of the families. A million of them are one allocation, not a million.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyNames {
    /// One after another, each followed by a line feed.
    text: String,
    /// Where each one's line feed stands.
    ends: Vec<u32>,
}

impl FamilyNames {
    /// Names that come one a line.
    fn of_lines(text: String) -> Option<FamilyNames> {
        u32::try_from(text.len()).ok()?;
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at as u32);
        let ends: Vec<u32> = ends.collect();
        let whole = ends.last().map_or(0, |end| *end as usize + 1) == text.len();
        whole.then_some(FamilyNames { text, ends })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name of a family.
    pub fn get(&self, family: FamilyIx) -> Option<&str> {
        let end = *self.ends.get(family.index())? as usize;
        let start = family.index().checked_sub(1).map_or(0, |before| self.ends[before] as usize + 1);
        self.text.get(start..end)
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.text.split_terminator('\n')
    }
}

/// A line feed inside a name makes two of it: then there are more names than families, which is refused where
/// it matters.
impl<S: AsRef<str>> FromIterator<S> for FamilyNames {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> FamilyNames {
        let mut text = String::new();
        for name in names {
            text.push_str(name.as_ref());
            text.push('\n');
        }
        text.shrink_to_fit();
        // Only texts of more than 4 GiB cannot be kept.
        FamilyNames::of_lines(text).unwrap_or_default()
    }
}

impl Serialize for FamilyNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for FamilyNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FamilyNames, D::Error> {
        struct Lines;
        impl Visitor<'_> for Lines {
            type Value = FamilyNames;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("names, each followed by a line feed")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FamilyNames, E> {
                FamilyNames::of_lines(text.to_owned())
                    .ok_or_else(|| E::custom("the last name is not followed by a line feed"))
            }
        }
        deserializer.deserialize_str(Lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let names: FamilyNames = ["a", "", "bc"].into_iter().collect();
        let get = |f| names.get(FamilyIx(f));
        assert_eq!((get(0), get(1), get(2), get(3)), (Some("a"), Some(""), Some("bc"), None));
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "", "bc"]);
        let bytes = rmp_serde::to_vec(&names).unwrap();
        assert_eq!(rmp_serde::from_slice::<FamilyNames>(&bytes).unwrap(), names);
        let none = FamilyNames::default();
        assert_eq!(rmp_serde::from_slice::<FamilyNames>(&rmp_serde::to_vec(&none).unwrap()).unwrap(), none);
        assert!(rmp_serde::from_slice::<FamilyNames>(&rmp_serde::to_vec("a\nb").unwrap()).is_err());
    }
}
