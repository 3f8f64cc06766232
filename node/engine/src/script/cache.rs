//! Scripts by their SHA-1, for all workers of a node.
//!
//! Invariant: what SCRIPT LOAD put in stays until SCRIPT FLUSH; of scripts that only EVAL brought, the oldest go when
//! there are too many, as from Redis 7.4 on.

use crate::spec::flag;
use proto::resp::split_inline;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Scripts that EVAL brought and that are kept. Choice: more than an application has, less than generated ones fill.
const EVALUATED_MAX: usize = 5000;
const EVALUATED_BYTES_MAX: usize = 64 << 20;

pub type Sha = [u8; 20];

pub fn hex(sha: &Sha) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| DIGITS[usize::from(n)] as char;
    sha.iter().flat_map(|b| [digit(b >> 4), digit(b & 0xF)]).collect()
}

/// Reads the 40 digits of a SHA-1, in either case.
pub fn parse_sha(text: &[u8]) -> Option<Sha> {
    if text.len() != 40 {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let mut sha = [0; 20];
    for (byte, pair) in sha.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(sha)
}

pub fn sha_of(body: &[u8]) -> Sha {
    Sha1::digest(body).into()
}

/// What a script or a function says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScriptFlags(u32);

impl ScriptFlags {
    pub const NO_WRITES: u32 = 1 << 0;
    pub const ALLOW_OOM: u32 = 1 << 1;
    pub const ALLOW_STALE: u32 = 1 << 2;
    pub const NO_CLUSTER: u32 = 1 << 3;
    pub const ALLOW_CROSS_SLOT: u32 = 1 << 4;
    /// It says nothing: what it does is judged command by command.
    pub const COMPAT: u32 = 1 << 5;
    pub const NAMES: [(u32, &str); 5] = [
        (Self::NO_WRITES, "no-writes"),
        (Self::ALLOW_OOM, "allow-oom"),
        (Self::ALLOW_STALE, "allow-stale"),
        (Self::NO_CLUSTER, "no-cluster"),
        (Self::ALLOW_CROSS_SLOT, "allow-cross-slot-keys"),
    ];

    pub fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
    pub fn add(&mut self, flags: u32) {
        self.0 |= flags;
    }
    pub fn by_name(name: &[u8], ignore_case: bool) -> Option<u32> {
        let is = |n: &str| match ignore_case {
            true => n.as_bytes().eq_ignore_ascii_case(name),
            false => n.as_bytes() == name,
        };
        Self::NAMES.iter().find(|(_, n)| is(n)).map(|(flag, _)| *flag)
    }
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect()
    }
    /// The flags of the command that runs the script, from the command's own.
    pub fn command_flags(self, command: u32) -> u32 {
        if self.has(Self::COMPAT) {
            return command;
        }
        let mut flags = command & !(flag::STALE | flag::DENYOOM | flag::WRITE | flag::MAY_REPLICATE);
        if !self.has(Self::ALLOW_OOM | Self::NO_WRITES) {
            flags |= flag::DENYOOM;
        }
        if !self.has(Self::NO_WRITES) {
            flags |= flag::WRITE;
        }
        if self.has(Self::ALLOW_STALE) {
            flags |= flag::STALE;
        }
        flags
    }
}

/// A script.
#[derive(Debug)]
pub struct Script {
    pub sha: Sha,
    /// The SHA-1 in hexadecimal digits.
    pub name: Arc<str>,
    pub body: Vec<u8>,
    pub flags: ScriptFlags,
    /// Bytes of `body` before its first line's end, if that is a shebang.
    pub shebang: usize,
    /// It needs more than the slots of its declared keys: it runs with the gate closed.
    pub needs_gate: AtomicBool,
    /// It has a loop, which may have no end.
    pub may_loop: bool,
    is_kept: AtomicBool,
}

impl Script {
    /// Reads the first line. `Err`: what is wrong with it.
    pub fn new(body: &[u8], names_whole_db: impl Fn(&[u8]) -> bool) -> Result<Script, String> {
        let (flags, shebang) = parse_shebang(body)?;
        let sha = sha_of(body);
        Ok(Script {
            sha,
            name: hex(&sha).into(),
            body: body.to_vec(),
            flags,
            shebang,
            needs_gate: AtomicBool::new(quoted_words(body).any(names_whole_db)),
            may_loop: may_loop(body),
            is_kept: AtomicBool::new(false),
        })
    }
    pub fn code(&self) -> &[u8] {
        &self.body[self.shebang..]
    }
}

/// Whether a text has the word of a loop, be it in a string or a comment. Calls nest only so far.
pub fn may_loop(text: &[u8]) -> bool {
    let is_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    text.split(|c| !is_word(c)).any(|word| matches!(word, b"while" | b"repeat" | b"for"))
}

/// Words between quotes of one kind: among them are the commands that a script names.
fn quoted_words(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    const WORD_BYTES_MAX: usize = 20;
    let quote = |i: usize| matches!(body[i], b'"' | b'\'');
    (0..body.len()).filter(move |i| quote(*i)).filter_map(move |i| {
        let rest = &body[i + 1..body.len().min(i + 2 + WORD_BYTES_MAX)];
        let len = rest.iter().position(|c| *c == body[i])?;
        (len > 0 && rest[..len].iter().all(u8::is_ascii_alphanumeric)).then_some(&rest[..len])
    })
}

