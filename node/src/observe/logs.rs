//! Logs of commands that were slow, or whose request or reply was large: the newest, trimmed, without secrets.

use engine::{Args, Spec};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: u64,
    /// Wall clock, in s.
    pub at_s: i64,
    /// Microseconds, or bytes.
    pub value: u64,
    pub args: Vec<Vec<u8>>,
    pub peer: String,
    pub name: String,
}

/// See the module's head.
#[derive(Default)]
pub struct CommandLog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The newest first.
    entries: VecDeque<Entry>,
    next_id: u64,
}

impl CommandLog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Adds an entry, whose id is set here; the oldest above `max` go.
    pub fn push(&self, entry: Entry, max: usize) {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.entries.push_front(Entry { id, ..entry });
        state.entries.truncate(max);
    }
    pub fn entries(&self) -> usize {
        self.lock().entries.len()
    }
    pub fn clear(&self) {
        self.lock().entries.clear();
    }
    /// The newest, the newest first.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.lock().entries.iter().take(count).cloned().collect()
    }
}

/// Whether logs must not show an argument.
pub fn is_secret(spec: &Spec, args: Args, index: usize) -> bool {
    spec.command.is_secret.is_some_and(|is| is(args, index))
}

/// The arguments as a log keeps them: no more and no longer ones than Redis keeps.
pub fn trimmed(spec: &Spec, args: Args) -> Vec<Vec<u8>> {
    const ARGS_MAX: usize = 32;
    const BYTES_MAX: usize = 128;
    let shown = if args.len() > ARGS_MAX { ARGS_MAX - 1 } else { args.len() };
    let one = |(i, arg): (usize, &&[u8])| {
        if is_secret(spec, args, i) {
            return b"(redacted)".to_vec();
        }
        if arg.len() <= BYTES_MAX {
            return arg.to_vec();
        }
        let more = format!("... ({} more bytes)", arg.len() - BYTES_MAX);
        [&arg[..BYTES_MAX], more.as_bytes()].concat()
    };
    let mut kept: Vec<Vec<u8>> = args[..shown].iter().enumerate().map(one).collect();
    if shown < args.len() {
        kept.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
    }
    kept
}

/// An argument in quotes, as MONITOR shows it.
pub fn quote(arg: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in arg {
        match c {
            b'\\' | b'"' => out.extend([b'\\', *c]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0x07 => out.extend(b"\\a"),
            0x08 => out.extend(b"\\b"),
            b' '..=b'~' => out.push(*c),
            c => out.extend(format!("\\x{c:02x}").bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[&[u8]]) -> Vec<String> {
        let table = crate::commands::table();
        let spec = table.find(line).unwrap();
        trimmed(spec, line).into_iter().map(|a| String::from_utf8(a).unwrap()).collect()
    }

    #[test]
    fn many_and_long_arguments_are_trimmed() {
        let many = vec![b"x".as_slice(); 34];
        let line = [&[b"sadd".as_slice()], many.as_slice()].concat();
        let kept = shown(&line);
        assert_eq!((kept.len(), kept[31].as_str()), (32, "... (4 more arguments)"));
        let long = [b'A'; 129];
        assert!(shown(&[b"get", &long])[1].ends_with("AAA... (1 more bytes)"));
    }

    #[test]
    fn secrets_are_not_kept() {
        assert_eq!(shown(&[b"auth", b"u", b"p"]), ["auth", "(redacted)", "(redacted)"]);
        assert_eq!(
            shown(&[b"hello", b"3", b"AUTH", b"u", b"p", b"SETNAME", b"n"]),
            ["hello", "3", "AUTH", "(redacted)", "(redacted)", "SETNAME", "n"]
        );
        assert_eq!(
            shown(&[b"config", b"set", b"port", b"1", b"masterauth", b"x"]),
            ["config", "set", "port", "1", "masterauth", "(redacted)"]
        );
        assert_eq!(shown(&[b"acl", b"setuser", b"u", b">p"]), ["acl", "setuser", "(redacted)", "(redacted)"]);
        let migrate: &[&[u8]] = &[b"migrate", b"h", b"1", b"k", b"0", b"5", b"AUTH2", b"u", b"p"];
        assert_eq!(shown(migrate)[6..], ["AUTH2", "(redacted)", "(redacted)"]);
    }

    #[test]
    fn the_newest_are_kept_and_numbers_go_on() {
        let log = CommandLog::default();
        for at_s in 0..5 {
            let entry = Entry { id: 0, at_s, value: 1, args: vec![], peer: "".into(), name: "".into() };
            log.push(entry, 2);
        }
        assert_eq!(log.newest(9).iter().map(|e| e.id).collect::<Vec<_>>(), [4, 3]);
        log.clear();
        assert_eq!(log.entries(), 0);
    }

    #[test]
    fn bytes_are_quoted() {
        let mut out = Vec::new();
        quote(b"a\"\\\n\x00\xff", &mut out);
        assert_eq!(out, b"\"a\\\"\\\\\\n\\x00\\xff\"");
    }
}
