//! What a run will be like, all of it drawn from the seed. Swarm style: each run has only some of the faults.

use gossip::rng::Rng;
use gossip::{DataClass, Mutation};

/// Which kind of weather.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Default mix.
    R,
    /// Quorum stress: duels, slow links, voter swaps, quick restarts.
    Q,
    /// Data stress: hand-overs and moves all the time, new primaries killed.
    D,
    /// D with slow catch-up.
    S,
}

impl Profile {
    pub fn parse(name: &str) -> Option<Profile> {
        [("R", Profile::R), ("Q", Profile::Q), ("D", Profile::D), ("S", Profile::S)]
            .into_iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, p)| p)
    }
}

/// The rule that is taken out, wherever it is obeyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    None,
    Quorum(Mutation),
    InSync(replication::insync::Mutation),
    Move(migration::Mutation),
    /// Reads show what may still vanish.
    D14,
}

impl Mutant {
    pub fn quorum(self) -> Option<Mutation> {
        if let Mutant::Quorum(m) = self { Some(m) } else { None }
    }
    pub fn insync(self) -> Option<replication::insync::Mutation> {
        if let Mutant::InSync(m) = self { Some(m) } else { None }
    }
    pub fn migration(self) -> Option<migration::Mutation> {
        if let Mutant::Move(m) = self { Some(m) } else { None }
    }
    pub fn name(self) -> String {
        match self {
            Mutant::None => "none".into(),
            Mutant::Quorum(m) => format!("{m:?}"),
            Mutant::InSync(m) => format!("{m:?}"),
            Mutant::Move(m) => format!("{m:?}"),
            Mutant::D14 => "D14".into(),
        }
    }
    fn all() -> Vec<Mutant> {
        use migration::Mutation as Moves;
        use replication::insync::Mutation as Sets;
        let mut all: Vec<Mutant> = Mutation::ALL.iter().map(|m| Mutant::Quorum(*m)).collect();
        let sets = [Sets::D1NoWait, Sets::D1NoPending, Sets::D2, Sets::D3, Sets::D13];
        all.extend(sets.map(Mutant::InSync));
        all.extend([Moves::S1, Moves::S2, Moves::S4].map(Mutant::Move));
        all.push(Mutant::D14);
        all
    }
}

/// Faults of a run, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Crash,
    CrashMidStep,
    CrashAll,
    CrashTwo,
    Freeze,
    CutPair,
    CutOneWay,
    Isolate,
    Split,
    HideFromLeader,
    LoseStore,
    Duel,
    VoterSwap,
    HandOver,
    Impatient,
    /// Hide a primary from all others, restart the voters, and ask for its replacement.
    AimedRestart,
    /// The same with other voters instead of a restart.
    AimedSwap,
    /// Some slots are moved to another shard.
    Move,
    /// A crash after which the log is shorter than it was said to be (D7).
    Shorten,
}

impl Fault {
    const ALL: [Fault; 19] = [
        Fault::Crash,
        Fault::CrashMidStep,
        Fault::CrashAll,
        Fault::CrashTwo,
        Fault::Freeze,
        Fault::CutPair,
        Fault::CutOneWay,
        Fault::Isolate,
        Fault::Split,
        Fault::HideFromLeader,
        Fault::LoseStore,
        Fault::Duel,
        Fault::VoterSwap,
        Fault::HandOver,
        Fault::Impatient,
        Fault::AimedRestart,
        Fault::AimedSwap,
        Fault::Move,
        Fault::Shorten,
    ];
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub profile: Profile,
    pub seed: u64,
    pub mutant: Mutant,
    /// Whether there is data, with clients, and where acknowledged bytes live.
    pub has_data: bool,
    pub data_class: DataClass,
    pub clients: usize,
    /// Records in one message of the stream.
    pub catch_up: usize,
    /// New primaries are killed within 150 ms, in so many of a thousand cases.
    pub kill_new_primary_per_mille: u64,
    /// Members of each shard, by node index; nodes above are witnesses.
    pub shards: Vec<Vec<usize>>,
    pub nodes: usize,
    pub voters: Vec<usize>,
    /// No upkeep of the voter set.
    pub has_fixed_voters: bool,
    pub wait_ms: u64,
    pub lease_percent: u32,
    /// Parts per million, per node; within 2 %.
    pub drift_ppm: Vec<i64>,
    pub delay_us: (u64, u64),
    pub loss_per_mille: u64,
    pub dup_per_mille: u64,
    pub late_us: u64,
    pub fsync_us: u64,
    pub faults: Vec<Fault>,
    pub fault_gap_us: (u64, u64),
    pub restart_us: (u64, u64),
    pub outage_us: (u64, u64),
    pub faults_from_us: u64,
    pub faults_until_us: u64,
    pub end_us: u64,
}

