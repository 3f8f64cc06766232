//! Requests: however the bytes are cut into reads, the same commands come out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::resp::{Limits, Request, parse_request};

type Commands = (Vec<Vec<Vec<u8>>>, Option<String>);

/// The commands in a stream whose bytes arrive `step` at a time.
fn parse(bytes: &[u8], step: usize, limits: &Limits) -> Commands {
    let (mut found, mut at, mut partial, mut arrived) = (Vec::new(), 0, None, 0);
    loop {
        arrived = (arrived + step).min(bytes.len());
        let buf = &bytes[..arrived];
        loop {
            let mut spans = Vec::new();
            match parse_request(buf, at, limits, &mut spans, &mut partial) {
                Err(error) => return (found, Some(error.0)),
                Ok(Request::Incomplete) => break,
                Ok(Request::Inline { args, end }) => {
                    assert!(end > at);
                    at = end;
                    found.push(args);
                }
                Ok(Request::Command { end }) => {
                    assert!(end > at);
                    at = end;
                    let arg = |s: &proto::resp::Span| buf[s.start as usize..][..s.len as usize].to_vec();
                    found.push(spans.iter().map(arg).collect());
                }
            }
        }
        if arrived == bytes.len() {
            return (found, None);
        }
    }
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (step, is_authenticated, bytes) = input;
    let limits = if is_authenticated { Limits::authenticated(1 << 20) } else { Limits::unauthenticated() };
    assert_eq!(parse(bytes, usize::from(step).max(1), &limits), parse(bytes, bytes.len().max(1), &limits));
});
