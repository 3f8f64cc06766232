//! Room for new data when `maxmemory` is reached: keys are sampled and the best of the sample goes, as in Redis. What the
//! node says it takes beside keys and values counts as well ([`Turn::beside_bytes`]).
//!
//! The access clock of an entry is 24 bits: seconds for LRU; minutes (16 bits) and a logarithmic counter (8) for LFU.
//!
//! Invariant: no lock is held when this begins, and one slot is locked at a time.

use crate::keys::Keys;
use crate::locks::Locks;
use crate::settings::{EvictionPolicy, Settings, notify};
use crate::{Error, Status, Turn};
use proto::Slot;
use smallvec::SmallVec;
use storage::Keyspace;

const CLOCK_MAX: u32 = (1 << 24) - 1;
/// Counter of a new key: high enough not to be evicted at once. Redis's LFU_INIT_VAL.
const LFU_NEW: u32 = 5;
/// Keys removed before a command goes on although more room is wanted. Bounds the pause of one command.
const EVICTIONS_PER_COMMAND_MAX: usize = 64;
/// Keys looked at in a slot for one that has an expiry time.
const TRIES_PER_SLOT: usize = 16;
/// Slots looked at for one victim: sparse keyspaces have many empty ones.
const SLOTS_PER_SAMPLE_MAX: usize = 64;

/// The clock of an entry that is used now, from what it was.
pub fn touched(clock: u32, now_ms: i64, is_lfu: bool) -> u32 {
    if !is_lfu {
        return (now_ms / 1000) as u32 & CLOCK_MAX;
    }
    let counter = lfu_decayed(clock, now_ms);
    // Logarithmic: the more it was used, the rarer it counts. The low bits of time and clock serve as the dice.
    let dice = (now_ms as u32).wrapping_mul(0x9E37_79B9) ^ clock.wrapping_mul(0x85EB_CA6B);
    const LFU_LOG_FACTOR: u32 = 10;
    let odds = counter.saturating_sub(LFU_NEW) * LFU_LOG_FACTOR + 1;
    let counter = if counter < 255 && (dice >> 8).is_multiple_of(odds) { counter + 1 } else { counter };
    lfu_minutes(now_ms) << 8 | counter
}

/// The clock of any entry that is used now; `None` under an LFU policy.
#[inline]
pub fn plain_clock(settings: &Settings, now_ms: i64) -> Option<u32> {
    (!settings.maxmemory_policy.is_lfu()).then(|| touched(0, now_ms, false))
}

/// The clock of a new entry.
pub fn fresh(now_ms: i64, is_lfu: bool) -> u32 {
    if is_lfu { lfu_minutes(now_ms) << 8 | LFU_NEW } else { touched(0, now_ms, false) }
}

/// Seconds since an entry was used, under an LRU policy.
pub fn idle_s(clock: u32, now_ms: i64) -> u32 {
    ((now_ms / 1000) as u32 & CLOCK_MAX).wrapping_sub(clock) & CLOCK_MAX
}

/// How often an entry was used (logarithmic, 0 to 255), under an LFU policy.
pub fn lfu_decayed(clock: u32, now_ms: i64) -> u32 {
    let minutes = lfu_minutes(now_ms).wrapping_sub(clock >> 8) & 0xFFFF;
    (clock & 0xFF).saturating_sub(minutes)
}

fn lfu_minutes(now_ms: i64) -> u32 {
    (now_ms / 60_000) as u32 & 0xFFFF
}

/// More is used than `maxmemory` allows.
pub fn is_over(turn: &Turn) -> bool {
    let limit = turn.settings.maxmemory;
    limit > 0 && turn.engine.keyspace.used_bytes() + turn.beside_bytes > limit
}

/// Evicts until the limit is kept. `Err`: the policy forbids it or nothing can go.
pub fn make_room(turn: &mut Turn) -> Result<(), Error> {
    if !is_over(turn) || !may_evict(turn) {
        return Ok(());
    }
    if turn.settings.maxmemory_policy == EvictionPolicy::NoEviction {
        return Err(Error::Oom);
    }
    for _ in 0..EVICTIONS_PER_COMMAND_MAX {
        if !evict_one(turn) {
            return Err(Error::Oom);
        }
        if !is_over(turn) {
            break;
        }
    }
    Ok(())
}

