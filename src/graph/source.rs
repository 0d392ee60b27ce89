//! Graph files as trees of values that know their place in the text: TOML and JSON become the same. Owns the
//! reading; `decode` knows what the keys mean.

use super::diagnostic::Diagnostic;
use rustc_hash::FxHashSet;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Bytes of the source.
    pub span: Range<usize>,
    /// What stands there.
    pub value: Value,
}

/// What can stand in a graph file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number as it is written (`0.001` stays `0.001`), decimal.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// A TOML date or time, as written.
    Date(String),
    /// JSON's `null`.
    Null,
    /// An array.
    List(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
}

/// A key, its place and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a string",
            Value::Number(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Date(_) => "a date",
            Value::Null => "null",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value for `args` of native functions. Numbers too large for JSON become strings.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Text(text) | Value::Date(text) => text.as_str().into(),
            Value::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
            Value::Bool(b) => (*b).into(),
            Value::Null => serde_json::Value::Null,
            Value::List(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Table(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }
}

/// Reads TOML.
pub fn parse_toml(text: &str) -> Result<Node, Diagnostic> {
    match DeTable::parse(text) {
        Ok(table) => {
            let span = table.span();
            Ok(Node { span, value: toml_table(table.into_inner()) })
        }
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            Err(Diagnostic::new(&span, format!("this is not TOML: {}", error.message()), "here"))
        }
    }
}

fn toml_table(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: Node { span: value.span(), value: toml_value(value.into_inner()) },
        })
        .collect();
    // The parser sorts by name; users expect the order they wrote (axes of a matrix, inputs on stdin).
    entries.sort_by_key(|e| e.key_span.start);
    Value::Table(entries)
}

fn toml_value(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Value::Number(number.as_str().to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Value::Number(value.to_string()),
            Err(_) => Value::Number(number.to_string()),
        },
        DeValue::Float(number) => Value::Number(number.as_str().to_string()),
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(nodes) => Value::List(
            nodes.into_iter().map(|n| Node { span: n.span(), value: toml_value(n.into_inner()) }).collect(),
        ),
        DeValue::Table(table) => toml_table(table),
    }
}

/// Reads JSON.
pub fn parse_json(text: &str) -> Result<Node, Diagnostic> {
    let mut reader = Json { text, at: 0, depth: 0 };
    let node = reader.node()?;
    reader.blank();
    if reader.at < text.len() {
        return Err(reader.fault("the file goes on after its value", "expected the end"));
    }
    Ok(node)
}

/// Tables with fewer keys than this are looked through.
const FEW_KEYS: usize = 16;

/// Nesting beyond this is refused, so that no file can exhaust the stack.
const DEPTH_MAX: u32 = 64;

