//! The changes of CLUSTER: each is a request to the control loop, answered when it is decided.

use super::show::ranges;
use super::{Outcome, node_arg, slot_arg, view};
use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};
use gossip::{Command, FailoverMode, Outcome as Decided, Refusal, Request};
use proto::{Epoch, Slot, SlotRange};
use std::collections::BTreeSet;

/// Asks for a change; its answer is the client's reply.
fn ask<E: Env>(cx: &mut HostCx<E>, command: Command) -> Outcome {
    ask_then(cx, command, |_| {})
}

/// As [`ask`]; `then` runs on the control thread after a success.
fn ask_then<E: Env>(
    cx: &mut HostCx<E>,
    command: Command,
    then: impl FnOnce(&Decided) + Send + 'static,
) -> Outcome {
    let ticket = cx.ticket();
    let answer = Box::new(move |result: Result<Decided, Refusal>| {
        if let Ok(outcome) = &result {
            then(outcome);
        }
        ticket.answer(|out| match &result {
            Ok(Decided::Bumped(epoch)) => out.simple(&format!("BUMPED {epoch}")),
            Ok(Decided::Still(epoch)) => out.simple(&format!("STILL {epoch}")),
            Ok(Decided::JoinRefused) => {
                out.error("ERR The other cluster refused to join; see its nodes and slots")
            }
            Ok(Decided::Done) => out.ok(),
            Err(refusal) => out.error(&refusal.to_string()),
        });
    });
    cx.shared().control.ask(command, answer);
    Ok(HostOutcome::Later)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SlotChange {
    Add,
    Delete,
}

pub fn slots<E: Env>(cx: &mut HostCx<E>, change: SlotChange, is_ranges: bool) -> Outcome {
    let view = view(cx)?;
    let mut chosen: BTreeSet<Slot> = BTreeSet::new();
    let mut add = |slot: Slot| match chosen.insert(slot) {
        true => Ok(()),
        false => Err(Error::err(&format!("Slot {slot} specified multiple times"))),
    };
    if is_ranges {
        if !cx.args.len().is_multiple_of(2) {
            return Err(Error::Arity(cx.spec.full_name.clone()));
        }
        for i in (2..cx.args.len()).step_by(2) {
            range_arg(cx, i)?.iter().try_for_each(&mut add)?;
        }
    } else {
        for i in 2..cx.args.len() {
            add(slot_arg(cx, i)?)?;
        }
    }
    let (node, slots) = (view.myself, ranges(chosen));
    let request = match change {
        SlotChange::Add => Request::AddSlots { node, slots },
        SlotChange::Delete => Request::DelSlots { node, slots },
    };
    ask(cx, Command::Decide(request))
}

fn range_arg<E: Env>(cx: &HostCx<E>, index: usize) -> Result<SlotRange, Error> {
    let (first, last) = (slot_arg(cx, index)?, slot_arg(cx, index + 1)?);
    SlotRange::new(first, last).ok_or_else(|| {
        Error::err(&format!("start slot number {first} is greater than end slot number {last}"))
    })
}

pub fn flush_slots<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let node = view(cx)?.myself;
    if !cx.shared().engine.keyspace.is_empty() {
        return Err(Error::text("ERR DB must be empty to perform CLUSTER FLUSHSLOTS."));
    }
    ask(cx, Command::Decide(Request::FlushSlots { node }))
}

pub fn bump_epoch<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let node = view(cx)?.myself;
    ask(cx, Command::Decide(Request::BumpEpoch { node }))
}

pub fn set_config_epoch<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let node = view(cx)?.myself;
    let epoch = cx.int(2).map_err(|_| Error::text("ERR Invalid config epoch specified"))?;
    let epoch =
        u64::try_from(epoch).map_err(|_| Error::err(&format!("Invalid config epoch specified: {epoch}")))?;
    ask(cx, Command::Decide(Request::SetConfigEpoch { node, epoch: Epoch(epoch) }))
}

pub fn meet<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    if cx.args.len() > 5 {
        return Err(Error::Arity(cx.spec.full_name.clone()));
    }
    let invalid = |cx: &HostCx<E>| {
        Error::err(&format!("Invalid node address specified: {}:{}", cx.text(2), cx.text(3)))
    };
    let port =
        |cx: &HostCx<E>, i: usize| cx.int(i).ok().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    let client_port =
        port(cx, 3).ok_or_else(|| Error::err(&format!("Invalid base port specified: {}", cx.text(3))))?;
    let bus_port = match cx.args.len() {
        5 => port(cx, 4).ok_or_else(|| Error::err(&format!("Invalid bus port specified: {}", cx.text(4))))?,
        _ => client_port.checked_add(10000).ok_or_else(|| invalid(cx))?,
    };
    let ip = cx.text(2);
    if ip.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(cx));
    }
    ask(cx, Command::Meet { ip, bus_port })
}

