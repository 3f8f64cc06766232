//! The command table: every declaration by name, with what is derived from it once.

use crate::spec::{Command, flag};
use crate::{Args, Error};
use proto::Slot;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Places of keys among the arguments, with the flags of their key specs.
pub type KeyPlaces = SmallVec<[(usize, u16); 4]>;

/// Where keys of a command stand: argument 1 and every `step`-th behind it, before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeysAhead {
    pub end: usize,
    pub step: usize,
}

impl KeysAhead {
    #[inline]
    pub fn each(self, mut f: impl FnMut(usize)) {
        let mut at = 1;
        while at < self.end {
            f(at);
            at += self.step;
        }
    }
    /// There is one; of those that come in steps this is not known.
    #[inline]
    pub fn is_one(self) -> bool {
        self.end == 2
    }
}

/// Keys that are looked up ahead for one command: what a first-level cache holds the memory of.
const KEYS_AHEAD_MAX: usize = 128;

/// A declared command in the table.
pub struct Spec {
    pub command: &'static Command,
    /// Place in the table; indexes statistics.
    pub id: usize,
    /// `get`, `config|get`.
    pub full_name: String,
    pub subcommands: Vec<&'static Spec>,
    pub acl: u32,
    is_subcommand: bool,
    /// See [`Spec::keys_ahead`]: the last of these keys, from the end where it is negative, and the step. None: 0.
    ahead: (i8, u8),
    /// These are all keys that the command has, unless they are very many.
    has_all_ahead: bool,
    /// Argument 1 is the only key.
    pub is_single_key: bool,
    /// It runs under the lock of that key.
    pub is_plain: bool,
    /// It runs under the locks of its keys, of which argument 1 is one, and needs no others.
    pub is_plain_of_many: bool,
    /// Something that is no key says where it runs.
    pub is_routed: bool,
}

