//! A selector: commands, keys and channels that are allowed together.

use super::rules::RuleError;
use crate::glob;
use crate::spec::{acl, flag, key};
use crate::table::{Spec, Table};
use std::collections::BTreeMap;

/// Set of [`access`].
pub type Access = u8;

/// What may be done with keys.
pub mod access {
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const ALL: u8 = READ | WRITE;
}

/// Keys that may be read, written or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyPattern {
    pub access: Access,
    pub pattern: Vec<u8>,
}

/// See the module's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selector {
    pub(super) has_all_keys: bool,
    pub(super) has_all_channels: bool,
    pub(super) has_all_commands: bool,
    /// Commands that do not exist yet are allowed as well.
    pub(super) has_future: bool,
    /// By id of a spec.
    allowed: Vec<u64>,
    /// First arguments with which a command is allowed that else is not, by id of its spec.
    pub(super) first_args: BTreeMap<usize, Vec<Vec<u8>>>,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) channels: Vec<Vec<u8>>,
}

impl Selector {
    /// Allows nothing, but all channels if told so.
    pub(super) fn new(table: &Table, has_all_channels: bool) -> Selector {
        Selector {
            has_all_keys: false,
            has_all_channels,
            has_all_commands: false,
            has_future: false,
            allowed: vec![0; table.len().div_ceil(64)],
            first_args: BTreeMap::new(),
            keys: Vec::new(),
            channels: Vec::new(),
        }
    }

    pub(super) fn is_unrestricted(&self) -> bool {
        self.has_all_keys && self.has_all_channels && self.has_all_commands
    }
    pub fn has_all_channels(&self) -> bool {
        self.has_all_channels
    }
    pub fn channels(&self) -> impl Iterator<Item = &[u8]> {
        self.channels.iter().map(|c| c.as_slice())
    }

    // Commands.

    pub(super) fn allows(&self, id: usize) -> bool {
        self.allowed[id / 64] & 1 << (id % 64) != 0
    }
    fn set(&mut self, id: usize, is_allowed: bool) {
        if is_allowed {
            self.allowed[id / 64] |= 1 << (id % 64);
        } else {
            self.allowed[id / 64] &= !(1 << (id % 64));
            self.has_all_commands = false;
        }
    }
    pub(super) fn is_same_commands(&self, other: &Selector) -> bool {
        self.allowed == other.allowed
    }

    /// Allows or forbids a command, and its subcommands with it.
    pub(super) fn change(&mut self, spec: &Spec, is_allowed: bool) {
        self.set(spec.id, is_allowed);
        self.first_args.remove(&spec.id);
        spec.subcommands.iter().for_each(|sub| self.set(sub.id, is_allowed));
    }

    pub(super) fn change_all(&mut self, table: &Table, is_allowed: bool) {
        table.specs().iter().for_each(|s| self.set(s.id, is_allowed));
        self.has_all_commands = is_allowed;
        self.has_future = is_allowed;
        self.first_args.clear();
    }

    pub(super) fn change_category(&mut self, table: &Table, category: u32, is_allowed: bool) {
        for spec in table.commands().flat_map(|s| std::iter::once(s).chain(s.subcommands.iter().copied())) {
            if spec.acl & category != 0 {
                self.change(spec, is_allowed);
            }
        }
    }

    /// Whether the command as such is allowed, whatever its keys.
    pub(super) fn allows_command(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        if self.has_all_commands || spec.has(flag::NO_AUTH) || self.allows(spec.id) {
            return true;
        }
        let Some(first) = args.get(if spec.is_subcommand() { 2 } else { 1 }) else { return false };
        self.first_args.get(&spec.id).is_some_and(|all| all.iter().any(|a| a.eq_ignore_ascii_case(first)))
    }

    // Keys and channels.

    /// Whether a key that is used in this way (flags of a key spec) is allowed.
    pub(super) fn allows_key(&self, name: &[u8], flags: u16) -> bool {
        let needed = needed(flags);
        self.has_all_keys
            || self.keys.iter().any(|k| k.access & needed == needed && glob::matches(&k.pattern, name, false))
    }
    /// Whether every key may be used in this way.
    pub(super) fn allows_any_key(&self, flags: u16) -> bool {
        let needed = needed(flags);
        self.has_all_keys || self.keys.iter().any(|k| k.access & needed == needed && k.pattern == b"*")
    }
    pub(super) fn allows_channel(&self, name: &[u8], is_pattern: bool) -> bool {
        self.has_all_channels
            || self.channels.iter().any(|c| match is_pattern {
                true => c == name,
                false => glob::matches(c, name, false),
            })
    }

