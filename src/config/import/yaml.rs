//! YAML as a plain tree. Owns the border to the YAML library.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use toml::Value;

/// A value of a YAML file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The first document of a text; nothing at all is `Null`.
    ///
    /// # Errors
    /// What is wrong with it, with line and column.
    pub(super) fn parse(text: &str) -> Result<Node, String> {
        let documents = Yaml::load_from_str(text).map_err(|e| format!("not YAML: {e}"))?;
        Ok(documents.first().map_or(Node::Null, Node::of))
    }

    fn of(yaml: &Yaml) -> Node {
        match yaml {
            Yaml::Value(Scalar::Boolean(on)) => Node::Bool(*on),
            Yaml::Value(Scalar::Integer(n)) => Node::Int(*n),
            Yaml::Value(Scalar::FloatingPoint(x)) => Node::Float(x.into_inner()),
            Yaml::Value(Scalar::String(text)) => Node::Text(text.clone().into_owned()),
            Yaml::Representation(text, ..) => Node::Text(text.clone().into_owned()),
            Yaml::Sequence(items) => Node::List(items.iter().map(Node::of).collect()),
            Yaml::Mapping(entries) => {
                let entry = |(key, value)| Some((Node::of(key).text()?, Node::of(value)));
                Node::Map(entries.iter().filter_map(entry).collect())
            }
            Yaml::Tagged(_, inner) => Node::of(inner),
            Yaml::Value(Scalar::Null) | Yaml::Alias(_) | Yaml::BadValue => Node::Null,
        }
    }

    /// Whether it says nothing: `null`, `[]`, `{}`, `""`.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Node::Null => true,
            Node::Text(text) => text.is_empty(),
            Node::List(items) => items.is_empty(),
            Node::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// A single value as text; none for lists and mappings.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Node::Bool(on) => Some(on.to_string()),
            Node::Int(n) => Some(n.to_string()),
            Node::Float(x) => Some(x.to_string()),
            Node::Text(text) => Some(text.clone()),
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    /// The texts of a list, or the one text.
    pub(super) fn lines(&self) -> Option<Vec<String>> {
        match self {
            Node::List(items) => items.iter().map(Node::text).collect(),
            other => other.text().map(|text| vec![text]),
        }
    }

    /// The entry of a mapping.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let Node::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// The value in TOML; none where TOML has nothing like it.
    pub(super) fn to_toml(&self) -> Option<Value> {
        Some(match self {
            Node::Null => return None,
            Node::Bool(on) => Value::Boolean(*on),
            Node::Int(n) => Value::Integer(*n),
            Node::Float(x) => Value::Float(*x),
            Node::Text(text) => Value::String(text.clone()),
            Node::List(items) => items.iter().map(Node::to_toml).collect::<Option<Vec<_>>>()?.into(),
            Node::Map(_) => return None,
        })
    }

    /// The value as a message shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Node::List(_) => "a list".into(),
            Node::Map(_) => "a mapping".into(),
            other => other.text().unwrap_or_else(|| "null".into()),
        }
    }
}
