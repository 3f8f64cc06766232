//! Whether two replies, or two keyspaces, are the same.

use super::accepted::{ACCEPTED, Kind, STREAM_FIELDS};
use super::draw::Args;
use super::grammar::Grammar;
use super::peer::{Peer, Reply};
use crate::Value;
use std::collections::BTreeMap;
use std::io;

/// The name under which a command's facts are found.
fn grammar_of<'g>(args: &[Vec<u8>], grammars: &'g BTreeMap<String, Grammar>) -> Option<&'g Grammar> {
    let word = |i: usize| args.get(i).map(|w| String::from_utf8_lossy(w).to_lowercase());
    let name = word(0)?;
    let both = word(1).map(|sub| format!("{name}|{sub}"));
    both.and_then(|b| grammars.get(&b)).or_else(|| grammars.get(&name))
}

/// Whether replies to the same command are the same, as far as both can promise.
pub fn agree(args: &[Vec<u8>], ours: &Reply, theirs: &Reply, grammars: &BTreeMap<String, Grammar>) -> bool {
    if ours.raw == theirs.raw {
        return true;
    }
    let name = args.first().map(|n| n.to_ascii_lowercase()).unwrap_or_default();
    let inner = if name == b"eval" { args.get(3..).unwrap_or(&[]) } else { args };
    let grammar = grammar_of(inner, grammars);
    let full_name = grammar.map_or_else(String::new, Grammar::name);
    let (mut a, mut b) = (ours.value.clone(), theirs.value.clone());
    if grammar.is_some_and(|g| g.has_tip("nondeterministic_output"))
        && a.is_error() == b.is_error()
        && !a.is_error()
    {
        return true;
    }
    let mut is_unordered = grammar.is_some_and(|g| g.has_tip("nondeterministic_output_order"));
    for accepted in ACCEPTED.iter().filter(|a| a.command == "*" || a.command == full_name) {
        let is_same = match &accepted.kind {
            Kind::Errors(our, their) => {
                errors(&a, &b).is_some_and(|(a, b)| a.contains(our) && b.contains(their))
            }
            // Decoding an error replaces what is no text.
            Kind::NoText => errors(&a, &b).is_some_and(|(a, b)| a == b && a.contains('\u{fffd}')),
            Kind::UpToNul => errors(&a, &b)
                .is_some_and(|(a, b)| a.split_once('\0').is_some_and(|(start, _)| b.starts_with(start))),
            Kind::Near(far) => is_near(&a, &b, *far as u64),
            Kind::Fields(names) => {
                blank(&mut a, names);
                blank(&mut b, names);
                a == b
            }
            Kind::Times => {
                blank_times(&mut a);
                blank_times(&mut b);
                a == b
            }
            Kind::ZeroSign => drop_zero_signs(&mut a) | drop_zero_signs(&mut b) && a == b,
            Kind::Count(is_met) => {
                is_met(inner) && a.as_list().zip(b.as_list()).is_some_and(|(a, b)| a.len() == b.len())
            }
            Kind::Order => {
                is_unordered = true;
                false
            }
        };
        if is_same {
            return true;
        }
    }
    if is_unordered {
        sort(&mut a);
        sort(&mut b);
        return a == b;
    }
    false
}

fn errors<'v>(a: &'v Value, b: &'v Value) -> Option<(&'v str, &'v str)> {
    match (a, b) {
        (Value::Error(a), Value::Error(b)) => Some((a, b)),
        _ => None,
    }
}

/// Empties the values behind these names.
fn blank(value: &mut Value, names: &[&str]) {
    let is_named = |v: &Value| v.as_text().is_some_and(|t| names.contains(&t));
    match value {
        Value::Map(pairs) => pairs.iter_mut().for_each(|(k, v)| match is_named(k) {
            true => *v = Value::Null,
            false => blank(v, names),
        }),
        Value::Array(items) => {
            for i in 0..items.len() {
                match i > 0 && i % 2 == 1 && is_named(&items[i - 1]) {
                    true => items[i] = Value::Null,
                    false => blank(&mut items[i], names),
                }
            }
        }
        _ => {}
    }
}

/// Empties numbers that may be times of this century in ms since 1970.
fn blank_times(value: &mut Value) {
    match value {
        Value::Int(1_600_000_000_000..4_100_000_000_000) => *value = Value::Null,
        Value::Map(pairs) => pairs.iter_mut().for_each(|(_, v)| blank_times(v)),
        Value::Array(items) => items.iter_mut().for_each(blank_times),
        _ => {}
    }
}

/// Numbers, or as many numbers in lists, that are at most so far apart.
fn is_near(a: &Value, b: &Value, far: u64) -> bool {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.abs_diff(*b) <= far,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_near(a, b, far))
        }
        _ => a == b,
    }
}

/// Makes negative zeros positive; whether there was one.
fn drop_zero_signs(value: &mut Value) -> bool {
    match value {
        Value::Bulk(b) if b == b"-0" => *b = b"0".to_vec(),
        Value::Double(d) if *d == 0.0 && d.is_sign_negative() => *d = 0.0,
        Value::Array(items) | Value::Set(items) => {
            return items.iter_mut().map(drop_zero_signs).fold(false, |any, one| any | one);
        }
        _ => return false,
    }
    true
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) | Value::Set(items) => {
            items.iter_mut().for_each(sort);
            items.sort_by_cached_key(|v| format!("{v:?}"));
        }
        Value::Map(pairs) => pairs.sort_by_cached_key(|(k, _)| format!("{k:?}")),
        _ => {}
    }
}

/// What a keyspace holds, in one text for each key.
pub fn contents(peer: &mut Peer, databases: &[&str]) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for db in databases {
        let replies = peer.run(&[words(&["SELECT", db]), words(&["KEYS", "*"])])?;
        for key in replies[1].value.as_list().unwrap_or(&[]).iter().filter_map(Value::as_bytes) {
            let kind = peer.run(&[vec![b"TYPE".to_vec(), key.to_vec()]])?.remove(0).value;
            let (before, after): (&[&str], &[&str]) = match kind.as_text().unwrap_or_default() {
                "string" => (&["GET"], &[]),
                "list" => (&["LRANGE"], &["0", "-1"]),
                "set" => (&["SMEMBERS"], &[]),
                "zset" => (&["ZRANGE"], &["0", "-1", "WITHSCORES"]),
                "hash" => (&["HGETALL"], &[]),
                "stream" => (&["XINFO", "STREAM"], &["FULL"]),
                _ => (&["TYPE"], &[]),
            };
            let args: Args = words(before).into_iter().chain([key.to_vec()]).chain(words(after)).collect();
            let expires = vec![b"PEXPIRETIME".to_vec(), key.to_vec()];
            let mut replies = peer.run(&[args, expires])?;
            let expires = replies.pop().and_then(|r| r.value.as_int()).unwrap_or(-3);
            let mut value = replies.remove(0).value;
            drop_zero_signs(&mut value);
            match before[0] {
                "SMEMBERS" | "HGETALL" => sort(&mut value),
                "XINFO" => {
                    blank(&mut value, STREAM_FIELDS);
                    blank_times(&mut value);
                }
                _ => {}
            }
            // Whole hours: the two read their clocks at different times.
            found.insert(
                format!("{db} {}", String::from_utf8_lossy(key)),
                format!("{value:?} until {}", if expires > 0 { expires / 3_600_000 } else { expires }),
            );
        }
    }
    peer.run(&[words(&["SELECT", "0"])])?;
    Ok(found)
}

fn words(words: &[&str]) -> Args {
    words.iter().map(|w| w.as_bytes().to_vec()).collect()
}
