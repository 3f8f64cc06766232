//! What a command is. Each is declared once, as a `const` beside its function, and all else derives from it: arity
//! checks, key extraction, routing, COMMAND and its subcommands, ACL categories, admission and propagation.
//!
//! Invariant: no code asks *which* command it has; it asks a flag, and a flag is added where none fits.

use crate::cx::Cx;
use crate::error::Error;

/// Declaration of one command or subcommand.
#[derive(Clone, Copy)]
pub struct Command {
    /// Lower case; of a subcommand without its container's name.
    pub name: &'static str,
    pub summary: &'static str,
    pub since: &'static str,
    pub group: Group,
    pub complexity: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i16,
    /// Set of [`flag`]s.
    pub flags: u32,
    /// Set of [`acl`] categories beyond those that flags and group imply.
    pub acl: u32,
    pub keys: &'static [KeySpec],
    /// What the flags of a key spec with [`key::VARIABLE_FLAGS`] are for these arguments.
    pub vary: Option<fn(&[&[u8]]) -> u16>,
    pub channels: Channels,
    /// Whether logs must not show this argument of these; `None`: they may show all.
    pub is_secret: Option<fn(&[&[u8]], usize) -> bool>,
    /// Number of the argument that names an element of the collection at the first key, whose memory is asked for ahead;
    /// 0: none.
    pub element: u8,
    /// Number of the argument that is the score which that element gets, where there are no options; 0: none.
    pub score: u8,
    pub args: &'static [Arg],
    pub tips: &'static [&'static str],
    pub history: &'static [(&'static str, &'static str)],
    pub deprecated: Option<Deprecated>,
    pub subcommands: &'static [Command],
    pub run: Handler,
}

#[derive(Clone, Copy)]
pub struct Deprecated {
    pub since: &'static str,
    pub replaced_by: &'static str,
}

impl Command {
    /// Rest of a declaration: `Command { name: "get", ..Command::BASE }`.
    pub const BASE: Command = Command {
        name: "",
        summary: "",
        since: "1.0.0",
        group: Group::Generic,
        complexity: "O(1)",
        arity: 1,
        flags: 0,
        acl: 0,
        keys: &[],
        vary: None,
        channels: Channels::NONE,
        is_secret: None,
        element: 0,
        score: 0,
        args: &[],
        tips: &[],
        history: &[],
        deprecated: None,
        subcommands: &[],
        run: Handler::Container,
    };

    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Categories of ACL that the command belongs to.
    pub fn acl_categories(&self) -> u32 {
        // What a container's subcommands belong to is told by each of them.
        if matches!(self.run, Handler::Container) {
            return acl::SLOW;
        }
        let mut set = self.acl | self.group.acl();
        for (flag, category) in [
            (flag::WRITE, acl::WRITE),
            (flag::ADMIN, acl::ADMIN | acl::DANGEROUS),
            (flag::PUBSUB, acl::PUBSUB),
            (flag::BLOCKING, acl::BLOCKING),
        ] {
            if self.has(flag) {
                set |= category;
            }
        }
        if self.has(flag::READONLY) && set & acl::SCRIPTING == 0 {
            set |= acl::READ;
        }
        set | if self.has(flag::FAST) { acl::FAST } else { acl::SLOW }
    }
}

/// How a command runs.
#[derive(Clone, Copy)]
pub enum Handler {
    /// In the engine, with the slots of its keys locked.
    Keys(fn(&mut Cx<'_, '_>) -> Result<(), Error>),
    /// In the engine, part of the control flow of a connection (MULTI, EXEC, WATCH ...).
    Flow(crate::multi::FlowCommand),
    /// In the engine, without keys: it changes what is beside the keyspace, such as the cached scripts.
    Engine(fn(&mut crate::cx::EngineCx<'_, '_>) -> Result<(), Error>),
    /// In the engine: a script or function, whose commands run under its locks.
    Script(crate::script::run::ScriptCommand),
    /// In the node, which registers a function for it.
    Host,
    /// Only its subcommands run.
    Container,
}

