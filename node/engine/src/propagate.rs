//! What must be replayed elsewhere: on replicas, in the AOF, at the target of a slot move.

use proto::Slot;
use proto::resp::encode_command;

/// One write unit: a command, or several that must be replayed together.
#[derive(Default, Debug)]
pub struct Unit {
    buf: Vec<u8>,
    ops: Vec<Op>,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    db: u16,
    end: usize,
}

impl Unit {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
    pub fn len(&self) -> usize {
        self.ops.len()
    }
    #[inline]
    pub fn clear(&mut self) {
        self.buf.clear();
        self.ops.clear();
    }
    /// Adds a command as arguments.
    pub fn push<A: AsRef<[u8]>>(&mut self, db: u16, args: &[A]) {
        encode_command(args, &mut self.buf);
        self.ops.push(Op { db, end: self.buf.len() });
    }
    /// Adds a command as it stood on the wire.
    pub fn push_raw(&mut self, db: u16, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.ops.push(Op { db, end: self.buf.len() });
    }
    /// The commands in order: database and encoded form.
    pub fn ops(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.ops.iter().scan(0, |start, op| {
            let bytes = &self.buf[*start..op.end];
            *start = op.end;
            Some((op.db, bytes))
        })
    }
}

/// Where write units go: the node's one feed.
pub trait Feed: Send + Sync {
    /// Whether anybody reads. If not, units need not be encoded.
    fn is_attached(&self) -> bool;
    /// Appends a unit and returns the feed's end. Called with the unit's slots locked, so that the order of units
    /// that touch one key is the order in which they were carried out. `slot`: where its keys live, if in one.
    fn append(&self, slot: Option<Slot>, unit: &Unit) -> u64;
}