    // Rules.

    /// Applies a rule. `Err`: nothing was changed.
    pub(super) fn apply(&mut self, table: &Table, op: &[u8]) -> Result<(), RuleError> {
        let is = |word: &str| op.eq_ignore_ascii_case(word.as_bytes());
        if is("allkeys") || is("~*") {
            self.has_all_keys = true;
            self.keys.clear();
        } else if is("resetkeys") {
            self.has_all_keys = false;
            self.keys.clear();
        } else if is("allchannels") || is("&*") {
            self.has_all_channels = true;
            self.channels.clear();
        } else if is("resetchannels") {
            self.has_all_channels = false;
            self.channels.clear();
        } else if is("allcommands") || is("+@all") {
            self.change_all(table, true);
        } else if is("nocommands") || is("-@all") {
            self.change_all(table, false);
        } else {
            return match op {
                [b'~', pattern @ ..] => self.add_keys(access::ALL, pattern),
                [b'%', rest @ ..] => {
                    let (access, pattern) = parse_access(rest)?;
                    self.add_keys(access, pattern)
                }
                [b'&', pattern @ ..] => self.add_channels(pattern),
                [sign @ (b'+' | b'-'), b'@', name @ ..] => {
                    let category = acl::named(name).ok_or(RuleError::Unknown)?;
                    self.change_category(table, category, *sign == b'+');
                    Ok(())
                }
                [b'+', name @ ..] => self.allow(table, name),
                [b'-', name @ ..] => {
                    let spec = table.by_any_name(name).ok_or(RuleError::Unknown)?;
                    self.change(spec, false);
                    Ok(())
                }
                _ => Err(RuleError::Syntax),
            };
        }
        Ok(())
    }

    fn add_keys(&mut self, access: Access, pattern: &[u8]) -> Result<(), RuleError> {
        if self.has_all_keys {
            return Err(RuleError::AfterAllKeys);
        }
        if super::has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        match self.keys.iter_mut().find(|k| k.pattern == pattern) {
            Some(known) => known.access |= access,
            None => self.keys.push(KeyPattern { access, pattern: pattern.to_vec() }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.has_all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        if super::has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|c| c == pattern) {
            self.channels.push(pattern.to_vec());
        }
        Ok(())
    }

    /// `get`, `config|get`, or `select|0`: a first argument of a command that has no subcommands.
    fn allow(&mut self, table: &Table, name: &[u8]) -> Result<(), RuleError> {
        let Some(bar) = memchr::memrchr(b'|', name) else {
            self.change(table.by_any_name(name).ok_or(RuleError::Unknown)?, true);
            return Ok(());
        };
        let (command, first) = (&name[..bar], &name[bar + 1..]);
        let spec = table.by_any_name(command).ok_or(RuleError::Unknown)?;
        if spec.is_subcommand() {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        if first.is_empty() {
            return Err(RuleError::Syntax);
        }
        if let Some(sub) = table.by_any_name(name) {
            self.change(sub, true);
            return Ok(());
        }
        if !spec.subcommands.is_empty() && !spec.has(flag::OPEN_SUBCOMMANDS) {
            return Err(RuleError::Unknown);
        }
        let known = self.first_args.entry(spec.id).or_default();
        if !known.iter().any(|a| a.eq_ignore_ascii_case(first)) {
            known.push(first.to_vec());
        }
        Ok(())
    }
}

/// What the flags of a key spec ask for. Commands that only look whether a key is there need no access but a pattern.
fn needed(flags: u16) -> Access {
    let read = if flags & key::ACCESS != 0 { access::READ } else { 0 };
    let write = if flags & (key::INSERT | key::DELETE | key::UPDATE) != 0 { access::WRITE } else { 0 };
    read | write
}

/// `R~pattern`, `RW~pattern`; without a tilde the pattern is empty, which Redis takes.
fn parse_access(rest: &[u8]) -> Result<(Access, &[u8]), RuleError> {
    let mut granted = 0;
    for (i, c) in rest.iter().enumerate() {
        match c.to_ascii_uppercase() {
            b'R' if granted & access::READ == 0 => granted |= access::READ,
            b'W' if granted & access::WRITE == 0 => granted |= access::WRITE,
            b'~' if granted != 0 => return Ok((granted, &rest[i + 1..])),
            _ => return Err(RuleError::Syntax),
        }
    }
    if granted == 0 { Err(RuleError::Syntax) } else { Ok((granted, b"")) }
}
