//! CLUSTERSCAN of Valkey 9.1: SCAN over all nodes of a cluster.
//!
//! A cursor is `<layout>-{<tag>}-<place>`: the tag leads clients and redirects to the slot where the scan goes on, the
//! place is one within that slot, and means something to the node whose layout it was made of; another begins the slot
//! anew. The cursor `0` is answered by any node.

use super::scan::{Filter, Scan};
use crate::Error;
use crate::cx::Cx;
use crate::glob;
use crate::number::{parse_i64, parse_u64};
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use proto::Slot;
use storage::Kind;

const CLUSTERSCAN: Command = Command {
    name: "clusterscan",
    summary: "Iterates over the keys in the cluster.",
    since: "9.1.0",
    complexity: "O(N) where N is the number of elements returned.",
    group: Group::Cluster,
    arity: -2,
    flags: flag::READONLY | flag::WHOLE_DB,
    acl: acl::KEYSPACE,
    keys: &[KeySpec::one(1, key::NOT_KEY | key::ROUTES)],
    args: &[
        Arg::string("cursor"),
        Arg::pattern("match-pattern").token("MATCH").optional(),
        Arg::integer("count").token("COUNT").optional(),
        Arg::string("type").token("TYPE").optional(),
        Arg::integer("slot").token("SLOT").optional(),
    ],
    tips: &["nondeterministic_output", "request_policy:special", "response_policy:special"],
    run: Handler::Keys(cluster_scan),
    ..Command::BASE
};
fn cluster_scan(cx: &mut Cx) -> Result<(), Error> {
    let Some(view) = cx.keys.cluster else {
        return Err(Error::text("ERR This instance has cluster support disabled"));
    };
    let (filter, asked) = options(cx)?;
    let matched = filter.pattern.and_then(glob::slot_of);
    // Two slots have no key in common.
    let is_empty = asked.zip(matched).is_some_and(|(a, b)| a != b);
    if cx.args[1] == b"0" {
        let first = asked.or(matched).or(Slot::new(0));
        return answer(cx, first.filter(|_| !is_empty).map(begin_of), &[]);
    }
    let layout = layout(cx);
    let (slot, place) = parse_cursor(cx.args[1], &layout)?;
    if asked.is_some_and(|asked| asked != slot) {
        return Err(Error::text("ERR Cursor slot mismatch with SLOT argument"));
    }
    if let Some(matched) = matched.filter(|matched| *matched != slot) {
        let is_ahead = matched > slot && !is_empty;
        return answer(cx, is_ahead.then(|| begin_of(matched)), &[]);
    }
    let is_one = asked.or(matched).is_some();
    let owner = |slot: Slot| view.owner(slot).map(|node| node.id);
    let following = |slot: Slot| Slot::new(slot.number() + 1);
    let mut last = slot;
    while let Some(next) = following(last).filter(|next| !is_one && owner(*next) == owner(slot)) {
        last = next;
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    let scan = Scan { slot, place, last, count: filter.count };
    let next = scan.run(cx.keys, &mut |key, kind| {
        if filter.takes(key, kind) {
            found.push(key.to_vec());
        }
    })?;
    let cursor = match next {
        Some((slot, place)) => Some(format!("{layout}-{{{}}}-{place}", tag(slot))),
        None => following(last).filter(|_| !is_one).map(begin_of),
    };
    answer(cx, cursor, &found)
}

/// The options, and the slot among them.
fn options<'a>(cx: &Cx<'a, '_>) -> Result<(Filter<'a>, Option<Slot>), Error> {
    let (mut filter, mut slot) = (Filter::default(), None);
    for at in (2..cx.args.len()).step_by(2) {
        let value = *cx.args.get(at + 1).ok_or(Error::Syntax)?;
        if !cx.is_word(at, "SLOT") {
            filter.option(cx, at, true)?;
            continue;
        }
        if slot.is_some() {
            return Err(Error::text("ERR SLOT option can only be specified once"));
        }
        let number = parse_i64(value).and_then(|n| Slot::new(u16::try_from(n).ok()?));
        slot = Some(number.ok_or(Error::text("ERR Invalid or out of range slot"))?);
    }
    if let Some(name) = filter.kind
        && !Kind::ALL.iter().any(|kind| name.eq_ignore_ascii_case(kind.name().as_bytes()))
    {
        return Err(Error::err(&format!("unknown type name '{}'", String::from_utf8_lossy(name))));
    }
    Ok((filter, slot))
}

