//! Linearizability of one register with unique values, just in time (Lowe 2017).
//!
//! Events in order of time; a set of configurations (value, which open operations have taken effect). At a return the
//! configurations are expanded until the operation has taken effect in each. A known result prunes; an unknown write
//! stays open for ever. Reads take effect greedily as soon as they see their value.

use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Write(u32),
    Read(Option<u32>),
}

/// One operation; without a return its outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    pub call: u64,
    pub ret: Option<u64>,
    pub action: Action,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    /// No order fits; the operation at whose return the last one was ruled out.
    Violated(Operation),
    /// Too many configurations.
    GaveUp,
}

/// Configurations beyond which the history counts as inconclusive.
const CONFIGS_MAX: usize = 200_000;
const OPEN_MAX: usize = 128;

type Config = (Option<u32>, u128);

pub fn check(history: &[Operation]) -> Verdict {
    let read: BTreeSet<u32> = history
        .iter()
        .filter_map(|op| match (op.action, op.ret) {
            (Action::Read(Some(value)), Some(_)) => Some(value),
            _ => None,
        })
        .collect();
    // An unknown write that nobody saw may as well never have happened; an unknown read says nothing.
    let history: Vec<Operation> = history
        .iter()
        .copied()
        .filter(|op| op.ret.is_some() || matches!(op.action, Action::Write(v) if read.contains(&v)))
        .collect();
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (i, op) in history.iter().enumerate() {
        events.push((op.call, false, i));
        // At equal times calls come first: the two overlap.
        events.extend(op.ret.map(|ret| (ret, true, i)));
    }
    events.sort_unstable();
    let mut open: Vec<Option<usize>> = vec![None; OPEN_MAX];
    let mut configs: BTreeSet<Config> = BTreeSet::from([(None, 0)]);
    for (_, is_return, i) in events {
        if !is_return {
            let Some(place) = open.iter().position(Option::is_none) else { return Verdict::GaveUp };
            open[place] = Some(i);
            continue;
        }
        let place = open.iter().position(|o| *o == Some(i)).expect("called before");
        match expand(&configs, &open, &history, place) {
            None => return Verdict::GaveUp,
            Some(next) if next.is_empty() => return Verdict::Violated(history[i]),
            Some(next) => configs = next,
        }
        open[place] = None;
    }
    Verdict::Linearizable
}

/// All configurations reachable in which the operation at `place` has taken effect; its bit is free again.
fn expand(
    configs: &BTreeSet<Config>,
    open: &[Option<usize>],
    history: &[Operation],
    place: usize,
) -> Option<BTreeSet<Config>> {
    let mut next = BTreeSet::new();
    let mut seen: BTreeSet<Config> = BTreeSet::new();
    let mut work: Vec<Config> = configs.iter().copied().collect();
    while let Some(config) = work.pop() {
        let (value, mask) = absorb_reads(config, open, history);
        if mask >> place & 1 == 1 {
            next.insert((value, mask & !(1 << place)));
            continue;
        }
        if !seen.insert((value, mask)) {
            continue;
        }
        if seen.len() > CONFIGS_MAX {
            return None;
        }
        for (at, op) in open.iter().enumerate() {
            let Some(op) = op.filter(|_| mask >> at & 1 == 0) else { continue };
            if let Action::Write(written) = history[op].action {
                work.push((Some(written), mask | 1 << at));
            }
        }
    }
    Some(next)
}

/// A read that sees the present value changes nothing, so it may as well take effect now.
fn absorb_reads((value, mut mask): Config, open: &[Option<usize>], history: &[Operation]) -> Config {
    for (at, op) in open.iter().enumerate() {
        if let Some(op) = op
            && history[*op].action == Action::Read(value)
        {
            mask |= 1 << at;
        }
    }
    (value, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u32, call: u64, ret: u64) -> Operation {
        Operation { call, ret: Some(ret), action: Action::Write(value) }
    }
    fn read(value: u32, call: u64, ret: u64) -> Operation {
        let value = (value > 0).then_some(value);
        Operation { call, ret: Some(ret), action: Action::Read(value) }
    }
    fn unknown(value: u32, call: u64) -> Operation {
        Operation { call, ret: None, action: Action::Write(value) }
    }

    #[test]
    fn legal_histories() {
        for history in [
            vec![write(1, 0, 1), read(1, 2, 3)],
            vec![write(1, 0, 10), read(0, 1, 2), read(1, 3, 4)],
            vec![write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)],
            vec![unknown(1, 0), read(0, 1, 2), read(1, 50, 51)],
            vec![unknown(1, 0), write(2, 5, 6), read(1, 50, 51)],
            vec![],
        ] {
            assert_eq!(check(&history), Verdict::Linearizable, "{history:?}");
        }
    }

    #[test]
    fn illegal_histories() {
        for history in [
            vec![write(1, 0, 1), read(0, 2, 3)],
            vec![write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
            vec![write(1, 0, 10), read(1, 1, 2), read(0, 3, 4)],
            vec![read(7, 0, 1)],
            vec![unknown(1, 0), read(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)],
        ] {
            assert!(matches!(check(&history), Verdict::Violated(_)), "{history:?}");
        }
    }

    /// Histories of an atomic register are legal; with one read changed to an overwritten value most are not.
    #[test]
    fn random_histories() {
        let mut rng = gossip::rng::Rng::new(11);
        let mut caught = 0;
        for _ in 0..200 {
            let mut value = None;
            let mut time = 0;
            let mut history = Vec::new();
            for n in 1..60u32 {
                time += 10;
                let (before, after) = (rng.below(25), rng.below(25));
                let action = if rng.chance(500) {
                    value = Some(n);
                    Action::Write(n)
                } else {
                    Action::Read(value)
                };
                let ret =
                    (!matches!(action, Action::Write(_)) || rng.chance(950)).then_some(time + after + 30);
                history.push(Operation { call: time + 30 - before, ret, action });
            }
            assert_eq!(check(&history), Verdict::Linearizable, "{history:?}");
            let reads: Vec<usize> =
                (20..history.len()).filter(|i| matches!(history[*i].action, Action::Read(_))).collect();
            if let Some(at) = reads.last() {
                history[*at].action = Action::Read(None);
                caught += u32::from(matches!(check(&history), Verdict::Violated(_)));
            }
        }
        assert!(caught > 150, "{caught}");
    }
}
