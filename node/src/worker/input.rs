//! Input: what connections read becomes commands of the batch.

use super::Worker;
use super::batch::{Batch, Buffer, Group, INPUT_BYTES_MAX, Item, LONG_QUERY_BYTES, Parts};
use crate::connection::{Connection, Phase};
use crate::env::Env;
use proto::resp::{ProtocolError, Request, Span, parse_request, short_command};
use std::cell::RefMut;
use std::rc::Rc;
use storage::{KeyAhead, is_same_key};

impl<E: Env> Worker<E> {
    #[inline]
    pub fn with_input<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        f(&mut self.batch().input)
    }

    #[inline]
    fn batch(&self) -> RefMut<'_, Batch<E>> {
        RefMut::map(self.batch.borrow_mut(), |b| {
            &mut **b.as_mut().expect("nothing is read while the batch runs")
        })
    }

    /// Parses what a connection just read into the worker's buffer: its own leftover and `fresh` bytes. False: it sent
    /// nonsense, or too much.
    pub fn parse_shared(self: &Rc<Self>, connection: &Rc<Connection<E>>, fresh: usize) -> bool {
        self.stats().net_in.add(fresh as u64);
        let mut batch = self.batch();
        let mut input = connection.input.borrow_mut();
        let start = batch.input.len() - fresh - input.len();
        let end = self.parse(connection, &mut batch, start, Buffer::Input);
        input.clear();
        match end {
            Ok(end) if end == batch.input.len() => input.shrink_to(0),
            Ok(end) => input.extend_from_slice(&batch.input[end..]),
            Err(error) => self.refuse(connection, &mut batch, &error),
        }
        let is_full = batch.input.len() > INPUT_BYTES_MAX;
        let is_rest = !input.is_empty();
        drop((batch, input));
        if is_full {
            self.run_batch();
        }
        !is_rest || self.check_query(connection)
    }

    /// Parses the connection's own buffer, which holds a long command or commands that were put off.
    pub fn parse_own(self: &Rc<Self>, connection: &Rc<Connection<E>>) -> bool {
        let buf = std::mem::take(&mut *connection.input.borrow_mut());
        let len = buf.len();
        let mut batch = self.batch();
        let (count, place) = (batch.items.len(), batch.own.len());
        batch.own.push(buf);
        match self.parse(connection, &mut batch, 0, Buffer::Own(place as u32)) {
            // Nothing complete: the buffer goes on growing where it is.
            Ok(_) if batch.items.len() == count => {
                *connection.input.borrow_mut() = batch.own.pop().expect("just pushed");
                drop(batch);
                self.check_query(connection)
            }
            Ok(end) => {
                *connection.input.borrow_mut() = batch.own[place][end..].to_vec();
                if len >= LONG_QUERY_BYTES {
                    self.count_memory(connection, len, 0);
                }
                true
            }
            Err(error) => {
                self.refuse(connection, &mut batch, &error);
                true
            }
        }
    }

    /// Takes up commands that were put off. True: some stand in the batch now.
    pub fn resume(self: &Rc<Self>, connection: &Rc<Connection<E>>) -> bool {
        *connection.partial.borrow_mut() = None;
        if !self.parse_own(connection) {
            connection.set_phase(Phase::Closed);
        }
        connection.phase() == Phase::InBatch
    }

    fn check_query(&self, connection: &Rc<Connection<E>>) -> bool {
        let len = connection.input.borrow().len();
        if len >= LONG_QUERY_BYTES {
            self.count_buffers(connection);
        }
        let max = match connection.session.borrow().is_authenticated() {
            true => self.shared.settings().query_bytes_max,
            false => proto::limits::QUERY_BYTES_MAX_UNAUTHENTICATED,
        };
        len <= max
    }

    /// A protocol error: it is told after the replies of what came before, and the connection ends.
    fn refuse(&self, connection: &Rc<Connection<E>>, batch: &mut Batch<E>, error: &ProtocolError) {
        let (count, first) = (batch.items.len(), batch.spans.len());
        let own = error.0.clone().into_bytes();
        let whole = Span { start: 0, len: own.len() as u32 };
        let place = batch.own.len() as u32;
        batch.own.push(own);
        batch.spans.push(whole);
        let mut item = Item::new(&batch.spans, first, &batch.keys, whole, Buffer::Own(place));
        item.is_error = true;
        batch.items.push(item);
        self.join(connection, batch, count);
    }

    /// Pushes the complete commands from `at` on; returns where they end.
    fn parse(
        &self,
        connection: &Rc<Connection<E>>,
        batch: &mut Batch<E>,
        at: usize,
        buffer: Buffer,
    ) -> Result<usize, ProtocolError> {
        let count = batch.items.len();
        let end = self.parse_all(connection, batch, at, buffer);
        self.join(connection, batch, count);
        end
    }

    fn parse_all(
        &self,
        connection: &Rc<Connection<E>>,
        batch: &mut Batch<E>,
        mut at: usize,
        buffer: Buffer,
    ) -> Result<usize, ProtocolError> {
        let mut partial = connection.partial.borrow_mut();
        let before = batch.items.len();
        loop {
            if partial.is_none() {
                at = self.parse_short(batch, at, buffer);
            }
            if partial.is_none() && at == batch.bytes(buffer).len() {
                return Ok(at);
            }
            let first = batch.spans.len();
            let limits = connection.limits(self.shared.settings().engine.proto_max_bulk_len);
            let request = {
                let Parts { buf, spans, .. } = batch.parts(buffer);
                match parse_request(buf, at, &limits, spans, &mut partial) {
                    // What stands before it may authenticate: it is judged again when that has run.
                    Err(_) if !limits.is_authenticated && batch.items.len() > before => {
                        connection.has_deferred.set(true);
                        return Ok(at);
                    }
                    request => request?,
                }
            };
            match request {
                Request::Incomplete => return Ok(at),
                Request::Command { end } => {
                    let raw = Span { start: at as u32, len: (end - at) as u32 };
                    self.push(batch, first, raw, buffer);
                    at = end;
                }
                Request::Inline { args, end } => {
                    at = end;
                    if !args.is_empty() {
                        self.push_inline(batch, &args)?;
                    }
                }
            }
        }
    }

    /// Pushes short commands, which are nearly all; returns where another or an incomplete one begins.
    #[inline]
    fn parse_short(&self, batch: &mut Batch<E>, mut at: usize, buffer: Buffer) -> usize {
        let Parts { buf, spans, keys, items } = batch.parts(buffer);
        let mut before = None;
        loop {
            let first = spans.len();
            let Some(end) = short_command(buf, at, spans) else { return at };
            let raw = Span { start: at as u32, len: (end - at) as u32 };
            let item = Item::new(spans, first, keys, raw, buffer);
            let item = self.look_up(item, buf, &spans[first..], keys, before);
            // Of several keys the last is none that a command of one can share.
            before = (item.keys.0 + 1 == item.keys.1).then(|| (spans[first + 1], item.keys));
            items.push(item);
            at = end;
        }
    }

    /// An inline command becomes what it would have been on the wire.
    fn push_inline(&self, batch: &mut Batch<E>, args: &[Vec<u8>]) -> Result<(), ProtocolError> {
        let mut encoded = Vec::new();
        proto::resp::encode_command(args, &mut encoded);
        let limits = proto::resp::Limits::authenticated(usize::MAX);
        let first = batch.spans.len();
        parse_request(&encoded, 0, &limits, &mut batch.spans, &mut None)?;
        let raw = Span { start: 0, len: encoded.len() as u32 };
        let place = batch.own.len() as u32;
        batch.own.push(encoded);
        self.push(batch, first, raw, Buffer::Own(place));
        Ok(())
    }

    /// Pushes the command whose arguments were pushed last, from `first` on.
    fn push(&self, batch: &mut Batch<E>, first: usize, raw: Span, buffer: Buffer) {
        let Parts { buf, spans, keys, items } = batch.parts(buffer);
        let item = Item::new(spans, first, keys, raw, buffer);
        items.push(self.look_up(item, buf, &spans[first..], keys, None));
    }

    /// Finds out which command it is, and asks for the memory of its keys' slots. `before`: where the first key of the command
    /// before it, which is often the same, stands in the buffer and among `keys`.
    #[inline(always)] // returned through memory it costs a tenth of the parsing
    fn look_up(
        &self,
        mut item: Item,
        buf: &[u8],
        args: &[Span],
        keys: &mut Vec<KeyAhead>,
        before: Option<(Span, (u32, u32))>,
    ) -> Item {
        let engine = &self.shared.engine;
        let Some(spec) = engine.table.by_name(args[0].of(buf)) else { return item };
        if !spec.subcommands.is_empty() || !spec.is_arity(args.len()) {
            return item; // resolved when it runs
        }
        item.spec = Some(spec);
        let ahead = spec.keys_ahead(args.len());
        item.keys = match before {
            Some((same, shared)) if ahead.is_one() && is_same_key(same.of(buf), args[1].of(buf)) => shared,
            _ => {
                ahead.each(|at| keys.push(engine.keyspace.key_ahead(args[at].of(buf))));
                (item.keys.0, keys.len() as u32)
            }
        };
        item
    }

    /// The commands from `count` on are this connection's.
    #[inline]
    fn join(&self, connection: &Rc<Connection<E>>, batch: &mut Batch<E>, count: usize) {
        let end = batch.items.len();
        if end == count {
            return;
        }
        match batch.groups.last_mut() {
            Some(group) if Rc::ptr_eq(&group.connection, connection) => group.items.end = end,
            _ => {
                connection.set_phase(Phase::InBatch);
                batch.groups.push(Group { connection: connection.clone(), items: count..end });
            }
        }
    }
}