/// Flags of commands. Those up to `NO_MULTI` have the names that COMMAND shows.
pub mod flag {
    pub const WRITE: u32 = 1 << 0;
    pub const READONLY: u32 = 1 << 1;
    pub const DENYOOM: u32 = 1 << 2;
    pub const ADMIN: u32 = 1 << 3;
    pub const PUBSUB: u32 = 1 << 4;
    pub const NOSCRIPT: u32 = 1 << 5;
    pub const BLOCKING: u32 = 1 << 6;
    pub const LOADING: u32 = 1 << 7;
    pub const STALE: u32 = 1 << 8;
    pub const SKIP_MONITOR: u32 = 1 << 9;
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    pub const ASKING: u32 = 1 << 11;
    pub const FAST: u32 = 1 << 12;
    pub const NO_AUTH: u32 = 1 << 13;
    pub const MAY_REPLICATE: u32 = 1 << 14;
    pub const NO_MULTI: u32 = 1 << 15;
    pub const ALLOW_BUSY: u32 = 1 << 16;
    pub const NO_MANDATORY_KEYS: u32 = 1 << 17;
    /// Keys cannot be told from the key specs alone.
    pub const MOVABLE_KEYS: u32 = 1 << 18;
    /// Needs every slot: runs with the gate closed.
    pub const EXCLUSIVE: u32 = 1 << 19;
    /// Runs at once inside MULTI instead of being queued (EXEC, DISCARD, MULTI, WATCH, QUIT, RESET).
    pub const NOT_QUEUED: u32 = 1 << 20;
    /// Allowed while a RESP2 connection is subscribed.
    pub const SUBSCRIBED: u32 = 1 << 21;
    /// Touches data or slots without naming keys: refused where this node may not serve.
    pub const WHOLE_DB: u32 = 1 << 22;
    /// Runs a script, which may use any key: in a transaction the gate is closed for it.
    pub const SCRIPT: u32 = 1 << 23;
    /// May take long: a node may run it beside the worker that serves its client.
    pub const LONG: u32 = 1 << 24;

    /// May use keys that are not among its arguments ([`crate::keys::Keys::reach`]): in a transaction or a script the gate
    /// is closed for it.
    pub const ANY_KEY: u32 = 1 << 25;

    /// Of a container: to users' rights any word may be its subcommand, as where its commands are plain arguments.
    pub const OPEN_SUBCOMMANDS: u32 = 1 << 26;

    /// About its client: states that hold for one command outlive it.
    pub const KEEPS_STATES: u32 = 1 << 27;

    /// Refused while a primary's data are loaded beside ours.
    pub const NO_ASYNC_LOADING: u32 = 1 << 29;

    /// Counts as set on every command.
    pub const ANY: u32 = 1 << 31;
    /// While its answer is made elsewhere, its client counts as blocked.
    pub const WAITS: u32 = 1 << 28;

    /// Names in the order in which COMMAND INFO shows them. Redis keeps `MAY_REPLICATE` to itself.
    pub const NAMES: &[(u32, &str)] = &[
        (WRITE, "write"),
        (READONLY, "readonly"),
        (DENYOOM, "denyoom"),
        (ADMIN, "admin"),
        (PUBSUB, "pubsub"),
        (NOSCRIPT, "noscript"),
        (BLOCKING, "blocking"),
        (LOADING, "loading"),
        (STALE, "stale"),
        (SKIP_MONITOR, "skip_monitor"),
        (SKIP_SLOWLOG, "skip_slowlog"),
        (ASKING, "asking"),
        (FAST, "fast"),
        (NO_AUTH, "no_auth"),
        (NO_MANDATORY_KEYS, "no_mandatory_keys"),
        (NO_ASYNC_LOADING, "no_async_loading"),
        (NO_MULTI, "no_multi"),
        (MOVABLE_KEYS, "movablekeys"),
        (ALLOW_BUSY, "allow_busy"),
    ];
}

/// Categories of ACL, as ACL CAT lists them.
pub mod acl {
    pub const KEYSPACE: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const WRITE: u32 = 1 << 2;
    pub const SET: u32 = 1 << 3;
    pub const SORTEDSET: u32 = 1 << 4;
    pub const LIST: u32 = 1 << 5;
    pub const HASH: u32 = 1 << 6;
    pub const STRING: u32 = 1 << 7;
    pub const BITMAP: u32 = 1 << 8;
    pub const HYPERLOGLOG: u32 = 1 << 9;
    pub const GEO: u32 = 1 << 10;
    pub const STREAM: u32 = 1 << 11;
    pub const PUBSUB: u32 = 1 << 12;
    pub const ADMIN: u32 = 1 << 13;
    pub const FAST: u32 = 1 << 14;
    pub const SLOW: u32 = 1 << 15;
    pub const BLOCKING: u32 = 1 << 16;
    pub const DANGEROUS: u32 = 1 << 17;
    pub const CONNECTION: u32 = 1 << 18;
    pub const TRANSACTION: u32 = 1 << 19;
    pub const SCRIPTING: u32 = 1 << 20;

