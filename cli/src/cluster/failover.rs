//! `cluster failover`: a replica becomes the primary of its shard.

use super::nodes::{call, connect, text};
use super::{Result, wait};
use crate::client::{Address, Login};
use std::time::Duration;

pub fn run(address: &Address, force: bool, takeover: bool, login: &Login) -> Result<()> {
    let mut client = connect(address, login)?;
    let mut words = vec!["CLUSTER", "FAILOVER"];
    if force {
        words.push("FORCE");
    }
    if takeover {
        words.push("TAKEOVER");
    }
    call(&mut client, &words)?;
    // A forced one happens when the primary's lease is over.
    wait("the replica to become primary", Duration::from_secs(60), || {
        Ok(text(&mut client, &["INFO", "replication"])?.contains("role:master"))
    })?;
    println!("[OK] {address} is primary.");
    Ok(())
}
