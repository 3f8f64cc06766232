//! The cluster view of one node: the decided topology with what failure detection adds to it.

use crate::core::Core;
use crate::topology::Member;
use proto::view::{ClusterView, Health, NodeView, Role, SlotHint};
use proto::{Epoch, Mono, ShardId, Slot};

/// What replies, redirects and admission are made from. Cost: one pass over members and slots.
pub fn build(core: &Core, now: Mono) -> ClusterView {
    let topo = core.topology();
    let nodes: Vec<NodeView> = topo.members.iter().map(|m| node(core, m)).collect();
    let mut view = ClusterView::new(topo.ver, core.id(), nodes);
    view.is_ok = is_ok(core, &view, now);
    view.voters = topo.voters.iter().map(|v| v.node).collect();
    view.can_fail_over = core.can_fail_over();
    view.hints = topo
        .hints
        .iter()
        .filter_map(|h| {
            Some(SlotHint {
                slot: h.slot,
                from: topo.shard(h.from)?.primary.node,
                to: topo.shard(h.to)?.primary.node,
                is_importing: h.is_importing,
                is_migrating: h.is_migrating,
            })
        })
        .collect();
    view
}

fn node(core: &Core, member: &Member) -> NodeView {
    let topo = core.topology();
    let shard = topo.shard_of(member.id);
    let is_primary = shard.is_none_or(|s| s.primary.node == member.id);
    let peer = core.membership().peer(member.id);
    let health = core.membership().health(member.id);
    NodeView {
        id: member.id,
        // A witness has no shard; it is shown as a primary without slots, under its own name.
        shard: shard.map_or(ShardId(member.id.0), |s| s.id),
        ip: member.address.ip.clone(),
        port: member.address.port,
        tls_port: member.address.tls_port,
        bus_port: member.address.bus_port,
        hostname: member.address.hostname.clone(),
        role: shard.filter(|_| !is_primary).map_or(Role::Primary, |s| Role::Replica(s.primary.node)),
        health,
        config_epoch: shard.map_or(Epoch(0), |s| s.config_epoch),
        is_link_connected: health == Health::Online,
        ping_sent_ms: peer.map_or(0, |p| p.ping_sent.0),
        pong_received_ms: peer.map_or(0, |p| p.pong_received.0),
        offset: peer.map_or(core.position().offset.0, |p| p.offset),
        slots: shard.filter(|_| is_primary).map(|s| topo.slots_of(s.id)).unwrap_or_default(),
    }
}

/// `cluster_state`: every slot has an owner that is not failed (or partial coverage was allowed), and this node is on
/// the side that decides: a primary by its lease, any other by the voters it hears.
fn is_ok(core: &Core, view: &ClusterView, now: Mono) -> bool {
    let topo = core.topology();
    if topo.seal.is_some() {
        return false;
    }
    let wants_all = topo.setting("cluster-require-full-coverage") != Some("no");
    let is_covered = view.slots_assigned() == Slot::COUNT && view.slots_with(Health::Failed) == 0;
    let is_served = match core.tenure() {
        Some(_) => core.is_lease_valid(now),
        None => core.has_quorum(),
    };
    (is_covered || !wants_all) && is_served
}
