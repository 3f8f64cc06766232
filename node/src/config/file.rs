//! Configuration files and command lines: `name word...`, with quotes as in the inline protocol; and CONFIG REWRITE,
//! which keeps comments and order.

use super::{Config, DIRECTIVES, SetError};
use proto::resp::split_inline;
use std::collections::BTreeSet;
use std::fmt;

/// Where a configuration is wrong, and why.
#[derive(Debug)]
pub struct FileError {
    /// 1 for the first.
    pub line: usize,
    pub text: String,
    pub reason: String,
}

impl fmt::Display for FileError {
    /// As Redis prints it to the standard error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***")?;
        writeln!(f, "Reading the configuration file, at line {}", self.line)?;
        writeln!(f, ">>> '{}'", self.text)?;
        write!(f, "{}", self.reason)
    }
}

/// Reads what the process was started with: a file's path or `-` for `stdin` first, then `--name word...`.
/// `read` gives a file's text.
pub fn load_args(
    args: &[String],
    read: &dyn Fn(&str) -> std::io::Result<String>,
    stdin: &mut dyn FnMut() -> std::io::Result<String>,
) -> Result<Config, FileError> {
    let mut config = Config::default();
    let mut text = String::new();
    let mut args = args.iter().peekable();
    if let Some(path) = args.next_if(|a| !a.starts_with('-')) {
        let fail = |e: std::io::Error| FileError {
            line: 0,
            text: path.clone(),
            reason: format!("Fatal error, can't open config file '{path}': {e}"),
        };
        text.push_str(&read(path).map_err(fail)?);
        config.path = Some(absolute(path));
    }
    let mut words: Vec<&str> = Vec::new();
    for arg in args {
        words.push(arg);
    }
    let mut options = String::new();
    if words.last() == Some(&"-") {
        words.pop();
        let fail = |e: std::io::Error| FileError { line: 0, text: "-".into(), reason: e.to_string() };
        text.push('\n');
        text.push_str(&stdin().map_err(fail)?);
    }
    push_options(&mut options, &words);
    text.push('\n');
    text.push_str(&options);
    load_text(&mut config, &text, read, 0)?;
    Ok(config)
}

/// The lines that the arguments of a command line stand for. As in Redis the argument after a name is its value even if it
/// begins with dashes; name and value may be one argument; and `--save` without a value clears.
fn push_options(text: &mut String, args: &[&str]) {
    // The name before has its value, or needs none.
    let mut is_complete = true;
    for (i, arg) in args.iter().enumerate() {
        let Some(name) = arg.strip_prefix("--").filter(|_| is_complete) else {
            text.push_str(&format!("{} ", in_quotes(arg)));
            is_complete = true;
            continue;
        };
        text.push_str(&format!("\n{name} "));
        is_complete = split_inline(arg.as_bytes()).is_none_or(|words| words.len() != 1);
        let next = args.get(i + 1);
        if name.eq_ignore_ascii_case("save") && next.is_none_or(|next| next.starts_with("--")) {
            text.push_str("\"\"");
            is_complete = true;
        }
    }
}

fn absolute(path: &str) -> String {
    std::path::absolute(path).map(|p| p.to_string_lossy().into_owned()).unwrap_or_else(|_| path.to_string())
}

const INCLUDES_MAX: usize = 16;

