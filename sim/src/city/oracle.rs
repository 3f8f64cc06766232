//! What clients were promised. Each key has one writer, which writes ever larger numbers; an outcome that is not known is
//! never assumed either way.

use std::collections::BTreeMap;

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
    /// The last value that was sent.
    sent: u64,
    /// The largest value that a read has shown.
    seen: u64,
}

impl Oracle {
    pub fn sent(&mut self, key: &str, value: u64) {
        self.keys.entry(key.to_string()).or_default().sent = value;
    }
    pub fn acknowledged(&mut self, key: &str, value: u64) {
        let promise = self.keys.entry(key.to_string()).or_default();
        promise.acknowledged = promise.acknowledged.max(value);
        self.acknowledged += 1;
    }
    /// A read in a class that holds reads, begun when nothing was under way for its key: it shows what was acknowledged,
    /// or sent and of unknown outcome, and what it shows stays.
    pub fn shown(&mut self, key: &str, value: u64) -> Result<(), String> {
        let promise = self.keys.entry(key.to_string()).or_default();
        if value < promise.acknowledged {
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
    pub fn judge(&mut self, key: &str, value: Option<u64>) -> Result<(), String> {
        let Some(promise) = self.keys.get_mut(key) else { return Err(format!("{key} was never written")) };
        let shown = value.unwrap_or(0);
        if shown < promise.acknowledged {
            return Err(format!("{key}: {} was acknowledged, {shown} is there", promise.acknowledged));
        }
        if shown > promise.sent {
            return Err(format!("{key}: {shown} was never sent"));
        }
        promise.seen = promise.seen.max(shown);
        Ok(())
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
        assert_eq!(o.judge("k", Some(1)), Ok(()));
        assert_eq!(o.judge("k", Some(2)), Ok(()));
        assert!(o.judge("k", None).is_err());
        assert!(o.judge("k", Some(3)).is_err());
    }
}
