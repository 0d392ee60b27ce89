//! Printing the settings in effect, as TOML that can be read again and as JSON. Owns the two forms.

use super::Loaded;
use super::layers::{Key, Leaf, Origin, dotted};
use super::schema::{Place, Schema};
use serde_json::json;

impl Loaded {
    /// Every setting in effect: its dotted key, its value as written, and its origin; in the order of the
    /// defaults' file.
    pub fn origins(&self) -> Vec<(String, toml::Value, Origin)> {
        let row = |(key, leaf): (Key, &Leaf)| (dotted(&key), leaf.value.clone(), leaf.origin.clone());
        self.rows().into_iter().map(row).collect()
    }

    /// The settings as TOML, with a comment that says where each value came from if that is wanted.
    pub fn render(&self, with_origin: bool) -> String {
        let rows = self.rows();
        let line = |key: &Key, leaf: &Leaf| format!("{} = {}", dotted(&key[key.len() - 1..]), leaf.value);
        let widths = rows.iter().map(|(key, leaf)| line(key, leaf).chars().count());
        // A few long values would push all comments to the right.
        let width = widths.filter(|width| *width <= 50).max().unwrap_or(0);
        let mut text = String::new();
        let mut table: &[String] = &[];
        for (key, leaf) in &rows {
            let above = &key[..key.len() - 1];
            if above != table {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{}]\n", dotted(above)));
                table = above;
            }
            let line = line(key, leaf);
            match with_origin {
                true => {
                    let locked = self.locked(key);
                    text.push_str(&format!("{line:width$}  # {}{locked}\n", leaf.origin));
                }
                false => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }

    /// The settings as one JSON object by dotted key; each value alone or as `{"value": …, "origin": …}`.
    pub fn to_json(&self, with_origin: bool) -> serde_json::Value {
        let entry = |(key, value, origin): (String, toml::Value, Origin)| {
            let value = json_value(&value);
            match with_origin {
                true => {
                    let mut entry = json!({ "value": value, "origin": origin.to_string() });
                    if let Some(by) = self.locked_by(&key) {
                        entry["locked"] = json!(by.to_string());
                    }
                    (key, entry)
                }
                false => (key, value),
            }
        };
        self.origins().into_iter().map(entry).collect::<serde_json::Map<_, _>>().into()
    }

    /// Who has locked a setting: only the site's file can, and says so here.
    pub fn locked_by(&self, key: &str) -> Option<&Origin> {
        let key: Key = key.split('.').map(str::to_owned).collect();
        self.layers.locked_by(&key)
    }

    /// What a comment says about a lock.
    fn locked(&self, key: &[String]) -> String {
        self.layers.locked_by(key).map_or_else(String::new, |by| format!(", locked by {by}"))
    }

    fn rows(&self) -> Vec<(Key, &Leaf)> {
        let schema = Schema::new();
        let expand = |(key, place): (&Key, Place)| match place {
            Place::Names | Place::Free => {
                let mut below = self.layers.below(key);
                // The values of a table stand together: TOML takes the head of a table only once.
                below.sort_by(|a, b| a[..a.len() - 1].cmp(&b[..b.len() - 1]).then(a.cmp(b)));
                below
            }
            _ => vec![key.clone()],
        };
        let keys: Vec<Key> = schema.leaves().flat_map(expand).collect();
        keys.into_iter().filter_map(|key| self.layers.leaf(&key).map(|leaf| (key, leaf))).collect()
    }
}

fn json_value(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(n) => json!(n),
        // JSON has no infinity; its text is what the setting reads again.
        toml::Value::Float(x) if !x.is_finite() => json!(x.to_string()),
        toml::Value::Float(x) => json!(x),
        toml::Value::Boolean(on) => json!(on),
        toml::Value::Datetime(when) => json!(when.to_string()),
        toml::Value::Array(items) => items.iter().map(json_value).collect(),
        toml::Value::Table(table) => table.iter().map(|(k, v)| (k.clone(), json_value(v))).collect(),
    }
}
