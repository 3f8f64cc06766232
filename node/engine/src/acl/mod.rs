//! Users and what they may do. Follows ACL of Redis 7.0: selectors, of which one must allow all of a command; each with
//! commands, patterns of keys to read and to write, and patterns of channels.
//!
//! A [`User`] is immutable: a change makes a new one, and connections take it up with their next batch. The places of
//! keys and channels are those of the command's own declaration, with which it runs; nothing parses arguments twice.
//!
//! Invariant: a user whose rights are not known to be unlimited is checked for each command, also inside transactions and
//! scripts.

mod check;
mod describe;
mod rules;
mod selector;

pub use check::{Context, Denied, Reason};
pub use rules::{RuleError, Rules, has_spaces, hash_password, merge_selectors};
pub use selector::Selector;

/// Name of the user that connections begin with.
pub const DEFAULT: &[u8] = b"default";

/// SHA-256 of a password, as hexadecimal digits in lower case.
pub type Hash = [u8; 64];

/// One user, as it is at some time.
#[derive(Clone, Debug)]
pub struct User {
    /// Tells a user from an earlier one of the same name.
    pub id: u64,
    pub name: Vec<u8>,
    pub is_enabled: bool,
    /// Any password will do.
    pub is_nopass: bool,
    /// Whether payloads of RESTORE are checked, where the user was told to say so.
    skips_sanitizing: Option<bool>,
    passwords: Vec<Hash>,
    /// The first is the root, which rules outside of parentheses change.
    selectors: Vec<Selector>,
}

impl User {
    /// May do anything: no check is needed.
    pub fn is_unrestricted(&self) -> bool {
        self.selectors.iter().any(Selector::is_unrestricted)
    }
    /// New connections of this user need no AUTH.
    pub fn is_open(&self) -> bool {
        self.is_nopass && self.is_enabled
    }
    pub fn passwords(&self) -> &[Hash] {
        &self.passwords
    }
    pub fn root(&self) -> &Selector {
        &self.selectors[0]
    }
    /// Selectors beside the root.
    pub fn more_selectors(&self) -> &[Selector] {
        &self.selectors[1..]
    }

    /// Whether this is the user's password. The time it takes tells nothing about where passwords differ.
    pub fn is_password(&self, password: &[u8]) -> bool {
        if self.is_nopass {
            return true;
        }
        let hash = hash_password(password);
        self.passwords
            .iter()
            .fold(false, |is, p| is | (p.iter().zip(&hash).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0))
    }

    /// Patterns of channels of all selectors; `None`: all channels.
    pub fn channels(&self) -> Option<Vec<&[u8]>> {
        match self.selectors.iter().any(|s| s.has_all_channels()) {
            true => None,
            false => Some(self.selectors.iter().flat_map(Selector::channels).collect()),
        }
    }
    /// Whether a subscription is still allowed: to a channel, or to a pattern, which must have been named as it is.
    pub fn may_subscribe(&self, name: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().any(|s| s.allows_channel(name, is_pattern))
    }
}

#[cfg(test)]
mod tests;
