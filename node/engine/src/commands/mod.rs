//! The commands that the engine runs, a file per family. Each is one `const` and one function below it.

pub mod algebra;
pub mod bitfield;
pub mod bitmap;
pub mod cluster_scan;
pub mod collection;
pub mod dump;
pub mod expiry;
pub mod function;
pub mod generic;
pub mod geo;
pub mod geo_search;
pub mod hash;
pub mod hash_expiry;
pub mod hyperloglog;
pub mod lcs;
pub mod list;
pub mod list_blocking;
pub mod memory;
pub mod scan;
pub mod scripting;
pub mod set;
pub mod set_algebra;
pub mod sort;
pub mod stream;
pub mod stream_add;
pub mod stream_claim;
pub mod stream_delete;
pub mod stream_group;
pub mod stream_info;
pub mod stream_range;
pub mod stream_read;
pub mod string;
pub mod string_if;
pub mod zset;
pub mod zset_algebra;
pub mod zset_pop;
pub mod zset_range;

use crate::spec::Command;

/// All commands that run in the engine.
pub fn all() -> impl Iterator<Item = &'static Command> {
    [
        string::COMMANDS,
        string_if::COMMANDS,
        lcs::COMMANDS,
        sort::COMMANDS,
        bitmap::COMMANDS,
        bitfield::COMMANDS,
        hyperloglog::COMMANDS,
        geo::COMMANDS,
        geo_search::COMMANDS,
        generic::COMMANDS,
        expiry::COMMANDS,
        dump::COMMANDS,
        scan::COMMANDS,
        cluster_scan::COMMANDS,
        memory::COMMANDS,
        crate::multi::COMMANDS,
        hash::COMMANDS,
        hash_expiry::COMMANDS,
        list::COMMANDS,
        list_blocking::COMMANDS,
        set::COMMANDS,
        set_algebra::COMMANDS,
        zset::COMMANDS,
        zset_range::COMMANDS,
        zset_pop::COMMANDS,
        zset_algebra::COMMANDS,
        scripting::COMMANDS,
        function::COMMANDS,
        stream_add::COMMANDS,
        stream_range::COMMANDS,
        stream_delete::COMMANDS,
        stream_read::COMMANDS,
        stream_group::COMMANDS,
        stream_claim::COMMANDS,
        stream_info::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// Checks that declarations hold together; the node runs it over its whole table as well.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Handler, flag};

    fn check(command: &Command, container: Option<&Command>) {
        let name = command.name;
        assert!(!name.is_empty() && name == name.to_lowercase(), "{name}");
        assert!(!command.summary.is_empty() && !command.since.is_empty(), "{name} is not described");
        assert_ne!(command.arity, 0, "{name}");
        assert!(!(command.has(flag::WRITE) && command.has(flag::READONLY)), "{name} writes and is read-only");
        assert!(
            !command.has(flag::DENYOOM) || command.has(flag::WRITE),
            "{name} is refused memory but does not write"
        );
        if matches!(command.run, Handler::Keys(_)) {
            assert!(command.has(flag::WRITE | flag::READONLY) || command.keys.is_empty(), "{name} has keys");
        }
        for sub in command.subcommands {
            assert!(container.is_none(), "{name} is nested too deeply");
            check(sub, Some(command));
        }
    }

    #[test]
    fn declarations_hold_together() {
        all().for_each(|c| check(c, None));
    }

    #[test]
    fn names_are_unique() {
        crate::Table::new(all());
    }
}
