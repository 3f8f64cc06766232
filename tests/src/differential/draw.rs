//! Draws commands whose arguments are likely to meet: few keys, few members, numbers near the edges.

use super::accepted::{EXCLUDED, has, is_by_texts};
use super::grammar::{Arg, Grammar};
use std::collections::BTreeMap;

/// A command with its arguments.
pub type Args = Vec<Vec<u8>>;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const FAMILIES: &[&str] =
    &["string", "list", "set", "sorted-set", "hash", "stream", "hyperloglog", "geo", "bitmap"];
const WORDS: &[&str] = &["a", "b", "c", "d", "e", "f", "1", "2", "10", "-5", "3.5", "", "A b"];
const INTEGERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "5",
    "10",
    "-1",
    "-2",
    "-3",
    "-100",
    "100",
    "1000",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "+1",
    "01",
    " 1",
    "1.5",
    "x",
    "",
];
const DOUBLES: &[&str] = &[
    "0",
    "1",
    "-1",
    "2.5",
    "1e3",
    "0.1",
    "-0",
    "inf",
    "-inf",
    "+inf",
    "nan",
    "1e308",
    "1e-5",
    "3.0",
    "17179869184.5",
    "0x10",
    "x",
    "",
];
const SCORE_BOUNDS: &[&str] = &["-inf", "+inf", "0", "1", "(1", "(2.5", "3", "(inf", "x", "-1"];
const LEX_BOUNDS: &[&str] = &["-", "+", "[a", "(a", "[c", "(e", "[", "(", "a", "[zz"];
const IDS: &[&str] = &[
    "0",
    "0-1",
    "1-1",
    "1-2",
    "2-1",
    "3-5",
    "5",
    "10-0",
    "0-0",
    "18446744073709551615-18446744073709551615",
    "x",
    "7-*",
];
const PATTERNS: &[&str] = &["*", "a*", "?", "[a-c]", "[^a]", "s*", "*1", "\\*", "", "[a", "**b"];

pub struct Draw<'a> {
    grammars: Vec<&'a Grammar>,
    pub rng: Rng,
}

