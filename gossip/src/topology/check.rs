//! What every value must hold, whether we made it or a peer sent it.

use super::{DEPARTED_MAX, MEMBERS_MAX, MOVES_MAX, SETTINGS_MAX, TEXT_BYTES_MAX, Topology};
use proto::limits::VOTERS_MAX;
use std::collections::BTreeSet;

impl Topology {
    /// `Err` names the first rule that is broken. Cost: one pass.
    pub fn check(&self) -> Result<(), &'static str> {
        self.check_bounds()?;
        self.check_shards()?;
        self.check_owners()
    }

    fn check_bounds(&self) -> Result<(), &'static str> {
        let text_ok = |s: &String| s.len() <= TEXT_BYTES_MAX && !s.chars().any(char::is_control);
        let rules = [
            (!self.voters.is_empty() && self.voters.len() <= VOTERS_MAX, "voters out of bounds"),
            (self.voters.windows(2).all(|w| w[0].node < w[1].node), "voters not sorted"),
            (!self.members.is_empty() && self.members.len() <= MEMBERS_MAX, "members out of bounds"),
            (self.members.windows(2).all(|w| w[0].id < w[1].id), "members not sorted"),
            (self.voters.iter().all(|v| self.member(v.node).is_some()), "a voter is no member"),
            (self.moves.len() <= MOVES_MAX, "too many moves"),
            (self.hints.len() <= proto::Slot::COUNT, "too many hints"),
            (self.settings.len() <= SETTINGS_MAX, "too many settings"),
            (self.departed.len() <= DEPARTED_MAX, "too many departures"),
            (self.settings.iter().all(|(n, v)| text_ok(n) && text_ok(v)), "bad text in a setting"),
            (
                self.members.iter().map(|m| &m.address).all(|a| {
                    text_ok(&a.ip) && text_ok(&a.hostname) && text_ok(&a.zone) && !a.hostname.contains(' ')
                }),
                "bad text in an address",
            ),
            (self.cfg <= self.ver, "cfg after ver"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(*rule))
    }

    fn check_shards(&self) -> Result<(), &'static str> {
        let mut seen = BTreeSet::new();
        for shard in &self.shards {
            if shard.members.is_empty() || !shard.members.contains(&shard.primary.node) {
                return Err("a primary is no member of its shard");
            }
            if !shard.members.iter().all(|m| self.member(*m).is_some() && seen.insert(*m)) {
                return Err("a shard's member is unknown or in two shards");
            }
            if !shard.in_sync.iter().all(|m| shard.members.contains(&m.node)) {
                return Err("in sync but no member");
            }
            if shard.epoch > shard.rev || shard.rev > self.ver {
                return Err("a shard is newer than its topology");
            }
        }
        if !self.shards.windows(2).all(|w| w[0].id < w[1].id) {
            return Err("shards not sorted");
        }
        if !self.moves.iter().all(|m| self.shard(m.from).is_some() && self.shard(m.to).is_some()) {
            return Err("a move of an unknown shard");
        }
        Ok(())
    }

    fn check_owners(&self) -> Result<(), &'static str> {
        if !self
            .owners
            .iter()
            .all(|o| o.range.first <= o.range.last && o.range.last.index() < proto::Slot::COUNT)
        {
            return Err("a slot range is no range");
        }
        if !self.owners.windows(2).all(|w| w[0].range.last < w[1].range.first) {
            return Err("slot ranges overlap");
        }
        if !self.owners.iter().all(|o| self.shard(o.shard).is_some()) {
            return Err("slots of an unknown shard");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, node};

    #[test]
    fn each_rule_is_checked() {
        let good = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let broken: [(fn(&mut super::Topology), &str); 8] = [
            (|t| t.voters.clear(), "voters out of bounds"),
            (|t| t.voters.swap(0, 1), "voters not sorted"),
            (|t| t.members.swap(0, 1), "members not sorted"),
            (|t| t.shards[0].primary.node = node(3), "a primary is no member of its shard"),
            (|t| t.shards[0].members.push(node(3)), "a shard's member is unknown or in two shards"),
            (|t| t.shards[0].rev.0 = 99, "a shard is newer than its topology"),
            (|t| t.owners[1].range.first = t.owners[0].range.first, "slot ranges overlap"),
            (|t| t.members[0].address.ip = "1\n2".into(), "bad text in an address"),
        ];
        for (break_it, rule) in broken {
            let mut bad = good.clone();
            break_it(&mut bad);
            assert_eq!(bad.check(), Err(rule));
        }
    }
}
