//! Configuration: a table of directives, each declared once, and the values that are in force.
//!
//! CONFIG GET, SET and REWRITE, the command line, configuration files and their errors derive from the table.

mod directives;
mod file;
mod settings;
mod value;

pub use directives::DIRECTIVES;
pub use file::{FileError, load_args, rewrite};
pub use settings::{Durability, Fsync, NodeSettings, OutputLimit};
pub use value::{Kind, parse_memory};

use engine::glob;
use std::collections::BTreeMap;

/// Declaration of a directive.
pub struct Directive {
    /// As in redis.conf; lower case.
    pub name: &'static str,
    pub alias: Option<&'static str>,
    pub kind: Kind,
    /// Canonical text.
    pub default: &'static str,
    pub change: Change,
    /// CONFIG GET shows it only to who asks for it by name.
    pub is_hidden: bool,
    /// CONFIG SET obeys `enable-protected-configs`: it says where files are written.
    pub is_protected: bool,
    /// CONFIG SET refuses it while data are loaded.
    pub is_for_loaded: bool,
    pub doc: &'static str,
}

/// When a directive may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    AtStart,
    /// As `AtStart`, and CONFIG SET may repeat what it is: those of Shoal alone, which Redis's tools do not know to leave
    /// out when they set what CONFIG GET gave them.
    Repeatable,
    Any,
}

/// The values in force, as canonical texts.
#[derive(Clone)]
pub struct Config {
    values: BTreeMap<&'static str, String>,
    /// Users as they stood in the file: name and rules.
    pub users: Vec<Vec<String>>,
    /// Commands that clients call otherwise: what they are declared as and the new name, which may be empty.
    pub renames: Vec<[String; 2]>,
    /// File that CONFIG REWRITE changes.
    pub path: Option<String>,
}

/// Why a directive was not set. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetError {
    Unknown,
    Immutable,
    Invalid(String),
}

impl Default for Config {
    fn default() -> Config {
        Config {
            values: DIRECTIVES.iter().map(|d| (d.name, d.default.to_string())).collect(),
            users: Vec::new(),
            renames: Vec::new(),
            path: None,
        }
    }
}

impl Config {
    pub fn directive(name: &str) -> Option<&'static Directive> {
        let lower = name.to_ascii_lowercase();
        DIRECTIVES.iter().find(|d| d.name == lower || d.alias == Some(lower.as_str()))
    }

    /// The canonical text of a directive. Panics for a name that is not declared: a programmer's error.
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("{name} is not a directive"))
    }
    pub fn is_default(&self, directive: &Directive) -> bool {
        self.get(directive.name) == directive.default
    }

    /// Names and values that match one of the patterns, aliases under their own name, in order of name.
    pub fn matching(&self, patterns: &[&[u8]]) -> BTreeMap<&'static str, &str> {
        let mut found = BTreeMap::new();
        for directive in DIRECTIVES {
            for name in std::iter::once(directive.name).chain(directive.alias) {
                let is_asked = |p: &&[u8]| match directive.is_hidden {
                    true => p.eq_ignore_ascii_case(name.as_bytes()),
                    false => glob::matches(p, name.as_bytes(), true),
                };
                if patterns.iter().any(is_asked) {
                    found.insert(name, self.get(directive.name));
                }
            }
        }
        found
    }

    /// Empties an accumulating directive, before it is set anew.
    pub fn clear(&mut self, name: &'static str) {
        self.values.insert(name, String::new());
    }

    /// As CONFIG SET does with one pair; what accumulates begins anew. `Err`: the whole text of the refusal.
    pub fn reset_and_set(&mut self, name: &str, words: &[String]) -> Result<(), String> {
        let failed = |reason: &str| {
            let shown = name.to_lowercase();
            Err(format!("ERR CONFIG SET failed (possibly related to argument '{shown}') - {reason}"))
        };
        if let Some(directive) = Config::directive(name)
            && matches!(directive.kind, Kind::Save)
        {
            self.clear(directive.name);
        }
        match self.set(name, words, false) {
            Ok(()) => Ok(()),
            Err(SetError::Immutable) => failed("can't set immutable config"),
            Err(SetError::Invalid(reason)) => failed(&reason),
            Err(SetError::Unknown) => {
                Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
            }
        }
    }

    /// Sets a directive from its words, as they stand in a file or in CONFIG SET.
    pub fn set(&mut self, name: &str, words: &[String], at_start: bool) -> Result<(), SetError> {
        let directive = Config::directive(name).ok_or(SetError::Unknown)?;
        if directive.change == Change::AtStart && !at_start {
            return Err(SetError::Immutable);
        }
        let old = self.get(directive.name);
        let text = directive.kind.canonical(words, old).map_err(SetError::Invalid)?;
        if directive.change == Change::Repeatable && !at_start && text != old {
            return Err(SetError::Immutable);
        }
        self.values.insert(directive.name, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(config: &mut Config, name: &str, words: &[&str]) -> Result<(), SetError> {
        config.set(name, &words.iter().map(|w| w.to_string()).collect::<Vec<_>>(), false)
    }

    #[test]
    fn names_are_unique_and_defaults_canonical() {
        let mut names = std::collections::BTreeSet::new();
        for d in DIRECTIVES {
            assert!(names.insert(d.name), "{} is declared twice", d.name);
            assert!(d.alias.is_none_or(|a| names.insert(a)), "alias of {} is taken", d.name);
            assert!(!d.doc.is_empty(), "{} has no doc", d.name);
            let words = match d.kind {
                Kind::Text | Kind::Title | Kind::Secret => vec![d.default.to_string()],
                _ => engine_words(d.default),
            };
            let fresh = if d.kind.is_accumulating() { "" } else { d.default };
            assert_eq!(d.kind.canonical(&words, fresh).as_deref(), Ok(d.default), "{}", d.name);
        }
    }

    fn engine_words(text: &str) -> Vec<String> {
        if text.is_empty() { vec![String::new()] } else { text.split(' ').map(String::from).collect() }
    }

    #[test]
    fn values_are_checked() {
        let mut config = Config::default();
        assert_eq!(set(&mut config, "maxmemory", &["10mb"]), Ok(()));
        assert_eq!(config.get("maxmemory"), "10485760");
        assert!(matches!(set(&mut config, "maxmemory", &["10xb"]), Err(SetError::Invalid(_))));
        assert!(matches!(set(&mut config, "appendfsync", &["maybe"]), Err(SetError::Invalid(_))));
        assert_eq!(set(&mut config, "nonsense", &["1"]), Err(SetError::Unknown));
        assert_eq!(set(&mut config, "databases", &["3"]), Err(SetError::Immutable));
        assert_eq!(set(&mut config, "workers", &["0"]), Ok(()));
        assert_eq!(set(&mut config, "workers", &["3"]), Err(SetError::Immutable));
        assert_eq!(set(&mut config, "slave-read-only", &["no"]), Ok(()));
        assert_eq!(config.get("replica-read-only"), "no");
    }

    #[test]
    fn settings_follow() {
        let mut config = Config::default();
        set(&mut config, "maxmemory-policy", &["allkeys-lru"]).unwrap();
        config.clear("save");
        set(&mut config, "save", &["60 100"]).unwrap();
        let settings = NodeSettings::from(&config);
        assert_eq!(settings.engine.maxmemory_policy, engine::settings::EvictionPolicy::AllKeysLru);
        assert_eq!(settings.save, [(60, 100)]);
    }
}
