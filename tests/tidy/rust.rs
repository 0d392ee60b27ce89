//! Reads Rust as far as the checks need it: code without comments and literals, paths, parts that are
//! tests.

pub fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The text with comments and the contents of string and character literals as spaces; lines stay where they
/// are.
pub fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => find(&chars, at, |c, i| c[i] == '\n'),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at),
            ('r', Some('"' | '#')) if !in_word(&chars, at) => end_of_raw_string(&chars, at),
            ('\'', _) => end_of_character(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The first place from `at` on where `is` holds, or the end.
fn find(chars: &[char], at: usize, is: impl Fn(&[char], usize) -> bool) -> usize {
    (at..chars.len()).find(|i| is(chars, *i)).unwrap_or(chars.len())
}

/// Whether the letter at `at` continues a word; the `b` and `c` of `br""` and `cr""` are not such words.
fn in_word(chars: &[char], at: usize) -> bool {
    let word = |i: usize| chars[i].is_alphanumeric() || chars[i] == '_';
    at > 0 && word(at - 1) && !(matches!(chars[at - 1], 'b' | 'c') && (at < 2 || !word(at - 2)))
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let open = find(chars, at + 1, |c, i| c[i] != '#');
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let hashes = open - at - 1;
    let closes = |c: &[char], i: usize| {
        c[i] == '"' && c[i + 1..].iter().take(hashes).filter(|h| **h == '#').count() == hashes
    };
    (find(chars, open + 1, closes) + 1 + hashes).min(chars.len())
}

/// The end of a character literal, or `at` if the quote begins a lifetime.
fn end_of_character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |c, i| c[i] == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
    .min(chars.len())
}

/// The ranges, in bytes, of the items under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let (mut depth, mut end) = (0usize, code.len());
        for (at, c) in code[start..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => end = start + at + 1,
                '}' => depth -= 1,
                ';' if depth == 0 => end = start + at + 1,
                _ => {}
            }
            if end < code.len() {
                break;
            }
        }
        items.push(start..end);
        from = end;
    }
    items
}

pub fn blank_tests(code: &str) -> String {
    let mut live = String::with_capacity(code.len());
    let mut from = 0;
    for item in test_items(code) {
        live.push_str(&code[from..item.start]);
        live.extend(code[item.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        from = item.end;
    }
    live.push_str(&code[from..]);
    live
}

pub fn test_lines(code: &str) -> usize {
    test_items(code).into_iter().map(|item| code[item].lines().count()).sum()
}

/// All paths below `root::`, with the line where each begins; `use crate::{a, b::{c, d}}` has three.
pub fn paths(code: &str, root: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t: &(usize, &str)| t.1 == text);
        // `crate` alone names the whole crate (`use crate as x`); in `pub(crate)` and `$crate` it stands for
        // nothing.
        if is(at, root) && is(at + 1, "::") && !(at > 0 && is(at - 1, "::")) {
            tree(&tokens, at + 2, &mut Vec::new(), &mut paths);
        } else if is(at, root) && root == "crate" && is(at + 1, "as") {
            paths.push((tokens[at].0, Vec::new()));
        }
    }
    paths
}

/// Reads one branch of a `use` tree, or a plain path, and returns where it ends.
fn tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let depth = prefix.len();
    let line = tokens.get(at).map_or(0, |token| token.0);
    loop {
        match tokens.get(at).map(|token| token.1) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    let next = tree(tokens, at, prefix, paths);
                    // Whatever is not a path here (`as name`, `,`) is stepped over.
                    at = if next > at { next } else { at + 1 };
                }
                prefix.truncate(depth);
                return at + 1;
            }
            Some(name) if name == "*" || is_name(name) => {
                prefix.push(name.to_owned());
                at += 1;
                if tokens.get(at).is_none_or(|token| token.1 != "::") {
                    break;
                }
                at += 1;
            }
            _ => break,
        }
    }
    if prefix.len() > depth {
        paths.push((line, prefix.clone()));
        if tokens.get(at).is_some_and(|token| token.1 == "as") {
            at += 2;
        }
    }
    prefix.truncate(depth);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (line, text) in numbered(code) {
        let mut rest = text.trim_start();
        while let Some(c) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match () {
                () if rest.starts_with("::") => 2,
                () if word > 0 => word,
                () => c.len_utf8(),
            };
            tokens.push((line, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}
