//! Bounds on what a peer may ask of us. Figures are Redis's unless a line says otherwise.

/// Longest inline command, in bytes.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Arguments of one command after authentication.
pub const ARGS_MAX: usize = 1024 * 1024;
/// Arguments of one command before authentication.
pub const ARGS_MAX_UNAUTHENTICATED: usize = 10;
/// Length of one argument before authentication, in bytes.
pub const BULK_BYTES_MAX_UNAUTHENTICATED: usize = 16 * 1024;
/// `proto-max-bulk-len`: length of one argument, in bytes.
pub const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Unparsed bytes kept for a client before authentication.
pub const QUERY_BYTES_MAX_UNAUTHENTICATED: usize = 1024 * 1024;
/// Unsent replies kept for a client before authentication, in bytes.
pub const REPLY_BYTES_MAX_UNAUTHENTICATED: usize = 1024;
/// Nesting of a reply that we decode as a client. Choice: deeper than any command's reply.
pub const REPLY_DEPTH_MAX: usize = 32;
/// Members of the voter set. Choice: a decision costs 3V packets, and nine voters survive four losses.
pub const VOTERS_MAX: usize = 9;
/// Databases of one node.
pub const DATABASES_MAX: u32 = 1024;
