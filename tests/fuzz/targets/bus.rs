//! What arrives on the bus and what a node's record holds: an error, or what can be encoded again.
#![no_main]

use gossip::record::Record;
use gossip::topology::ClusterId;
use gossip::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (is_framed, bytes) = input;
    let _ = Record::decode(bytes);
    let framed;
    let bytes = if is_framed && bytes.len() > 20 {
        let cluster = ClusterId(bytes[..20].try_into().expect("twenty bytes"));
        framed = wire::encode_body(1, cluster, &bytes[20..], None);
        &framed
    } else {
        bytes
    };
    let Ok((header, body, _)) = wire::decode_body(bytes, None) else { return };
    if let Ok(packet) = wire::decode(&header, body) {
        let again = wire::encode(&packet, None);
        let (header, body, _) = wire::decode_body(&again, None).expect("what we encoded");
        assert_eq!(wire::decode(&header, body).expect("what we encoded"), packet);
    }
});
