//! RESP2 and RESP3: requests as they arrive, replies as they leave, and replies as a client reads them.

mod decode;
mod reply;
mod request;

pub use decode::{DecodeError, Value, decode};
pub use reply::{Reply, format_double};
pub use request::{
    Limits, Partial, ProtocolError, Request, Span, encode_command, parse_request, short_command, split_inline,
};