impl Spec {
    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.command.flags & flags != 0
    }
    /// It may run while a slow script has the gate closed: it touches no slot.
    pub fn runs_outside_the_gate(&self) -> bool {
        self.has(flag::ALLOW_BUSY) && self.command.keys.is_empty()
    }
    /// Whether `args` (with the name, and the subcommand's) are as many as the declaration says.
    #[inline]
    pub fn is_arity(&self, args: usize) -> bool {
        let arity = self.command.arity as isize;
        if arity >= 0 { args as isize == arity } else { args as isize >= -arity }
    }
    /// The first keys, as far as they are known by the number of arguments: all that the command has, only one, or none. Of
    /// very many only the first.
    #[inline]
    pub fn keys_ahead(&self, args: usize) -> KeysAhead {
        let (last, step) = (self.ahead.0 as isize, self.ahead.1 as usize);
        let end = if last >= 0 { last + 1 } else { args as isize + last + 1 } as usize;
        let most = if end > KEYS_AHEAD_MAX * step { 2 } else { args };
        KeysAhead { end: end.min(most), step }
    }
    /// [`Spec::keys_ahead`] where these are all keys of the command.
    #[inline]
    pub fn all_keys_ahead(&self, args: usize) -> Option<KeysAhead> {
        let ahead = self.keys_ahead(args);
        (self.has_all_ahead && (ahead.end > 2 || args == 2)).then_some(ahead)
    }
    /// Places of the keys among the arguments. `None`: the arguments do not fit.
    pub fn key_positions(&self, args: Args) -> Option<SmallVec<[usize; 16]>> {
        let mut places = SmallVec::new();
        self.each_key_position(args, &mut |place| places.push(place))?;
        Some(places)
    }
    /// As [`Spec::key_positions`], one after the other. `None` may come after some of them.
    #[inline]
    pub fn each_key_position(&self, args: Args, each: &mut impl FnMut(usize)) -> Option<()> {
        for spec in self.command.keys.iter().filter(|k| k.flags & crate::spec::key::NOT_KEY == 0) {
            spec.positions(args, each)?;
        }
        Some(())
    }
    /// As [`Spec::key_positions`], with what is done with each key.
    pub fn keys_with_flags(&self, args: Args) -> Option<KeyPlaces> {
        use crate::spec::key;
        let mut places = KeyPlaces::new();
        for spec in self.command.keys.iter().filter(|k| k.flags & key::NOT_KEY == 0) {
            let flags = match self.command.vary {
                Some(vary) if spec.flags & key::VARIABLE_FLAGS != 0 => vary(args),
                _ => spec.flags,
            };
            spec.positions(args, &mut |place| places.push((place, flags)))?;
        }
        Some(places)
    }
    pub fn is_subcommand(&self) -> bool {
        self.is_subcommand
    }
    /// The slot that an argument leads to which is no key; see [`crate::spec::key::ROUTES`].
    pub fn routed_slot(&self, args: Args) -> Option<Slot> {
        let mut slot = None;
        for spec in self.command.keys.iter().filter(|k| k.flags & crate::spec::key::ROUTES != 0) {
            spec.positions(args, &mut |at| slot = slot.or(Slot::of_tag(args[at])));
        }
        slot
    }
    /// The slots of the keys, ascending and each once.
    pub fn slots(&self, args: Args) -> Option<SmallVec<[Slot; 4]>> {
        if self.is_single_key {
            return Some(SmallVec::from_slice(&[Slot::of_key(args.get(1)?)]));
        }
        let mut slots: SmallVec<[Slot; 4]> =
            self.key_positions(args)?.iter().map(|i| Slot::of_key(args[*i])).collect();
        if self.is_routed {
            slots.extend(self.routed_slot(args));
        }
        slots.sort_unstable();
        slots.dedup();
        Some(slots)
    }
    /// First key, last key and step as COMMAND shows them (from the first key spec that is a plain range).
    pub fn legacy_range(&self) -> (i64, i64, i64) {
        use crate::spec::{Begin, Find};
        let Some(first) = self.command.keys.first() else { return (0, 0, 0) };
        match (first.begin, first.find) {
            (Begin::Index(begin), Find::Range { last, step, limit: _ }) => {
                let (begin, last) = (begin as i64, last as i64);
                let mut end = if last < 0 { last } else { begin + last };
                // Redis unites the plain ranges that follow one another.
                for spec in &self.command.keys[1..] {
                    if let (Begin::Index(i), Find::Range { last, step: 1, limit: 0 }) =
                        (spec.begin, spec.find)
                        && end >= 0
                        && i as i64 == end + 1
                    {
                        end = if last < 0 { last as i64 } else { i as i64 + last as i64 };
                    }
                }
                (begin, end, step as i64)
            }
            _ => (0, 0, 0),
        }
    }
}

/// See [`Spec::keys_ahead`]; whether these are all keys, as well.
fn keys_ahead(command: &Command) -> ((i8, u8), bool) {
    use crate::spec::{Begin, Find, key};
    const NONE: ((i8, u8), bool) = ((0, 1), false);
    let Some((first, others)) = command.keys.split_first() else { return NONE };
    let (Begin::Index(1), Find::Range { last, step, limit }) = (first.begin, first.find) else {
        return NONE;
    };
    if first.flags & (key::NOT_KEY | key::NOT_EMPTY) != 0 {
        return NONE;
    }
    if !others.is_empty() || limit > 1 {
        return ((1, 1), false);
    }
    ((if last < 0 { last as i8 } else { last as i8 + 1 }, step.max(1) as u8), true)
}

fn is_one_key(command: &Command) -> bool {
    matches!(command.keys[0].find, crate::spec::Find::Range { last: 0, .. })
}

