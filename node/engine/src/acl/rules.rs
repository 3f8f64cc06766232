//! Rules that make users, in the words of ACL SETUSER. Texts are those of Redis 7.0.

use super::selector::Selector;
use super::{Hash, User};
use crate::table::Table;
use sha2::{Digest, Sha256};
use std::fmt;

/// What is wrong with a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleError {
    Unknown,
    Syntax,
    AfterAllKeys,
    AfterAllChannels,
    NoSuchPassword,
    BadHash,
    FirstArgOfSubcommand,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleError::Unknown => "Unknown command or category name in ACL",
            RuleError::Syntax => "Syntax error",
            RuleError::AfterAllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns"
            }
            RuleError::AfterAllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels"
            }
            RuleError::NoSuchPassword => {
                "The password you are trying to remove from the user does not exist"
            }
            RuleError::BadHash => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
            }
            RuleError::FirstArgOfSubcommand => "Allowing first-arg of a subcommand is not supported",
        })
    }
}

/// What rules are read with.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub table: &'a Table,
    /// `acl-pubsub-default allchannels`.
    pub has_all_channels: bool,
}

impl Rules<'_> {
    /// A user that may do nothing, not even log in.
    pub fn new_user(&self, name: &[u8]) -> User {
        User {
            id: 0,
            name: name.to_vec(),
            is_enabled: false,
            is_nopass: false,
            skips_sanitizing: None,
            passwords: Vec::new(),
            selectors: vec![Selector::new(self.table, self.has_all_channels)],
        }
    }

    /// The user that may do everything without a password.
    pub fn default_user(&self) -> User {
        let mut user = self.new_user(super::DEFAULT);
        for rule in ["+@all", "~*", "&*", "on", "nopass"] {
            self.apply(&mut user, rule.as_bytes()).expect("a known rule");
        }
        user
    }

    /// Applies the words of one ACL SETUSER to a user. `Err` says which is wrong; the user is then of no use.
    pub fn apply_all(&self, user: &mut User, words: &[&[u8]]) -> Result<(), String> {
        let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let merged = merge_selectors(words).map_err(|word| {
            format!("Unmatched parenthesis in acl selector starting at '{}'.", shown(word))
        })?;
        for word in &merged {
            self.apply(user, word)
                .map_err(|e| format!("Error in ACL SETUSER modifier '{}': {e}", shown(word)))?;
        }
        Ok(())
    }

    /// Applies one rule. An empty one changes nothing, as does one that is wrong.
    pub fn apply(&self, user: &mut User, op: &[u8]) -> Result<(), RuleError> {
        let is = |word: &str| op.eq_ignore_ascii_case(word.as_bytes());
        if op.is_empty() {
        } else if is("on") {
            user.is_enabled = true;
        } else if is("off") {
            user.is_enabled = false;
        } else if is("skip-sanitize-payload") {
            user.skips_sanitizing = Some(true);
        } else if is("sanitize-payload") {
            user.skips_sanitizing = Some(false);
        } else if is("nopass") {
            user.is_nopass = true;
            user.passwords.clear();
        } else if is("resetpass") {
            user.is_nopass = false;
            user.passwords.clear();
        } else if is("clearselectors") {
            user.selectors.truncate(1);
        } else if is("reset") {
            *user = User {
                id: user.id,
                skips_sanitizing: Some(false),
                ..self.new_user(&std::mem::take(&mut user.name))
            };
        } else {
            return self.apply_other(user, op);
        }
        Ok(())
    }

    fn apply_other(&self, user: &mut User, op: &[u8]) -> Result<(), RuleError> {
        match op {
            [sign @ (b'>' | b'#'), rest @ ..] => {
                let hash = if *sign == b'>' { hash_password(rest) } else { checked_hash(rest)? };
                if !user.passwords.contains(&hash) {
                    user.passwords.push(hash);
                }
                user.is_nopass = false;
            }
            [sign @ (b'<' | b'!'), rest @ ..] => {
                let hash = if *sign == b'<' { hash_password(rest) } else { checked_hash(rest)? };
                let place =
                    user.passwords.iter().position(|p| *p == hash).ok_or(RuleError::NoSuchPassword)?;
                user.passwords.remove(place);
            }
            [b'(', inner @ .., b')'] => {
                let mut selector = Selector::new(self.table, self.has_all_channels);
                let words = proto::resp::split_inline(inner).ok_or(RuleError::Syntax)?;
                for word in words {
                    selector.apply(self.table, &word)?;
                }
                user.selectors.push(selector);
            }
            _ => return user.selectors[0].apply(self.table, op),
        }
        Ok(())
    }
}

/// Whether a name or pattern has characters that would split it.
pub fn has_spaces(text: &[u8]) -> bool {
    text.iter().any(|c| matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0))
}

pub fn hash_password(password: &[u8]) -> Hash {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = [0; 64];
    for (two, byte) in hash.chunks_exact_mut(2).zip(Sha256::digest(password)) {
        two.copy_from_slice(&[DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]);
    }
    hash
}

fn checked_hash(text: &[u8]) -> Result<Hash, RuleError> {
    let hash: Hash = text.try_into().map_err(|_| RuleError::BadHash)?;
    let is_hex = hash.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { Ok(hash) } else { Err(RuleError::BadHash) }
}

/// Joins the words of a selector that came as several arguments. `Err`: the word with the parenthesis that is not closed.
pub fn merge_selectors<'a>(words: &[&'a [u8]]) -> Result<Vec<Vec<u8>>, &'a [u8]> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(&[u8], Vec<u8>)> = None;
    for word in words.iter().copied() {
        let is_last = word.last() == Some(&b')');
        match &mut open {
            Some((_, selector)) => {
                selector.push(b' ');
                selector.extend_from_slice(word);
                if is_last {
                    merged.push(std::mem::take(selector));
                    open = None;
                }
            }
            None if word.first() == Some(&b'(') && !is_last => open = Some((word, word.to_vec())),
            None => merged.push(word.to_vec()),
        }
    }
    match open {
        Some((word, _)) => Err(word),
        None => Ok(merged),
    }
}
