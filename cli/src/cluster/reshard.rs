//! `cluster reshard`: slots from some primaries to another, each part as one atomic move.

use super::nodes::{Node, Nodes, call};
use super::{AdminError, Result, confirm, progress};
use crate::client::{Address, Client, Login};
use proto::resp::Value;
use proto::{Slot, SlotRange};
use std::time::{Duration, Instant};

pub struct Plan {
    pub from: String,
    pub to: String,
    pub slots: usize,
    pub yes: bool,
}

/// Longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(address: &Address, plan: &Plan, login: &Login) -> Result<()> {
    let nodes = Nodes::load(address, login)?;
    let target = nodes.find(&plan.to)?.clone();
    if !target.is_primary() {
        return Err(AdminError::Usage(format!("{} is a replica; slots go to primaries", target.address)));
    }
    let sources: Vec<&Node> = match plan.from.as_str() {
        "all" => nodes.primaries().filter(|n| n.id != target.id && !n.slots.is_empty()).collect(),
        ids => ids.split(',').map(|id| nodes.find(id)).collect::<Result<_>>()?,
    };
    let parts = share(&sources, plan.slots)?;
    for (node, ranges) in &parts {
        let text: Vec<String> = ranges.iter().map(|r| r.to_string()).collect();
        println!("{} -> {}: {}", node.address, target.address, text.join(","));
    }
    confirm("Do you want to proceed with the proposed reshard plan?", plan.yes)?;
    let bar = progress(plan.slots as u64, "moving slots");
    for (node, ranges) in &parts {
        let mut client = nodes.connect(node)?;
        move_slots(&mut client, ranges, &target)?;
        bar.inc(ranges.iter().map(|r| r.iter().count() as u64).sum());
    }
    bar.finish();
    println!("[OK] {} slots moved to {}.", plan.slots, target.address);
    Ok(())
}

/// Slots of each source, in proportion to what it has.
fn share<'a>(sources: &[&'a Node], count: usize) -> Result<Vec<(&'a Node, Vec<SlotRange>)>> {
    let total: usize = sources.iter().map(|n| n.slot_count()).sum();
    if count == 0 || count > total {
        return Err(AdminError::Usage(format!(
            "{count} slots cannot be taken from primaries that own {total}"
        )));
    }
    let (mut left, mut left_total) = (count, total);
    let mut parts = Vec::new();
    for node in sources {
        let own = node.slot_count();
        let take = (left * own).div_ceil(left_total.max(1)).min(left).min(own);
        left_total -= own;
        left -= take;
        if take > 0 {
            let slots: Vec<Slot> = node.slots.iter().flat_map(|r| r.iter()).take(take).collect();
            parts.push((*node, SlotRange::compact(slots)));
        }
    }
    Ok(parts)
}

fn move_slots(client: &mut Client, ranges: &[SlotRange], target: &Node) -> Result<()> {
    let mut words: Vec<String> = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"].map(String::from).to_vec();
    for range in ranges {
        words.push(range.first.to_string());
        words.push(range.last.to_string());
    }
    words.extend(["NODE".to_string(), target.id.clone()]);
    call(client, &words)?;
    let (mut seen, mut since) = (String::new(), Instant::now());
    loop {
        let state = newest_state(&call(client, &["CLUSTER", "GETSLOTMIGRATIONS"])?);
        match state.0.as_str() {
            "success" => return Ok(()),
            "canceled" | "failed" => {
                return Err(AdminError::Refused(format!("the move ended as {}: {}", state.0, state.1)));
            }
            _ => {}
        }
        if state.2 != seen {
            (seen, since) = (state.2, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(AdminError::Timeout("the slots to move".into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// State and message of the newest export, and all it says.
fn newest_state(reply: &Value) -> (String, String, String) {
    let all = reply.as_list().unwrap_or_default();
    let field = |value: &Value, name: &str| -> String {
        let list = match value {
            Value::Map(pairs) => pairs.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect(),
            other => other.as_list().unwrap_or_default().to_vec(),
        };
        let found = list.chunks_exact(2).find(|c| c[0].as_text() == Some(name));
        found.and_then(|c| c[1].as_text()).unwrap_or_default().to_string()
    };
    match all.iter().rev().find(|m| field(m, "operation") == "EXPORT") {
        Some(newest) => (field(newest, "state"), field(newest, "message"), format!("{newest:?}")),
        None => Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::parse_line;
    use super::*;

    fn node(id: &str, slots: &str) -> Node {
        let asked = Address { host: "h".into(), port: 1 };
        parse_line(&format!("{id} h:1@2 master - 0 0 1 connected {slots}"), &asked).unwrap()
    }

    #[test]
    fn every_source_gives_its_share() {
        let (a, b) = (node("a", "0-99"), node("b", "100-399"));
        let parts = share(&[&a, &b], 100).unwrap();
        let counts: Vec<usize> =
            parts.iter().map(|(_, r)| r.iter().map(|r| r.iter().count()).sum()).collect();
        assert_eq!(counts, [25, 75]);
        assert_eq!(share(&[&a, &b], 400).unwrap().len(), 2);
        assert!(share(&[&a, &b], 401).is_err());
        assert!(share(&[&a], 0).is_err());
    }
}
