//! REPLICAOF, PSYNC, WAIT and their kin.

use super::Functions;
use crate::env::Env;
use engine::spec::Command;

pub static COMMANDS: &[Command] = &[];

pub fn functions<E: Env>() -> Functions<E> {
    &[]
}