pub fn replicate<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let target = node_arg(cx, view, 2)?;
    if target == view.myself {
        return Err(Error::text("ERR Can't replicate myself"));
    }
    let is_primary = view.me().role == proto::view::Role::Primary;
    if is_primary && (!view.me().slots.is_empty() || !cx.shared().engine.keyspace.is_empty()) {
        return Err(Error::text("ERR To set a master the node must be empty and without assigned slots."));
    }
    ask(cx, Command::Decide(Request::Replicate { node: view.myself, target }))
}

pub fn forget<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    // The tools ask every node; the first one's decision holds for all.
    let id = proto::NodeId::from_hex(cx.args[2]);
    if let Some(id) = id
        && view.node(&id).is_none()
        && cx.shared().control.status().departed.contains(&id)
    {
        return cx.ok();
    }
    let node = node_arg(cx, view, 2)?;
    if node == view.myself {
        return Err(Error::text("ERR I tried hard but I can't forget myself..."));
    }
    ask(cx, Command::Decide(Request::Forget { node }))
}

pub fn reset<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    let is_hard = match cx.args.len() {
        2 => false,
        3 if cx.is_word(2, "HARD") => true,
        3 if cx.is_word(2, "SOFT") => false,
        _ => return Err(Error::Syntax),
    };
    let has_keys = !cx.shared().engine.keyspace.is_empty();
    let shared = cx.shared().clone();
    ask_then(cx, Command::Reset { is_hard, has_keys }, move |_| shared.flush_all())
}

pub fn failover<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    let mode = match cx.args.len() {
        2 => FailoverMode::Default,
        3 if cx.is_word(2, "FORCE") => FailoverMode::Force,
        3 if cx.is_word(2, "TAKEOVER") => FailoverMode::Takeover,
        _ => return Err(Error::Syntax),
    };
    ask(cx, Command::Failover(mode))
}

pub fn set_slot<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    if view.me().role != proto::view::Role::Primary {
        return Err(Error::text("ERR You can use SETSLOT only with masters."));
    }
    let slot = slot_arg(cx, 2)?;
    let (me, owner) = (view.myself, view.owner(slot).map(|n| n.id));
    let unknown = |cx: &HostCx<E>| Error::err(&format!("I don't know about node {}", cx.text(4)));
    let request = match cx.args.len() {
        4 if cx.is_word(3, "STABLE") => Request::Stable { slot },
        5 if cx.is_word(3, "MIGRATING") => {
            if owner != Some(me) {
                return Err(Error::err(&format!("I'm not the owner of hash slot {slot}")));
            }
            let target = node_arg(cx, view, 4).map_err(|_| unknown(cx))?;
            Request::Migrating { node: me, slot, target }
        }
        5 if cx.is_word(3, "IMPORTING") => {
            if owner == Some(me) {
                return Err(Error::err(&format!("I'm already the owner of hash slot {slot}")));
            }
            let source = node_arg(cx, view, 4).map_err(|_| unknown(cx))?;
            Request::Importing { node: me, slot, source }
        }
        5 if cx.is_word(3, "NODE") => {
            let node = node_arg(cx, view, 4).map_err(|_| unknown(cx))?;
            let keys = cx.shared().engine.keyspace.slot_len(slot, 0);
            if owner == Some(me) && node != me && keys > 0 {
                return Err(Error::err(&format!(
                    "Can't assign hashslot {slot} to a different node while I still hold keys for this hash slot."
                )));
            }
            Request::SlotTo { slot, node, asker: me }
        }
        _ => {
            return Err(Error::text(
                "ERR Invalid CLUSTER SETSLOT action or number of arguments. Try CLUSTER HELP",
            ));
        }
    };
    ask(cx, Command::Decide(request))
}

pub fn migrate_slots<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let view = view(cx)?;
    let mut requests: Vec<(Vec<SlotRange>, proto::NodeId)> = Vec::new();
    let mut i = 2;
    while i < cx.args.len() {
        if !cx.is_word(i, "SLOTSRANGE") {
            return Err(Error::err(&format!("Unknown argument '{}', expected SLOTSRANGE", cx.text(i))));
        }
        i += 1;
        let mut slots = Vec::new();
        while i + 1 < cx.args.len() && !cx.is_word(i, "NODE") {
            slots.push(range_arg(cx, i)?);
            i += 2;
        }
        if slots.is_empty() || !cx.is_word(i, "NODE") || i + 1 >= cx.args.len() {
            return Err(Error::Syntax);
        }
        let target = node_arg(cx, view, i + 1)?;
        if target == view.myself {
            return Err(Error::text("ERR Target node can not be this node"));
        }
        if view.node(&target).is_some_and(|n| n.role != proto::view::Role::Primary) {
            return Err(Error::text("ERR Target node is not a master"));
        }
        for slot in slots.iter().flat_map(|r| r.iter()) {
            if view.owner(slot).map(|n| n.id) != Some(view.myself) {
                return Err(Error::err(&format!("Slots are not served by this node: {slot}")));
            }
        }
        requests.push((slots, target));
        i += 2;
    }
    crate::migrate::start(cx, view, requests)
}

pub fn cancel_migrations<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    view(cx)?;
    crate::migrate::cancel_all(cx)
}