impl<'a> Draw<'a> {
    pub fn new(grammars: &'a BTreeMap<String, Grammar>, seed: u64) -> Draw<'a> {
        let usable = |g: &&Grammar| !EXCLUDED.iter().any(|(what, _)| *what == g.group || *what == g.name());
        Draw { grammars: grammars.values().filter(usable).collect(), rng: Rng(seed) }
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.grammars.iter().map(|g| g.name())
    }

    /// Some commands that belong together: one, one in a script, or a transaction.
    pub fn step(&mut self, out: &mut Vec<Args>) {
        match self.rng.below(100) {
            0..2 => {
                out.push(words("MULTI"));
                (0..1 + self.rng.below(4)).for_each(|_| _ = self.command(out, false));
                out.push(words(if self.rng.percent(85) { "EXEC" } else { "DISCARD" }));
            }
            2..5 => {
                let mut inner = Vec::new();
                let is_fit = self.command(&mut inner, true);
                out.extend(inner.into_iter().map(|args| if is_fit { scripted(args) } else { args }));
            }
            _ => _ = self.command(out, false),
        }
    }

    /// A command, with what makes its effect certain before it, and the removal of keys whose contents are not behind it.
    /// Whether a script may call them.
    fn command(&mut self, out: &mut Vec<Args>, is_scripted: bool) -> bool {
        let grammar = self.grammars[self.rng.below(self.grammars.len())];
        let family = match grammar.group.as_str() {
            "generic" => self.rng.pick(FAMILIES),
            group => FAMILIES.iter().find(|f| **f == group).copied().unwrap_or("string"),
        };
        let mut args: Args = grammar.words.iter().map(|w| w.to_uppercase().into_bytes()).collect();
        let mut keys = Vec::new();
        let mut one = One { rng: &mut self.rng, family, group: &grammar.group, keys: &mut keys };
        one.row(&grammar.args, &mut args);
        if self.rng.percent(4) {
            self.spoil(&mut args, grammar.words.len());
            lengthen(&mut args);
        }
        self.tell_times_apart(&mut args);
        // An id of the server's own making is the time at which it was made.
        if grammar.group == "stream" {
            args.iter_mut().filter(|arg| *arg == b"*").for_each(|arg| *arg = b"9-9".to_vec());
        }
        let is_random = grammar.is_write && grammar.has_tip("nondeterministic_output");
        let mut uncertain = if is_random { keys } else { targets_without_order(&args) };
        uncertain.sort_unstable();
        uncertain.dedup();
        out.extend(one_score(&args));
        out.push(args);
        out.extend(uncertain.into_iter().map(|key| vec![b"DEL".to_vec(), key]));
        is_scripted && !grammar.is_noscript
    }

    /// Draws times again that GT or LT compares: two that only the clock tells apart may be the same for one server.
    fn tell_times_apart(&mut self, args: &mut Args) {
        let is_long = args.get(2).is_some_and(|time| *time == b"100000" || *time == b"100000000");
        if args[0].ends_with(b"EXPIRE") && is_long && (has(args, "GT") || has(args, "LT")) {
            args[2] = format!("{}000", 100 + self.rng.below(1_000_000)).into_bytes();
        }
    }

    /// Makes arguments wrong in one of the usual ways. Never the name.
    fn spoil(&mut self, args: &mut Args, first: usize) {
        let rng = &mut self.rng;
        if args.len() <= first {
            args.push(rng.pick(WORDS).into());
            return;
        }
        let at = first + rng.below(args.len() - first);
        match rng.below(5) {
            0 => _ = args.remove(at),
            1 => args.insert(at, rng.pick(INTEGERS).into()),
            2 => args.insert(at, args[at].clone()),
            3 => args.truncate(at),
            _ => {
                let other = first + rng.below(args.len() - first);
                args.swap(at, other);
            }
        }
    }
}

fn words(line: &str) -> Args {
    line.split(' ').map(|w| w.as_bytes().to_vec()).collect()
}

fn scripted(args: Args) -> Args {
    let call = [b"EVAL".to_vec(), b"return redis.call(unpack(ARGV))".to_vec(), b"0".to_vec()];
    call.into_iter().chain(args).collect()
}

/// Makes times to live long where other numbers came to stand: short ones may be over for one server only.
fn lengthen(args: &mut Args) {
    let is_word = |arg: &[u8]| arg.eq_ignore_ascii_case(b"EX") || arg.eq_ignore_ascii_case(b"PX");
    let is_second = matches!(args[0].as_slice(), b"SETEX" | b"PSETEX");
    for i in 1..args.len() {
        let is_time = is_word(&args[i - 1]) || is_second && i == 2;
        let is_short = matches!(args[i].as_slice(), [b'1'..=b'9', rest @ ..] if rest.len() < 4);
        if is_time && is_short {
            args[i] = b"100000".to_vec();
        }
    }
}

/// Gives all members one score before a command that takes them by their names (its own or an option's has LEX in it).
// Redis leaves open what such a range is where scores differ: from 129 members on, or with one of more than 64 bytes, it
// depends on the random levels of the skiplist. ZREMRANGEBYLEX and ZRANGESTORE would then keep different members.
fn one_score(args: &Args) -> Option<Args> {
    let has_lex = |arg: &Vec<u8>| arg.to_ascii_uppercase().windows(3).any(|part| part == b"LEX");
    let key = args.get(if args[0] == b"ZRANGESTORE" { 2 } else { 1 })?;
    args.iter().any(has_lex).then(|| {
        let mut command = words("ZUNIONSTORE _ 1 _ WEIGHTS 0");
        (command[1], command[3]) = (key.clone(), key.clone());
        command
    })
}

/// The keys where a SORT stores elements that have no order.
fn targets_without_order(args: &Args) -> Vec<Vec<u8>> {
    let is_target = |pair: &&[Vec<u8>]| pair[0].eq_ignore_ascii_case(b"STORE");
    match args[0] == b"SORT" && is_by_texts(args) {
        true => args.windows(2).filter(is_target).map(|pair| pair[1].clone()).collect(),
        false => Vec::new(),
    }
}

/// One command that is being filled.
struct One<'r> {
    rng: &'r mut Rng,
    family: &'static str,
    group: &'r str,
    keys: &'r mut Vec<Vec<u8>>,
}