/// All commands of a node. Lives as long as the process.
#[derive(Clone)]
pub struct Table {
    specs: Vec<&'static Spec>,
    /// Top-level commands, in order of name.
    by_name: BTreeMap<&'static str, &'static Spec>,
    /// Open addressing by [`name_hash`]; a power of two, at most a quarter full. The word tells short names apart.
    hashed: Vec<(u64, Option<&'static Spec>)>,
}

impl Table {
    /// Builds the table. Panics on a name that is declared twice: a programmer's error.
    pub fn new(commands: impl IntoIterator<Item = &'static Command>) -> Table {
        let mut table = Table { specs: Vec::new(), by_name: BTreeMap::new(), hashed: Vec::new() };
        for command in commands {
            let spec = table.add(command, None);
            assert!(table.by_name.insert(command.name, spec).is_none(), "{} is declared twice", command.name);
        }
        table.rehash();
        table
    }

    fn rehash(&mut self) {
        self.hashed = vec![(0, None); (self.by_name.len() * 4).next_power_of_two()];
        for spec in self.by_name.values() {
            let (word, hash) = name_hash(spec.command.name.as_bytes());
            let mask = self.hashed.len() - 1;
            let mut at = hash & mask;
            while self.hashed[at].1.is_some() {
                at = (at + 1) & mask;
            }
            self.hashed[at] = (word, Some(spec));
        }
    }

    /// Gives a top-level command another name for clients, or none (`to` is empty). What it is declared as stays its name
    /// in statistics, and in what is replayed. `Err`: why not; nothing was changed.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), &'static str> {
        let (from, to) = (from.to_ascii_lowercase(), to.to_ascii_lowercase());
        let Some(spec) = self.by_name(from.as_bytes()) else {
            return Err("No such command in rename-command");
        };
        if to != from && self.by_name(to.as_bytes()).is_some() {
            return Err("Target command name already exists");
        }
        self.by_name.remove(spec.command.name);
        if !to.is_empty() {
            // As the others it lives as long as the process.
            let command: &'static Command =
                Box::leak(Box::new(Command { name: Box::leak(to.into_boxed_str()), ..*spec.command }));
            let renamed: &'static Spec = Box::leak(Box::new(Spec {
                command,
                full_name: spec.full_name.clone(),
                subcommands: spec.subcommands.clone(),
                ..*spec
            }));
            self.by_name.insert(command.name, renamed);
        }
        self.rehash();
        Ok(())
    }

    /// A command by what it was declared as, `name` or `container|name`, whatever clients call it.
    pub fn declared(&self, name: &[u8]) -> Option<&'static Spec> {
        self.specs.iter().find(|s| s.full_name.as_bytes().eq_ignore_ascii_case(name)).copied()
    }

    fn add(&mut self, command: &'static Command, parent: Option<&'static Command>) -> &'static Spec {
        let subcommands = command.subcommands.iter().map(|sub| self.add(sub, Some(command))).collect();
        let (ahead, has_all_ahead) = keys_ahead(command);
        let is_single_key = ahead.0 != 0 && command.keys.len() == 1 && is_one_key(command);
        let is_routed = command.keys.iter().any(|k| k.flags & crate::spec::key::ROUTES != 0);
        let is_of_keys = matches!(command.run, crate::spec::Handler::Keys(_));
        const NEEDS_MORE: u32 = flag::ANY_KEY | flag::WHOLE_DB | flag::BLOCKING | flag::EXCLUSIVE;
        let spec: &'static Spec = Box::leak(Box::new(Spec {
            command,
            id: self.specs.len(),
            full_name: parent.map_or(command.name.into(), |p| format!("{}|{}", p.name, command.name)),
            subcommands,
            acl: command.acl_categories(),
            is_subcommand: parent.is_some(),
            ahead,
            has_all_ahead,
            is_routed,
            is_single_key,
            is_plain: is_single_key && is_of_keys,
            is_plain_of_many: ahead.0 != 0
                && !is_single_key
                && !is_routed
                && is_of_keys
                && command.flags & NEEDS_MORE == 0,
        }));
        self.specs.push(spec);
        spec
    }

    /// Number of specs, subcommands included; ids are below it.
    pub fn len(&self) -> usize {
        self.specs.len()
    }
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }
    pub fn specs(&self) -> &[&'static Spec] {
        &self.specs
    }
    /// Top-level commands in order of name.
    pub fn commands(&self) -> impl Iterator<Item = &'static Spec> + '_ {
        self.by_name.values().copied()
    }

    /// A top-level command by its name in any case.
    #[inline]
    pub fn by_name(&self, name: &[u8]) -> Option<&'static Spec> {
        let mask = self.hashed.len() - 1;
        let (word, hash) = name_hash(name);
        let mut at = hash & mask;
        loop {
            let (its_word, spec) = self.hashed[at];
            let spec = spec?;
            // The word holds all of a name of up to eight bytes.
            let is_it = its_word == word
                && spec.command.name.len() == name.len()
                && (name.len() <= 8 || spec.command.name.as_bytes().eq_ignore_ascii_case(name));
            if is_it {
                return Some(spec);
            }
            at = (at + 1) & mask;
        }
    }

    /// A command by `name` or `container|name`.
    pub fn by_full_name(&self, name: &[u8]) -> Option<&'static Spec> {
        match memchr::memchr(b'|', name) {
            None => self.by_name(name),
            Some(bar) => subcommand(self.by_name(&name[..bar])?, &name[bar + 1..]),
        }
    }

    /// A command by the name that clients use, or by what it was declared as.
    pub fn by_any_name(&self, name: &[u8]) -> Option<&'static Spec> {
        self.by_full_name(name).or_else(|| self.declared(name))
    }

    /// As [`Table::resolve`], for what is replayed: commands that were renamed have both names there.
    pub fn resolve_replayed(&self, args: Args) -> Result<&'static Spec, Error> {
        match self.resolve(args) {
            Err(error) if self.by_name(args[0]).is_none() => {
                let spec = self.declared(args[0]).ok_or(error)?;
                let sub = args.get(1).and_then(|name| subcommand(spec, name));
                let spec = sub.unwrap_or(spec);
                spec.is_arity(args.len()).then_some(spec).ok_or_else(|| Error::Arity(spec.full_name.clone()))
            }
            resolved => resolved,
        }
    }

    /// The command that `args` name, with its subcommand, however many arguments there are.
    #[inline]
    pub fn find(&self, args: Args) -> Result<&'static Spec, Error> {
        let spec = self.by_name(args[0]).ok_or_else(|| unknown_command(args))?;
        match (spec.subcommands.is_empty(), args.get(1)) {
            (true, _) | (false, None) => Ok(spec),
            (false, Some(name)) => match subcommand(spec, name) {
                Some(sub) => Ok(sub),
                // To users' rights any word is one: the container is asked, which then says that there is none.
                None if spec.has(flag::OPEN_SUBCOMMANDS) => Ok(spec),
                None => Err(unknown_subcommand(spec, name)),
            },
        }
    }

    /// The command that `args` name, with its subcommand. Checks the number of arguments.
    #[inline]
    pub fn resolve(&self, args: Args) -> Result<&'static Spec, Error> {
        let spec = self.find(args)?;
        if !spec.is_arity(args.len()) {
            return Err(Error::Arity(spec.full_name.clone()));
        }
        Ok(spec)
    }
}

