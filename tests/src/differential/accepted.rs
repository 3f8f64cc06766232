//! What is not compared, and differences that are meant, each with its reason.

/// Groups and commands that are not drawn.
pub const EXCLUDED: &[(&str, &str)] = &[
    ("server", "answers about the server itself"),
    ("connection", "changes how the two are spoken to"),
    ("cluster", "both run without a cluster"),
    ("pubsub", "messages come between replies"),
    ("transactions", "drawn as whole transactions"),
    ("scripting", "commands are called from a script instead"),
    ("migrate", "takes another server"),
    ("wait", "waits for replicas"),
    ("waitaof", "waits for replicas"),
    ("dump", "encodings are our own; another test exchanges payloads"),
    ("restore", "as DUMP"),
    ("restore-asking", "as DUMP"),
    ("pfdebug", "tells of encodings"),
    ("pfselftest", "takes a second"),
    ("object|freq", "depends on random counters"),
    ("object|encoding", "encodings are our own beyond the names Redis's suite checks"),
    ("object|refcount", "small numbers are not shared here"),
    ("object|idletime", "tells of the time"),
];

/// A difference that is meant.
pub struct Accepted {
    /// Name of the command, subcommands behind `|`; `*`: any.
    pub command: &'static str,
    pub kind: Kind,
    pub reason: &'static str,
}

pub enum Kind {
    /// Both answer with an error; ours contains the first text, Redis's the second.
    Errors(&'static str, &'static str),
    /// Both answer with numbers at most this far apart.
    Near(i64),
    /// Values behind these names, at any depth, are not compared.
    Fields(&'static [&'static str]),
    /// Times in ms since 1970 that were the present ones are not compared.
    Times,
    /// The same elements in another order.
    Order,
    /// As many elements, of commands for which this holds.
    Count(fn(&[Vec<u8>]) -> bool),
    /// Errors that are the same when what is no text in them is left out.
    NoText,
    /// Errors that are the same up to a NUL.
    UpToNul,
    /// Zeros of either sign.
    ZeroSign,
}

/// Fields of XINFO STREAM that say how a stream is kept.
pub const STREAM_FIELDS: &[&str] = &["radix-tree-keys", "radix-tree-nodes"];

pub const ACCEPTED: &[Accepted] = &[
    Accepted {
        command: "*",
        kind: Kind::NoText,
        reason: "errors are text: bytes that are none are quoted as U+FFFD",
    },
    Accepted {
        command: "*",
        kind: Kind::ZeroSign,
        reason: "scores are kept in an order in which there is one zero",
    },
    Accepted { command: "*", kind: Kind::UpToNul, reason: "Redis ends what it quotes in an error at a NUL" },
    Accepted {
        command: "*",
        kind: Kind::Errors("timeout is out of range", ""),
        reason: "times to wait that overflow: as in Redis 8; 7.0 goes on to the next argument",
    },
    Accepted {
        command: "expiretime",
        kind: Kind::Near(2),
        reason: "the two read the clock at different times",
    },
    Accepted {
        command: "hexpiretime",
        kind: Kind::Near(2),
        reason: "the two read the clock at different times",
    },
    Accepted {
        command: "hpexpiretime",
        kind: Kind::Near(2000),
        reason: "the two read the clock at different times",
    },
    Accepted { command: "httl", kind: Kind::Near(2), reason: "the two read the clock at different times" },
    Accepted {
        command: "hpttl",
        kind: Kind::Near(2000),
        reason: "the two read the clock at different times",
    },
    Accepted {
        command: "pexpiretime",
        kind: Kind::Near(2000),
        reason: "the two read the clock at different times",
    },
    Accepted {
        command: "xinfo|stream",
        kind: Kind::Fields(STREAM_FIELDS),
        reason: "streams are no radix trees here",
    },
    Accepted {
        command: "xinfo|stream",
        kind: Kind::Times,
        reason: "the two read the clock at different times",
    },
    Accepted {
        command: "sort",
        kind: Kind::Order,
        reason: "elements of a set that compare equal have no order",
    },
    Accepted { command: "sort_ro", kind: Kind::Order, reason: "as SORT" },
    Accepted {
        command: "sort",
        kind: Kind::Count(is_part_without_order),
        reason: "LIMIT cuts any part out of elements that have no order",
    },
    Accepted { command: "sort_ro", kind: Kind::Count(is_part_without_order), reason: "as SORT" },
];

/// Whether a SORT goes by texts elsewhere. Where they are equal or missing its elements have no order; equal numbers are
/// ordered by the elements.
pub fn is_by_texts(args: &[Vec<u8>]) -> bool {
    has(args, "BY") && has(args, "ALPHA")
}

/// Whether a SORT may take a part of elements that have no order. BY without a `*` leaves a set's as they are.
fn is_part_without_order(args: &[Vec<u8>]) -> bool {
    let is_unsorted = |pair: &[Vec<u8>]| pair[0].eq_ignore_ascii_case(b"BY") && !pair[1].contains(&b'*');
    has(args, "LIMIT") && (is_by_texts(args) || args.windows(2).any(is_unsorted))
}

/// Whether one of the arguments is this word.
pub fn has(args: &[Vec<u8>], word: &str) -> bool {
    args.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_order() {
        let is_part = |line: &str| {
            is_part_without_order(&line.split(' ').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>())
        };
        assert!(is_part("SORT k BY w* LIMIT 1 1 ALPHA"));
        assert!(is_part("SORT k by x limit 1 1"));
        assert!(!is_part("SORT k BY w* LIMIT 1 1"));
        assert!(!is_part("SORT k ALPHA LIMIT 1 1"));
        assert!(!is_part("SORT k BY w* ALPHA"));
    }
}
