//! What keys of calls have in common: the name that people know a kind of task by. Owns Dask's rule for it;
//! the keys of families are `key`'s.

/// The part of a key that those of one kind have in common, as Dask finds it: what comes before a number or a
/// hash, the name in a tuple.
pub fn key_split(key: &str) -> &str {
    let first = before_dash(key);
    if !first.starts_with(char::is_alphabetic) {
        let name = first.split(',').next().unwrap_or_default();
        let name = name.trim_matches(|c| "_'()\"".contains(c));
        if name.is_empty() {
            return if key.is_empty() { "?" } else { key };
        }
        // Only the first word counts in a tuple, as its name may end in a hash.
        let at = key.find(name).unwrap_or(0);
        return words(&key[at..], name.len());
    }
    words(key, first.len())
}

fn before_dash(key: &str) -> &str {
    &key[..key.bytes().position(|b| b == b'-').unwrap_or(key.len())]
}

/// The beginning of a key up to the first word after `end` that is no word.
fn words(key: &str, mut end: usize) -> &str {
    while let Some(rest) = key[end..].strip_prefix('-') {
        let word = before_dash(rest);
        let is_hash = word.len() == 8 && word.bytes().all(|b| (b'a'..=b'f').contains(&b));
        if word.is_empty() || !word.chars().all(char::is_alphabetic) || is_hash {
            break;
        }
        end += 1 + word.len();
    }
    let name = &key[..end];
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    match name.len() == 32 && name.bytes().all(hex) {
        true => "data",
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_as_dask_does() {
        // What `dask.utils.key_split` says of the same keys.
        for (key, name) in [
            ("x", "x"),
            ("x-1", "x"),
            ("x-1-2-3", "x"),
            ("hello-world-1", "hello-world"),
            ("x-abcdefab", "x"),
            ("ae05086432ca935f6eba409a8ecd4896", "data"),
            ("('x-2', 1)", "x"),
            ("('sum-partial-0cf51a', 0, 1)", "sum-partial"),
            ("_(x)", "x"),
            ("inc-5f3d0c", "inc"),
        ] {
            assert_eq!(key_split(key), name, "{key}");
        }
        // Nothing may come of hostile ones but a name.
        for key in ["", "-", "---", "1", "('", "é-1", "('é-ü', 0)", "_", "2024-x"] {
            assert!(!key_split(key).is_empty(), "{key:?}");
        }
    }
}