fn load_text(
    config: &mut Config,
    text: &str,
    read: &dyn Fn(&str) -> std::io::Result<String>,
    depth: usize,
) -> Result<(), FileError> {
    // The first line of an accumulating directive replaces its default.
    let mut begun: BTreeSet<&'static str> = BTreeSet::new();
    for (i, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let fail = |reason: String| FileError { line: i + 1, text: trimmed.to_string(), reason };
        let words = split_inline(trimmed.as_bytes())
            .ok_or_else(|| fail("Unbalanced quotes in configuration line".into()))?;
        let mut words: Vec<String> = words.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let name = words.remove(0).to_ascii_lowercase();
        if name == "include" {
            if depth == INCLUDES_MAX {
                return Err(fail("Includes are nested too deeply".into()));
            }
            for path in &words {
                let text = read(path).map_err(|e| fail(format!("can't open '{path}': {e}")))?;
                load_text(config, &text, read, depth + 1)?;
            }
            continue;
        }
        if name == "user" {
            add_user(config, words).map_err(fail)?;
            continue;
        }
        if name == "rename-command" {
            let pair = words.try_into().map_err(|_| fail("wrong number of arguments".into()))?;
            config.renames.push(pair);
            // Tried at once, so that the line is named where it does not hold.
            crate::commands::renamed(&config.renames).map_err(fail)?;
            continue;
        }
        if words.is_empty() && Config::directive(&name).is_none_or(|d| !d.kind.checks_number()) {
            return Err(fail("wrong number of arguments".into()));
        }
        if let Some(directive) = Config::directive(&name)
            && directive.kind.is_accumulating()
            && begun.insert(directive.name)
            && matches!(directive.kind, super::Kind::Save)
        {
            config.values.insert(directive.name, String::new());
        }
        config.set(&name, &words, true).map_err(|e| {
            fail(match e {
                SetError::Unknown => "Bad directive or wrong number of arguments".into(),
                SetError::Immutable => "can't set immutable config".into(),
                SetError::Invalid(reason) => reason,
            })
        })?;
    }
    Ok(())
}

/// Keeps a line that declares a user: the node reads its rules when it begins.
fn add_user(config: &mut Config, words: Vec<String>) -> Result<(), String> {
    let name = words.first().ok_or("wrong number of arguments")?;
    if config.users.iter().any(|u| u[0] == *name) {
        return Err(format!(
            "Error in user declaration '{name}': Duplicate user found. A user can only be defined once in config files"
        ));
    }
    config.users.push(words);
    Ok(())
}

/// A word as it may stand in a file.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'"' | b'\'' | b'\\' | b'#'));
    if is_plain { word.to_string() } else { in_quotes(word) }
}

