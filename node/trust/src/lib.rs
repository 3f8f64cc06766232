//! Whom nodes and `shoal-cli` trust under TLS, for both alike.

mod verify;
pub mod x509;

pub use verify::Trust;
