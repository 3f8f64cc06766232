//! The network between nodes: loses, delays, doubles and reorders packets, and is cut one way at a time.

use super::plan::Plan;
use gossip::rng::Rng;

pub struct Net {
    rng: Rng,
    nodes: usize,
    /// True time until which nothing gets from one node to another.
    cut_until: Vec<u64>,
    pub loss_per_mille: u64,
    pub dup_per_mille: u64,
    delay_us: (u64, u64),
    late_us: u64,
}

impl Net {
    pub fn new(plan: &Plan) -> Net {
        Net {
            rng: Rng::new(plan.seed ^ 0x4E45_5400),
            nodes: plan.nodes,
            cut_until: vec![0; plan.nodes * plan.nodes],
            loss_per_mille: plan.loss_per_mille,
            dup_per_mille: plan.dup_per_mille,
            delay_us: plan.delay_us,
            late_us: plan.late_us,
        }
    }

    /// When the copies of a packet arrive; none if it is lost. `lateness`: how far behind a duplicate may lag.
    pub fn arrivals(&mut self, now: u64, from: usize, to: usize, lateness: u64) -> Vec<u64> {
        let lost = self.rng.chance(self.loss_per_mille);
        let delay = self.rng.between(self.delay_us.0, self.delay_us.1);
        let doubled = self.rng.chance(self.dup_per_mille);
        let late = self.rng.below(lateness.max(1));
        let mut at = Vec::new();
        if now >= self.cut_until[from * self.nodes + to] {
            if !lost {
                at.push(now + delay);
            }
            if doubled {
                at.push(now + delay + late);
            }
        }
        at
    }
    pub fn late_us(&self) -> u64 {
        self.late_us
    }

    pub fn cut(&mut self, from: usize, to: usize, until: u64) {
        if from != to {
            self.cut_until[from * self.nodes + to] = until;
        }
    }
    pub fn heal(&mut self) {
        self.cut_until.fill(0);
        (self.loss_per_mille, self.dup_per_mille) = (0, 0);
        self.delay_us.1 = self.delay_us.1.min(20_000).max(self.delay_us.0);
    }
}