struct Json<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl Json<'_> {
    fn fault(&self, message: &str, label: &str) -> Diagnostic {
        let width = self.text[self.at..].chars().next().map_or(0, char::len_utf8);
        Diagnostic::new(&(self.at..self.at + width), format!("this is not JSON: {message}"), label)
    }

    fn blank(&mut self) {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        self.at = self.text.len() - rest.len();
    }

    fn peek(&mut self) -> Option<u8> {
        self.blank();
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn node(&mut self) -> Result<Node, Diagnostic> {
        let first = self.peek();
        let start = self.at;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fault("too deeply nested", "here"));
        }
        let value = match first {
            Some(b'{') => self.table()?,
            Some(b'[') => self.list()?,
            Some(b'"') => Value::Text(self.string()?.1),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        self.depth -= 1;
        Ok(Node { span: start..self.at, value })
    }

    fn table(&mut self) -> Result<Value, Diagnostic> {
        self.at += 1;
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = FxHashSet::default();
        if self.eat(b'}') {
            return Ok(Value::Table(entries));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fault("a key is missing", "expected a string"));
            }
            let (key_span, key) = self.string()?;
            // The few keys of most tables are compared faster than they are hashed.
            let twice = match entries.len() {
                0..FEW_KEYS => entries.iter().any(|e| e.key == key),
                n => {
                    if n == FEW_KEYS {
                        seen.extend(entries.iter().map(|e| e.key.clone()));
                    }
                    !seen.insert(key.clone())
                }
            };
            if twice {
                return Err(Diagnostic::new(
                    &key_span,
                    format!("`{key}` stands here twice"),
                    "the second time",
                ));
            }
            if !self.eat(b':') {
                return Err(self.fault("a key has no value", "expected `:`"));
            }
            let node = self.node()?;
            entries.push(Entry { key, key_span, node });
            if self.eat(b'}') {
                return Ok(Value::Table(entries));
            }
            if !self.eat(b',') {
                return Err(self.fault("an object is not closed", "expected `,` or `}`"));
            }
        }
    }

    fn list(&mut self) -> Result<Value, Diagnostic> {
        self.at += 1;
        let mut nodes = Vec::new();
        if self.eat(b']') {
            return Ok(Value::List(nodes));
        }
        loop {
            nodes.push(self.node()?);
            if self.eat(b']') {
                return Ok(Value::List(nodes));
            }
            if !self.eat(b',') {
                return Err(self.fault("an array is not closed", "expected `,` or `]`"));
            }
        }
    }

    fn string(&mut self) -> Result<(Range<usize>, String), Diagnostic> {
        let start = self.at;
        let (mut escaped, mut end) = (false, None);
        for (i, b) in self.text.as_bytes()[start + 1..].iter().enumerate() {
            match b {
                b'"' if !escaped => {
                    end = Some(start + 1 + i + 1);
                    break;
                }
                b'\n' => break,
                _ => escaped = *b == b'\\' && !escaped,
            }
        }
        let Some(end) = end else { return Err(self.fault("a string is not closed", "it begins here")) };
        let inside = &self.text[start + 1..end - 1];
        if inside.bytes().all(|b| b >= b' ' && b != b'\\') {
            self.at = end;
            return Ok((start..end, inside.to_owned()));
        }
        let Ok(text) = serde_json::from_str(&self.text[start..end]) else {
            let bad = "this is not JSON: a string has an escape or a character that JSON does not allow";
            return Err(Diagnostic::new(&(start..end), bad, "here"));
        };
        self.at = end;
        Ok((start..end, text))
    }

    fn number(&mut self) -> Result<Value, Diagnostic> {
        let rest = &self.text[self.at..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        match serde_json::from_str::<serde_json::Number>(&rest[..end]) {
            Ok(_) => {
                self.at += end;
                Ok(Value::Number(rest[..end].to_string()))
            }
            Err(_) => Err(self.fault("a number is malformed", "here")),
        }
    }

    fn word(&mut self) -> Result<Value, Diagnostic> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fault("a value is missing", "expected a string, number, array or object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Node {
        parse_json(text).unwrap()
    }

    #[test]
    fn json_and_toml_agree() {
        let a = parse_toml("b = [1, 0.50, 'x']\na = { t = true }\n").unwrap().to_json();
        let b = json(r#" { "b" : [1, 0.50, "x"], "a": {"t":true} } "#).to_json();
        assert_eq!(a, b);
    }

    #[test]
    fn numbers_keep_their_text_and_tables_their_order() {
        let node = parse_toml("z = 0.0010\na = 0x10\n").unwrap();
        let Value::Table(entries) = node.value else { panic!() };
        assert_eq!(entries[0].node.value, Value::Number("0.0010".into()));
        assert_eq!(entries[1].node.value, Value::Number("16".into()));
    }

    #[test]
    fn spans_point_into_the_text() {
        let text = r#"{"käse": ["a\"b", 12]}"#;
        let Value::Table(entries) = json(text).value else { panic!() };
        assert_eq!(&text[entries[0].key_span.clone()], "\"käse\"");
        let Value::List(list) = &entries[0].node.value else { panic!() };
        assert_eq!(&text[list[0].span.clone()], r#""a\"b""#);
        assert_eq!(list[0].value, Value::Text("a\"b".into()));
        assert_eq!(&text[list[1].span.clone()], "12");
    }

    #[test]
    fn broken_json_is_refused() {
        let bad = [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "\"a",
            "\"\\x\"",
            "1 2",
            "nul",
            "{\"a\":1,\"a\":2}",
            "-",
            "{a:1}",
            "\"a\tb\"",
        ];
        for text in bad {
            assert!(parse_json(text).is_err(), "{text}");
        }
        assert!(parse_json(&"[".repeat(100_000)).is_err());
        for n in [3, 15, 16, 17, 40] {
            let keys: Vec<String> = (0..n).map(|k| format!("\"{k}\": 0")).collect();
            assert!(parse_json(&format!("{{{}}}", keys.join(","))).is_ok());
            for twice in [0, n - 1] {
                assert!(parse_json(&format!("{{{}, \"{twice}\": 1}}", keys.join(","))).is_err(), "{n}");
            }
        }
    }
}