/// Slot and place of a cursor. One of another layout begins its slot anew.
fn parse_cursor(text: &[u8], layout: &str) -> Result<(Slot, u64), Error> {
    let parts: Vec<&[u8]> = text.split(|c| *c == b'-').collect();
    let [made_of, tag, place] = parts[..] else { return Err(Error::text("ERR Invalid cursor")) };
    let place = parse_u64(place).ok_or(Error::text("ERR Invalid cursor"))?;
    Ok((Slot::of_key(tag), if made_of == layout.as_bytes() { place } else { 0 }))
}

/// Names how this node arranges keys within slots: six characters that no cursor's own marks are among.
fn layout(cx: &Cx) -> String {
    let hash = cx.keys.keyspace.hash(b"layout");
    (0..6).map(|i| (b'0' + (hash >> (i * 6) & 0x3F) as u8) as char).collect()
}

fn begin_of(slot: Slot) -> String {
    format!("0-{{{}}}-0", tag(slot))
}
fn tag(slot: Slot) -> String {
    slot.tag().iter().map(|c| *c as char).collect()
}

fn answer(cx: &mut Cx, cursor: Option<String>, keys: &[Vec<u8>]) -> Result<(), Error> {
    cx.out.array(2);
    cx.out.bulk(cursor.as_deref().unwrap_or("0").as_bytes());
    cx.out.array(keys.len());
    keys.iter().for_each(|key| cx.out.bulk(key));
    Ok(())
}

pub static COMMANDS: &[Command] = &[CLUSTERSCAN];

#[cfg(test)]
mod tests {
    use crate::testing::Runner;
    use proto::resp::decode;
    use proto::view::{Health, NodeView, Role};
    use proto::{ClusterView, Epoch, NodeId, ShardId, Slot, SlotRange};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const LAST: u16 = Slot::COUNT as u16 - 1;

    fn node(id: u8, slots: &[(u16, u16)]) -> NodeView {
        let range =
            |(a, b): &(u16, u16)| SlotRange::new(Slot::new(*a).unwrap(), Slot::new(*b).unwrap()).unwrap();
        NodeView {
            id: NodeId([id; 20]),
            shard: ShardId([id; 20]),
            ip: format!("10.0.0.{id}"),
            port: 7000,
            bus_port: 17000,
            hostname: String::new(),
            role: Role::Primary,
            health: Health::Online,
            config_epoch: Epoch(1),
            is_link_connected: true,
            ping_sent_ms: 0,
            pong_received_ms: 0,
            offset: 0,
            slots: slots.iter().map(range).collect(),
        }
    }
    /// A cluster of three, as each of them sees it.
    fn cluster() -> Vec<Runner> {
        let nodes = [node(1, &[(0, 99), (8000, 9000)]), node(2, &[(100, 7999)]), node(3, &[(9001, LAST)])];
        let runner = |me: &NodeView| {
            let mut view = ClusterView::new(Epoch(1), me.id, nodes.to_vec());
            view.is_ok = true;
            let mut runner = Runner::default();
            runner.cluster = Some(Arc::new(view));
            runner.status.has_lease = true;
            runner
        };
        nodes.iter().map(runner).collect()
    }
    /// Cursor and keys of a reply.
    fn page(reply: &str) -> (String, Vec<String>) {
        let (value, _) = decode(reply.as_bytes()).unwrap().expect("a whole reply");
        let parts = value.as_list().unwrap_or_else(|| panic!("{reply}"));
        let text = |v: &proto::resp::Value| String::from_utf8_lossy(v.as_bytes().unwrap()).into_owned();
        (text(&parts[0]), parts[1].as_list().unwrap().iter().map(text).collect())
    }
    /// All that a scan finds, going where it is sent.
    fn scan(nodes: &mut [Runner], options: &str) -> Vec<String> {
        let (mut cursor, mut at, mut all) = ("0".to_string(), 0, Vec::new());
        for _ in 0..10_000 {
            let reply = nodes[at].run(&format!("CLUSTERSCAN {cursor} {options}"));
            if let Some(moved) = reply.strip_prefix("-MOVED ") {
                let ip = moved.split([' ', ':']).nth(1).unwrap();
                at = ip.strip_prefix("10.0.0.").unwrap().parse::<usize>().unwrap() - 1;
                continue;
            }
            let (next, keys) = page(&reply);
            all.extend(keys);
            if next == "0" {
                return all;
            }
            cursor = next;
        }
        panic!("no end");
    }
    fn filled() -> (Vec<Runner>, BTreeSet<String>) {
        let mut nodes = cluster();
        let keys: BTreeSet<String> = (0..500).map(|i| format!("key:{i}")).collect();
        for key in &keys {
            let run = |node: &mut Runner| node.run(&format!("SET {key} v")) == "+OK\r\n";
            assert_eq!(nodes.iter_mut().map(run).filter(|is_done| *is_done).count(), 1);
        }
        (nodes, keys)
    }

