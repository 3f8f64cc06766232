//! Slot moves: the data path of both sides. The decisions are the control loop's.

use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};
use proto::{ClusterView, NodeId, SlotRange};
use std::sync::{Mutex, PoisonError};

/// A move, as CLUSTER GETSLOTMIGRATIONS shows it.
#[derive(Clone, Debug)]
pub struct Migration {
    pub id: u64,
    pub is_export: bool,
    pub slots: Vec<SlotRange>,
    pub source: NodeId,
    pub target: NodeId,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub state: &'static str,
    pub message: String,
    pub remaining_bytes: u64,
}

/// The moves that this node takes or took part in; the newest last.
#[derive(Default)]
pub struct Migrations {
    all: Mutex<Vec<Migration>>,
}

impl Migrations {
    pub fn list(&self) -> Vec<Migration> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn start<E: Env>(
    _cx: &mut HostCx<E>,
    _view: &ClusterView,
    _requests: Vec<(Vec<SlotRange>, NodeId)>,
) -> Result<HostOutcome, Error> {
    Err(Error::text("ERR not yet"))
}

pub fn cancel_all<E: Env>(cx: &mut HostCx<E>) -> Result<HostOutcome, Error> {
    cx.ok()
}
