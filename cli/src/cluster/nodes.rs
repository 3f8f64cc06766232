//! A cluster as its nodes describe it: CLUSTER NODES, read strictly.

use super::{AdminError, Result};
use crate::client::{Address, Client, Login};
use proto::resp::Value;
use proto::{Slot, SlotRange};
use std::time::Duration;

/// One line of CLUSTER NODES.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub id: String,
    pub address: Address,
    pub bus_port: u16,
    pub flags: Vec<String>,
    pub primary: Option<String>,
    pub slots: Vec<SlotRange>,
    /// Slots that are on their way key by key, as they stand in the line.
    pub open_slots: Vec<String>,
    pub is_connected: bool,
}

impl Node {
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
    pub fn is_primary(&self) -> bool {
        self.is("master")
    }
    pub fn is_failed(&self) -> bool {
        self.is("fail") || self.is("fail?")
    }
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|r| r.iter().count()).sum()
    }
    /// `0-5460`, `-` for none.
    pub fn slots_text(&self) -> String {
        match self.slots.is_empty() {
            true => "-".into(),
            false => self.slots.iter().map(|r| r.to_string()).collect::<Vec<_>>().join(","),
        }
    }
}

/// Parses a line; `None`: it is none.
pub fn parse_line(line: &str, asked: &Address) -> Option<Node> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, address, flags, primary, _ping, _pong, _epoch, link, slots @ ..] = words.as_slice() else {
        return None;
    };
    let (address, bus) = address.split_once('@')?;
    let bus_port = bus.split(',').next()?.parse().ok()?;
    let (host, port) = address.rsplit_once(':')?;
    // A node that knows no address of its own is where it was asked.
    let host = if host.is_empty() { &asked.host } else { host };
    let mut node = Node {
        id: id.to_string(),
        address: Address { host: host.to_string(), port: port.parse().ok()? },
        bus_port,
        flags: flags.split(',').map(String::from).collect(),
        primary: (*primary != "-").then(|| primary.to_string()),
        slots: Vec::new(),
        open_slots: Vec::new(),
        is_connected: *link == "connected",
    };
    for text in slots.iter().filter(|s| !s.is_empty()) {
        if text.starts_with('[') {
            node.open_slots.push(text.to_string());
            continue;
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let slot = |t: &str| t.parse().ok().and_then(Slot::new);
        node.slots.push(SlotRange::new(slot(first)?, slot(last)?)?);
    }
    Some(node)
}

/// Connections to a cluster, by way of one of its nodes.
pub struct Nodes {
    login: Login,
    pub all: Vec<Node>,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Connects, with a bound on every wait.
pub fn connect(address: &Address, login: &Login) -> Result<Client> {
    let mut client = Client::connect(address, login)?;
    client.set_timeout(Some(PATIENCE));
    Ok(client)
}

/// A command's reply; an error reply is an error.
pub fn call<A: AsRef<[u8]>>(client: &mut Client, args: &[A]) -> Result<Value> {
    match client.call(args)? {
        Value::Error(text) => {
            let command: Vec<String> =
                args.iter().take(3).map(|a| String::from_utf8_lossy(a.as_ref()).into_owned()).collect();
            Err(AdminError::Refused(format!("{} at {}: {text}", command.join(" "), client.address)))
        }
        value => Ok(value),
    }
}

/// A command's reply as text.
pub fn text<A: AsRef<[u8]>>(client: &mut Client, args: &[A]) -> Result<String> {
    Ok(call(client, args)?.as_text().unwrap_or_default().to_string())
}

/// The nodes that one node describes.
pub fn describe(client: &mut Client) -> Result<Vec<Node>> {
    let lines = text(client, &["CLUSTER", "NODES"])?;
    let asked = client.address.clone();
    lines
        .lines()
        .map(|line| {
            let unreadable =
                || AdminError::Refused(format!("{asked} describes a node that cannot be read: {line}"));
            parse_line(line, &asked).ok_or_else(unreadable)
        })
        .collect()
}

impl Nodes {
    pub fn load(address: &Address, login: &Login) -> Result<Nodes> {
        let mut client = connect(address, login)?;
        let all = describe(&mut client)?;
        Ok(Nodes { login: login.clone(), all })
    }
    pub fn primaries(&self) -> impl Iterator<Item = &Node> {
        self.all.iter().filter(|n| n.is_primary())
    }
    pub fn replicas_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Node> {
        self.all.iter().filter(move |n| n.primary.as_deref() == Some(id))
    }
    /// The node whose id begins with `prefix`; it must be one alone.
    pub fn find(&self, prefix: &str) -> Result<&Node> {
        let mut found = self.all.iter().filter(|n| !prefix.is_empty() && n.id.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(node), None) => Ok(node),
            (None, _) => Err(AdminError::Usage(format!("no node's id begins with '{prefix}'"))),
            _ => Err(AdminError::Usage(format!("several nodes' ids begin with '{prefix}'"))),
        }
    }
    pub fn connect(&self, node: &Node) -> Result<Client> {
        connect(&node.address, &self.login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Node> {
        parse_line(line, &Address { host: "10.0.0.9".into(), port: 1 })
    }

    #[test]
    fn a_line_is_read() {
        let node =
            parse("07c3 127.0.0.1:30004@31004,host slave,fail e7d1 0 1426238317239 4 connected").unwrap();
        assert_eq!((node.address.to_string().as_str(), node.bus_port), ("127.0.0.1:30004", 31004));
        assert!(!node.is_primary() && node.is_failed() && node.is_connected);
        assert_eq!(node.primary.as_deref(), Some("e7d1"));
        let node = parse("ab :7000@17000 myself,master - 0 0 1 connected 0-5 7 [9->-cd]").unwrap();
        assert_eq!(node.address.host, "10.0.0.9");
        assert_eq!((node.slot_count(), node.slots_text().as_str()), (7, "0-5,7"));
        assert_eq!(node.open_slots, ["[9->-cd]"]);
    }

    #[test]
    fn rubbish_is_none() {
        for line in
            ["", "a b c", "id 1.1.1.1:x@1 master - 0 0 1 connected", "id h:1@2 master - 0 0 1 connected 9-3"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