    pub const NAMES: &[(u32, &str)] = &[
        (KEYSPACE, "keyspace"),
        (READ, "read"),
        (WRITE, "write"),
        (SET, "set"),
        (SORTEDSET, "sortedset"),
        (LIST, "list"),
        (HASH, "hash"),
        (STRING, "string"),
        (BITMAP, "bitmap"),
        (HYPERLOGLOG, "hyperloglog"),
        (GEO, "geo"),
        (STREAM, "stream"),
        (PUBSUB, "pubsub"),
        (ADMIN, "admin"),
        (FAST, "fast"),
        (SLOW, "slow"),
        (BLOCKING, "blocking"),
        (DANGEROUS, "dangerous"),
        (CONNECTION, "connection"),
        (TRANSACTION, "transaction"),
        (SCRIPTING, "scripting"),
    ];

    /// A category by its name in any case.
    pub fn named(name: &[u8]) -> Option<u32> {
        NAMES.iter().find(|(_, n)| n.as_bytes().eq_ignore_ascii_case(name)).map(|(c, _)| *c)
    }
}

/// Section of the command reference that a command belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    Generic,
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    Bitmap,
    HyperLogLog,
    Geo,
    PubSub,
    Transactions,
    Connection,
    Server,
    Cluster,
    Scripting,
}

impl Group {
    pub const fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::Stream => "stream",
            Group::Bitmap => "bitmap",
            Group::HyperLogLog => "hyperloglog",
            Group::Geo => "geo",
            Group::PubSub => "pubsub",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Scripting => "scripting",
        }
    }
    const fn acl(self) -> u32 {
        match self {
            Group::Generic => acl::KEYSPACE,
            Group::String => acl::STRING,
            Group::List => acl::LIST,
            Group::Set => acl::SET,
            Group::SortedSet => acl::SORTEDSET,
            Group::Hash => acl::HASH,
            Group::Stream => acl::STREAM,
            Group::Bitmap => acl::BITMAP,
            Group::HyperLogLog => acl::HYPERLOGLOG,
            Group::Geo => acl::GEO,
            Group::PubSub => acl::PUBSUB,
            Group::Transactions => acl::TRANSACTION,
            Group::Connection => acl::CONNECTION,
            Group::Scripting => acl::SCRIPTING,
            Group::Server | Group::Cluster => 0,
        }
    }
}

