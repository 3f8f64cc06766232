//! What clients were promised. Each key has one writer, which writes ever larger numbers; an outcome that is not known is
//! never assumed either way.

use std::collections::{BTreeMap, BTreeSet};

/// The promises made so far.
#[derive(Default, Debug)]
pub struct Oracle {
    keys: BTreeMap<String, Promise>,
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
}

#[derive(Default, Debug)]
struct Promise {
    /// The last value that was acknowledged as replicated or durable.
    acknowledged: u64,
    /// Values whose outcome is not known. Each may have been carried out at any time, even after what was sent later.
    in_doubt: BTreeSet<u64>,
}

impl Oracle {
    pub fn sent(&mut self, key: &str, value: u64) {
        self.keys.entry(key.to_string()).or_default().in_doubt.insert(value);
    }
    pub fn acknowledged(&mut self, key: &str, value: u64) {
        let promise = self.keys.entry(key.to_string()).or_default();
        promise.acknowledged = promise.acknowledged.max(value);
        promise.in_doubt.remove(&value);
        self.acknowledged += 1;
    }
    /// The value was refused: it must never be seen.
    pub fn refused(&mut self, key: &str, value: u64) {
        self.keys.entry(key.to_string()).or_default().in_doubt.remove(&value);
        self.refused += 1;
    }
    /// A read in a class that holds reads, begun when nothing was under way for its key: it shows what was acknowledged,
    /// or sent and of unknown outcome, and what it shows stays.
    pub fn shown(&mut self, key: &str, value: u64) -> Result<(), String> {
        let promise = self.keys.entry(key.to_string()).or_default();
        if value != promise.acknowledged && !promise.in_doubt.remove(&value) {
            return Err(format!(
                "{key}: a read shows {value}, {} was acknowledged before",
                promise.acknowledged
            ));
        }
        promise.acknowledged = value;
        Ok(())
    }
    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Judges what a read at the end has shown. `Err`: a promise was broken.
    pub fn judge(&self, key: &str, value: Option<u64>) -> Result<(), String> {
        let Some(promise) = self.keys.get(key) else { return Err(format!("{key} was never written")) };
        let shown = value.unwrap_or(0);
        if shown == promise.acknowledged || promise.in_doubt.contains(&shown) {
            return Ok(());
        }
        match shown < promise.acknowledged {
            true => Err(format!("{key}: {} was acknowledged, {shown} is there", promise.acknowledged)),
            false => Err(format!("{key}: {shown} was refused or never sent, and is there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_is_noticed_and_a_read_is_a_promise() {
        let mut o = Oracle::default();
        o.sent("k", 1);
        o.acknowledged("k", 1);
        o.sent("k", 2);
        assert!(o.shown("k", 0).is_err());
        assert_eq!(o.shown("k", 2), Ok(()));
        assert!(o.judge("k", Some(1)).is_err());
    }

    #[test]
    fn a_lost_write_is_noticed_and_an_unknown_one_is_not_assumed() {
        let mut o = Oracle::default();
        o.sent("k", 1);
        o.acknowledged("k", 1);
        o.sent("k", 2);
        o.sent("k", 3);
        o.refused("k", 3);
        o.sent("k", 4);
        o.acknowledged("k", 4);
        assert_eq!(o.judge("k", Some(4)), Ok(()));
        assert_eq!(o.judge("k", Some(2)), Ok(()), "it may have been carried out late");
        assert!(o.judge("k", Some(1)).is_err() && o.judge("k", None).is_err());
        assert!(o.judge("k", Some(3)).is_err());
    }
}
