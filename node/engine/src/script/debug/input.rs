//! Commands of a debugging client: arrays of short strings, read as forgivingly as Redis 7.0's `ldbReplParseCommand` reads
//! them. Its texts end at a zero byte, but for what stands in the strings themselves.

/// Strings in a command, and bytes in each of them.
const ITEMS_MAX: i64 = 1024;

/// The input is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonsense;

/// Takes the first command from `input`, with what stands before it. `None`: it has not come whole.
pub fn take_command(input: &mut Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, Nonsense> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader { buf: input, at: 0 };
    let Some((args, end)) = reader.command()? else { return Ok(None) };
    input.drain(..end);
    // Redis drops whatever came with a command. Of that, commands that were sent ahead are worth keeping.
    match text(input).iter().position(|c| *c == b'*') {
        Some(start) => input.drain(..start),
        None => input.drain(..),
    };
    Ok(Some(args))
}

/// The bytes before the first zero.
fn text(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// A command and where it ends.
    fn command(&mut self) -> Result<Option<(Vec<Vec<u8>>, usize)>, Nonsense> {
        let start = text(self.buf).iter().position(|c| *c == b'*').ok_or(Nonsense)?;
        self.at = start + 1;
        let Some(count) = self.number() else { return Ok(None) };
        if !(1..=ITEMS_MAX).contains(&count) {
            return Err(Nonsense);
        }
        let mut args = Vec::new();
        while (args.len() as i64) < count {
            match self.item()? {
                Some(arg) => args.push(arg),
                None => return Ok(None),
            }
        }
        Ok(Some((args, self.at)))
    }

    fn item(&mut self) -> Result<Option<Vec<u8>>, Nonsense> {
        match self.buf.get(self.at) {
            None | Some(0) => return Ok(None),
            Some(b'$') => self.at += 1,
            Some(_) => return Err(Nonsense),
        }
        let Some(len) = self.number() else { return Ok(None) };
        if !(1..=ITEMS_MAX).contains(&len) {
            return Err(Nonsense);
        }
        let end = self.at + len as usize;
        let Some(ending) = self.buf.get(end..end + 2) else { return Ok(None) };
        if ending != b"\r\n" {
            return Err(Nonsense);
        }
        let item = self.buf[self.at..end].to_vec();
        self.at = end + 2;
        Ok(Some(item))
    }

    /// A number before a line's end, as C reads one. `None`: the line has not come whole.
    fn number(&mut self) -> Option<i64> {
        let rest = text(&self.buf[self.at..]);
        let len = memchr::memmem::find(rest, b"\r\n")?;
        self.at += len + 2;
        Some(leading_number(&rest[..len]))
    }
}

/// As C's `atoi`: 0 where there is no number, and what stands behind one is not looked at.
pub fn leading_number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let digits = digits.iter().take_while(|c| c.is_ascii_digit());
    let number = digits.fold(0i64, |n, c| n.saturating_mul(10).saturating_add(i64::from(c - b'0')));
    sign * number.min(i32::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(input: &[u8]) -> Result<Option<Vec<String>>, Nonsense> {
        let words = take_command(&mut input.to_vec())?;
        Ok(words.map(|w| w.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect()))
    }
    fn words(words: &[&str]) -> Result<Option<Vec<String>>, Nonsense> {
        Ok(Some(words.iter().map(|w| w.to_string()).collect()))
    }

    #[test]
    fn a_command_is_taken_when_it_is_whole() {
        let whole = b"*2\r\n$1\r\np\r\n$3\r\nvar\r\n";
        assert_eq!(take(whole), words(&["p", "var"]));
        (0..whole.len()).for_each(|len| assert_eq!(take(&whole[..len]), Ok(None), "{len}"));
    }

    #[test]
    fn what_stands_before_a_command_is_passed_over() {
        assert_eq!(take(b"junk *1\r\n$1\r\ns\r\n"), words(&["s"]));
        assert_eq!(take(b"*1x\r\n$1x\r\ns\r\n"), words(&["s"]));
    }

    #[test]
    fn zero_bytes_are_part_of_strings_and_end_everything_else() {
        assert_eq!(take(b"*1\r\n$3\r\na\0b\r\n"), words(&["a\0b"]));
        assert_eq!(take(b"\0*1\r\n$1\r\ns\r\n"), Err(Nonsense));
        assert_eq!(take(b"*1\r\n\0$1\r\ns\r\n"), Ok(None));
    }

    #[test]
    fn nonsense_is_told() {
        for input in [
            &b"PING\r\n"[..],
            b"*0\r\n",
            b"*-1\r\n",
            b"*x\r\n",
            b"*1025\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n$0\r\n\r\n",
            b"*1\r\n$1025\r\n",
            b"*1\r\n$3\r\nabcd\r\n",
            b"*99999999999999999999\r\n",
        ] {
            assert_eq!(take(input), Err(Nonsense), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn commands_that_were_sent_ahead_are_kept_and_nothing_else() {
        let mut input = b"*1\r\n$1\r\ns\r\njunk*1\r\n$1\r\nc\r\njunk".to_vec();
        assert_eq!(take_command(&mut input), Ok(Some(vec![b"s".to_vec()])));
        assert_eq!(take_command(&mut input), Ok(Some(vec![b"c".to_vec()])));
        assert_eq!(input, b"");
    }
}
