//! The frame: header, body, and a tag when the cluster has a secret.
//!
//! ```text
//! 0  magic "SHOL"   4  kind   5  wire version   6  flags (1 = tagged)   7  zero
//! 8  body length    12  CRC32C of header up to here, cluster id and body   16  cluster id   36  body   then tag (32)
//! ```
//! All numbers little endian. The tag is HMAC-SHA256 under the cluster's secret over everything before it.

use super::crc32c::crc32c;
use super::v2::Packet;
use crate::topology::ClusterId;
use hmac::{Hmac, Mac};
use sha2::Sha256;

const MAGIC: [u8; 4] = *b"SHOL";
const VERSION: u8 = 2; // 1 had no tls_port in Address
const TAGGED: u8 = 1;
const TAG_BYTES: usize = 32;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 36;
/// Longest body. Choice: a full topology of the largest cluster is below 1 MB; the rest is for the node's own kinds.
pub const FRAME_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The body is a [`Packet`].
pub const KIND_CONTROL: u8 = 1;
/// The body is the node's own, for example a published message.
pub const KIND_DATA: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// More bytes are needed; nothing is wrong so far.
    Incomplete,
    /// Not of our protocol: close the connection.
    Malformed,
    /// Ours, but of a wire version that this build does not speak.
    Version(u8),
    /// Damaged on the way.
    Checksum,
    /// Not made by a holder of our secret.
    Forged,
    /// A sound frame around an archive that is none.
    Archive,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: u8,
    pub cluster: ClusterId,
    body_bytes: usize,
    is_tagged: bool,
    crc: u32,
}

impl Header {
    /// Judges a frame by its first bytes, before its body has arrived.
    pub fn parse(bytes: &[u8]) -> Result<Header, FrameError> {
        let seen = bytes.len().min(4);
        if bytes[..seen] != MAGIC[..seen] {
            return Err(FrameError::Malformed);
        }
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(FrameError::Incomplete) };
        if head[5] != VERSION {
            return Err(FrameError::Version(head[5]));
        }
        let body_bytes = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let kind_ok = matches!(head[4], KIND_CONTROL | KIND_DATA);
        if !kind_ok || head[6] & !TAGGED != 0 || head[7] != 0 || body_bytes > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::Malformed);
        }
        let mut cluster = [0; 20];
        cluster.copy_from_slice(&head[16..36]);
        Ok(Header {
            kind: head[4],
            cluster: ClusterId(cluster),
            body_bytes,
            is_tagged: head[6] & TAGGED != 0,
            crc: u32::from_le_bytes([head[12], head[13], head[14], head[15]]),
        })
    }
    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes + if self.is_tagged { TAG_BYTES } else { 0 }
    }
}

/// A frame around a body. Panics when the body is longer than [`FRAME_BODY_BYTES_MAX`].
pub fn encode_body(kind: u8, cluster: ClusterId, body: &[u8], secret: Option<&[u8]>) -> Vec<u8> {
    assert!(body.len() <= FRAME_BODY_BYTES_MAX, "a frame of {} bytes", body.len());
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len() + TAG_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind, VERSION, if secret.is_some() { TAGGED } else { 0 }, 0]);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&cluster.0);
    out.extend_from_slice(body);
    let crc = frame_crc(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    if let Some(secret) = secret {
        let tag = mac(secret, &out).finalize().into_bytes();
        out.extend_from_slice(&tag);
    }
    out
}

/// Takes one frame off the front of `bytes`: its header, its body and how many bytes it took.
/// With a secret, an untagged frame is [`FrameError::Forged`]; without one, tags are not looked at.
pub fn decode_body<'a>(
    bytes: &'a [u8],
    secret: Option<&[u8]>,
) -> Result<(Header, &'a [u8], usize), FrameError> {
    let header = Header::parse(bytes)?;
    let frame = bytes.get(..header.frame_bytes()).ok_or(FrameError::Incomplete)?;
    let (signed, tag) = frame.split_at(HEADER_BYTES + header.body_bytes);
    if frame_crc(signed) != header.crc {
        return Err(FrameError::Checksum);
    }
    if let Some(secret) = secret {
        mac(secret, signed).verify_slice(tag).map_err(|_| FrameError::Forged)?;
    }
    Ok((header, &signed[HEADER_BYTES..], header.frame_bytes()))
}

/// The frame of a packet.
pub fn encode(packet: &Packet, secret: Option<&[u8]>) -> Vec<u8> {
    encode_body(KIND_CONTROL, packet.cluster, &packet.to_bytes(), secret)
}

/// The packet in a frame's body, validated.
pub fn decode(header: &Header, body: &[u8]) -> Result<Packet, FrameError> {
    let packet = Packet::from_bytes(body).ok_or(FrameError::Archive)?;
    let agrees = header.kind == KIND_CONTROL && packet.cluster == header.cluster;
    agrees.then_some(packet).ok_or(FrameError::Malformed)
}

fn frame_crc(signed: &[u8]) -> u32 {
    crc32c(&signed[..12]) ^ crc32c(&signed[16..]).rotate_left(1)
}

fn mac(secret: &[u8], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 20]);

    #[test]
    fn a_frame_round_trips_and_is_asked_for_byte_by_byte() {
        for secret in [None, Some(&b"secret"[..])] {
            let frame = encode_body(KIND_DATA, CLUSTER, b"hello", secret);
            for cut in 0..frame.len() {
                assert_eq!(decode_body(&frame[..cut], secret).err(), Some(FrameError::Incomplete));
            }
            let (header, body, used) = decode_body(&frame, secret).unwrap();
            assert_eq!(
                (header.kind, header.cluster, body, used),
                (KIND_DATA, CLUSTER, &b"hello"[..], frame.len())
            );
        }
    }

    #[test]
    fn no_flipped_bit_is_accepted() {
        let frame = encode_body(KIND_DATA, CLUSTER, b"hello", Some(b"secret"));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_body(&bad, Some(b"secret")).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_demanded() {
        let plain = encode_body(KIND_DATA, CLUSTER, b"hello", None);
        assert_eq!(decode_body(&plain, Some(b"secret")).err(), Some(FrameError::Forged));
        let other = encode_body(KIND_DATA, CLUSTER, b"hello", Some(b"other"));
        assert_eq!(decode_body(&other, Some(b"secret")).err(), Some(FrameError::Forged));
    }

    #[test]
    fn a_claimed_length_is_bounded() {
        let mut frame = encode_body(KIND_DATA, CLUSTER, b"", None);
        frame[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_body(&frame, None).err(), Some(FrameError::Malformed));
        assert_eq!(Header::parse(b"GET ").err(), Some(FrameError::Malformed));
    }
}
