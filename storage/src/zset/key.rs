//! What sorted sets are ordered by: the score as an integer of the same order, then the member.

/// The score as an integer: `a < b` as floats if and only if the integers compare so. -0 becomes 0; NaN must not come here.
pub fn encode(score: f64) -> u64 {
    assert!(!score.is_nan(), "a score is a number");
    // Adding zero turns -0 into 0.
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The inverse of `encode`.
pub fn decode(encoded: u64) -> f64 {
    f64::from_bits(if encoded >> 63 == 1 { encoded & !(1 << 63) } else { !encoded })
}

/// The first eight bytes of a member as a number of the same order; members that differ later compare equal.
pub fn prefix(member: &[u8]) -> u64 {
    match member.first_chunk::<8>() {
        Some(all) => u64::from_be_bytes(*all),
        None => {
            let mut padded = [0; 8];
            padded[..member.len()].copy_from_slice(member);
            u64::from_be_bytes(padded)
        }
    }
}

/// A lower bound of everything below an inner node's child: encoded score, then member prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Separator {
    pub score: u64,
    pub prefix: u64,
}

impl Separator {
    /// The separator that stands just below or at this element.
    pub fn of(score: u64, member: &[u8]) -> Separator {
        Separator { score, prefix: prefix(member) }
    }
}

/// A place between elements: everything `is_below` stands before it.
#[derive(Clone, Copy, Debug)]
pub enum Probe<'a> {
    /// Before the element with this score and member.
    Element { score: u64, member: &'a [u8] },
    /// Before all elements with this score, or behind them.
    Score { score: u64, is_behind: bool },
    /// Before the member, or behind it, in a set whose scores are all equal.
    Member { member: &'a [u8], is_behind: bool },
}

impl Probe<'_> {
    /// Whether an element stands before this place.
    pub fn is_below(&self, score: u64, member: &[u8]) -> bool {
        match *self {
            Probe::Element { score: s, member: m } => (score, member) < (s, m),
            Probe::Score { score: s, is_behind } => score < s || is_behind && score == s,
            Probe::Member { member: m, is_behind } => member < m || is_behind && member == m,
        }
    }

    /// Whether to look for the place in a child whose first element is this one, or in a later child, rather than in an
    /// earlier.
    pub fn is_at_or_behind(&self, score: u64, member: &[u8]) -> bool {
        match *self {
            Probe::Element { score: s, member: m } => (score, member) <= (s, m),
            Probe::Score { .. } | Probe::Member { .. } => self.is_below(score, member),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoded_scores_order_as_scores(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(a.partial_cmp(&b), Some(encode(a).cmp(&encode(b))));
            prop_assert_eq!(decode(encode(a)), a);
        }

        #[test]
        fn prefixes_never_contradict_members(a in prop::collection::vec(0..3u8, 0..12), b in prop::collection::vec(0..3u8, 0..12)) {
            if prefix(&a) != prefix(&b) {
                prop_assert_eq!(prefix(&a).cmp(&prefix(&b)), a.cmp(&b));
            }
        }
    }

    #[test]
    fn zeros_are_one_and_infinities_are_ends() {
        assert_eq!(encode(-0.0), encode(0.0));
        assert!(decode(encode(-0.0)).is_sign_positive());
        assert!(encode(f64::NEG_INFINITY) < encode(f64::MIN) && encode(f64::MAX) < encode(f64::INFINITY));
    }
}
