//! RDB files: an error or an end, however the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::rdb::{Decoder, LoadOptions};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let mut decoder = Decoder::new(LoadOptions::default());
    for piece in [b"REDIS0011".as_slice()].into_iter().chain(bytes.chunks(usize::from(step).max(1))) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(_)) => {}
            }
        }
        if decoder.is_ended() {
            return;
        }
    }
    let _ = decoder.next_at_end();
});
