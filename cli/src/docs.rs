//! Hints from COMMAND DOCS: what arguments a command takes.

use proto::resp::Value;
use std::collections::BTreeMap;

/// Synopsis and summary of one command.
#[derive(Clone, Default, Debug)]
pub struct Doc {
    /// What follows the name, one element per argument.
    pub args: Vec<String>,
    pub summary: String,
}

/// By name in upper case, subcommands behind a space.
#[derive(Default)]
pub struct Docs {
    commands: BTreeMap<String, Doc>,
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Map(pairs) => pairs.iter().find(|(k, _)| k.as_text() == Some(name)).map(|(_, v)| v),
        // RESP2: a flat list.
        Value::Array(list) => list.chunks_exact(2).find(|c| c[0].as_text() == Some(name)).map(|c| &c[1]),
        _ => None,
    }
}

fn entries(value: &Value) -> Vec<(&Value, &Value)> {
    match value {
        Value::Map(pairs) => pairs.iter().map(|(k, v)| (k, v)).collect(),
        Value::Array(list) => list.chunks_exact(2).map(|c| (&c[0], &c[1])).collect(),
        _ => Vec::new(),
    }
}

fn has_flag(arg: &Value, flag: &str) -> bool {
    field(arg, "flags").and_then(|f| f.as_list()).is_some_and(|l| l.iter().any(|v| v.as_text() == Some(flag)))
}

impl Docs {
    /// Reads the reply of COMMAND DOCS in either protocol.
    pub fn parse(reply: &Value) -> Docs {
        let mut docs = Docs::default();
        for (name, doc) in entries(reply) {
            docs.add(name.as_text().unwrap_or_default(), doc);
        }
        docs
    }

    fn add(&mut self, name: &str, doc: &Value) {
        let args = field(doc, "arguments").and_then(|a| a.as_list()).unwrap_or_default();
        let entry = Doc {
            args: args.iter().map(synopsis).collect(),
            summary: field(doc, "summary").and_then(|s| s.as_text()).unwrap_or_default().to_string(),
        };
        self.commands.insert(name.replace('|', " ").to_uppercase(), entry);
        for (sub, doc) in field(doc, "subcommands").map(entries).unwrap_or_default() {
            self.add(sub.as_text().unwrap_or_default(), doc);
        }
    }

    /// The command that a line begins with: its name as a number of words, and its doc.
    pub fn find(&self, words: &[&str]) -> Option<(usize, &Doc)> {
        let name = |n: usize| words[..n].join(" ").to_uppercase();
        (1..=words.len().min(2)).rev().find_map(|n| self.commands.get(&name(n)).map(|doc| (n, doc)))
    }

    /// Names that begin with `prefix`, in any case.
    pub fn complete(&self, prefix: &str) -> Vec<&str> {
        let prefix = prefix.to_uppercase();
        self.commands.keys().filter(|n| n.starts_with(&prefix)).map(String::as_str).collect()
    }

    /// What is still to be typed after a line.
    pub fn hint(&self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (used, doc) = self.find(&words)?;
        let done = words.len() - used;
        let rest: Vec<&str> = doc.args.iter().skip(done).map(String::as_str).collect();
        if rest.is_empty() {
            return None;
        }
        let gap = if line.ends_with(' ') { "" } else { " " };
        Some(format!("{gap}{}", rest.join(" ")))
    }
}

fn synopsis(arg: &Value) -> String {
    let text = |name| field(arg, name).and_then(|v| v.as_text()).unwrap_or_default();
    let children: Vec<String> =
        field(arg, "arguments").and_then(|a| a.as_list()).unwrap_or_default().iter().map(synopsis).collect();
    let inner = match text("type") {
        "pure-token" => String::new(),
        "oneof" => children.join("|"),
        "block" => children.join(" "),
        _ if text("display_text").is_empty() => text("name").to_string(),
        _ => text("display_text").to_string(),
    };
    let token = text("token");
    let mut out = match (token.is_empty(), inner.is_empty()) {
        (true, _) => inner.clone(),
        (false, true) => token.to_string(),
        (false, false) => format!("{token} {inner}"),
    };
    if has_flag(arg, "multiple") {
        let again = if has_flag(arg, "multiple_token") { out.clone() } else { inner };
        out = format!("{out} [{again} ...]");
    }
    match (has_flag(arg, "optional"), text("type")) {
        (true, _) => format!("[{out}]"),
        (false, "oneof") => format!("<{out}>"),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }
    fn arg(name: &str, flags: &[&str]) -> Value {
        Value::Map(vec![
            (bulk("name"), bulk(name)),
            (bulk("type"), bulk("string")),
            (bulk("flags"), Value::Set(flags.iter().map(|f| Value::Simple(f.to_string())).collect())),
        ])
    }

    #[test]
    fn a_hint_is_what_is_left_to_type() {
        let doc = Value::Map(vec![
            (bulk("summary"), bulk("Deletes.")),
            (bulk("arguments"), Value::Array(vec![arg("key", &[]), arg("value", &["optional", "multiple"])])),
        ]);
        let docs = Docs::parse(&Value::Map(vec![(bulk("thing"), doc)]));
        assert_eq!(docs.hint("thing").as_deref(), Some(" key [value [value ...]]"));
        assert_eq!(docs.hint("thing ").as_deref(), Some("key [value [value ...]]"));
        assert_eq!(docs.hint("THING a ").as_deref(), Some("[value [value ...]]"));
        assert_eq!(docs.hint("other"), None);
        assert_eq!(docs.complete("th"), ["THING"]);
    }
}
