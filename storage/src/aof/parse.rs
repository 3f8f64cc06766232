//! Commands in a file: RESP arrays of bulk strings, annotation lines between them, grouped into units.

use crate::entry::LENGTH_MAX;

/// A command's arguments, its name first.
pub type Command = Vec<Vec<u8>>;

/// Appends a command as the file holds it.
pub fn encode_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// What stands at the begin of some bytes.
pub(super) enum Piece {
    Command(Command, usize),
    /// An annotation line of this length.
    Note(usize),
    /// Not whole yet; worth trying again with this many bytes.
    More(usize),
}

/// Longest annotation line, and longest line of a length. Choice: `#TS:` needs 16 bytes.
const LINE_MAX: usize = 1024;

/// Reads one command or annotation.
pub(super) fn piece(bytes: &[u8]) -> Result<Piece, &'static str> {
    let more = |n| Ok(Piece::More(n));
    let Some(&first) = bytes.first() else { return more(1) };
    if first == b'#' {
        return match bytes.iter().take(LINE_MAX).position(|&b| b == b'\n') {
            Some(end) => Ok(Piece::Note(end + 1)),
            None if bytes.len() < LINE_MAX => more(bytes.len() + 1),
            None => Err("an annotation that does not end"),
        };
    }
    // Lengths first, so that nothing is copied before the command is whole.
    let mut at = 0;
    let Some(count) = number(bytes, &mut at, b'*')? else { return more(bytes.len() + 1) };
    if count == 0 {
        return Err("a command without a name");
    }
    let body = at;
    for _ in 0..count {
        let Some(len) = number(bytes, &mut at, b'$')? else { return more(bytes.len() + 1) };
        let end = at + len;
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err("an argument that does not end where it should"),
            None => return more(end + 2),
        }
    }
    let mut args = Vec::new();
    let (end, mut at) = (at, body);
    while at < end {
        let len = number(bytes, &mut at, b'$')?.ok_or("an argument that vanished")?;
        args.push(bytes[at..at + len].to_vec());
        at += len + 2;
    }
    Ok(Piece::Command(args, end))
}

/// The number of a line `<mark>N\r\n` at `at`; `None` when the line is not whole.
fn number(bytes: &[u8], at: &mut usize, mark: u8) -> Result<Option<usize>, &'static str> {
    let Some(&first) = bytes.get(*at) else { return Ok(None) };
    if first != mark {
        return Err("a byte that begins neither a command nor an argument");
    }
    let rest = &bytes[*at + 1..];
    let Some(end) = rest.iter().take(32).position(|&b| b == b'\r') else {
        return if rest.len() < 32 { Ok(None) } else { Err("a length that does not end") };
    };
    let Some(&newline) = rest.get(end + 1) else { return Ok(None) };
    let digits = &rest[..end];
    if newline != b'\n' || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || digits.len() > 10 {
        return Err("a length that is no number");
    }
    let value = digits.iter().fold(0u64, |n, d| n * 10 + (d - b'0') as u64);
    if value > LENGTH_MAX as u64 {
        return Err("a length above 4 GiB");
    }
    *at += 1 + end + 2;
    Ok(Some(value as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_commands_are_told_from_short_ones() {
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for cut in 0..whole.len() {
            assert!(matches!(piece(&whole[..cut]), Ok(Piece::More(n)) if n > cut), "cut at {cut}");
        }
        assert!(matches!(piece(whole), Ok(Piece::Command(args, n)) if args.len() == 2 && n == whole.len()));
        assert!(matches!(piece(b"#TS:1\r\n*"), Ok(Piece::Note(7))));
        for bad in [
            &b"PING\r\n"[..],
            b"*0\r\n",
            b"*-1\r\n",
            b"*1\r\n*",
            b"*1\r\n$1\r\nabc",
            b"*1\r\n$99999999999\r\n",
            b"*1\rx",
        ] {
            assert!(piece(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_command_round_trips(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
            let mut out = Vec::new();
            encode_command(&mut out, &args.iter().map(|a| &a[..]).collect::<Vec<_>>());
            match piece(&out) {
                Ok(Piece::Command(got, n)) => prop_assert_eq!((got, n), (args, out.len())),
                _ => prop_assert!(false),
            }
        }
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(prop::sample::select(b"*$#0123456789\r\nabc\xff".to_vec()), 0..60)) {
            if let Ok(Piece::Command(_, n) | Piece::Note(n)) = piece(&bytes) {
                prop_assert!(n <= bytes.len());
            }
        }
    }
}
