//! CLUSTER: what the cluster looks like and how it is changed.

use super::Functions;
use crate::env::Env;
use engine::spec::Command;

pub static COMMANDS: &[Command] = &[];

pub fn functions<E: Env>() -> Functions<E> {
    &[]
}