impl One<'_> {
    fn row(&mut self, specs: &[Arg], out: &mut Args) {
        let mut at = 0;
        while at < specs.len() {
            let spec = &specs[at];
            let counts = spec.kind == "integer"
                && spec.name.starts_with("num")
                && specs.get(at + 1).is_some_and(|next| next.is_multiple);
            if counts {
                self.counted(spec, &specs[at + 1], out);
                at += 2;
                continue;
            }
            self.arg(spec, out);
            at += 1;
        }
    }

    /// A count and as many arguments, most times.
    fn counted(&mut self, count: &Arg, spec: &Arg, out: &mut Args) {
        if count.is_optional && self.rng.percent(60) {
            return;
        }
        out.extend(count.token.as_ref().map(|t| t.clone().into_bytes()));
        let n = 1 + self.rng.below(3);
        let told = if self.rng.percent(95) { n.to_string() } else { self.rng.pick(INTEGERS).to_string() };
        out.push(told.into_bytes());
        (0..n).for_each(|_| self.once(spec, out));
    }

    fn arg(&mut self, spec: &Arg, out: &mut Args) {
        if spec.is_optional && self.rng.percent(65) {
            return;
        }
        let times = if spec.is_multiple { 1 + self.rng.below(3) } else { 1 };
        for time in 0..times {
            if let Some(token) = &spec.token
                && (time == 0 || spec.is_multiple_token)
            {
                let is_lower = self.rng.percent(10);
                out.push(if is_lower { token.to_lowercase() } else { token.clone() }.into_bytes());
            }
            // Without an end there would be no reply.
            match spec.token.as_deref() {
                Some("BLOCK") => out.push(self.rng.pick(&["1", "2", "-1", "x"]).into()),
                _ => self.once(spec, out),
            }
        }
    }

    fn once(&mut self, spec: &Arg, out: &mut Args) {
        let text: Vec<u8> = match spec.kind.as_str() {
            "pure-token" => return,
            "oneof" => {
                let child = &spec.children[self.rng.below(spec.children.len())];
                return self.arg(&Arg { is_optional: false, ..child.clone() }, out);
            }
            "block" => return self.row(&spec.children, out),
            "key" => {
                let key = self.key();
                self.keys.push(key.clone());
                key
            }
            "pattern" => self.rng.pick(PATTERNS).into(),
            "unix-time" => self
                .rng
                .pick(&["33177117420", "33177117420000", "1", "0", "-1", "x", "9223372036854775807"])
                .into(),
            "double" => self.double(&spec.name),
            "integer" => self.integer(&spec.name),
            _ => self.string(&spec.name),
        };
        out.push(text);
    }

    fn key(&mut self) -> Vec<u8> {
        let family = if self.rng.percent(92) { self.family } else { self.rng.pick(FAMILIES) };
        format!("{}{}", &family[..2], self.rng.below(4)).into_bytes()
    }

    fn integer(&mut self, name: &str) -> Vec<u8> {
        match name {
            "seconds" | "milliseconds" => self.rng.pick(&[
                "100000",
                "100000000",
                "0",
                "-1",
                "9223372036854775807",
                "x",
                "-9223372036854775808",
            ]),
            "timeout" | "ms" => "1",
            "db" | "index" if self.rng.percent(80) => self.rng.pick(&["0", "1", "15"]),
            "count" | "limit" | "offset" if self.rng.percent(70) => {
                self.rng.pick(&["0", "1", "2", "3", "10", "-1"])
            }
            "cursor" => "0",
            _ if self.rng.percent(60) => self.rng.pick(&["0", "1", "2", "3", "-1", "10"]),
            _ => self.rng.pick(INTEGERS),
        }
        .into()
    }

    fn double(&mut self, name: &str) -> Vec<u8> {
        match name {
            "timeout" => self.rng.pick(&["0.01", "-1", "x", "0.001"]),
            "longitude" => {
                self.rng.pick(&["13.361389", "15.087269", "0", "-180", "180", "2.349014", "181", "x"])
            }
            "latitude" => {
                self.rng.pick(&["38.115556", "37.502669", "0", "85.05", "-85.05", "48.864716", "86", "x"])
            }
            "radius" | "width" | "height" => self.rng.pick(&["100", "200.5", "0", "20000", "-1", "1", "x"]),
            _ if self.rng.percent(60) => self.rng.pick(&["0", "1", "2", "3", "-1", "1.5"]),
            _ => match self.rng.pick(DOUBLES) {
                // Sums beyond the range of f64 are no numbers here; in Redis those of its platform's long double are.
                "1e308" if name == "increment" => "1e200",
                other => other,
            },
        }
        .into()
    }

    fn string(&mut self, name: &str) -> Vec<u8> {
        if self.rng.percent(2) {
            return self.odd();
        }
        let from = match (self.group, name) {
            (_, "group" | "groupname") => &["g1", "g2"][..],
            (_, "consumer" | "consumername") => &["c1", "c2"],
            ("stream", "start" | "end") if self.rng.percent(40) => &["-", "+", "(1-1", "("],
            (
                "stream",
                "id" | "start" | "end" | "lastid" | "last-id" | "min-idle-time" | "threshold" | "entryid",
            ) => IDS,
            ("sorted-set", "min" | "max" | "start" | "stop") => match self.rng.below(3) {
                0 => SCORE_BOUNDS,
                1 => LEX_BOUNDS,
                _ => INTEGERS,
            },
            ("bitmap", "encoding") => &["u8", "i8", "u1", "i64", "u63", "u64", "i5", "x", "u0"],
            ("bitmap", "offset") => &["0", "1", "#1", "#3", "7", "100", "-1", "x", "4294967296"],
            (_, "offset" | "start" | "end" | "stop" | "index" | "increment" | "bit") => INTEGERS,
            ("string", "value") if self.rng.percent(50) => INTEGERS,
            (_, "increment-float") => DOUBLES,
            _ => WORDS,
        };
        self.rng.pick(from).into()
    }

    /// Long, or with bytes that some path may not expect.
    fn odd(&mut self) -> Vec<u8> {
        match self.rng.below(4) {
            0 => vec![b'x'; 65],
            1 => vec![b'y'; 9_000],
            2 => b"a\r\nb\0\xff".to_vec(),
            _ => (0..self.rng.below(40)).map(|_| self.rng.number() as u8).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(args: impl IntoIterator<Item = Vec<u8>>) -> String {
        args.into_iter().map(|arg| String::from_utf8(arg).unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ranges_of_members_see_one_score() {
        let before = |line: &str| one_score(&words(line)).map(shown).unwrap_or_default();
        assert_eq!(before("ZLEXCOUNT a - +"), "ZUNIONSTORE a 1 a WEIGHTS 0");
        assert_eq!(before("ZREMRANGEBYLEX a - +"), "ZUNIONSTORE a 1 a WEIGHTS 0");
        assert_eq!(before("ZRANGE a - + bylex"), "ZUNIONSTORE a 1 a WEIGHTS 0");
        assert_eq!(before("ZRANGESTORE t a - + BYLEX"), "ZUNIONSTORE a 1 a WEIGHTS 0");
        assert_eq!(before("ZRANGESTORE t a 0 1 BYSCORE") + &before("ZRANGEBYLEX"), "");
    }

    #[test]
    fn nothing_expires_under_way() {
        let longer = |line: &str| {
            let mut args = words(line);
            lengthen(&mut args);
            shown(args)
        };
        assert_eq!(longer("SET a 1 GET px 1"), "SET a 1 GET px 100000");
        assert_eq!(longer("PSETEX a 10 2"), "PSETEX a 100000 2");
        assert_eq!(longer("SET a 1 EX 0 PX -1 PXAT 1"), "SET a 1 EX 0 PX -1 PXAT 1");
    }

    #[test]
    fn what_has_no_order_does_not_stay() {
        let targets = |line: &str| shown(targets_without_order(&words(line)));
        assert_eq!(targets("SORT a BY w* ALPHA store t"), "t");
        assert_eq!(targets("SORT a BY w* STORE t") + &targets("SORT a ALPHA STORE t"), "");
    }
}
