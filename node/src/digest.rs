//! Digests of data, for comparing two nodes: the order of unordered things does not matter, their contents and expiry
//! times do. Follows the idea of Redis's DEBUG DIGEST, not its bytes.

use proto::Slot;
use storage::stream::Stream;
use storage::{Keyspace, StreamId, ValueRef};

pub type Digest = [u8; 20];

/// The digest as 40 hex digits.
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Of everything. Locks a slot at a time: a digest of one moment only while nobody writes.
pub fn of_all(keyspace: &Keyspace) -> Digest {
    let mut sum = [0; 20];
    for slot in Slot::all() {
        let guard = keyspace.lock_wait(slot);
        for db in 0..keyspace.databases() {
            let db_view = guard.db(db);
            let mut cursor = 0;
            loop {
                cursor = db_view.scan(cursor, &mut |entry| {
                    let mut parts = vec![db.to_le_bytes().to_vec(), entry.key().to_vec()];
                    parts.push(of_value(entry.value()).to_vec());
                    parts.push(entry.expire_ms().unwrap_or(-1).to_le_bytes().to_vec());
                    xor(&mut sum, &hash(&parts));
                });
                if cursor == 0 {
                    break;
                }
            }
        }
    }
    sum
}

/// Of the value of one key; zeros if there is none.
pub fn of_key(keyspace: &Keyspace, db: u16, key: &[u8]) -> Digest {
    let guard = keyspace.lock_wait(Slot::of_key(key));
    let entry = guard.db(db).get(key, keyspace.hash(key));
    entry.map_or([0; 20], |e| of_value(e.value()))
}

fn of_value(value: ValueRef<'_>) -> Digest {
    let mut sum = [0; 20];
    match value {
        ValueRef::Str(bytes) => return hash(&[b"str".to_vec(), bytes.to_vec()]),
        ValueRef::List(list) => {
            let mut parts = vec![b"list".to_vec()];
            parts.extend(list.iter().map(|e| e.to_vec()));
            return hash(&parts);
        }
        ValueRef::Set(set) => {
            for member in set.iter() {
                xor(&mut sum, &hash(&[b"set".to_vec(), member.to_vec()]));
            }
        }
        ValueRef::Hash(map) => {
            for (field, value) in map.iter() {
                let mut parts = vec![b"hash".to_vec(), field.to_vec(), value.to_vec()];
                parts.extend(map.expiry(field).map(|at| at.to_le_bytes().to_vec()));
                xor(&mut sum, &hash(&parts));
            }
        }
        ValueRef::ZSet(zset) => {
            for (member, score) in zset.iter() {
                xor(
                    &mut sum,
                    &hash(&[b"zset".to_vec(), member.to_vec(), score.to_bits().to_le_bytes().to_vec()]),
                );
            }
        }
        ValueRef::Stream(stream) => return of_stream(stream),
    }
    sum
}

/// Of entries and of the groups' state, without what only reading changes: times and numbers of deliveries.
fn of_stream(stream: &Stream) -> Digest {
    let mut parts = vec![b"stream".to_vec(), stream.log.last_id.text().to_vec()];
    for entry in stream.log.range(StreamId::MIN, StreamId::MAX) {
        parts.push(entry.id.text().to_vec());
        parts.push((entry.fields.len() as u64).to_le_bytes().to_vec());
        parts.extend(entry.fields.flat_map(|(name, value)| [name.to_vec(), value.to_vec()]));
    }
    for (name, group) in stream.groups() {
        parts.push(name.to_vec());
        parts.push(group.last_id.text().to_vec());
        for (id, pending) in group.pending_from(StreamId::MIN) {
            parts.push(id.text().to_vec());
            parts.push(group.by_id(pending.owner).name().to_vec());
        }
        parts.push(b"end of group".to_vec());
    }
    hash(&parts)
}

fn hash(parts: &[Vec<u8>]) -> Digest {
    use sha2::Digest as _;
    let mut sha = sha2::Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    let full = sha.finalize();
    let mut digest = [0; 20];
    digest.copy_from_slice(&full[..20]);
    digest
}

fn xor(sum: &mut Digest, with: &Digest) {
    sum.iter_mut().zip(with).for_each(|(s, w)| *s ^= w);
}
