//! LCS: the longest common subsequence of two strings, by dynamic programming over a table of all pairs of prefixes.

use super::string::BASE;
use crate::Error;
use crate::cx::Cx;
use crate::number::parse_i64;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::ValueRef;

pub const LCS: Command = Command {
    name: "lcs",
    summary: "Finds the longest common subsequence of two string values.",
    since: "7.0.0",
    complexity: "O(N*M) where N and M are the lengths of s1 and s2, respectively",
    arity: -3,
    flags: flag::READONLY | flag::LONG,
    keys: &[KeySpec::range(1, 1, 1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key1", 0),
        Arg::key("key2", 0),
        Arg::word("len", "LEN").optional(),
        Arg::word("idx", "IDX").optional(),
        Arg::integer("min-match-len").token("MINMATCHLEN").optional(),
        Arg::word("withmatchlen", "WITHMATCHLEN").optional(),
    ],
    run: Handler::Keys(lcs),
    ..BASE
};
fn lcs(cx: &mut Cx) -> Result<(), Error> {
    let (a, b) = (text(cx, 1)?, text(cx, 2)?);
    let (mut is_len, mut is_idx, mut with_len, mut len_min) = (false, false, false, 0);
    let mut i = 3;
    while i < cx.args.len() {
        match () {
            () if cx.is_word(i, "IDX") => is_idx = true,
            () if cx.is_word(i, "LEN") => is_len = true,
            () if cx.is_word(i, "WITHMATCHLEN") => with_len = true,
            () if cx.is_word(i, "MINMATCHLEN") && i + 1 < cx.args.len() => {
                len_min = parse_i64(cx.args[i + 1]).ok_or(Error::NotInteger)?.max(0) as usize;
                i += 1;
            }
            () => return Err(Error::Syntax),
        }
        i += 1;
    }
    if is_len && is_idx {
        return Err(Error::text("ERR If you want both the length and indexes, please just use IDX."));
    }
    let cells = (a.len() as u128 + 1) * (b.len() as u128 + 1);
    if cells * size_of::<u32>() as u128 > cx.settings.proto_max_bulk_len as u128 {
        return Err(Error::text(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let table = Table::new(&a, &b);
    if is_len {
        cx.out.int(table.len() as i64);
        return Ok(());
    }
    let matches = table.matches();
    if !is_idx {
        // Found from the end on.
        let common: Vec<u8> = matches.iter().rev().flat_map(|m| &a[m.a..m.a + m.len]).copied().collect();
        cx.out.bulk(&common);
        return Ok(());
    }
    let shown: Vec<&Match> = matches.iter().filter(|m| m.len >= len_min).collect();
    cx.out.map(2);
    cx.out.bulk(b"matches");
    cx.out.array(shown.len());
    for m in shown {
        cx.out.array(2 + with_len as usize);
        for first in [m.a, m.b] {
            cx.out.array(2);
            cx.out.int(first as i64);
            cx.out.int((first + m.len - 1) as i64);
        }
        if with_len {
            cx.out.int(m.len as i64);
        }
    }
    cx.out.bulk(b"len");
    cx.out.int(table.len() as i64);
    Ok(())
}

fn text(cx: &mut Cx, index: usize) -> Result<Vec<u8>, Error> {
    match cx.keys.read(cx.args[index]).map(|entry| entry.value()) {
        None => Ok(Vec::new()),
        Some(ValueRef::Str(bytes)) => Ok(bytes.to_vec()),
        Some(_) => Err(Error::text("ERR The specified keys must contain string values")),
    }
}

/// A run of equal bytes: where it begins in both strings.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

/// Lengths of the longest common subsequences of all pairs of prefixes, by rows for those of `a`.
struct Table<'t> {
    a: &'t [u8],
    b: &'t [u8],
    cells: Vec<u32>,
}

impl<'t> Table<'t> {
    fn new(a: &'t [u8], b: &'t [u8]) -> Table<'t> {
        let width = b.len() + 1;
        let mut cells = vec![0u32; (a.len() + 1) * width];
        let mut rows = cells.chunks_exact_mut(width);
        let mut above = rows.next().expect("a row for the empty prefix");
        for (byte, row) in a.iter().zip(rows) {
            for j in 0..b.len() {
                row[j + 1] = if *byte == b[j] { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
            above = row;
        }
        Table { a, b, cells }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * (self.b.len() + 1) + j]
    }

    fn len(&self) -> u32 {
        self.at(self.a.len(), self.b.len())
    }

    /// The runs of one longest common subsequence, the last one first.
    fn matches(&self) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        let (mut i, mut j) = (self.a.len(), self.b.len());
        while i > 0 && j > 0 {
            if self.a[i - 1] == self.b[j - 1] {
                match found.last_mut() {
                    Some(m) if m.a == i && m.b == j => {
                        *m = Match { a: i - 1, b: j - 1, len: m.len + 1 };
                    }
                    _ => found.push(Match { a: i - 1, b: j - 1, len: 1 }),
                }
                (i, j) = (i - 1, j - 1);
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        found
    }
}

pub static COMMANDS: &[Command] = &[LCS];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    const TEXTS: &str = "MSET a ohmytext b mynewtext";

    #[test]
    fn text_length_and_places() {
        assert_eq!(run(&[TEXTS, "LCS a b"]), "$6\r\nmytext\r\n");
        assert_eq!(run(&[TEXTS, "LCS a b LEN"]), ":6\r\n");
        assert_eq!(
            run(&[TEXTS, "LCS a b IDX"]),
            "*4\r\n$7\r\nmatches\r\n*2\r\n*2\r\n*2\r\n:4\r\n:7\r\n*2\r\n:5\r\n:8\r\n\
             *2\r\n*2\r\n:2\r\n:3\r\n*2\r\n:0\r\n:1\r\n$3\r\nlen\r\n:6\r\n"
        );
        assert_eq!(
            run(&[TEXTS, "LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN"]),
            "*4\r\n$7\r\nmatches\r\n*1\r\n*3\r\n*2\r\n:4\r\n:7\r\n*2\r\n:5\r\n:8\r\n:4\r\n$3\r\nlen\r\n:6\r\n"
        );
        assert_eq!(run(&[TEXTS, "LCS a none"]), "$0\r\n\r\n");
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(run(&["LPUSH a 1", "LCS a b"]), "-ERR The specified keys must contain string values\r\n");
        assert_eq!(
            run(&["LCS a b LEN IDX"]),
            "-ERR If you want both the length and indexes, please just use IDX.\r\n"
        );
        assert_eq!(run(&["LCS a b MINMATCHLEN"]), "-ERR syntax error\r\n");
        let mut r = Runner::default();
        r.settings.proto_max_bulk_len = 100;
        r.run("MSET a 0123456789 b 0123456789");
        assert_eq!(
            r.run("LCS a b"),
            "-ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len\r\n"
        );
    }
}