/// Whether the data are this node's to remove: a replica keeps what its primary keeps, as does a primary that may have
/// been replaced; nothing goes from data that are not whole, nor while writes wait, since those are to stay as they are.
fn may_evict(turn: &Turn) -> bool {
    let Status { is_replica, is_loading, is_paused, has_lease, .. } = turn.status;
    !is_replica && !is_loading && !is_paused && (has_lease || turn.cluster.is_none())
}

struct Candidate {
    db: u16,
    slot: Slot,
    key: Vec<u8>,
    /// The higher, the sooner it goes.
    score: u64,
}

fn evict_one(turn: &mut Turn) -> bool {
    let Some(victim) = best_of_sample(turn) else { return false };
    // Somebody else uses the slot: what he does may free memory as well.
    let Ok(locks) = Locks::take_for(turn, &[victim.slot]) else { return true };
    let mut keys = Keys::new(turn, locks, victim.db);
    keys.sees_expired = true;
    if keys.delete_quietly(&victim.key) {
        keys.stats.evicted.add(1);
        keys.changed(&victim.key, notify::EVICTED, "evicted");
        keys.unit.push(victim.db, &[b"DEL".as_slice(), &victim.key]);
        turn.engine.feed.append(Some(victim.slot), &keys.unit);
    }
    keys.give_back(turn);
    true
}

fn best_of_sample(turn: &mut Turn) -> Option<Candidate> {
    let keyspace = &*turn.engine.keyspace;
    let is_volatile = turn.settings.maxmemory_policy.is_volatile();
    let has_any = |db: &u16| match is_volatile {
        true => keyspace.expires_len(*db) > 0,
        false => keyspace.len(*db) > 0,
    };
    let dbs: SmallVec<[u16; 16]> = (0..keyspace.databases()).filter(has_any).collect();
    if dbs.is_empty() {
        return None;
    }
    let mut sample = Sample { dbs, best: None, seen: 0 };
    for _ in 0..SLOTS_PER_SAMPLE_MAX {
        if sample.seen >= turn.settings.maxmemory_samples {
            break;
        }
        let slot = Slot::new(turn.local.rng.below(Slot::COUNT as u64) as u16).expect("below the count");
        sample.look(turn, slot, 1);
    }
    // In a keyspace with few keys: the next slot in order that has some.
    let start = turn.local.rng.below(Slot::COUNT as u64) as usize;
    for range in [start..Slot::COUNT, 0..start] {
        let mut from = range.start;
        while sample.best.is_none()
            && let Some(slot) =
                sample.next(keyspace, from, is_volatile).filter(|s| range.contains(&s.index()))
        {
            sample.look(turn, slot, TRIES_PER_SLOT);
            from = slot.index() + 1;
        }
    }
    sample.best
}

/// What was seen of the keyspace.
struct Sample {
    /// Databases that have keys which may go.
    dbs: SmallVec<[u16; 16]>,
    best: Option<Candidate>,
    seen: u32,
}

impl Sample {
    /// The first slot from number `from` on that may have keys which may go.
    fn next(&self, keyspace: &Keyspace, from: usize, is_volatile: bool) -> Option<Slot> {
        let from = Slot::new(u16::try_from(from).ok()?)?;
        let next = |db: &u16| match is_volatile {
            true => keyspace.next_due(*db, from, i64::MAX - 1),
            false => keyspace.next_occupied(*db, from),
        };
        self.dbs.iter().filter_map(next).min()
    }

    /// Looks at up to `tries` keys of each database of a slot.
    fn look(&mut self, turn: &mut Turn, slot: Slot, tries: usize) {
        let policy = turn.settings.maxmemory_policy;
        let Some(guard) = turn.engine.keyspace.try_lock(slot) else { return };
        for &db in &self.dbs {
            for _ in 0..tries {
                let Some(entry) = guard.db(db).sample(turn.local.rng.next_u64()) else { break };
                let expire = entry.expire_ms();
                if policy.is_volatile() && expire.is_none() {
                    continue;
                }
                self.seen += 1;
                let score = score(policy, entry.clock(), expire, turn.now.wall.0, &mut turn.local.rng);
                if self.best.as_ref().is_none_or(|b| score > b.score) {
                    self.best = Some(Candidate { db, slot, key: entry.key().to_vec(), score });
                }
                break;
            }
        }
    }
}