const MS: u64 = 1000;

impl Plan {
    pub fn from_seed(profile: Profile, seed: u64) -> Plan {
        let mut rng = Rng::new(seed.wrapping_mul(0x9E37_79B9) ^ 0x5EED);
        let r = &mut rng;
        let shard_count = r.between(1, 2) as usize;
        let mut shards = Vec::new();
        let mut nodes = 0;
        for _ in 0..shard_count {
            let size = r.between(2, 3) as usize;
            shards.push((nodes..nodes + size).collect());
            nodes += size;
        }
        nodes = (nodes + r.below(3) as usize).clamp(3, 7);
        let voter_count = if nodes >= 5 && r.chance(600) { 5 } else { 3 };
        let mut order: Vec<usize> = (0..nodes).collect();
        r.shuffle(&mut order);
        let voters = order[..voter_count].to_vec();
        let mut plan = Plan {
            profile,
            seed,
            mutant: Mutant::None,
            has_data: false,
            data_class: DataClass::Fsync,
            clients: 0,
            catch_up: 64,
            kill_new_primary_per_mille: 0,
            shards,
            nodes,
            voters,
            has_fixed_voters: r.chance(300),
            wait_ms: 300,
            lease_percent: 95,
            drift_ppm: drifts(r, nodes),
            delay_us: (200, r.between(1, 20) * MS),
            loss_per_mille: if r.chance(500) { r.below(60) } else { 0 },
            dup_per_mille: if r.chance(500) { r.below(80) } else { 0 },
            late_us: 400 * MS,
            fsync_us: if r.chance(500) { 0 } else { r.between(100, 4000) },
            faults: Fault::ALL.into_iter().filter(|_| r.chance(450)).collect(),
            fault_gap_us: (50 * MS, r.between(200, 900) * MS),
            restart_us: (5 * MS, r.between(60, 1500) * MS),
            outage_us: (30 * MS, r.between(200, 1200) * MS),
            faults_from_us: 1000 * MS,
            faults_until_us: 8000 * MS,
            end_us: 16_000 * MS,
        };
        match profile {
            Profile::Q => plan.make_quorum_stress(r),
            Profile::R => plan.make_data(r),
            Profile::D | Profile::S => plan.make_data_stress(r),
        }
        if !plan.has_data {
            plan.faults.retain(|f| !matches!(f, Fault::Move | Fault::Shorten));
        }
        if plan.faults.is_empty() {
            plan.faults.push(Fault::Crash);
        }
        plan
    }

