//! What one turn works on: the input of all connections that were ready, as commands.

use crate::connection::Connection;
use crate::env::Env;
use engine::Spec;
use proto::resp::Span;
use std::ops::Range;
use std::rc::Rc;
use storage::{ElementAhead, KeyAhead, Keyspace};

/// Commands and keys prefetched at a time. 16 does as well, more does not help.
pub(super) const BATCH_MAX: usize = 32;
/// Input gathered at which the batch runs before its turn: bounds the worker's buffer.
pub(super) const INPUT_BYTES_MAX: usize = 1 << 20;
/// Input of a command that has not come whole at which it is counted as the client's memory: less is counted with the
/// next command.
pub(super) const LONG_QUERY_BYTES: usize = 4 * 1024;

/// A parsed command.
#[derive(Clone, Copy)]
pub(super) struct Item {
    /// Its first argument, among the batch's.
    first: u32,
    args: u32,
    /// Where it stands in its buffer.
    pub raw: Span,
    pub buffer: Buffer,
    /// No command but what is wrong with the input.
    pub is_error: bool,
    pub spec: Option<&'static Spec>,
    /// Its keys, among the batch's: see [`Spec::keys_ahead`]. None is before those of the command before.
    pub keys: (u32, u32),
}

/// Arguments of a command; nearly all have few. A choice: room for a dozen keys, as much as costs nothing to set aside.
pub(super) type ArgList<'a> = smallvec::SmallVec<[&'a [u8]; 16]>;

/// Where the bytes of a command are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffer {
    /// In the batch's input.
    Input,
    /// In a buffer that came with it.
    Own(u32),
}

/// A buffer of the batch, and where its commands go.
pub(super) struct Parts<'a> {
    pub buf: &'a [u8],
    pub spans: &'a mut Vec<Span>,
    pub keys: &'a mut Vec<KeyAhead>,
    pub items: &'a mut Vec<Item>,
}

/// The commands of one connection, which stand together.
pub(super) struct Group<E: Env> {
    pub connection: Rc<Connection<E>>,
    pub items: Range<usize>,
}

/// See the module's head.
pub(super) struct Batch<E: Env> {
    pub input: Vec<u8>,
    /// Buffers of long commands, and of those that were put off.
    pub own: Vec<Vec<u8>>,
    pub spans: Vec<Span>,
    /// Slots and hashes of keys. Commands of one key that follow one another share it.
    pub keys: Vec<KeyAhead>,
    pub items: Vec<Item>,
    pub groups: Vec<Group<E>>,
    /// The most of input, spans, keys and items that a turn had since the last round.
    peak: [usize; 4],
}

impl<E: Env> Default for Batch<E> {
    fn default() -> Self {
        Batch {
            input: Vec::new(),
            own: Vec::new(),
            spans: Vec::new(),
            keys: Vec::new(),
            items: Vec::new(),
            groups: Vec::new(),
            peak: [0; 4],
        }
    }
}

impl Item {
    /// A command of the arguments from `first` on, which were pushed last. `keys`: those of the commands before it.
    #[inline]
    pub fn new(spans: &[Span], first: usize, keys: &[KeyAhead], raw: Span, buffer: Buffer) -> Item {
        let (args, none) = ((spans.len() - first) as u32, keys.len() as u32);
        Item { first: first as u32, args, raw, buffer, is_error: false, spec: None, keys: (none, none) }
    }
    #[inline]
    pub fn args(self, spans: &[Span]) -> &[Span] {
        &spans[self.first as usize..][..self.args as usize]
    }
}

impl<E: Env> Batch<E> {
    /// Ends a turn.
    pub fn clear(&mut self) {
        let lens = [self.input.len(), self.spans.len(), self.keys.len(), self.items.len()];
        for (peak, len) in self.peak.iter_mut().zip(lens) {
            *peak = len.max(*peak);
        }
        self.input.clear();
        self.input.shrink_to(INPUT_BYTES_MAX);
        self.own.clear();
        self.spans.clear();
        self.keys.clear();
        self.items.clear();
    }