fn in_quotes(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.bytes() {
        match c {
            b'"' | b'\\' => text.extend(['\\', c as char]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            c if c.is_ascii_graphic() || c == b' ' => text.push(c as char),
            c => text.push_str(&format!("\\x{c:02x}")),
        }
    }
    text.push('"');
    text
}

/// The text of the file with the values in force: lines of known directives are renewed where they stand, comments and
/// order stay, what is not the default and not there is appended.
/// `is_full`: what is the default as well. `users`: the lines that declare users, if they stand here and not in a file of
/// their own.
pub fn rewrite(config: &Config, old: &str, is_full: bool, users: &[String]) -> String {
    const SIGNATURE: &str = "# Generated by CONFIG REWRITE";
    let mut out: Vec<String> = Vec::new();
    let mut written: BTreeSet<&'static str> = BTreeSet::new();
    let (mut has_signature, mut has_users) = (false, users.is_empty());
    for line in old.lines() {
        has_signature |= line == SIGNATURE;
        let word = line.split_whitespace().next().unwrap_or_default();
        if word.eq_ignore_ascii_case("user") {
            if !has_users {
                out.extend_from_slice(users);
                has_users = true;
            }
            continue;
        }
        match Config::directive(word) {
            Some(directive) if !line.trim_start().starts_with('#') => {
                if written.insert(directive.name) {
                    out.extend(lines(config, directive.name));
                }
            }
            _ => out.push(line.to_string()),
        }
    }
    for directive in DIRECTIVES {
        if (is_full || !config.is_default(directive)) && !written.contains(directive.name) {
            if !has_signature {
                out.push(SIGNATURE.into());
                has_signature = true;
            }
            out.extend(lines(config, directive.name));
        }
    }
    if !has_users {
        if !has_signature {
            out.push(SIGNATURE.into());
        }
        out.extend_from_slice(users);
    }
    out.join("\n") + "\n"
}

fn lines(config: &Config, name: &'static str) -> Vec<String> {
    let value = config.get(name);
    let directive = Config::directive(name).expect("declared");
    let per_line = |n: usize| {
        let words: Vec<&str> = value.split_whitespace().collect();
        words.chunks(n).map(|c| format!("{name} {}", c.join(" "))).collect::<Vec<_>>()
    };
    match directive.kind {
        super::Kind::Save if value.is_empty() => vec![format!("{name} \"\"")],
        super::Kind::Save => per_line(2),
        super::Kind::OutputLimits => per_line(4),
        // `replicaof` without words is no line that Redis reads.
        super::Kind::Words | super::Kind::Percentiles | super::Kind::Primary
            if value.is_empty() && config.is_default(directive) =>
        {
            Vec::new()
        }
        super::Kind::Words | super::Kind::Percentiles if value.is_empty() => vec![format!("{name} \"\"")],
        super::Kind::Words | super::Kind::Percentiles | super::Kind::Flags(_) | super::Kind::Primary => {
            let words: Vec<String> = value.split_whitespace().map(quoted).collect();
            vec![format!("{name} {}", words.join(" "))]
        }
        _ => vec![format!("{name} {}", quoted(value))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str], file: &str) -> Result<Config, FileError> {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        load_args(&args, &|_| Ok(file.to_string()), &mut || Ok("port 7777\n".into()))
    }

    #[test]
    fn the_command_line_comes_after_the_file() {
        let config =
            load(&["shoal.conf", "--port", "7000", "--save", ""], "port 6000\nsave 60 1\n# x\n").unwrap();
        assert_eq!((config.get("port"), config.get("save")), ("7000", ""));
        assert_eq!(load(&["-"], "").unwrap().get("port"), "7777");
        assert_eq!(load(&["--loglevel", "debug", "-"], "").unwrap().get("port"), "7777");
    }

    #[test]
    fn arguments_are_names_and_values_by_turns() {
        let config = load(&["--maxmemory 1kb", "--proc-title-template", "--x", "--save", "--port", "7"], "");
        let config = config.unwrap();
        assert_eq!((config.get("maxmemory"), config.get("port"), config.get("save")), ("1024", "7", ""));
        assert_eq!(config.get("proc-title-template"), "--x");
        for (args, text, reason) in [
            (["--port", "1", "2"].as_slice(), "port \"1\" \"2\"", "wrong number of arguments"),
            (&["--port", "--x"], "port \"--x\"", "argument couldn't be parsed into an integer"),
            (&["--port"], "port", "wrong number of arguments"),
            (&["--replicaof", "h", "x"], "replicaof \"h\" \"x\"", "Invalid master port"),
            (&["--replicaof", "h"], "replicaof \"h\"", "wrong number of arguments"),
            (
                &["--shutdown-on-sigterm"],
                "shutdown-on-sigterm",
                "argument(s) must be one of the following: default, save, nosave, now, force",
            ),
        ] {
            let error = load(args, "").err().unwrap();
            assert_eq!((error.text.as_str(), error.reason.as_str()), (text, reason));
        }
    }

    #[test]
    fn a_bad_line_is_told_with_its_place() {
        let error = load(&["f"], "port 1\n\nbogus 3\n").err().unwrap();
        assert_eq!((error.line, error.text.as_str()), (3, "bogus 3"));
        assert!(
            error
                .to_string()
                .contains("at line 3\n>>> 'bogus 3'\nBad directive or wrong number of arguments")
        );
        assert_eq!(
            load(&["f"], "port x").err().unwrap().reason,
            "argument couldn't be parsed into an integer"
        );
    }

    #[test]
    fn save_lines_add_up_and_replace_the_default() {
        assert_eq!(load(&["f"], "save 900 1\nsave 300 10\n").unwrap().get("save"), "900 1 300 10");
    }

    #[test]
    fn rewriting_keeps_comments_and_order() {
        let mut config = load(&["f"], "# head\nport 1\nsave 900 1\n# tail\n").unwrap();
        config.set("port", &["2".into()], true).unwrap();
        config.set("maxmemory", &["5mb".into()], true).unwrap();
        let text = rewrite(&config, "# head\nport 1\nsave 900 1\n# tail\n", false, &[]);
        assert_eq!(
            text,
            "# head\nport 2\nsave 900 1\n# tail\n# Generated by CONFIG REWRITE\nmaxmemory 5242880\n"
        );
        assert_eq!(rewrite(&config, &text, false, &[]), text);
        let mut replica = load(&["f"], "replicaof 10.0.0.1 6379\n").unwrap();
        replica.clear("replicaof");
        assert_eq!(rewrite(&replica, "replicaof 10.0.0.1 6379\n", false, &[]), "\n");
    }

    #[test]
    fn commands_get_other_names() {
        let file = "rename-command FLUSHDB \"\"\nrename-command config Adjust\n";
        let config = load(&["f"], file).unwrap();
        let table = crate::commands::renamed(&config.renames).unwrap();
        let has = |name: &[u8]| table.by_name(name).is_some();
        assert_eq!([has(b"flushdb"), has(b"config"), has(b"ADJUST")], [false, false, true]);
        let spec = table.resolve(&[b"adjust", b"get", b"*"]).unwrap();
        assert_eq!(spec.full_name, "config|get");
        assert_eq!(table.resolve_replayed(&[b"config", b"get", b"*"]).unwrap().id, spec.id);
        assert!(table.resolve_replayed(&[b"config", b"get"]).is_err());
        assert!(table.resolve_replayed(&[b"flushdb"]).is_ok());
        assert_eq!(rewrite(&config, file, false, &[]), file);
        let refused = |file: &str| load(&["f"], file).err().unwrap().reason;
        assert_eq!(refused("rename-command none x"), "No such command in rename-command");
        assert_eq!(refused("rename-command get set"), "Target command name already exists");
        assert_eq!(refused("rename-command get"), "wrong number of arguments");
    }

    #[test]
    fn users_are_renewed_where_they_stand() {
        let config = load(&["f"], "user a on\nport 1\nuser b off\n").unwrap();
        assert_eq!(config.users, [["a", "on"], ["b", "off"]]);
        let lines = ["user a off".to_string(), "user c on".to_string()];
        let text = rewrite(&config, "user a on\nport 1\nuser b off\n", false, &lines);
        assert_eq!(text, "user a off\nuser c on\nport 1\n");
        assert!(load(&["--user", "a", "--user", "a"], "").is_err());
    }

    #[test]
    fn no_line_stops_the_loader_and_what_it_takes_can_be_used() {
        const WORDS: [&str; 30] = [
            "",
            "0",
            "1",
            "-1",
            "yes",
            "no",
            "7",
            "65536",
            "18446744073709551616",
            "9223372036854775807",
            "1e9",
            "1gb",
            "18446744073709551615gb",
            "-9223372036854775808",
            "777",
            "99999999999",
            "\"\"",
            "\"\\xff\\x00\"",
            "'a b'",
            "normal 0 0 0",
            "pubsub 1gb 1 99999999999",
            "900 1 300",
            "0 1",
            "AKE",
            "/nosuch",
            "localhost",
            "*",
            "\u{e9}",
            "\"open",
            "1 1 1 1 1 1 1 1",
        ];
        let mut taken = 0;
        for directive in super::super::directives::DIRECTIVES {
            for first in WORDS {
                for second in ["", "1", "normal"] {
                    let line = format!("{} {first} {second}", directive.name);
                    let Ok(config) = load(&["f"], &line) else { continue };
                    taken += 1;
                    super::super::NodeSettings::from(&config);
                    let text = rewrite(&config, &line, false, &[]);
                    let again = load(&["f"], &text).unwrap_or_else(|e| panic!("{line:?}: {text:?}: {e}"));
                    assert_eq!(again.get(directive.name), config.get(directive.name), "{line:?}: {text:?}");
                }
            }
        }
        assert!(taken > 1000, "{taken} lines were taken");
    }
}
