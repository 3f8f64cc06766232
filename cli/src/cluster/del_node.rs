//! `cluster del-node`: a node without slots leaves.

use super::nodes::{Nodes, call};
use super::{AdminError, Result};
use crate::client::{Address, Login};

pub fn run(address: &Address, id: &str, login: &Login) -> Result<()> {
    let nodes = Nodes::load(address, login)?;
    let gone = nodes.find(id)?.clone();
    if gone.slot_count() > 0 {
        return Err(AdminError::Refused(format!(
            "{} owns {} slots; move them first: shoal-cli cluster reshard",
            gone.address,
            gone.slot_count()
        )));
    }
    let other = nodes.all.iter().find(|n| n.id != gone.id && !n.is_failed());
    let other = other.ok_or_else(|| AdminError::Refused("it is the last node".into()))?;
    let mut client = nodes.connect(other)?;
    call(&mut client, &["CLUSTER", "FORGET", &gone.id])?;
    // The node itself starts over, if it is there to be told.
    let reset = nodes.connect(&gone).and_then(|mut c| call(&mut c, &["CLUSTER", "RESET", "SOFT"]));
    match reset {
        Ok(_) => println!("[OK] {} has left and was reset.", gone.address),
        Err(error) => println!("[OK] {} has left; it could not be reset: {error}", gone.address),
    }
    Ok(())
}
