//! Reading and merging: files, variables and flags become values under keys, a later layer replacing an
//! earlier one key by key, each with its origin. Owns the order of the layers; what the values mean is
//! `setting`'s.

use super::locks::{Locks, NAME};
use super::schema::{Place, Schema};
use crate::base::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// A key as its parts: `worker.memory.target` has three.
pub(super) type Key = Vec<String>;

/// A key as it is written in TOML.
pub(super) fn dotted(key: &[String]) -> String {
    let bare = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let part = |s: &String| if bare(s) { s.clone() } else { Value::String(s.clone()).to_string() };
    key.iter().map(part).collect::<Vec<_>>().join(".")
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults in the binary.
    Default,
    /// A file and the line in it, from 1.
    File(PathBuf, usize),
    /// An environment variable, by name.
    Variable(String),
    /// A flag, as it is written on the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "${name}"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    key: String,
    value: String,
    flag: String,
}

impl Override {
    /// Sets a dotted key to a value, written as after the flag. The flag is named as the key's last part.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Override {
        let key = key.into();
        let flag = format!("--{}", key.rsplit('.').next().unwrap_or(&key));
        Override { key, value: value.into(), flag }
    }

    /// The same under another flag, such as `--no-nanny` or `--set`.
    pub fn flag(mut self, flag: impl Into<String>) -> Override {
        self.flag = flag.into();
        self
    }
}

/// What the layers are read from, so that tests need neither `/etc` nor the process's environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The environment's variables; only `HPCDAG_*`, `XDG_CONFIG_HOME` and `HOME` are looked at.
    pub variables: BTreeMap<String, String>,
    /// The site's file; need not exist.
    pub site_file: Option<PathBuf>,
}

impl Sources {
    /// This process's environment and the site's file at its usual place.
    pub fn from_process() -> Sources {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        Sources {
            variables: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
            site_file: Some(PathBuf::from("/etc/hpcdag/config.toml")),
        }
    }

    /// Nothing: only the defaults and overrides count.
    pub fn none() -> Sources {
        Sources::default()
    }

    /// The user's file: below `$XDG_CONFIG_HOME` or else `~/.config`; `None` if neither is known.
    pub fn user_file(&self) -> Option<PathBuf> {
        // The XDG rules say that a relative path there is invalid and to be ignored.
        let absolute = |name| self.set(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(base.join("hpcdag/config.toml"))
    }

    /// A variable that is set and not empty.
    fn set(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// A value and its origin.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// Whether the value is text of which it is not known yet how to read it.
    raw: bool,
}

impl Leaf {
    /// The ways in which the value may be read, the likelier one first.
    pub(super) fn readings(&self) -> Vec<Value> {
        let parsed = match &self.value {
            Value::String(text) if self.raw => text.trim().parse::<Value>().ok(),
            _ => None,
        };
        parsed.into_iter().chain([self.value.clone()]).collect()
    }

    /// Keeps the reading that fitted.
    pub(super) fn settle(&mut self, reading: Value) {
        (self.value, self.raw) = (reading, false);
    }

    /// The value as an error message shows it.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::String(text) if self.raw => format!("'{text}'"),
            Value::Array(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            other => other.to_string(),
        }
    }
}

/// All layers so far, merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    leaves: BTreeMap<Key, Leaf>,
    /// What the site keeps for itself; for layers after its own.
    locks: Locks,
}

impl Layers {
    /// The value of a key.
    pub(super) fn leaf(&self, key: &[String]) -> Option<&Leaf> {
        self.leaves.get(key)
    }

    /// The value of a key, to be settled.
    pub(super) fn leaf_mut(&mut self, key: &[String]) -> Option<&mut Leaf> {
        self.leaves.get_mut(key)
    }

    /// The keys inside of a table of chosen names, or a free one.
    pub(super) fn below(&self, key: &[String]) -> Vec<Key> {
        self.leaves.keys().filter(|k| k.len() > key.len() && k.starts_with(key)).cloned().collect()
    }

    /// Who has locked a key.
    pub(super) fn locked_by(&self, key: &[String]) -> Option<&Origin> {
        self.locks.find(key)
    }