    /// Between turns: gives up half of the room that no turn needed since it was last called.
    pub fn give_back(&mut self) {
        let [input, spans, keys, items] = std::mem::take(&mut self.peak);
        give_back(&mut self.input, input);
        give_back(&mut self.spans, spans);
        give_back(&mut self.keys, keys);
        give_back(&mut self.items, items);
    }

    #[inline]
    pub fn bytes(&self, buffer: Buffer) -> &[u8] {
        match buffer {
            Buffer::Input => &self.input,
            Buffer::Own(place) => &self.own[place as usize],
        }
    }
    /// A buffer, and where its arguments go.
    #[inline]
    pub fn parts(&mut self, buffer: Buffer) -> Parts<'_> {
        let buf = match buffer {
            Buffer::Input => &self.input,
            Buffer::Own(place) => &self.own[place as usize],
        };
        Parts { buf, spans: &mut self.spans, keys: &mut self.keys, items: &mut self.items }
    }
    /// What is known of a command's keys.
    #[inline]
    pub fn keys(&self, item: &Item) -> &[KeyAhead] {
        &self.keys[item.keys.0 as usize..item.keys.1 as usize]
    }
    /// A command as it came.
    #[inline]
    pub fn raw(&self, item: &Item) -> &[u8] {
        item.raw.of(self.bytes(item.buffer))
    }
    /// A command's arguments.
    #[inline]
    pub fn args<'a>(&'a self, item: &Item) -> ArgList<'a> {
        let buf = self.bytes(item.buffer);
        item.args(&self.spans).iter().map(|span| span.of(buf)).collect()
    }

    /// Asks for the memory that the next commands from `place` on will look at, stage by stage. Returns where those of them
    /// end.
    pub fn prefetch(&self, keyspace: &Keyspace, place: usize) -> usize {
        let mut items = &self.items[place..(place + BATCH_MAX).min(self.items.len())];
        let first = items[0].keys.0;
        let is_within = |item: &Item| item.keys.1 - first <= BATCH_MAX as u32;
        if !items.last().is_some_and(is_within) {
            // One of very many keys goes alone.
            items = &items[..items.partition_point(is_within).max(1)];
        }
        let keys = &self.keys[first as usize..items[items.len() - 1].keys.1 as usize];
        // Alone, a command of one key waits for its memory one way or the other.
        if items.len() > 1 || keys.len() > 1 {
            keyspace.prefetch(0, keys);
            let mut elements: smallvec::SmallVec<[ElementAhead<'_>; BATCH_MAX]> =
                items.iter().filter_map(|item| self.element(item)).collect();
            if !elements.is_empty() {
                keyspace.prefetch_elements(0, &mut elements);
            }
        }
        place + items.len()
    }

    /// The element that a command names in the collection at its first key.
    #[inline]
    fn element<'a>(&'a self, item: &'a Item) -> Option<ElementAhead<'a>> {
        let command = &item.spec?.command;
        if command.element == 0 {
            return None;
        }
        let (key, buf) = (*self.keys(item).first()?, self.bytes(item.buffer));
        let arg = |place: u8| item.args(&self.spans).get(place as usize).map(|span| span.of(buf));
        let mut element = ElementAhead::new(key, arg(command.element)?);
        if command.score != 0 {
            element.score = engine::number::parse_f64(arg(command.score)?);
        }
        Some(element)
    }
}

/// Gives up half of a buffer's room if not even a quarter is needed. Small ones are kept.
fn give_back<T>(buffer: &mut Vec<T>, needed: usize) {
    const KEPT: usize = 256;
    if buffer.capacity() > KEPT.max(needed * 4) {
        buffer.shrink_to(buffer.capacity() / 2);
    }
}