fn score(policy: EvictionPolicy, clock: u32, expire: Option<i64>, now_ms: i64, rng: &mut crate::Rng) -> u64 {
    match policy {
        EvictionPolicy::AllKeysLru | EvictionPolicy::VolatileLru => idle_s(clock, now_ms) as u64,
        EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu => 255 - lfu_decayed(clock, now_ms) as u64,
        EvictionPolicy::VolatileTtl => u64::MAX - expire.unwrap_or(i64::MAX).max(0) as u64,
        _ => rng.next_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_survives_the_clock_wrapping() {
        let last_s = CLOCK_MAX as i64;
        assert_eq!(idle_s(touched(0, last_s * 1000, false), (last_s + 11) * 1000), 11);
    }

    #[test]
    fn of_few_keys_those_with_an_expiry_time_go() {
        let mut r = crate::testing::Runner::default();
        r.all(&["SET a 1", "SET b 1 EX 100", "SET c 1"]);
        r.settings.maxmemory = 1;
        r.settings.maxmemory_policy = EvictionPolicy::VolatileTtl;
        assert_eq!(r.run("SET d 1"), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        assert_eq!(r.run("EXISTS a b c"), ":2\r\n");
        r.settings.maxmemory_policy = EvictionPolicy::AllKeysLru;
        r.run("SET d 1");
        assert_eq!(r.run("EXISTS a c"), ":0\r\n");
    }

    #[test]
    fn what_the_node_takes_beside_keys_and_values_counts() {
        let mut r = crate::testing::Runner::default();
        r.all(&["SET a 1", "SET b 1"]);
        r.settings.maxmemory = r.engine.keyspace.used_bytes() + 100_000;
        r.settings.maxmemory_policy = EvictionPolicy::AllKeysLru;
        r.beside_bytes = 90_000;
        r.run("SET c 1");
        assert_eq!(r.run("EXISTS a b c"), ":3\r\n");
        r.beside_bytes = 200_000;
        assert_eq!(r.run("SET d 1"), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        assert_eq!(r.run("EXISTS a b c"), ":0\r\n");
    }

    #[test]
    fn a_transaction_does_not_grow_where_there_is_no_room() {
        let mut r = crate::testing::Runner::default();
        r.run("MULTI");
        r.settings.maxmemory = 1;
        assert_eq!(r.run("GET a"), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        assert!(r.run("EXEC").starts_with("-EXECABORT"));
    }

    #[test]
    fn while_writes_wait_nothing_goes() {
        let mut r = crate::testing::Runner::default();
        r.run("SET a 1");
        r.settings.maxmemory = 1;
        r.settings.maxmemory_policy = EvictionPolicy::AllKeysLru;
        let evicted =
            |r: &mut crate::testing::Runner| r.make_room().is_err() || r.run("EXISTS a") == ":0\r\n";
        for held in [
            Status { is_paused: true, ..Status::default() },
            Status { is_replica: true, is_link_up: true, ..Status::default() },
        ] {
            r.status = held;
            assert!(!evicted(&mut r), "{held:?}");
        }
        r.status = Status::default();
        assert!(evicted(&mut r));
    }

    #[test]
    fn frequency_decays_by_the_minute() {
        let clock = fresh(0, true);
        assert_eq!(lfu_decayed(clock, 0), LFU_NEW);
        assert_eq!(lfu_decayed(clock, 3 * 60_000), LFU_NEW - 3);
        assert_eq!(lfu_decayed(clock, 60 * 60_000), 0);
    }

    #[test]
    fn use_counts_ever_more_slowly() {
        let mut clock = fresh(0, true);
        for i in 0..1000 {
            clock = touched(clock, i, true);
        }
        let counter = clock & 0xFF;
        assert!((10..100).contains(&counter), "{counter}");
    }
}
