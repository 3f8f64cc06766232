//! `cluster check` and `cluster info`: what every node says, compared.

use super::nodes::{Node, Nodes, call, describe, text};
use super::{AdminError, Result};
use crate::client::{Address, Login};
use proto::Slot;

pub fn info(address: &Address, login: &Login) -> Result<()> {
    let nodes = Nodes::load(address, login)?;
    let mut total = 0;
    for primary in nodes.primaries().filter(|n| !n.is_failed()) {
        let mut client = nodes.connect(primary)?;
        let keys = call(&mut client, &["DBSIZE"])?.as_int().unwrap_or(0);
        total += keys;
        println!(
            "{} ({}) -> {keys} keys | {} slots | {} replicas",
            primary.address,
            short(&primary.id),
            primary.slot_count(),
            nodes.replicas_of(&primary.id).count()
        );
    }
    println!("[OK] {total} keys in {} primaries.", nodes.primaries().count());
    Ok(())
}

fn short(id: &str) -> &str {
    &id[..id.len().min(8)]
}

pub fn check(address: &Address, login: &Login) -> Result<()> {
    let nodes = Nodes::load(address, login)?;
    for node in &nodes.all {
        show(node);
    }
    let mut problems: Vec<String> = Vec::new();
    let signature = |nodes: &[Node]| {
        let mut lines: Vec<String> = nodes.iter().map(|n| format!("{} {}", n.id, n.slots_text())).collect();
        lines.sort();
        lines
    };
    let ours = signature(&nodes.all);
    for node in nodes.all.iter() {
        if node.is_failed() {
            problems.push(format!("{} ({}) has failed", node.address, short(&node.id)));
            continue;
        }
        match nodes.connect(node) {
            Err(error) => problems.push(format!("{} ({}): {error}", node.address, short(&node.id))),
            Ok(mut client) => {
                if signature(&describe(&mut client)?) != ours {
                    problems.push(format!("{} describes the slots differently", node.address));
                }
                let state = text(&mut client, &["CLUSTER", "INFO"])?;
                if !state.contains("cluster_state:ok") {
                    problems.push(format!("{} sees the cluster down", node.address));
                }
                if state.contains("cluster_can_fail_over:no") {
                    problems
                        .push(format!("{}: a failed primary would not be replaced by itself", node.address));
                }
                if !node.is_primary()
                    && !text(&mut client, &["INFO", "replication"])?.contains("master_link_status:up")
                {
                    problems.push(format!("replica {} has no link to its primary", node.address));
                }
            }
        }
    }
    let open: Vec<String> = nodes.all.iter().flat_map(|n| n.open_slots.iter().cloned()).collect();
    if !open.is_empty() {
        problems.push(format!("slots are on their way: {}", open.join(" ")));
    }
    let covered: std::collections::BTreeSet<Slot> =
        nodes.primaries().flat_map(|n| n.slots.iter().flat_map(|r| r.iter())).collect();
    if covered.len() != Slot::COUNT {
        problems.push(format!("{} of {} slots are covered", covered.len(), Slot::COUNT));
    }
    if problems.is_empty() {
        println!("[OK] All nodes agree about slots configuration.");
        println!("[OK] All {} slots covered.", Slot::COUNT);
        return Ok(());
    }
    problems.iter().for_each(|p| println!("[WARNING] {p}"));
    Err(AdminError::Refused(format!("{} problems found", problems.len())))
}

fn show(node: &Node) {
    let kind = if node.is_primary() { "P" } else { "R" };
    println!("{kind}: {} {}", node.id, node.address);
    match &node.primary {
        Some(primary) => println!("   replicates {primary}"),
        None => println!("   slots: {} ({} slots)", node.slots_text(), node.slot_count()),
    }
}