    fn put(&mut self, key: Key, leaf: Leaf) -> Result<()> {
        self.locks.allow(&key, &leaf, self.leaves.get(&key))?;
        // In free tables a value may replace a table, or a table a value.
        self.leaves.retain(|k, _| !k.starts_with(&key) && !key.starts_with(k));
        self.leaves.insert(key, leaf);
        Ok(())
    }

    /// Adds the three files, as far as they exist. The one that `$HPCDAG_CONFIG` names must.
    pub(super) fn add_files(&mut self, schema: &Schema, sources: &Sources) -> Result<()> {
        if let Some(path) = &sources.site_file
            && let Some(text) = read(path)?
        {
            // Its own values are not locked for itself.
            self.locks = self.add(&Text { schema, text: &text, path: Some(path), is_site: true })?;
        }
        if let Some(path) = sources.user_file()
            && let Some(text) = read(&path)?
        {
            self.add_text(schema, &text, Some(&path))?;
        }
        let Some(named) = sources.set("HPCDAG_CONFIG") else { return Ok(()) };
        match read(Path::new(named))? {
            Some(text) => self.add_text(schema, &text, Some(Path::new(named))),
            None => Err(Error::new(
                Kind::Config,
                format!("$HPCDAG_CONFIG names {named}, which does not exist"),
            )
            .hint(
                "correct the variable or unset it; in a job: does this node see that directory? If not, \
                         keep clusters where all nodes see them, by XDG_STATE_HOME=$SCRATCH, say",
            )),
        }
    }

    /// Adds a file's text; the defaults have no path.
    pub(super) fn add_text(&mut self, schema: &Schema, text: &str, path: Option<&Path>) -> Result<()> {
        self.add(&Text { schema, text, path, is_site: false }).map(drop)
    }

