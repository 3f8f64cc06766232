//! Rare branches bear a mark; a batch of simulated runs must have hit every one.

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mark { $($(#[$doc])* $name),* }
        impl Mark {
            pub const ALL: &'static [Mark] = &[$(Mark::$name),*];
        }
    };
}

marks! {
    /// A candidate was ignored because a leader was heard lately.
    A9Sticky,
    /// A leader heard no majority and stepped down.
    A9StepDown,
    /// A new leader repeated a value that it found accepted.
    A3Repeat,
    /// Phase 1 again after a change of voters.
    A6NewBallot,
    /// A version was decided for the sake of a dangling vote alone.
    A10Noop,
    /// A vote was withheld because a promise still ran.
    W2Wait,
    /// A lease was refused because another configuration was accepted.
    W4Refuse,
    /// A grant of another configuration was not counted.
    W5OtherCfg,
    /// A promise was void because a higher boot was heard.
    W10Void,
    /// A release of another tenure was ignored.
    W11Late,
    /// A condemned primary's lease was not renewed.
    W9Condemned,
    /// A lease was refused to a process whose tenure is another's.
    NotPrimary,
    /// A failover found no member that may be promoted.
    NoCandidate,
    /// A shard was promoted outside its in-sync set.
    Lossy,
    FullTopology,
    PlannedFailover,
    Failover,
    VotersChanged,
}

/// How often each mark was passed.
#[derive(Clone, Debug)]
pub struct Marks([u32; Mark::ALL.len()]);

impl Default for Marks {
    fn default() -> Self {
        Marks([0; Mark::ALL.len()])
    }
}

impl Marks {
    pub fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] = self.0[mark as usize].saturating_add(1);
    }
    pub fn count(&self, mark: Mark) -> u32 {
        self.0[mark as usize]
    }
    pub fn add(&mut self, other: &Marks) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }
}
