//! Reading RDB as it arrives: bytes are pushed in, events come out.
//!
//! One event is read from one slice; when it is not there whole, reading starts again at its begin once more bytes
//! came. For values above 64 KiB that happens only after the buffer grew by a quarter, so the work stays linear.

use super::object::{Build, Input, Stop, module_name, read_value, skip_module_data};
use super::{RdbError, VALKEY_VERSIONS, VERSION_MAX, op};
use crate::Thresholds;
use crate::crc64::crc64;
use crate::value::Value;
use std::io::Read;

/// How to read.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub thresholds: Thresholds,
    /// Whether to compare the checksum; a stored zero means that there is none.
    pub verify_checksum: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { thresholds: Thresholds::default(), verify_checksum: true }
    }
}

/// A key with all that the file says about it.
pub struct Record {
    pub db: u32,
    pub key: Vec<u8>,
    pub value: Value,
    /// Milliseconds since 1970. The key may have expired since: whoever has a clock decides.
    pub expire_ms: Option<i64>,
    /// LRU: seconds since the last access when the file was written.
    pub idle_s: Option<u64>,
    /// LFU: the logarithmic counter.
    pub frequency: Option<u8>,
}

/// One thing an RDB file says.
pub enum Event {
    /// The file's version, and whether it is Valkey's numbering.
    Header {
        version: u16,
        is_valkey: bool,
    },
    /// Name and value of an auxiliary field (`repl-id`, `ctime`, ...).
    Aux(Vec<u8>, Vec<u8>),
    /// How many keys and expiries to expect in a database. A hint that may be wrong.
    Sizes {
        db: u32,
        keys: u64,
        expires: u64,
    },
    Key(Box<Record>),
    /// A function library's code.
    Function(Vec<u8>),
    /// A collection without elements, which some old versions wrote; it is skipped.
    EmptyKey(Vec<u8>),
    /// Data of a module beside keys; it is skipped. Holds the module's name.
    ModuleAux(String),
    /// The end mark, after the checksum was checked.
    End,
}

/// A push decoder.
pub struct Decoder {
    options: LoadOptions,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are decoded.
    at: usize,
    /// Decoded bytes that are no longer in `buffer`.
    before: u64,
    /// Undecoded bytes worth trying again with.
    need: usize,
    crc: u64,
    version: u16,
    is_valkey: bool,
    started: bool,
    ended: bool,
    db: u32,
    expire_ms: Option<i64>,
    idle_s: Option<u64>,
    frequency: Option<u8>,
}

/// Below this many buffered bytes a value is tried again at every push.
const RETRY_STEP: usize = 64 * 1024;

impl Decoder {
    pub fn new(options: LoadOptions) -> Decoder {
        Decoder {
            options,
            buffer: Vec::new(),
            at: 0,
            before: 0,
            need: 0,
            crc: 0,
            version: 0,
            is_valkey: false,
            started: false,
            ended: false,
            db: 0,
            expire_ms: None,
            idle_s: None,
            frequency: None,
        }
    }

    /// Hands in the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 && (self.at == self.buffer.len() || self.at >= RETRY_STEP) {
            self.buffer.drain(..self.at);
            self.before += self.at as u64;
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of the file decoded so far.
    pub fn offset(&self) -> u64 {
        self.before + self.at as u64
    }
    /// Whether the end mark was read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }
    /// Bytes that were pushed behind the end mark.
    pub fn rest(&self) -> &[u8] {
        assert!(self.ended, "there is no rest before the end");
        &self.buffer[self.at..]
    }

