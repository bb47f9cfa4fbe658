//! The layers of the configuration, each value with the place that it came from.
//!
//! figment merges them and remembers the place; this file finds the keys that nothing knows and words the errors.

use std::path::Path;
use std::str::FromStr;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::check::{SECRET_KEYS, expectation};
use super::{Config, ConfigError, DEFAULTS, Flags, Setting, Sources};

/// What all variables of pinnace start with.
const VARIABLE_PREFIX: &str = "PINNACE_";

/// The variable that names the file.
const FILE_VARIABLE: &str = "PINNACE_CONFIG";

/// Characters of a value that an error shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Edits between an unknown key and a known one that still look like a slip.
const SLIP_EDITS_MAX: usize = 3;

/// All layers, merged.
pub(super) struct Layers {
    figment: Figment,
}

/// Values that came from one place.
struct Layer {
    origin: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layers {
    /// Reads and merges all layers; fails at the first key that the defaults don't have.
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let schema = schema()?;
        let mut layers = vec![Layer { origin: "the defaults".to_owned(), values: schema.clone() }];
        // An empty one names no file: that is how shells and unit files take a variable back.
        let mut environment = sources.environment.iter();
        let from_variable =
            environment.find(|(name, file)| name == FILE_VARIABLE && !file.is_empty()).map(|(_, file)| file);
        if let Some(path) = sources.file.as_deref().or(from_variable.map(Path::new)) {
            layers.push(file_layer(path)?);
        }
        layers.extend(variable_layers(sources, &schema)?);
        layers.extend(flag_layers(&sources.flags)?);

        let mut figment = Figment::new();
        for layer in layers {
            check_keys(&layer.origin, "", &layer.values, &schema)?;
            figment = figment.merge(layer);
        }
        Ok(Self { figment })
    }

    /// The configuration that the layers make together.
    pub(super) fn extract(&self) -> Result<Config, ConfigError> {
        self.figment.extract().map_err(|error: figment::Error| {
            // Positions in a list follow the key.
            let key = error.path.iter().take_while(|part| part.parse::<usize>().is_err()).cloned().collect::<Vec<_>>();
            let key = key.join(".");
            let expected = match (expectation(&key), &error.kind) {
                (Some(expected), figment::error::Kind::Message(reason)) if !SECRET_KEYS.contains(&key.as_str()) => {
                    format!("{expected} ({reason})")
                }
                (Some(expected), _) => expected.to_owned(),
                (None, kind) => kind.to_string(),
            };
            self.bad_value(&key, &expected)
        })
    }

    /// Every key with its value and the place that it came from, in the order of the defaults' sections.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let keys = schema().map(|schema| known_keys(&schema)).unwrap_or_default();
        let setting = |(key, default): (String, Value)| {
            let value = self.figment.find_value(&key).unwrap_or(default);
            let value = match value.as_str() {
                Some(text) if SECRET_KEYS.contains(&key.as_str()) && !text.is_empty() => "(hidden)".into(),
                _ => serde_json::to_value(&value).unwrap_or_default(),
            };
            let origin = self.figment.find_metadata(&key).map_or_else(String::new, |from| from.name.to_string());
            Setting { key, value, origin }
        };
        keys.into_iter().map(setting).collect()
    }

    /// The error for a value, with the place that it came from.
    pub(super) fn bad_value(&self, key: &str, expected: &str) -> ConfigError {
        let found = self.figment.find_value(key).ok();
        ConfigError::BadValue {
            origin: self.figment.find_metadata(key).map_or_else(String::new, |metadata| metadata.name.to_string()),
            key: key.to_owned(),
            found: found.map_or_else(|| "nothing".to_owned(), |value| show(key, &value)),
            expected: expected.to_owned(),
        }
    }
}

/// The defaults, which have every key there is.
fn schema() -> Result<Dict, ConfigError> {
    parse(Path::new("config/default.toml"), DEFAULTS)
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    Ok(Layer { origin: format!("file {}", path.display()), values: parse(path, &text)? })
}

fn parse(path: &Path, text: &str) -> Result<Dict, ConfigError> {
    Toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            reason: error.message().lines().collect::<Vec<_>>().join(", "),
        }
    })
}

/// One layer for each variable, so that errors name it.
fn variable_layers(sources: &Sources, schema: &Dict) -> Result<Vec<Layer>, ConfigError> {
    let known = known_keys(schema);
    let mut layers = Vec::new();
    for (name, value) in &sources.environment {
        let name = name.to_string_lossy();
        if !name.starts_with(VARIABLE_PREFIX) || name == FILE_VARIABLE {
            continue;
        }
        let origin = format!("variable {name}");
        let Some((key, default)) = known.iter().find(|(key, _)| variable_of(key) == name) else {
            let key = name.trim_start_matches(VARIABLE_PREFIX).to_lowercase().replace("__", ".");
            let nearest = nearest(&key, schema).map(|key| variable_of(&key));
            return Err(ConfigError::UnknownKey { origin, key, nearest });
        };
        let Some(text) = value.to_str() else {
            let expected = "UTF-8 text".to_owned();
            return Err(ConfigError::BadValue { origin, key: key.clone(), found: "other bytes".to_owned(), expected });
        };
        layers.push(Layer { origin, values: at(key, value_like(default, text)) });
    }
    Ok(layers)
}

fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Reads a variable as the kind of value that the default is: a password of digits stays text.
fn value_like(default: &Value, text: &str) -> Value {
    match default {
        Value::String(..) => Value::from(text),
        Value::Array(..) if !text.trim_start().starts_with('[') => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>().into()
        }
        _ => Value::from_str(text).unwrap_or_else(|never| match never {}),
    }
}

/// One layer for each flag, so that errors name it.
fn flag_layers(flags: &Flags) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::new();
    let mut push = |flag: &str, key: &str, value: Value| {
        layers.push(Layer { origin: format!("flag {flag}"), values: at(key, value) });
    };
    if let Some(directory) = &flags.data {
        let Some(text) = directory.to_str() else {
            return Err(ConfigError::BadValue {
                origin: "flag --data".to_owned(),
                key: "data".to_owned(),
                found: format!("\"{}\"", directory.display()),
                expected: "a path in UTF-8".to_owned(),
            });
        };
        push("--data", "data", Value::from(text));
    }
    if let Some(listen) = &flags.http {
        push("--http", "http.listen", Value::from(listen.as_str()));
    }
    if !flags.listen.is_empty() {
        push("--listen", "network.listen", flags.listen.clone().into());
    }
    if !flags.external.is_empty() {
        push("--external", "network.external", flags.external.clone().into());
    }
    if let Some(format) = &flags.log_format {
        push("--log-format", "log.format", Value::from(format.as_str()));
    }
    if flags.lan {
        push("--lan", "network.profile", Value::from("lan"));
    }
    Ok(layers)
}

/// A dictionary that has only this key, which may be inside a section.
fn at(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        None => Dict::from([(key.to_owned(), value)]),
        Some((section, rest)) => Dict::from([(section.to_owned(), Value::from(at(rest, value)))]),
    }
}

/// Fails at the first key that the defaults don't have, and at a section that is none.
fn check_keys(origin: &str, section: &str, values: &Dict, known: &Dict) -> Result<(), ConfigError> {
    for (name, value) in values {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match (known.get(name), value) {
            (Some(Value::Dict(_, known)), Value::Dict(_, values)) => check_keys(origin, &key, values, known)?,
            (Some(Value::Dict(..)), value) => {
                return Err(ConfigError::BadValue {
                    origin: origin.to_owned(),
                    found: show(&key, value),
                    expected: format!("a section [{key}]"),
                    key,
                });
            }
            (Some(_), _) => {}
            (None, _) => {
                let nearest = nearest(&key, &schema()?);
                return Err(ConfigError::UnknownKey { origin: origin.to_owned(), key, nearest });
            }
        }
    }
    Ok(())
}

/// Every key with its section, and its default.
pub(super) fn known_keys(schema: &Dict) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    for (name, value) in schema {
        match value {
            Value::Dict(_, section) => {
                keys.extend(section.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())));
            }
            value => keys.push((name.clone(), value.clone())),
        }
    }
    keys
}

/// The known key that was probably meant: a slip of the pen, or the right name in the wrong section.
fn nearest(key: &str, schema: &Dict) -> Option<String> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let keys = known_keys(schema);
    let by_slip = keys
        .iter()
        .map(|(known, _)| (edits(key, known), known))
        .filter(|(edits, known)| *edits <= SLIP_EDITS_MAX.min(known.len() / 2))
        .min_by_key(|(edits, _)| *edits);
    by_slip
        .map(|(_, known)| known)
        .or_else(|| keys.iter().map(|(known, _)| known).find(|known| name(known) == name(key)))
        .cloned()
}

/// The Levenshtein distance: how many characters have to be put in, taken out or changed.
fn edits(from: &str, to: &str) -> usize {
    let to = to.chars().collect::<Vec<_>>();
    let mut row = (0..=to.len()).collect::<Vec<_>>();
    for (index, left) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, right) in to.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// A value as an error shows it.
fn show(key: &str, value: &Value) -> String {
    if SECRET_KEYS.contains(&key) {
        return "a value that is not shown".to_owned();
    }
    let text = match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(|item| show("", item)).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(..) => "a section".to_owned(),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => number
            .to_u128()
            .map(|number| number.to_string())
            .or_else(|| number.to_i128().map(|number| number.to_string()))
            .or_else(|| number.to_f64().map(|number| number.to_string()))
            .unwrap_or_default(),
        Value::Char(_, value) => format!("{value:?}"),
        Value::Empty(..) => "nothing".to_owned(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("listen", "lisen", 1),
            ("http_listen", "http.listen", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(from, to), expected, "{from} {to}");
            assert_eq!(edits(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn every_key_has_an_expectation_and_no_expectation_lacks_its_key() {
        let keys = known_keys(&schema().unwrap());
        for (key, _) in &keys {
            assert!(expectation(key).is_some(), "{key} has no expectation");
        }
        for (key, _) in super::super::check::EXPECTATIONS {
            assert!(keys.iter().any(|(known, _)| known == key), "{key} is no key");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let shown = show("data", &Value::from("ä".repeat(1000)));
        assert_eq!(shown.chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