fn subcommand(spec: &'static Spec, name: &[u8]) -> Option<&'static Spec> {
    spec.subcommands.iter().find(|s| s.command.name.as_bytes().eq_ignore_ascii_case(name)).copied()
}

/// A word of the name's ends in lower case, and a hash of it and the length.
#[inline]
fn name_hash(name: &[u8]) -> (u64, usize) {
    const CASE: u64 = 0x2020_2020_2020_2020;
    let word = match name {
        [a] => *a as u64,
        [a, b] => *a as u64 | (*b as u64) << 8,
        [a, b, c] => *a as u64 | (*b as u64) << 8 | (*c as u64) << 16,
        _ => {
            let half = |half: Option<&[u8; 4]>| half.map_or(0, |half| u32::from_le_bytes(*half) as u64);
            half(name.first_chunk()) | half(name.last_chunk()) << 32
        }
    } | CASE;
    let mixed = (word ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word, (mixed >> 40) as usize)
}

fn unknown_command(args: Args) -> Error {
    const SHOWN_BYTES_MAX: usize = 128;
    let clip =
        |bytes: &[u8], max: usize| String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned();
    let mut shown = String::new();
    for arg in &args[1..] {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        shown.push_str(&format!("'{}' ", clip(arg, SHOWN_BYTES_MAX - shown.len())));
    }
    Error::err(&format!(
        "unknown command '{}', with args beginning with: {shown}",
        clip(args[0], SHOWN_BYTES_MAX)
    ))
}

pub(crate) fn unknown_subcommand(spec: &Spec, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
    Error::err(&format!("unknown subcommand '{name}'. Try {} HELP.", spec.command.name.to_uppercase()))
}

impl Spec {
    /// Lines of the container's HELP.
    pub fn help(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            self.command.name.to_uppercase()
        )];
        for sub in &self.subcommands {
            let args: Vec<String> = sub.command.args.iter().map(syntax).collect();
            let head = format!("{} {}", sub.command.name.to_uppercase(), args.join(" "));
            lines.push(head.trim_end().to_string());
            lines.push(format!("    {}", sub.command.summary));
        }
        lines
    }
    pub fn is_container(&self) -> bool {
        matches!(self.command.run, crate::spec::Handler::Container)
    }
    pub fn is_write(&self) -> bool {
        self.has(flag::WRITE)
    }
}