    fn add(&mut self, file: &Text) -> Result<Locks> {
        let (text, path) = (file.text, file.path);
        let name = path.map_or("config/default.toml".into(), |p| p.display().to_string());
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(String::new(), |span| {
                let (line, column) = position(text, span.start);
                format!(":{line}:{column}")
            });
            Error::new(
                Kind::Config,
                format!("{name}{at}: {}", error.message().trim_end().replace('\n', ", ")),
            )
        })?;
        let mut table = table.into_inner();
        let locks = match table.remove_entry(NAME) {
            None => Locks::default(),
            Some((name, value)) => {
                let origin = file.origin(name.span().start);
                if !file.is_site {
                    let what = format!("{origin}: only the site's own file may lock settings");
                    return Err(Error::new(Kind::Config, what).hint("that is /etc/hpcdag/config.toml"));
                }
                Locks::read(file.schema, &plain(value.get_ref()), &origin)?
            }
        };
        self.add_table(file, &mut Vec::new(), &table)?;
        Ok(locks)
    }

    fn add_table(&mut self, file: &Text, key: &mut Key, table: &DeTable) -> Result<()> {
        for (name, value) in table {
            key.push(name.get_ref().clone().into_owned());
            let origin = file.origin(name.span().start);
            match (file.schema.find(key), value.get_ref()) {
                (None, _) => return Err(unknown(file.schema, key, &origin)),
                (Some(Place::Leaf), value) => {
                    self.put(key.clone(), Leaf { value: plain(value), origin, raw: false })?;
                }
                (Some(_), DeValue::Table(inner)) => self.add_table(file, key, inner)?,
                (Some(Place::Free), value) if key.len() > 1 => {
                    self.put(key.clone(), Leaf { value: plain(value), origin, raw: false })?;
                }
                (Some(_), value) => {
                    let leaf = Leaf { value: plain(value), origin, raw: false };
                    return Err(not_a_table(key, &leaf));
                }
            }
            key.pop();
        }
        Ok(())
    }

    /// Adds the variables `HPCDAG_SECTION__KEY`: lower case, with `-` for `_`. Empty ones count as unset.
    pub(super) fn add_variables(&mut self, schema: &Schema, sources: &Sources) -> Result<()> {
        for (variable, value) in &sources.variables {
            let Some(name) = variable.strip_prefix("HPCDAG_").filter(|name| name.contains("__")) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let key: Key = name.split("__").map(|part| part.to_ascii_lowercase().replace('_', "-")).collect();
            self.add_raw(schema, key, value, Origin::Variable(variable.clone()))?;
        }
        Ok(())
    }

    /// Adds what the command line sets.
    pub(super) fn add_overrides(&mut self, schema: &Schema, overrides: &[Override]) -> Result<()> {
        for set in overrides {
            let key = set.key.split('.').map(str::to_owned).collect();
            self.add_raw(schema, key, &set.value, Origin::Flag(set.flag.clone()))?;
        }
        Ok(())
    }

    fn add_raw(&mut self, schema: &Schema, key: Key, text: &str, origin: Origin) -> Result<()> {
        let leaf = Leaf { value: Value::String(text.to_owned()), origin, raw: true };
        match schema.find(&key) {
            None => Err(unknown(schema, &key, &leaf.origin)),
            Some(Place::Leaf) => self.put(key, leaf),
            Some(Place::Free) if key.len() > 1 => self.put(key, leaf),
            Some(Place::Names) => self.add_pairs(&key, text, &leaf.origin),
            Some(_) => Err(not_a_table(&key, &leaf)),
        }
    }

    fn add_pairs(&mut self, key: &[String], text: &str, origin: &Origin) -> Result<()> {
        for pair in text.split([',', ' ']).filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                let what = format!("{origin}: '{}': expected NAME=AMOUNT, found '{pair}'", dotted(key));
                return Err(Error::new(Kind::Config, what).hint("write for example gpus=4,licences=0.5"));
            };
            let leaf = Leaf { value: Value::String(value.to_owned()), origin: origin.clone(), raw: true };
            self.put(key.iter().cloned().chain([name.to_owned()]).collect(), leaf)?;
        }
        Ok(())
    }

    /// Takes out the names that a layer set to `false` to undo an earlier layer.
    pub(super) fn drop_removed(&mut self, schema: &Schema) {
        let tables: Vec<&Key> =
            schema.leaves().filter(|(_, place)| *place == Place::Names).map(|(k, _)| k).collect();
        let off = |leaf: &Leaf| leaf.readings().first() == Some(&Value::Boolean(false));
        self.leaves.retain(|key, leaf| !(off(leaf) && tables.iter().any(|table| key.starts_with(table))));
    }
}

/// A file that is being added.
struct Text<'a> {
    schema: &'a Schema,
    text: &'a str,
    path: Option<&'a Path>,
    /// Whether it is the site's.
    is_site: bool,
}

impl Text<'_> {
    fn origin(&self, offset: usize) -> Origin {
        self.path.map_or(Origin::Default, |path| Origin::File(path.to_owned(), position(self.text, offset).0))
    }
}

/// Line and column (in characters) of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn read(path: &Path) -> Result<Option<String>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(Error::new(
            Kind::Config,
            format!("cannot read the configuration {}: {error}", path.display()),
        )),
    }
}

fn unknown(schema: &Schema, key: &[String], origin: &Origin) -> Error {
    let error = Error::new(Kind::Config, format!("{origin}: there is no setting '{}'", dotted(key)));
    error.hint(schema.suggest(key).unwrap_or_else(|| "`hpcdag config show` lists all settings".into()))
}

fn not_a_table(key: &[String], leaf: &Leaf) -> Error {
    let what =
        format!("{}: '{}': expected a table of settings, found {}", leaf.origin, dotted(key), leaf.found());
    Error::new(Kind::Config, what)
}

/// The value without its places in the file. Numbers that TOML allows but 64 bits do not hold become text, so
/// that they are refused where they are used.
fn plain(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::String(number.to_string()), Value::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or_else(|_| Value::String(number.to_string()), Value::Float)
        }
        DeValue::Boolean(on) => Value::Boolean(*on),
        DeValue::Datetime(when) => Value::Datetime(*when),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Value::Table(table.iter().map(|(k, v)| (k.get_ref().to_string(), plain(v.get_ref()))).collect())
        }
    }
}
