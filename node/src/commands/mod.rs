//! The commands that the node runs itself: connections, channels, the server, replication, the cluster.

pub mod acl;
pub mod client;
pub mod cluster;
pub mod command;
pub mod connection;
pub mod debug;
pub mod failover;
pub mod info;
pub mod latency;
pub mod lolwut;
pub mod memory;
pub mod migrate;
pub mod migrate_links;
pub mod module;
pub mod pubsub;
pub mod replication;
pub mod script;
pub mod server;
pub mod slowlog;

use crate::env::Env;
use crate::host::HostFn;
use engine::{Command, Table};

/// A node's commands with their functions, by full name.
pub type Functions<E> = &'static [(&'static str, HostFn<E>)];

/// Every command of a node, declared.
pub fn declared() -> impl Iterator<Item = &'static Command> {
    let own = [
        connection::COMMANDS,
        acl::COMMANDS,
        client::COMMANDS,
        pubsub::COMMANDS,
        server::COMMANDS,
        slowlog::COMMANDS,
        latency::COMMANDS,
        lolwut::COMMANDS,
        module::COMMANDS,
        command::COMMANDS,
        debug::COMMANDS,
        replication::COMMANDS,
        failover::COMMANDS,
        cluster::COMMANDS,
        migrate::COMMANDS,
    ];
    engine::commands::all().chain(own.into_iter().flatten())
}

/// The table of a node.
pub fn table() -> Table {
    Table::new(declared())
}

/// As [`table`], with commands that clients call otherwise. `Err`: why one cannot be renamed.
pub fn renamed(renames: &[[String; 2]]) -> Result<Table, String> {
    let mut table = table();
    for [from, to] in renames {
        table.rename(from, to)?;
    }
    Ok(table)
}

fn functions<E: Env>() -> impl Iterator<Item = (&'static str, HostFn<E>)> {
    [
        connection::functions::<E>(),
        acl::functions::<E>(),
        client::functions::<E>(),
        pubsub::functions::<E>(),
        server::functions::<E>(),
        slowlog::functions::<E>(),
        latency::functions::<E>(),
        lolwut::functions::<E>(),
        module::functions::<E>(),
        memory::functions::<E>(),
        command::functions::<E>(),
        debug::functions::<E>(),
        replication::functions::<E>(),
        script::functions::<E>(),
        failover::functions::<E>(),
        cluster::functions::<E>(),
        migrate::functions::<E>(),
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The function of a command that runs in the node.
pub fn function<E: Env>(full_name: &str) -> Option<HostFn<E>> {
    functions::<E>().find(|(name, _)| *name == full_name).map(|(_, f)| f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Real;
    use engine::spec::Handler;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_of_the_node_has_one_function() {
        let table = table();
        let declared: BTreeSet<&str> = table
            .specs()
            .iter()
            .filter(|s| matches!(s.command.run, Handler::Host))
            .map(|s| s.full_name.as_str())
            .collect();
        let named: Vec<&str> = functions::<Real>().map(|(name, _)| name).collect();
        let unique: BTreeSet<&str> = named.iter().copied().collect();
        assert_eq!(unique.len(), named.len(), "a function is registered twice");
        assert_eq!(declared, unique);
    }
}