/// An argument as it is written in a synopsis: `[EX seconds]`, `<a | b>`, `key [key ...]`.
pub fn syntax(arg: &crate::spec::Arg) -> String {
    use crate::spec::ArgKind;
    let inner = match arg.kind {
        ArgKind::PureToken => String::new(),
        ArgKind::OneOf => {
            let parts: Vec<String> = arg.children.iter().map(syntax).collect();
            if arg.is_optional { parts.join("|") } else { format!("<{}>", parts.join("|")) }
        }
        ArgKind::Block => arg.children.iter().map(syntax).collect::<Vec<_>>().join(" "),
        _ => arg.name.to_string(),
    };
    let mut text = match (arg.token, inner.is_empty()) {
        (Some(token), true) => token.to_string(),
        (Some(token), false) => format!("{token} {inner}"),
        (None, _) => inner.clone(),
    };
    if arg.is_multiple {
        let repeated = if arg.is_multiple_token { text.clone() } else { inner };
        text = format!("{text} [{repeated} ...]");
    }
    if arg.is_optional { format!("[{text}]") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_known_ahead_are_the_first_of_all() {
        let table = Table::new(crate::commands::all());
        let mut whole = Vec::new();
        for spec in table.specs().iter().filter(|spec| !spec.is_subcommand() && spec.subcommands.is_empty()) {
            // Words that are numbers, so that counts of keys are fit, or no words of a command.
            for count in (2..12).chain([200]).filter(|&count| spec.is_arity(count)) {
                let args: Vec<&[u8]> =
                    (0..count).map(|i| if i % 2 == 0 { b"1".as_slice() } else { b"k" }).collect();
                let mut ahead = Vec::new();
                spec.keys_ahead(count).each(|at| ahead.push(at));
                assert!(ahead.first().is_none_or(|first| *first == 1) && ahead.len() <= KEYS_AHEAD_MAX);
                assert!(!spec.keys_ahead(count).is_one() || ahead == [1]);
                let is_all = spec.all_keys_ahead(count).is_some();
                if let Some(all) = spec.key_positions(&args) {
                    assert!(!is_all || all[..] == ahead, "{} of {count}: {all:?}", spec.full_name);
                    assert!(all.starts_with(&ahead), "{} of {count}: {all:?}, {ahead:?}", spec.full_name);
                    if count == 6 && all.len() > 1 && all[..] == ahead {
                        whole.push(spec.command.name);
                    }
                }
            }
        }
        for name in ["mget", "mset", "del", "exists", "sinter", "pfcount"] {
            assert!(whole.iter().any(|w| w.eq_ignore_ascii_case(name)), "{name} is not among {whole:?}");
        }
    }
}
