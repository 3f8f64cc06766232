//! What a key holds: owned, borrowed and mutably borrowed forms, and the names Redis gives to kinds and encodings.

use crate::set::parse_int;
use crate::slab::class_size;
use crate::{Hash, List, Set, Stream, ZSet};

/// The type of a value. The numbers are those of the entry's header, in memory only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Str = 0,
    List = 1,
    Set = 2,
    Hash = 3,
    ZSet = 4,
    Stream = 5,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Str, Kind::List, Kind::Set, Kind::Hash, Kind::ZSet, Kind::Stream];

    /// The name that TYPE prints.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Str => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Hash => "hash",
            Kind::ZSet => "zset",
            Kind::Stream => "stream",
        }
    }
}

/// A value that belongs to nobody's table.
pub enum Value {
    Str(Box<[u8]>),
    List(List),
    Set(Set),
    Hash(Hash),
    ZSet(ZSet),
    Stream(Box<Stream>),
}

/// A value as a reader sees it.
#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    Str(&'a [u8]),
    List(&'a List),
    Set(&'a Set),
    Hash(&'a Hash),
    ZSet(&'a ZSet),
    Stream(&'a Stream),
}

/// A value as a writer sees it. The bytes of a string may be changed but not its length: for that see
/// `EntryMut::resize_str` and `DbMut::set_str`.
pub enum ValueMut<'a> {
    Str(&'a mut [u8]),
    List(&'a mut List),
    Set(&'a mut Set),
    Hash(&'a mut Hash),
    ZSet(&'a mut ZSet),
    Stream(&'a mut Stream),
}

impl Value {
    /// A string value.
    pub fn str(bytes: &[u8]) -> Value {
        Value::Str(bytes.into())
    }

    pub fn kind(&self) -> Kind {
        self.as_ref().kind()
    }

    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Str(v) => ValueRef::Str(v),
            Value::List(v) => ValueRef::List(v),
            Value::Set(v) => ValueRef::Set(v),
            Value::Hash(v) => ValueRef::Hash(v),
            Value::ZSet(v) => ValueRef::ZSet(v),
            Value::Stream(v) => ValueRef::Stream(v),
        }
    }

    /// Whether it is a collection without elements, which no key may hold. A stream without entries may be held.
    pub fn is_empty_collection(&self) -> bool {
        match self {
            Value::Str(_) => false,
            Value::List(v) => v.is_empty(),
            Value::Set(v) => v.is_empty(),
            Value::Hash(v) => v.is_empty(),
            Value::ZSet(v) => v.is_empty(),
            Value::Stream(v) => v.is_empty(),
        }
    }
}

impl ValueRef<'_> {
    pub fn kind(&self) -> Kind {
        match self {
            ValueRef::Str(_) => Kind::Str,
            ValueRef::List(_) => Kind::List,
            ValueRef::Set(_) => Kind::Set,
            ValueRef::Hash(_) => Kind::Hash,
            ValueRef::ZSet(_) => Kind::ZSet,
            ValueRef::Stream(_) => Kind::Stream,
        }
    }

    /// Bytes outside the key's entry: what the collection holds; zero for strings.
    pub fn outside_bytes(&self) -> usize {
        match self {
            ValueRef::Str(_) => 0,
            ValueRef::List(v) => v.outside_bytes(),
            ValueRef::Set(v) => v.outside_bytes(),
            ValueRef::Hash(v) => v.outside_bytes(),
            ValueRef::ZSet(v) => v.outside_bytes(),
            ValueRef::Stream(v) => v.outside_bytes(),
        }
    }
}

/// A type of collection that a key may hold.
pub trait Collection: Sized {
    fn of(value: ValueRef<'_>) -> Option<&Self>;
    fn of_mut(value: ValueMut<'_>) -> Option<&mut Self>;
    fn new() -> Self;
    fn into_value(self) -> Value;
    /// Whether its key goes: it holds nothing that is worth keeping.
    fn is_empty(&self) -> bool;
    /// Bytes outside the key's entry.
    fn outside_bytes(&self) -> usize;
    /// The soonest time at which a part of it expires.
    #[inline]
    fn next_expiry(&self) -> Option<i64> {
        None
    }
}

macro_rules! collection {
    ($t:ident, $wrap:expr, { $($own:item)* }) => {
        impl Collection for $t {
            #[inline]
            fn of(value: ValueRef<'_>) -> Option<&Self> {
                if let ValueRef::$t(v) = value { Some(v) } else { None }
            }
            #[inline]
            fn of_mut(value: ValueMut<'_>) -> Option<&mut Self> {
                if let ValueMut::$t(v) = value { Some(v) } else { None }
            }
            fn new() -> Self {
                $t::new()
            }
            fn into_value(self) -> Value {
                Value::$t($wrap(self))
            }
            $($own)*
        }
    };
    ($t:ident, { $($own:item)* }) => {
        collection!($t, |v| v, {
            #[inline]
            fn is_empty(&self) -> bool {
                self.len() == 0
            }
            #[inline]
            fn outside_bytes(&self) -> usize {
                self.heap_bytes()
            }
            $($own)*
        });
    };
}
collection!(List, {});
collection!(Set, {});
collection!(Hash, {
    #[inline]
    fn next_expiry(&self) -> Option<i64> {
        Hash::next_expiry(self)
    }
});
collection!(ZSet, {});
collection!(Stream, Box::new, {
    // Without entries it still has its last id and its groups.
    fn is_empty(&self) -> bool {
        false
    }
    fn outside_bytes(&self) -> usize {
        class_size(size_of::<Stream>()) + self.heap_bytes()
    }
});

/// The encoding OBJECT ENCODING reports for a string that was set whole.
// Redis 7.0: "int" for the canonical decimal form of an i64, "embstr" up to 44 bytes.
pub fn str_encoding(bytes: &[u8]) -> &'static str {
    if parse_int(bytes).is_some() {
        "int"
    } else if bytes.len() <= 44 {
        "embstr"
    } else {
        "raw"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_canonical() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            ("", None),
            ("-", None),
            ("1 ", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_int(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn encodings_of_whole_strings() {
        assert_eq!(str_encoding(b"12"), "int");
        assert_eq!(str_encoding(&[b'x'; 44]), "embstr");
        assert_eq!(str_encoding(&[b'x'; 45]), "raw");
    }
}