fn parse_shebang(body: &[u8]) -> Result<(ScriptFlags, usize), String> {
    if !body.starts_with(b"#!") {
        return Ok((ScriptFlags(ScriptFlags::COMPAT), 0));
    }
    let end = memchr::memchr(b'\n', body).ok_or("Invalid script shebang")?;
    let parts = split_inline(&body[..end]).filter(|p| !p.is_empty());
    let parts = parts.ok_or("Invalid engine in script shebang")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if parts[0] != b"#!lua" {
        return Err(format!("Unexpected engine in script shebang: {}", text(&parts[0])));
    }
    let mut flags = ScriptFlags::default();
    for part in &parts[1..] {
        let Some(names) = part.strip_prefix(b"flags=") else {
            return Err(format!("Unknown lua shebang option: {}", text(part)));
        };
        for name in names.split(|c| *c == b',').filter(|_| !names.is_empty()) {
            match ScriptFlags::by_name(name, false) {
                Some(flag) => flags.add(flag),
                None => return Err(format!("Unexpected flag in script shebang: {}", text(name))),
            }
        }
    }
    Ok((flags, end))
}

#[derive(Default, Debug)]
struct Scripts {
    by_sha: BTreeMap<Sha, Arc<Script>>,
    /// Those that only EVAL brought, the oldest first. May name scripts that are kept by now.
    evaluated: VecDeque<Sha>,
    evaluated_bytes: usize,
    bytes: usize,
}

/// See the module's head.
#[derive(Default, Debug)]
pub struct Cache {
    scripts: RwLock<Scripts>,
    flushes: AtomicU64,
}

impl Cache {
    fn read(&self) -> RwLockReadGuard<'_, Scripts> {
        self.scripts.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Scripts> {
        self.scripts.write().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn get(&self, sha: &Sha) -> Option<Arc<Script>> {
        self.read().by_sha.get(sha).cloned()
    }
    pub fn len(&self) -> usize {
        self.read().by_sha.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of the scripts' texts.
    pub fn bytes(&self) -> usize {
        self.read().bytes
    }
    /// Changes whenever all scripts are forgotten.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Puts a script in that compiles. `is_kept`: it came with SCRIPT LOAD.
    pub fn insert(&self, script: Arc<Script>, is_kept: bool) -> Arc<Script> {
        let mut scripts = self.write();
        if let Some(known) = scripts.by_sha.get(&script.sha) {
            let known = known.clone();
            if is_kept && !known.is_kept.swap(true, Ordering::Relaxed) {
                scripts.evaluated_bytes -= known.body.len();
            }
            return known;
        }
        script.is_kept.store(is_kept, Ordering::Relaxed);
        scripts.bytes += script.body.len();
        scripts.by_sha.insert(script.sha, script.clone());
        if !is_kept {
            scripts.evaluated.push_back(script.sha);
            scripts.evaluated_bytes += script.body.len();
            scripts.make_room();
        }
        script
    }

    pub fn flush(&self) {
        *self.write() = Scripts::default();
        self.flushes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Scripts {
    fn make_room(&mut self) {
        while self.evaluated.len() > EVALUATED_MAX
            || self.evaluated_bytes > EVALUATED_BYTES_MAX && self.evaluated.len() > 1
        {
            let Some(sha) = self.evaluated.pop_front() else { return };
            let is_kept = |s: &Arc<Script>| s.is_kept.load(Ordering::Relaxed);
            if self.by_sha.get(&sha).is_none_or(is_kept) {
                continue;
            }
            if let Some(script) = self.by_sha.remove(&sha) {
                self.evaluated_bytes -= script.body.len();
                self.bytes -= script.body.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: String) -> Arc<Script> {
        Arc::new(Script::new(text.as_bytes(), |_| false).unwrap())
    }

    #[test]
    fn evaluated_scripts_make_room_for_new_ones() {
        let cache = Cache::default();
        let loaded = cache.insert(script("return 'loaded'".into()), true);
        let first = cache.insert(script("return 0".into()), false);
        let second = cache.insert(script("return 1".into()), false);
        cache.insert(second.clone(), true);
        for i in 2..EVALUATED_MAX + 2 {
            cache.insert(script(format!("return {i}")), false);
        }
        assert!(cache.get(&first.sha).is_none());
        assert!(cache.get(&loaded.sha).is_some() && cache.get(&second.sha).is_some());
        cache.flush();
        assert_eq!((cache.len(), cache.bytes(), cache.flushes()), (0, 0, 1));
    }

    #[test]
    fn a_shebang_names_engine_and_flags() {
        let parse = |text: &str| parse_shebang(text.as_bytes()).map(|(f, len)| (f.names(), len));
        assert_eq!(parse("return 1"), Ok((vec![], 0)));
        assert_eq!(parse("#!lua\n"), Ok((vec![], 5)));
        let both = vec!["no-writes", "allow-stale"];
        assert_eq!(parse("#!lua flags=allow-stale,no-writes\nreturn 1"), Ok((both, 33)));
        assert_eq!(parse("#!lua"), Err("Invalid script shebang".into()));
        assert_eq!(parse("#!not-lua\n"), Err("Unexpected engine in script shebang: #!not-lua".into()));
        assert_eq!(parse("#!lua flags=x\n"), Err("Unexpected flag in script shebang: x".into()));
        assert_eq!(parse("#!lua name=x\n"), Err("Unknown lua shebang option: name=x".into()));
    }

    #[test]
    fn commands_for_the_whole_database_are_seen_in_the_text() {
        let whole = |word: &[u8]| word.eq_ignore_ascii_case(b"flushall");
        let needs = |text: &str| Script::new(text.as_bytes(), whole).unwrap().needs_gate.into_inner();
        assert!(needs("redis.call('FlushAll')"));
        assert!(needs("redis.call(\"flushall\", 'async')"));
        assert!(!needs("redis.call('get', KEYS[1])"));
        assert!(!needs("return 'flushall, and more"));
    }
}
