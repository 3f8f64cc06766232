//! Rules of users: an error, or a user whose description makes the same one again.
#![no_main]

use engine::Table;
use engine::acl::{Rules, User};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

const COMMANDS: &[&[&[u8]]] = &[
    &[b"get", b"a"],
    &[b"set", b"key", b"v"],
    &[b"copy", b"a", b"b"],
    &[b"eval", b"return 1", b"1", b"x"],
    &[b"xgroup", b"create", b"s", b"g", b"$"],
    &[b"object", b"freq", b"a"],
];

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::new(engine::commands::all()))
}

fuzz_target!(|input: (bool, &[u8])| {
    let (has_all_channels, text) = input;
    let table = table();
    let rules = Rules { table, has_all_channels };
    let words: Vec<&[u8]> = text.split(|b| *b == b' ').collect();
    let mut user = rules.new_user(b"u");
    if rules.apply_all(&mut user, &words).is_err() {
        return;
    }
    let told = user.describe(table);
    // As in Redis, a selector's text cannot tell of spaces and quotes in a word, and a parenthesis at its end closes it.
    let inner = |w: &&[u8]| w.get(1..w.len().saturating_sub(1)).unwrap_or_default().to_vec();
    let is_plain = |b: &u8| !b.is_ascii_whitespace() && !matches!(b, b'"' | b'\'' | b'\\');
    let is_told = |w: &&[u8]| w.iter().all(is_plain) && !inner(w).iter().any(|b| matches!(b, b'(' | b')'));
    if !words.iter().all(is_told) {
        return;
    }
    let again: Vec<&[u8]> = told.split(|b| *b == b' ').collect();
    let mut same = rules.new_user(b"u");
    rules.apply_all(&mut same, &again).unwrap_or_else(|e| panic!("{}: {e}", told.escape_ascii()));
    assert_eq!(same.describe(table).escape_ascii().to_string(), told.escape_ascii().to_string());
    for args in COMMANDS {
        let Ok(spec) = table.resolve(args) else { continue };
        let verdict = |user: &User| user.check(spec, args).is_ok();
        assert_eq!(verdict(&user), verdict(&same), "{}", told.escape_ascii());
    }
});
