//! `cluster create`: slots to primaries, all nodes together, replicas to primaries.

use super::nodes::{call, connect, describe, text};
use super::{AdminError, Result, confirm, progress, wait};
use crate::client::{Address, Client, Login};
use proto::Slot;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(addresses: &[Address], replicas: usize, yes: bool, login: &Login) -> Result<()> {
    let primaries = addresses.len() / (replicas + 1);
    if primaries == 0 || addresses.len() < primaries * (replicas + 1) {
        return Err(AdminError::Usage(format!(
            "{} nodes are too few for {replicas} replicas per primary",
            addresses.len()
        )));
    }
    let mut clients: Vec<Client> = Vec::new();
    for address in addresses {
        let mut client = connect(address, login)?;
        check_empty(&mut client)?;
        clients.push(client);
    }
    let bound = |i: usize| i * Slot::COUNT / primaries;
    for (i, address) in addresses.iter().enumerate() {
        match i < primaries {
            true => println!("Primary {address}: slots {} - {}", bound(i), bound(i + 1) - 1),
            false => println!("Replica {address} of {}", addresses[i % primaries]),
        }
    }
    if addresses.len() < 3 {
        println!(
            "[WARNING] Fewer than three nodes vote: no failover by itself. Add a node, with data or without."
        );
    }
    confirm("Can I set the above configuration?", yes)?;
    let steps = (primaries + addresses.len() - 1 + addresses.len() - primaries + addresses.len()) as u64;
    let bar = progress(steps, "forming the cluster");
    for (i, client) in clients.iter_mut().enumerate().take(primaries) {
        let (first, last) = (bound(i).to_string(), (bound(i + 1) - 1).to_string());
        call(client, &["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
        bar.inc(1);
    }
    let first = &addresses[0];
    let bus_port = describe(&mut clients[0])?[0].bus_port.to_string();
    let (host, port) = (resolve(first)?, first.port.to_string());
    for client in &mut clients[1..] {
        call(client, &["CLUSTER", "MEET", &host, &port, &bus_port])?;
        bar.inc(1);
    }
    for client in &mut clients {
        wait("the nodes to meet", PATIENCE, || Ok(describe(client)?.len() == addresses.len()))?;
    }
    for i in primaries..addresses.len() {
        let of = text(&mut clients[i % primaries], &["CLUSTER", "MYID"])?;
        call(&mut clients[i], &["CLUSTER", "REPLICATE", &of])?;
        bar.inc(1);
    }
    for client in &mut clients {
        let address = client.address.clone();
        wait(&format!("{address} to serve"), PATIENCE, || {
            let state = text(client, &["CLUSTER", "INFO"])?;
            let role = text(client, &["INFO", "replication"])?;
            Ok(state.contains("cluster_state:ok")
                && (role.contains("role:master") || role.contains("master_link_status:up")))
        })?;
        bar.inc(1);
    }
    if addresses.len() >= 3 {
        wait("enough voters", PATIENCE, || {
            Ok(text(&mut clients[0], &["CLUSTER", "INFO"])?.contains("cluster_can_fail_over:yes"))
        })?;
    }
    bar.finish();
    println!("[OK] A cluster of {primaries} primaries and {} replicas serves.", addresses.len() - primaries);
    Ok(())
}

/// MEET takes an address, not a name.
fn resolve(address: &Address) -> Result<String> {
    use std::net::ToSocketAddrs;
    let found = (address.host.as_str(), address.port).to_socket_addrs().ok().and_then(|mut a| a.next());
    found
        .map(|a| a.ip().to_string())
        .ok_or_else(|| AdminError::Usage(format!("{} is not known", address.host)))
}

fn check_empty(client: &mut Client) -> Result<()> {
    let address = client.address.clone();
    let refuse = |why: &str| Err(AdminError::Refused(format!("Node {address} {why}")));
    if !text(client, &["INFO", "cluster"])?.contains("cluster_enabled:1") {
        return refuse("is not in cluster mode. Start it with --cluster-enabled yes.");
    }
    let nodes = describe(client)?;
    let keys = call(client, &["DBSIZE"])?.as_int().unwrap_or(0);
    if nodes.len() != 1 || nodes[0].slot_count() > 0 || keys > 0 {
        return refuse("is not empty: it knows other nodes, owns slots or holds keys.");
    }
    Ok(())
}