    /// The next event; `None`: more bytes are needed, or [`Event::End`] has been.
    #[expect(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event>, RdbError> {
        if self.buffer.len() - self.at < self.need { Ok(None) } else { self.decode() }
    }
    /// As [`Decoder::next`], when no more bytes will come: what is not whole is an error.
    pub fn next_at_end(&mut self) -> Result<Option<Event>, RdbError> {
        let event = self.decode()?;
        if event.is_none() && !self.ended {
            return Err(RdbError::Truncated { offset: self.offset() });
        }
        Ok(event)
    }

    fn decode(&mut self) -> Result<Option<Event>, RdbError> {
        while !self.ended {
            let buffer = std::mem::take(&mut self.buffer);
            let mut input = Input::new(&buffer[self.at..]);
            let outcome = self.step(&mut input);
            let used = input.at();
            self.buffer = buffer;
            let offset = self.offset();
            match outcome {
                Ok(event) => {
                    if self.options.verify_checksum && !self.ended {
                        self.crc = crc64(self.crc, &self.buffer[self.at..self.at + used]);
                    }
                    self.at += used;
                    self.need = 0;
                    if event.is_some() {
                        return Ok(event);
                    }
                }
                Err(Failure::Stop(Stop::More(least))) => {
                    let have = self.buffer.len() - self.at;
                    self.need = if have < RETRY_STEP { least } else { least.max(have + have / 4) };
                    return Ok(None);
                }
                Err(Failure::Stop(Stop::Corrupt(what))) => return Err(RdbError::Corrupt { offset, what }),
                Err(Failure::Stop(Stop::Unsupported(what))) => {
                    return Err(RdbError::Unsupported { offset, what });
                }
                Err(Failure::Checksum(expected, computed)) => {
                    return Err(RdbError::Checksum { expected, computed });
                }
            }
        }
        Ok(None)
    }

    /// Reads one mark or record. Changes nothing in `self` unless it succeeds.
    fn step(&mut self, input: &mut Input<'_>) -> Result<Option<Event>, Failure> {
        if !self.started {
            return Ok(Some(self.header(input)?));
        }
        let mark = input.u8()?;
        match mark {
            op::EXPIRE_MS => self.expire_ms = Some(input.i64_le()?),
            op::EXPIRE_S => self.expire_ms = Some(input.u32_le()? as i32 as i64 * 1000),
            op::IDLE => self.idle_s = Some(input.len()?),
            op::FREQ => self.frequency = Some(input.u8()?),
            op::SELECT_DB => {
                let db = input.len()?;
                self.db = u32::try_from(db).map_err(|_| Stop::Corrupt("a database number above 32 bits"))?;
            }
            op::RESIZE_DB => {
                let (keys, expires) = (input.len()?, input.len()?);
                return Ok(Some(Event::Sizes { db: self.db, keys, expires }));
            }
            op::AUX => {
                return Ok(Some(Event::Aux(input.string()?.into_owned(), input.string()?.into_owned())));
            }
            op::FUNCTION2 => return Ok(Some(Event::Function(input.string()?.into_owned()))),
            op::FUNCTION_EARLY => {
                return Err(Stop::Unsupported("a function of a Redis 7.0 release candidate".into()).into());
            }
            op::MODULE_AUX => {
                let name = module_name(input.len()?);
                skip_module_data(input)?;
                return Ok(Some(Event::ModuleAux(name)));
            }
            op::SLOT_INFO => {
                // Slot, its keys and expiries: hints for a cluster's tables.
                for _ in 0..3 {
                    input.len()?;
                }
            }
            op::SLOT_IMPORT if self.is_valkey => {
                return Err(Stop::Unsupported("a slot import under way".into()).into());
            }
            op::EOF => return self.end(input),
            number => return Ok(Some(self.record(number, input)?)),
        }
        Ok(None)
    }

    fn header(&mut self, input: &mut Input<'_>) -> Result<Event, Stop> {
        let magic = input.take(9)?;
        let (is_valkey, digits) = match magic {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (false, digits),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (true, digits),
            _ => return Err(Stop::Corrupt("no RDB magic at the begin")),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(Stop::Corrupt("a version that is not a number"));
        }
        let version = digits.iter().fold(0u16, |v, d| v * 10 + (d - b'0') as u16);
        if !is_known_version(version, is_valkey) {
            return Err(Stop::Unsupported(format!("RDB version {version}")));
        }
        (self.started, self.version, self.is_valkey) = (true, version, is_valkey);
        Ok(Event::Header { version, is_valkey })
    }

    fn record(&mut self, number: u8, input: &mut Input<'_>) -> Result<Event, Stop> {
        let key = input.string()?;
        let build = Build { thresholds: &self.options.thresholds, is_valkey: self.is_valkey };
        let value = read_value(input, number, &build)?;
        let (expire_ms, idle_s, frequency) =
            (self.expire_ms.take(), self.idle_s.take(), self.frequency.take());
        let key = key.into_owned();
        Ok(match value {
            Some(value) => {
                Event::Key(Box::new(Record { db: self.db, key, value, expire_ms, idle_s, frequency }))
            }
            None => Event::EmptyKey(key),
        })
    }

    fn end(&mut self, input: &mut Input<'_>) -> Result<Option<Event>, Failure> {
        // Version 5 brought the checksum.
        if self.version >= 5 {
            let computed = crc64(self.crc, &[op::EOF]);
            let expected = input.u64_le()?;
            if self.options.verify_checksum && expected != 0 && expected != computed {
                return Err(Failure::Checksum(expected, computed));
            }
        }
        self.ended = true;
        Ok(Some(Event::End))
    }
}

enum Failure {
    Stop(Stop),
    Checksum(u64, u64),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        Failure::Stop(stop)
    }
}

pub(super) fn is_known_version(version: u16, is_valkey: bool) -> bool {
    if is_valkey { VALKEY_VERSIONS.contains(&version) } else { (1..=VERSION_MAX).contains(&version) }
}

/// Reads a file from `source` to its end mark, handing each event to `each`; `each` may stop it by an error. Returns
/// the decoder, for [`Decoder::rest`] and the like.
pub fn load<E: From<RdbError>>(
    source: &mut dyn Read,
    options: LoadOptions,
    each: &mut dyn FnMut(Event) -> Result<(), E>,
) -> Result<Decoder, E> {
    let mut decoder = Decoder::new(options);
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let n = match source.read(&mut chunk) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(RdbError::Io(e).into()),
        };
        decoder.push(&chunk[..n]);
        while let Some(event) = if n == 0 { decoder.next_at_end()? } else { decoder.next()? } {
            each(event)?;
        }
        if decoder.is_ended() {
            return Ok(decoder);
        }
    }
}
