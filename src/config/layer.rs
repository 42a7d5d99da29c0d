//! The layers of the configuration and how they are laid over each other.
//!
//! - Takes: a file, the environment, assignments of the command line. Gives: one merged tree that
//!   remembers which layer set which key.
//! - Bound: `limits::CONFIG_FILE_BYTES_MAX` bytes of file.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{ConfigError, DEFAULT_TOML};
use crate::limits;

/// Beginning of every environment variable that is read.
const ENV_PREFIX: &str = "HONGQIAO__";

/// Where configuration comes from, besides the built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `HONGQIAO__` are ignored.
    pub environment: Vec<(String, String)>,
    /// `--set section.key=value`, later ones win.
    pub assignments: Vec<String>,
}

impl Sources {
    /// Returns the sources of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, assignments: Vec<String>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, assignments }
    }
}

/// One layer: a tree and the name by which errors call it.
struct Layer {
    name: String,
    tree: toml::Table,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let dict = Value::serialize(&self.tree)?.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Lays all layers over each other, then `[limits]` under the limits of every listener.
pub(super) fn merge(sources: &Sources) -> Result<Figment, ConfigError> {
    let mut figment = Figment::new().merge(parse("the built-in defaults", DEFAULT_TOML)?);
    if let Some(path) = &sources.file {
        figment = figment.merge(parse(&path.display().to_string(), &read(path)?)?);
    }
    let mut environment: Vec<_> = sources
        .environment
        .iter()
        .filter_map(|(key, value)| Some((key, key.strip_prefix(ENV_PREFIX)?, value)))
        .collect();
    environment.sort();
    for (name, key, value) in environment {
        let key = key.to_ascii_lowercase().replace("__", ".");
        figment = figment.merge(assign(format!("environment variable {name}"), &key, value)?);
    }
    for assignment in &sources.assignments {
        let layer = format!("--set {assignment}");
        let Some((key, value)) = split_assignment(assignment) else {
            let problem = "expected section.key=value".to_owned();
            return Err(ConfigError::Syntax { layer, problem });
        };
        figment = figment.merge(assign(layer, key, value)?);
    }
    Ok(spread_limits(figment))
}

/// Splits at the first `=` that is not inside quotes, so that `apps."a#b=c".drop=newest` works.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '=' if !quoted => return Some((text[..at].trim(), text[at + 1..].trim())),
            _ => {}
        }
    }
    None
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |cause| ConfigError::Read { path: path.to_owned(), cause };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let read = file.take(limits::CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let bytes = read.map_err(failed)?;
    if u64::try_from(bytes).unwrap_or(u64::MAX) > limits::CONFIG_FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other("larger than 1 MiB")));
    }
    Ok(text)
}

fn parse(name: &str, text: &str) -> Result<Layer, ConfigError> {
    match text.parse() {
        Ok(tree) => Ok(Layer { name: name.to_owned(), tree }),
        Err(error) => {
            let error: toml::de::Error = error;
            Err(ConfigError::Syntax { layer: name.to_owned(), problem: error.to_string() })
        }
    }
}

/// Makes a layer of one key. A value that is no TOML is taken as text, so that quotes are optional.
fn assign(layer: String, key: &str, value: &str) -> Result<Layer, ConfigError> {
    let as_toml = |value: &str| format!("{key} = {value}").parse::<toml::Table>();
    // A newline could smuggle in a second key, or a table header.
    let tree = if value.contains('\n') { None } else { as_toml(value).ok() };
    let text = toml::Value::String(value.to_owned()).to_string();
    match tree.map_or_else(|| as_toml(&text), Ok) {
        Ok(tree) => Ok(Layer { name: layer, tree }),
        Err(error) => {
            Err(ConfigError::Syntax { layer, problem: error.message().trim().to_owned() })
        }
    }
}

/// Gives each listener the `[limits]` that it does not set itself.
fn spread_limits(figment: Figment) -> Figment {
    let dict_at = |key: &str| figment.find_value(key).ok().and_then(Value::into_dict);
    let (Some(limits), Some(listeners)) = (dict_at("limits"), dict_at("listeners")) else {
        // The wrong type at the top is reported by the extraction.
        return figment;
    };
    let tables = listeners.into_iter().filter(|(_, listener)| listener.as_dict().is_some());
    let spread: Dict = tables
        .map(|(name, _)| {
            (name, Value::from(Dict::from([("limits".to_owned(), limits.clone().into())])))
        })
        .collect();
    figment.join(Spread(Dict::from([("listeners".to_owned(), spread.into())])))
}

/// `[limits]`, once more, under each listener.
struct Spread(Dict);

impl Provider for Spread {
    fn metadata(&self) -> Metadata {
        Metadata::named("[limits]")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}
