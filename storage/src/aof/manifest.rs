//! The manifest: one line `file NAME seq N type b|h|i` per file.
//!
//! Invariants: at most one base; increments in ascending sequence. A file is named here before anything is written to
//! it and until it is of no use, so that a crash at any point leaves a set of files that loads.

use super::AofError;

/// What a file is in the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Base,
    /// Replaced by a rewrite and to be deleted.
    History,
    Increment,
}

/// A line of the manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AofFile {
    pub name: String,
    pub seq: u64,
    pub kind: FileKind,
}

/// The set of files that make up the append-only file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    pub base: Option<AofFile>,
    pub history: Vec<AofFile>,
    pub increments: Vec<AofFile>,
    base_seq: u64,
    increment_seq: u64,
}

/// Choice: a set this large comes of no configuration; each rewrite brings one.
const LINES_MAX: usize = 100_000;

/// As in Redis, whose sequences have a sign. Above them there is room for as many as a server will ever count.
const SEQUENCES: std::ops::RangeInclusive<u64> = 1..=i64::MAX as u64;

impl Manifest {
    /// Reads a manifest's text.
    pub fn parse(text: &[u8]) -> Result<Manifest, AofError> {
        let mut manifest = Manifest::default();
        let mut lines = 0;
        for (i, line) in text.split(|&b| b == b'\n').enumerate() {
            let fail = |what| AofError::Manifest { line: i + 1, what };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.first().is_none_or(|&b| b == b'#') {
                continue;
            }
            lines += 1;
            if lines > LINES_MAX {
                return Err(fail("too many files"));
            }
            manifest.add(parse_line(line).map_err(fail)?).map_err(fail)?;
        }
        if lines == 0 {
            return Err(AofError::Manifest { line: 1, what: "no files" });
        }
        Ok(manifest)
    }

    fn add(&mut self, file: AofFile) -> Result<(), &'static str> {
        match file.kind {
            FileKind::Base if self.base.is_some() => return Err("two base files"),
            FileKind::Base => {
                self.base_seq = file.seq;
                self.base = Some(file);
            }
            FileKind::History => self.history.push(file),
            FileKind::Increment if file.seq <= self.increment_seq => {
                return Err("increments out of sequence");
            }
            FileKind::Increment => {
                self.increment_seq = file.seq;
                self.increments.push(file);
            }
        }
        Ok(())
    }

    /// The text to be written in place of the old manifest (`disk::write_atomic`).
    pub fn format(&self) -> String {
        let files = self.base.iter().chain(&self.history).chain(&self.increments);
        files
            .map(|f| {
                let kind = match f.kind {
                    FileKind::Base => 'b',
                    FileKind::History => 'h',
                    FileKind::Increment => 'i',
                };
                format!("file {} seq {} type {kind}\n", quote(&f.name), f.seq)
            })
            .collect()
    }

    /// Adds the next increment, to which all writes go from now on. Returns its name, beginning with `prefix`
    /// (`appendfilename`).
    pub fn add_increment(&mut self, prefix: &str) -> String {
        self.increment_seq += 1;
        let (name, seq) = (format!("{prefix}.{}.incr.aof", self.increment_seq), self.increment_seq);
        self.increments.push(AofFile { name: name.clone(), seq, kind: FileKind::Increment });
        name
    }

    /// The name of the next base, which a rewrite writes before [`Manifest::set_base`].
    pub fn next_base_name(&self, prefix: &str, is_rdb: bool) -> String {
        format!("{prefix}.{}.base.{}", self.base_seq + 1, if is_rdb { "rdb" } else { "aof" })
    }

    /// Puts a rewritten base in force: it holds all that the old base and the increments before `first_kept` (a
    /// sequence number) held; those become history.
    pub fn set_base(&mut self, name: String, first_kept: u64) {
        self.base_seq += 1;
        let new = AofFile { name, seq: self.base_seq, kind: FileKind::Base };
        let old = self.base.replace(new);
        let gone = self.increments.extract_if(.., |f| f.seq < first_kept);
        self.history.extend(old.into_iter().chain(gone).map(|f| AofFile { kind: FileKind::History, ..f }));
    }

    /// Names of the files to delete; write the manifest without them first, then delete.
    pub fn take_history(&mut self) -> Vec<String> {
        self.history.drain(..).map(|f| f.name).collect()
    }

    /// The single file of versions before 7.0 as the base of a new set.
    pub fn adopt(single: &str) -> Manifest {
        let base = AofFile { name: single.into(), seq: 1, kind: FileKind::Base };
        Manifest { base: Some(base), base_seq: 1, ..Manifest::default() }
    }
}

fn parse_line(line: &[u8]) -> Result<AofFile, &'static str> {
    let words = split(line).ok_or("unbalanced quotes or bytes that are not text")?;
    let (pairs, odd) = words.as_chunks::<2>();
    if !odd.is_empty() {
        return Err("a name without its value");
    }
    let (mut name, mut seq, mut kind) = (None, None, None);
    for [key, value] in pairs {
        match key.to_ascii_lowercase().as_str() {
            "file" => name = Some(value.clone()),
            "seq" => {
                seq = Some(
                    value
                        .parse()
                        .ok()
                        .filter(|n| SEQUENCES.contains(n))
                        .ok_or("a sequence that is no number")?,
                )
            }
            "type" => {
                kind = Some(match value.as_str() {
                    "b" => FileKind::Base,
                    "h" => FileKind::History,
                    "i" => FileKind::Increment,
                    _ => return Err("an unknown type of file"),
                });
            }
            // Redis ignores names it does not know, for the sake of later versions.
            _ => {}
        }
    }
    let (Some(name), Some(seq), Some(kind)) = (name, seq, kind) else {
        return Err("file, seq or type is missing");
    };
    if name.is_empty() || name.contains(['/', '\0']) || name == ".." || name == "." {
        return Err("a file name with a folder in it");
    }
    Ok(AofFile { name, seq, kind })
}

