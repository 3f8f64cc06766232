//! `cluster add-node`: an empty node joins, as a primary without slots or as a replica.

use super::nodes::{Nodes, call, connect, describe, text};
use super::{AdminError, Result, wait};
use crate::client::{Address, Login};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(
    new: &Address,
    address: &Address,
    is_replica: bool,
    of: Option<&str>,
    login: &Login,
) -> Result<()> {
    let nodes = Nodes::load(address, login)?;
    let mut client = connect(new, login)?;
    let known = describe(&mut client)?;
    if known.len() != 1 || known[0].slot_count() > 0 {
        return Err(AdminError::Refused(format!("{new} is not empty: it knows other nodes or owns slots")));
    }
    let id = text(&mut client, &["CLUSTER", "MYID"])?;
    let via =
        nodes.all.iter().find(|n| !n.is_failed()).ok_or(AdminError::Timeout("a node that answers".into()))?;
    let (port, bus) = (via.address.port.to_string(), via.bus_port.to_string());
    call(&mut client, &["CLUSTER", "MEET", &via.address.host, &port, &bus])?;
    wait("the node to join", PATIENCE, || Ok(describe(&mut client)?.len() > nodes.all.len()))?;
    if is_replica {
        let primary = match of {
            Some(id) => nodes.find(id)?,
            None => nodes
                .primaries()
                .filter(|n| !n.slots.is_empty() && !n.is_failed())
                .min_by_key(|n| nodes.replicas_of(&n.id).count())
                .ok_or_else(|| AdminError::Refused("there is no primary to follow".into()))?,
        };
        call(&mut client, &["CLUSTER", "REPLICATE", &primary.id])?;
        wait("the replica to follow", PATIENCE, || {
            Ok(text(&mut client, &["INFO", "replication"])?.contains("master_link_status:up"))
        })?;
        println!("[OK] {new} ({id}) follows {}.", primary.address);
    } else {
        println!(
            "[OK] {new} ({id}) has joined. Give it slots: shoal-cli cluster reshard {address} --to {id} --slots N"
        );
    }
    Ok(())
}