    fn make_quorum_stress(&mut self, r: &mut Rng) {
        if r.chance(500) {
            self.delay_us = (MS, r.between(20, 300) * MS);
        }
        self.loss_per_mille = if r.chance(600) { r.below(150) } else { 0 };
        self.dup_per_mille = if r.chance(600) { r.below(80) } else { 0 };
        self.restart_us = (5 * MS, if r.chance(700) { 60 * MS } else { 600 * MS });
        self.fault_gap_us = (10 * MS, r.between(30, 250) * MS);
        for fault in [Fault::Duel, Fault::VoterSwap, Fault::Impatient, Fault::Crash] {
            if r.chance(700) && !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    fn make_data(&mut self, r: &mut Rng) {
        self.has_data = r.chance(700);
        self.data_class = if r.chance(500) { DataClass::Memory } else { DataClass::Fsync };
        self.clients = 5;
        self.faults_until_us = 7000 * MS;
        self.end_us = 12_000 * MS;
    }

    /// Hand-overs and moves all the time, new primaries killed; two shards, so that there is where to move to.
    fn make_data_stress(&mut self, r: &mut Rng) {
        self.make_data(r);
        self.has_data = true;
        let first = r.between(2, 3) as usize;
        let second = r.between(2, 3) as usize;
        self.shards = vec![(0..first).collect(), (first..first + second).collect()];
        self.nodes = (first + second + 1).min(7);
        self.drift_ppm = drifts(r, self.nodes);
        let mut order: Vec<usize> = (0..self.nodes).collect();
        r.shuffle(&mut order);
        self.voters = order[..if self.nodes >= 5 && r.chance(500) { 5 } else { 3 }].to_vec();
        self.delay_us = (200, r.between(1, 8) * MS);
        self.loss_per_mille = if r.chance(400) { r.below(30) } else { 0 };
        self.fault_gap_us = (30 * MS, r.between(60, 300) * MS);
        self.restart_us = (5 * MS, r.between(30, 500) * MS);
        self.kill_new_primary_per_mille = if r.chance(600) { 350 } else { 0 };
        self.faults.retain(|f| !matches!(f, Fault::LoseStore | Fault::AimedRestart | Fault::AimedSwap));
        for fault in [Fault::HandOver, Fault::HandOver, Fault::Move, Fault::Move, Fault::Crash] {
            self.faults.push(fault);
        }
        if self.profile == Profile::S {
            self.catch_up = r.between(1, 3) as usize;
        }
    }

    pub fn with_mutant(mut self, mutant: Mutant) -> Plan {
        self.mutant = mutant;
        self
    }
    /// No faults, equal clocks, fast links: for directed schedules.
    pub fn quiet(shards: &[&[usize]], nodes: usize, voters: &[usize]) -> Plan {
        let mut plan = Plan::from_seed(Profile::R, 1);
        plan.shards = shards.iter().map(|s| s.to_vec()).collect();
        plan.nodes = nodes;
        plan.voters = voters.to_vec();
        plan.drift_ppm = vec![0; nodes];
        (plan.has_data, plan.clients, plan.data_class) = (false, 0, DataClass::Fsync);
        plan.delay_us = (500, 1000);
        (plan.loss_per_mille, plan.dup_per_mille, plan.fsync_us) = (0, 0, 0);
        plan
    }
    /// The same with data, held in memory, and nobody but the story to write it.
    pub fn quiet_data(shards: &[&[usize]], nodes: usize, voters: &[usize], class: DataClass) -> Plan {
        Plan {
            has_data: true,
            clients: 0,
            data_class: class,
            has_fixed_voters: true,
            ..Plan::quiet(shards, nodes, voters)
        }
    }
    /// The command that repeats this run.
    pub fn reproduce(&self) -> String {
        let mutation = match self.mutant {
            Mutant::None => String::new(),
            mutant => format!(" --mutation {}", mutant.name()),
        };
        format!(
            "cargo run -p sim --profile sim --bin mesh -- --profile {:?} --seeds 1 --seed {}{mutation}",
            self.profile, self.seed
        )
    }
}

/// Up to 2 % each way; sometimes one clock against all others.
fn drifts(r: &mut Rng, nodes: usize) -> Vec<i64> {
    let max = 20_000;
    if r.chance(300) {
        let odd = r.below(nodes as u64) as usize;
        let sign = if r.chance(500) { 1 } else { -1 };
        return (0..nodes).map(|i| if i == odd { sign * max } else { -sign * max }).collect();
    }
    (0..nodes).map(|_| r.between(0, 2 * max as u64) as i64 - max).collect()
}

/// By the name of the rule, as `W2` or `W1Receipt`.
pub fn parse_mutant(name: &str) -> Option<Mutant> {
    Mutant::all().into_iter().find(|m| m.name().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_sound_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let plan = Plan::from_seed(Profile::Q, seed);
            assert!(plan.drift_ppm.iter().all(|d| d.abs() <= 20_000) && plan.drift_ppm.len() == plan.nodes);
            assert!(plan.voters.iter().all(|v| *v < plan.nodes) && plan.voters.len() % 2 == 1);
            assert!(plan.shards.iter().flatten().all(|n| *n < plan.nodes), "{plan:?}");
            seen.insert(format!("{:?}", plan.faults));
        }
        assert!(seen.len() > 200);
    }

    #[test]
    fn mutations_are_found_by_name() {
        assert_eq!(parse_mutant("w1receipt"), Some(Mutant::Quorum(Mutation::W1Receipt)));
        assert_eq!(parse_mutant("d14"), Some(Mutant::D14));
        assert_eq!(parse_mutant("W99"), None);
    }
}
