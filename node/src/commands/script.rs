//! SCRIPT DEBUG, which belongs to a connection. The other subcommands are the engine's.

use super::Functions;
use crate::debugger::Mode;
use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};

/// What becomes of a command of the node.
type Outcome = Result<HostOutcome, Error>;

fn debug<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    // In a transaction there is always some of its reply before.
    if !cx.out.as_bytes().is_empty() || cx.connection().output_bytes() > 0 {
        return Err(Error::text("ERR SCRIPT DEBUG must be called outside a pipeline"));
    }
    let modes = [("NO", None), ("YES", Some(Mode::OnCopies)), ("SYNC", Some(Mode::Sync))];
    let mode = modes.iter().find(|(word, _)| cx.is_word(2, word));
    let (_, mode) = mode.ok_or(Error::text("ERR Use SCRIPT DEBUG YES/SYNC/NO"))?;
    cx.connection().debug_mode.set(*mode);
    cx.ok()
}

pub fn functions<E: Env>() -> Functions<E> {
    &[("script|debug", debug::<E>)]
}