/// Words of a line, as Redis splits its configuration: double quotes with escapes.
fn split(line: &[u8]) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        let Some(&first) = line.get(at) else { return Some(words) };
        let mut word = Vec::new();
        if first == b'"' {
            at += 1;
            loop {
                match *line.get(at)? {
                    b'"' => break,
                    b'\\' => {
                        let (byte, used) = escape(&line[at + 1..])?;
                        word.push(byte);
                        at += 1 + used;
                    }
                    byte => {
                        word.push(byte);
                        at += 1;
                    }
                }
            }
            at += 1;
            if line.get(at).is_some_and(|b| !b.is_ascii_whitespace()) {
                return None;
            }
        } else {
            let len = line[at..].iter().position(u8::is_ascii_whitespace).unwrap_or(line.len() - at);
            word.extend_from_slice(&line[at..at + len]);
            at += len;
        }
        words.push(String::from_utf8(word).ok()?);
    }
}

fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    Some(match *rest.first()? {
        b'x' => {
            let digits = std::str::from_utf8(rest.get(1..3)?).ok()?;
            return Some((u8::from_str_radix(digits, 16).ok()?, 3));
        }
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'b' => (8, 1),
        b'a' => (7, 1),
        byte => (byte, 1),
    })
}

fn quote(name: &str) -> String {
    if name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\' && b != b'\'') {
        return name.into();
    }
    let mut out = String::from("\"");
    for b in name.bytes() {
        match b {
            b'"' | b'\\' => out.extend(['\\', b as char]),
            b' '..=b'~' => out.push(b as char),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "file appendonly.aof.2.base.rdb seq 2 type b\n\
                    file appendonly.aof.1.base.rdb seq 1 type h\n\
                    file \"a b\\\"c\" seq 3 type i\n\
                    file appendonly.aof.4.incr.aof seq 4 type i\n";
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.increments[0].name, "a b\"c");
        assert_eq!(manifest.format(), text);
        let other = "# comment\nTYPE i later x SEQ 4 File appendonly.aof.4.incr.aof\r\n";
        assert_eq!(Manifest::parse(other.as_bytes()).unwrap().increments, manifest.increments[1..]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_read_can_be_written_and_added_to(
            lines in proptest::collection::vec(
                "(file|seq|type|x|#)? ?[ab.\"\\\\x0-9]{0,8} (seq|SEQ) [0-9]{1,20} (type|file) [bhi]( file [a-z\"./ ]{1,6})?", 0..6,
            ),
            rubbish in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            for text in [lines.join("\n").into_bytes(), rubbish] {
                let Ok(mut manifest) = Manifest::parse(&text) else { continue };
                proptest::prop_assert_eq!(Manifest::parse(manifest.format().as_bytes()).unwrap(), manifest.clone());
                manifest.add_increment("a");
                let base = manifest.next_base_name("a", true);
                manifest.set_base(base, u64::MAX);
                proptest::prop_assert!(Manifest::parse(manifest.format().as_bytes()).is_ok());
            }
        }
    }

    #[test]
    fn a_sequence_leaves_room_for_the_next() {
        let last = format!("file a seq {} type i", i64::MAX);
        Manifest::parse(last.as_bytes()).unwrap().add_increment("a");
        let text = format!("file a seq {} type i", u64::MAX);
        assert!(Manifest::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn broken_manifests_say_where() {
        for (text, line, what) in [
            ("", 1, "no files"),
            ("file a seq 1 type b\nfile b seq 2 type b", 2, "two base files"),
            ("file a seq 2 type i\nfile b seq 2 type i", 2, "increments out of sequence"),
            ("file a seq 0 type i", 1, "a sequence that is no number"),
            ("file a seq 1 type x", 1, "an unknown type of file"),
            ("file a seq 1", 1, "file, seq or type is missing"),
            ("file ../a seq 1 type i", 1, "a file name with a folder in it"),
            ("file a seq", 1, "a name without its value"),
            ("file \"a seq 1 type i", 1, "unbalanced quotes or bytes that are not text"),
        ] {
            match Manifest::parse(text.as_bytes()) {
                Err(AofError::Manifest { line: l, what: w }) => assert_eq!((l, w), (line, what)),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_rewrite_step_by_step() {
        let mut m = Manifest::adopt("old.aof");
        m.add_increment("appendonly.aof");
        // The rewrite begins with a new increment, then a new base takes the place of all before it.
        assert_eq!(m.add_increment("appendonly.aof"), "appendonly.aof.2.incr.aof");
        let base = m.next_base_name("appendonly.aof", true);
        m.set_base(base, 2);
        assert_eq!(
            m.format(),
            "file appendonly.aof.2.base.rdb seq 2 type b\n\
             file old.aof seq 1 type h\n\
             file appendonly.aof.1.incr.aof seq 1 type h\n\
             file appendonly.aof.2.incr.aof seq 2 type i\n"
        );
        let mut m = Manifest::parse(m.format().as_bytes()).unwrap();
        assert_eq!(m.take_history(), ["old.aof", "appendonly.aof.1.incr.aof"]);
        assert_eq!(m.add_increment("x"), "x.3.incr.aof");
    }
}
