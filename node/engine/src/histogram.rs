//! How long commands took, as counts of powers of two in four parts each: 19 % of error at most, one addition per command.

/// Times below are counted as this one, in ticks.
const LOWEST: u32 = 6;
const HIGHEST: u32 = 38;
/// Parts of a power of two, as a power of two.
const PARTS: u32 = 2;

/// Number of counts: a power of two, so that no place needs to be checked.
pub const BUCKETS: usize = ((HIGHEST - LOWEST) << PARTS) as usize;
const _: () = assert!(BUCKETS.is_power_of_two());

/// Which count a time belongs to. It grows with the time.
#[inline]
pub fn bucket(ticks: u64) -> usize {
    let ticks = ticks.clamp(1 << LOWEST, (1 << HIGHEST) - 1);
    let power = ticks.ilog2();
    let place = ((power - LOWEST) << PARTS) as u64 + (ticks >> (power - PARTS) & ((1 << PARTS) - 1));
    place as usize % BUCKETS
}

/// The longest time that a count stands for, in ticks.
pub fn highest(bucket: usize) -> u64 {
    let (power, part) = (LOWEST + (bucket as u32 >> PARTS), bucket as u64 & ((1 << PARTS) - 1));
    (1 << power) + ((part + 1) << (power - PARTS)) - 1
}

/// The time, in ticks, below or at which so many percent of the counted times are; `None`: there are none.
pub fn percentile(counts: &[u32], percent: f64) -> Option<u64> {
    let total: u64 = counts.iter().map(|n| *n as u64).sum();
    if total == 0 {
        return None;
    }
    let wanted = ((percent / 100.0 * total as f64).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    counts.iter().enumerate().find_map(|(bucket, n)| {
        seen += *n as u64;
        (seen >= wanted).then(|| highest(bucket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_within_its_bucket() {
        for ticks in (6..38).flat_map(|p| [1u64 << p, (1 << p) + (1 << p) / 3, (2 << p) - 1]) {
            let bucket = bucket(ticks);
            assert!(ticks <= highest(bucket) && (bucket == 0 || ticks > highest(bucket - 1)), "{ticks}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn percentiles_are_those_of_the_counts() {
        let mut counts = [0; BUCKETS];
        counts[bucket(100)] = 99;
        counts[bucket(100_000)] = 1;
        assert_eq!(percentile(&counts, 50.0), Some(highest(bucket(100))));
        assert_eq!(percentile(&counts, 99.0), Some(highest(bucket(100))));
        assert_eq!(percentile(&counts, 99.9), Some(highest(bucket(100_000))));
        assert_eq!(percentile(&[0; BUCKETS], 50.0), None);
    }
}
