//! What a command may look like, read from COMMAND DOCS and COMMAND.

use crate::{Client, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A command or subcommand that both servers have.
#[derive(Clone, Debug)]
pub struct Grammar {
    /// Words that begin it: the name, and the subcommand's if it is one.
    pub words: Vec<String>,
    pub group: String,
    /// The version that it came with.
    pub since: String,
    pub args: Vec<Arg>,
    pub tips: BTreeSet<String>,
    pub is_write: bool,
    pub is_noscript: bool,
}

impl Grammar {
    pub fn name(&self) -> String {
        self.words.join("|")
    }
    pub fn has_tip(&self, tip: &str) -> bool {
        self.tips.contains(tip)
    }
}

fn number(version: &str) -> Vec<u32> {
    version.split('.').map(|n| n.parse().unwrap_or(0)).collect()
}

/// Whether a version comes after another.
pub fn is_newer(version: &str, than: &str) -> bool {
    number(version) > number(than)
}

/// Leaves out arguments that came with a version after this one.
pub fn drop_newer(args: &mut Vec<Arg>, version: &str) {
    args.retain(|arg| arg.since.as_ref().is_none_or(|since| number(since) <= number(version)));
    args.iter_mut().for_each(|arg| drop_newer(&mut arg.children, version));
}

/// An argument as COMMAND DOCS describes it.
#[derive(Clone, Debug, Default)]
pub struct Arg {
    pub name: String,
    pub kind: String,
    pub since: Option<String>,
    pub token: Option<String>,
    pub is_optional: bool,
    pub is_multiple: bool,
    pub is_multiple_token: bool,
    pub children: Vec<Arg>,
}

/// All commands and subcommands of a server, by their names joined with `|`.
pub fn read(client: &mut Client) -> BTreeMap<String, Grammar> {
    let facts = facts(&client.ok("COMMAND"));
    let mut found = BTreeMap::new();
    for (name, doc) in pairs(&client.ok("COMMAND DOCS")) {
        add(&name, doc, &facts, &mut found);
    }
    found
}

fn add(name: &str, doc: &Value, facts: &BTreeMap<String, Facts>, found: &mut BTreeMap<String, Grammar>) {
    let fields: BTreeMap<String, &Value> = pairs(doc).into_iter().collect();
    if let Some(subcommands) = fields.get("subcommands") {
        pairs(subcommands).into_iter().for_each(|(name, doc)| add(&name, doc, facts, found));
        return;
    }
    let Some(facts) = facts.get(name) else { return };
    let grammar = Grammar {
        words: name.split('|').map(str::to_string).collect(),
        group: fields.get("group").and_then(|g| g.as_text()).unwrap_or_default().to_string(),
        since: fields.get("since").and_then(|s| s.as_text()).unwrap_or_default().to_string(),
        args: fields.get("arguments").map_or(Vec::new(), |args| list(args).iter().map(arg).collect()),
        tips: facts.tips.clone(),
        is_write: facts.flags.contains("write"),
        is_noscript: facts.flags.contains("noscript"),
    };
    found.insert(name.to_string(), grammar);
}

struct Facts {
    flags: BTreeSet<String>,
    tips: BTreeSet<String>,
}

fn facts(commands: &Value) -> BTreeMap<String, Facts> {
    let mut found = BTreeMap::new();
    let mut left: Vec<&Value> = list(commands).iter().collect();
    while let Some(command) = left.pop() {
        let fields = list(command);
        let Some(name) = fields.first().and_then(Value::as_text) else { continue };
        let words = |i: usize| -> BTreeSet<String> {
            fields
                .get(i)
                .map_or(&[][..], list)
                .iter()
                .filter_map(|v| v.as_text().map(str::to_string))
                .collect()
        };
        found.insert(name.to_string(), Facts { flags: words(2), tips: words(7) });
        left.extend(fields.get(9).map_or(&[][..], list));
    }
    found
}

fn arg(value: &Value) -> Arg {
    let mut arg = Arg::default();
    for (field, value) in pairs(value) {
        match field.as_str() {
            "name" => arg.name = value.as_text().unwrap_or_default().to_string(),
            "type" => arg.kind = value.as_text().unwrap_or_default().to_string(),
            "since" => arg.since = value.as_text().map(str::to_string),
            "token" => arg.token = value.as_text().map(str::to_string),
            "arguments" => arg.children = list(value).iter().map(self::arg).collect(),
            "flags" => {
                let has = |flag: &str| list(value).iter().any(|f| f.as_text() == Some(flag));
                arg.is_optional = has("optional");
                arg.is_multiple = has("multiple");
                arg.is_multiple_token = has("multiple_token");
            }
            _ => {}
        }
    }
    arg
}

fn list(value: &Value) -> &[Value] {
    value.as_list().unwrap_or(&[])
}

/// Names and values of a map, of either protocol.
fn pairs(value: &Value) -> Vec<(String, &Value)> {
    let text = |v: &Value| v.as_text().unwrap_or_default().to_string();
    match value {
        Value::Map(pairs) => pairs.iter().map(|(k, v)| (text(k), v)).collect(),
        other => list(other).chunks_exact(2).map(|pair| (text(&pair[0]), &pair[1])).collect(),
    }
}
