//! Why a configuration is refused, in words an operator can act on.
//!
//! - Owns: [`ConfigError`]. Takes: errors of the layers. Gives: key, layer, and the nearest known
//!   name for a key that does not exist.

use std::path::PathBuf;

use figment::{Figment, error::Kind};

/// Why the configuration cannot be used. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A layer is no TOML, or an assignment is no `section.key=value`.
    #[error("{layer} cannot be parsed: {problem}")]
    Syntax {
        /// Which layer.
        layer: String,
        /// What the parser says.
        problem: String,
    },
    /// The key does not exist.
    #[error("unknown key `{key}` in {layer}{}", hint(nearest.as_deref()))]
    UnknownKey {
        /// Full path of the key.
        key: String,
        /// Which layer.
        layer: String,
        /// The known key with the most similar name.
        nearest: Option<String>,
    },
    /// The value has the wrong type, or breaks a rule.
    #[error("`{key}`{}: {problem}", from_layer(layer.as_deref()))]
    Invalid {
        /// Full path of the key.
        key: String,
        /// Which layer set it, where one alone is to blame.
        layer: Option<String>,
        /// What is wrong and what would be right.
        problem: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn from_layer(layer: Option<&str>) -> String {
    layer.map_or_else(String::new, |layer| format!(" in {layer}"))
}

impl ConfigError {
    pub(super) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), layer: None, problem: problem.into() }
    }

    /// Translates an error of the merged layers; `figment` knows which layer set which key.
    pub(super) fn from_figment(error: &figment::Error, figment: &Figment) -> Self {
        let parent = error.path.join(".");
        let layer_of = |key: &str| figment.find_metadata(key).map(|data| data.name.to_string());
        match &error.kind {
            Kind::UnknownField(field, known) => {
                // serde tells the field apart from its path in some containers and not in others.
                let parent = match error.path.split_last() {
                    Some((last, rest)) if last == field => rest.join("."),
                    _ => parent,
                };
                let key = join(&parent, field);
                let layer = layer_of(&key).unwrap_or_else(|| "the configuration".to_owned());
                let nearest = nearest(field, known).map(|name| join(&parent, name));
                Self::UnknownKey { key, layer, nearest }
            }
            Kind::MissingField(field) => Self::Invalid {
                key: join(&parent, field),
                layer: None,
                problem: "must be set".to_owned(),
            },
            Kind::UnknownVariant(value, known) => Self::Invalid {
                layer: layer_of(&parent),
                key: parent,
                problem: format!("{value:?} is none of {}", known.join(", ")),
            },
            kind => {
                Self::Invalid { layer: layer_of(&parent), key: parent, problem: kind.to_string() }
            }
        }
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// Finds the known name that is most like `wrong`, if one is like it at all.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    const SIMILAR_MIN: f64 = 0.6;
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), *name))
        .filter(|(similarity, _)| *similarity >= SIMILAR_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