    #[test]
    fn every_key_of_every_node_is_found_once() {
        let (mut nodes, keys) = filled();
        let found = scan(&mut nodes, "COUNT 7");
        assert_eq!(found.len(), keys.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
        assert_eq!(scan(&mut nodes, "TYPE hash"), [""; 0]);
    }

    #[test]
    fn one_slot_is_scanned_alone() {
        let (mut nodes, keys) = filled();
        let slot = Slot::of_key(b"key:77");
        let mut same: Vec<_> = keys.iter().filter(|k| Slot::of_key(k.as_bytes()) == slot).cloned().collect();
        let mut found = scan(&mut nodes, &format!("SLOT {slot}"));
        found.sort();
        same.sort();
        assert_eq!(found, same);
        assert_eq!(scan(&mut nodes, "MATCH key:77"), ["key:77"]);
        assert_eq!(scan(&mut nodes, &format!("MATCH {{key:77}}* SLOT {}", slot.number() ^ 1)), [""; 0]);
    }

    #[test]
    fn a_cursor_of_another_layout_begins_its_slot_anew() {
        let (mut nodes, _) = filled();
        let slot = Slot::of_key(b"key:77");
        let is_owner = |node: &Runner| {
            node.cluster.as_ref().is_some_and(|view| view.owner(slot).unwrap().id == view.myself)
        };
        let at = nodes.iter().position(is_owner).unwrap();
        let (_, keys) = page(&nodes[at].run(&format!("CLUSTERSCAN zzzzzz-{{key:77}}-99 SLOT {slot}")));
        assert!(keys.contains(&"key:77".to_string()));
    }

    #[test]
    fn cursors_and_options_that_make_no_sense_are_refused() {
        let mut nodes = cluster();
        let run = &mut nodes[0];
        let tag = String::from_utf8(Slot::new(5).unwrap().tag().to_vec()).unwrap();
        for (line, error) in [
            ("CLUSTERSCAN 1".to_string(), "ERR Invalid cursor"),
            (format!("CLUSTERSCAN 0-{{{tag}}}-x"), "ERR Invalid cursor"),
            (format!("CLUSTERSCAN 0-{{{tag}}}-0 SLOT 6"), "ERR Cursor slot mismatch with SLOT argument"),
            ("CLUSTERSCAN 0 SLOT 16384".to_string(), "ERR Invalid or out of range slot"),
            ("CLUSTERSCAN 0 SLOT 1 SLOT 1".to_string(), "ERR SLOT option can only be specified once"),
            ("CLUSTERSCAN 0 TYPE nothing".to_string(), "ERR unknown type name 'nothing'"),
            ("CLUSTERSCAN 0 COUNT".to_string(), "ERR syntax error"),
        ] {
            assert_eq!(run.run(&line), format!("-{error}\r\n"), "{line}");
        }
        let error = "-ERR This instance has cluster support disabled\r\n";
        assert_eq!(Runner::default().run("CLUSTERSCAN 0"), error);
    }
}