/// Where keys stand among the arguments. Follows Redis 7.0's key specifications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeySpec {
    pub begin: Begin,
    pub find: Find,
    /// Set of [`key`] flags.
    pub flags: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// At this argument; the command's name is number 0.
    Index(i16),
    /// After this word, searched from `start` on (from the end when negative).
    Keyword { word: &'static str, start: i16 },
    /// As `Keyword`, but found as the command finds it: past these options, each with so many operands. An operand that
    /// is spelled like the word does not count.
    AfterOptions { word: &'static str, start: i16, options: &'static [(&'static str, usize)] },
    /// The operand of one of these options, which begin at argument `start`; of the last one if it is repeated.
    Option { word: &'static str, start: i16, options: &'static [(&'static str, usize)] },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Find {
    /// From the beginning to `last` (relative; negative: from the last argument), each `step`-th one.
    /// `limit` 2: only the first half of what is left.
    Range { last: i16, step: i16, limit: i16 },
    /// A count stands `count` after the beginning, the keys `first` after it.
    Count { count: i16, first: i16, step: i16 },
}

/// Flags of key specs, with the names that COMMAND shows.
pub mod key {
    pub const RO: u16 = 1 << 0;
    pub const RW: u16 = 1 << 1;
    pub const OW: u16 = 1 << 2;
    pub const RM: u16 = 1 << 3;
    pub const ACCESS: u16 = 1 << 4;
    pub const UPDATE: u16 = 1 << 5;
    pub const INSERT: u16 = 1 << 6;
    pub const DELETE: u16 = 1 << 7;
    pub const NOT_KEY: u16 = 1 << 8;
    pub const INCOMPLETE: u16 = 1 << 9;
    pub const VARIABLE_FLAGS: u16 = 1 << 10;
    /// An empty argument there is no key.
    pub const NOT_EMPTY: u16 = 1 << 11;
    /// Of what is no key: its `{tag}`, if it has one, leads to a slot as a key's does.
    pub const ROUTES: u16 = 1 << 12;

    pub const NAMES: &[(u16, &str)] = &[
        (RO, "RO"),
        (RW, "RW"),
        (OW, "OW"),
        (RM, "RM"),
        (ACCESS, "access"),
        (UPDATE, "update"),
        (INSERT, "insert"),
        (DELETE, "delete"),
        (NOT_KEY, "not_key"),
        (INCOMPLETE, "incomplete"),
        (VARIABLE_FLAGS, "variable_flags"),
    ];
}

/// Which arguments name channels, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channels {
    /// Set of [`channel`] flags; 0: the command has none.
    pub flags: u8,
    /// Argument 1 alone, or all from 1 on.
    pub is_one: bool,
}

impl Channels {
    pub const NONE: Channels = Channels { flags: 0, is_one: false };

    /// One channel at argument 1.
    pub const fn one(flags: u8) -> Channels {
        Channels { flags, is_one: true }
    }
    /// All arguments.
    pub const fn all(flags: u8) -> Channels {
        Channels { flags, is_one: false }
    }
    /// Their places among so many arguments.
    pub fn places(&self, args: usize) -> std::ops::Range<usize> {
        1..if self.is_one { args.min(2) } else { args }
    }
}

/// What channels are named for.
pub mod channel {
    pub const PUBLISH: u8 = 1 << 0;
    pub const SUBSCRIBE: u8 = 1 << 1;
    pub const UNSUBSCRIBE: u8 = 1 << 2;
    /// The names are patterns.
    pub const PATTERN: u8 = 1 << 3;
}

impl KeySpec {
    /// One key at argument `index`.
    pub const fn one(index: i16, flags: u16) -> KeySpec {
        KeySpec { begin: Begin::Index(index), find: Find::Range { last: 0, step: 1, limit: 0 }, flags }
    }
    /// Keys from argument `index` to the one `last` after it; negative `last`: counted from the last argument.
    pub const fn range(index: i16, last: i16, step: i16, flags: u16) -> KeySpec {
        KeySpec { begin: Begin::Index(index), find: Find::Range { last, step, limit: 0 }, flags }
    }
    /// A number of keys at argument `index`, and the keys behind it.
    pub const fn counted(index: i16, flags: u16) -> KeySpec {
        KeySpec { begin: Begin::Index(index), find: Find::Count { count: 0, first: 1, step: 1 }, flags }
    }
    /// One key behind a word.
    pub const fn keyword(word: &'static str, start: i16, flags: u16) -> KeySpec {
        KeySpec {
            begin: Begin::Keyword { word, start },
            find: Find::Range { last: 0, step: 1, limit: 0 },
            flags,
        }
    }

    /// Pushes the places of the keys in `args`; `None` when the arguments do not fit the specification.
    pub fn positions(&self, args: &[&[u8]], out: &mut impl FnMut(usize)) -> Option<()> {
        let argc = args.len() as i64;
        let begin = match self.begin {
            Begin::Index(index) => index as i64,
            Begin::Keyword { word, start } => match find_keyword(args, word, start) {
                Some(place) => place as i64 + 1,
                None => return Some(()),
            },
            Begin::AfterOptions { word, options, .. } => match after_options(args, word, options) {
                Some(begin) => begin as i64,
                None => return Some(()),
            },
            Begin::Option { word, start, options } => {
                match last_option(args, word, start as usize, options) {
                    Some(begin) => begin as i64,
                    None => return Some(()),
                }
            }
        };
        let (first, last, step) = match self.find {
            Find::Range { last, step, limit } => {
                let last = if last >= 0 {
                    begin + last as i64
                } else if limit <= 1 {
                    argc + last as i64
                } else {
                    begin + (argc - begin) / limit as i64 + last as i64
                };
                (begin, last, step)
            }
            Find::Count { count, first, step } => {
                let text = args.get((begin + count as i64) as usize)?;
                let keys = crate::number::parse_i64(text).filter(|n| *n >= 0 && *n < argc)?;
                let first = begin + first as i64;
                (first, first + (keys - 1) * step as i64, step)
            }
        };
        if last < first {
            return Some(());
        }
        if last >= argc {
            return None;
        }
        let is_key = |i: &i64| self.flags & key::NOT_EMPTY == 0 || !args[*i as usize].is_empty();
        let mut i = first;
        while i <= last {
            if is_key(&i) {
                out(i as usize);
            }
            i += step.max(1) as i64;
        }
        Some(())
    }
}

fn find_keyword(args: &[&[u8]], word: &str, start: i16) -> Option<usize> {
    let is = |i: &usize| args[*i].eq_ignore_ascii_case(word.as_bytes());
    if start >= 0 {
        (start as usize..args.len().saturating_sub(1)).find(is)
    } else {
        (1..args.len().saturating_sub((-start) as usize - 1)).rev().find(is)
    }
}

/// The place behind `word`; `None` when another argument than the options comes first.
fn after_options(args: &[&[u8]], word: &str, options: &[(&str, usize)]) -> Option<usize> {
    let mut at = 1;
    while at < args.len() {
        if args[at].eq_ignore_ascii_case(word.as_bytes()) {
            return Some(at + 1);
        }
        let option = options.iter().find(|(name, _)| args[at].eq_ignore_ascii_case(name.as_bytes()))?;
        at += 1 + option.1;
    }
    None
}

/// The place of the last operand of `word`, as far as there are only options.
fn last_option(args: &[&[u8]], word: &str, start: usize, options: &[(&str, usize)]) -> Option<usize> {
    let (mut at, mut found) = (start, None);
    while let Some(arg) = args.get(at) {
        let option = options.iter().find(|(name, _)| arg.eq_ignore_ascii_case(name.as_bytes()));
        let Some((name, operands)) = option else { break };
        if *name == word {
            found = Some(at + 1);
        }
        at += 1 + operands;
    }
    found
}

/// One argument as COMMAND DOCS describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arg {
    pub name: &'static str,
    pub kind: ArgKind,
    pub token: Option<&'static str>,
    pub since: Option<&'static str>,
    pub key_spec: Option<u8>,
    pub is_optional: bool,
    pub is_multiple: bool,
    pub is_multiple_token: bool,
    pub children: &'static [Arg],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArgKind {
    String,
    Integer,
    Double,
    Key,
    Pattern,
    UnixTime,
    PureToken,
    OneOf,
    Block,
}

impl ArgKind {
    pub const fn name(self) -> &'static str {
        match self {
            ArgKind::String => "string",
            ArgKind::Integer => "integer",
            ArgKind::Double => "double",
            ArgKind::Key => "key",
            ArgKind::Pattern => "pattern",
            ArgKind::UnixTime => "unix-time",
            ArgKind::PureToken => "pure-token",
            ArgKind::OneOf => "oneof",
            ArgKind::Block => "block",
        }
    }
}

impl Arg {
    const fn new(name: &'static str, kind: ArgKind) -> Arg {
        Arg {
            name,
            kind,
            token: None,
            since: None,
            key_spec: None,
            is_optional: false,
            is_multiple: false,
            is_multiple_token: false,
            children: &[],
        }
    }
    /// A key that key spec number `spec` finds.
    pub const fn key(name: &'static str, spec: u8) -> Arg {
        Arg { key_spec: Some(spec), ..Arg::new(name, ArgKind::Key) }
    }
    pub const fn string(name: &'static str) -> Arg {
        Arg::new(name, ArgKind::String)
    }
    pub const fn integer(name: &'static str) -> Arg {
        Arg::new(name, ArgKind::Integer)
    }
    pub const fn double(name: &'static str) -> Arg {
        Arg::new(name, ArgKind::Double)
    }
    pub const fn pattern(name: &'static str) -> Arg {
        Arg::new(name, ArgKind::Pattern)
    }
    pub const fn unix_time(name: &'static str) -> Arg {
        Arg::new(name, ArgKind::UnixTime)
    }
    /// A word that stands for itself.
    pub const fn word(name: &'static str, token: &'static str) -> Arg {
        Arg { token: Some(token), ..Arg::new(name, ArgKind::PureToken) }
    }
    pub const fn one_of(name: &'static str, children: &'static [Arg]) -> Arg {
        Arg { children, ..Arg::new(name, ArgKind::OneOf) }
    }
    pub const fn block(name: &'static str, children: &'static [Arg]) -> Arg {
        Arg { children, ..Arg::new(name, ArgKind::Block) }
    }
    pub const fn token(self, token: &'static str) -> Arg {
        Arg { token: Some(token), ..self }
    }
    pub const fn since(self, since: &'static str) -> Arg {
        Arg { since: Some(since), ..self }
    }
    pub const fn optional(self) -> Arg {
        Arg { is_optional: true, ..self }
    }
    pub const fn multiple(self) -> Arg {
        Arg { is_multiple: true, ..self }
    }
    pub const fn multiple_token(self) -> Arg {
        Arg { is_multiple: true, is_multiple_token: true, ..self }
    }
}
