//! What the engine knows of one connection.

use crate::multi::{Multi, Watches};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// State of a connection that commands read and change.
pub struct Session {
    /// Unique in the node's life; CLIENT ID.
    pub id: u64,
    pub db: u16,
    pub is_resp3: bool,
    pub is_authenticated: bool,
    pub user: String,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    /// READONLY was sent: replicas may answer.
    pub is_readonly: bool,
    /// ASKING was sent: holds for one command.
    pub is_asking: bool,
    /// CLIENT NO-TOUCH: reads leave the access clock alone.
    pub is_no_touch: bool,
    pub is_no_evict: bool,
    /// Applies the stream of a primary: neither refused as a write on a replica nor expired lazily.
    pub is_primary_link: bool,
    pub is_replica: bool,
    /// Brings slots from another shard: its keys are taken although they are not ours yet, for as long as this holds
    /// true.
    pub importing: Option<Arc<AtomicBool>>,
    pub reply_mode: ReplyMode,
    /// Channels, patterns and sharded channels.
    pub subscriptions: [usize; 3],
    pub multi: Option<Box<Multi>>,
    pub watches: Option<Box<Watches>>,
    /// End of the last unit that this connection put into the feed: what WAIT and the reply gate wait for.
    pub written: u64,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyMode {
    On,
    Off,
    /// Swallows the reply of the next command.
    SkipNext,
    /// Swallows the reply of this command.
    Skip,
}

impl Session {
    pub fn new(id: u64) -> Session {
        Session {
            id,
            db: 0,
            is_resp3: false,
            is_authenticated: true,
            user: "default".into(),
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            is_readonly: false,
            is_asking: false,
            is_no_touch: false,
            is_no_evict: false,
            is_primary_link: false,
            is_replica: false,
            importing: None,
            reply_mode: ReplyMode::On,
            subscriptions: [0; 3],
            multi: None,
            watches: None,
            written: 0,
        }
    }

    /// Applies a replication stream or a log: nothing is refused and nothing expires by itself.
    pub fn for_replay() -> Session {
        Session { is_primary_link: true, ..Session::new(0) }
    }

    /// Nothing about this connection makes its commands different from anybody's.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.is_authenticated
            && self.multi.is_none()
            && !self.is_asking
            && !self.is_primary_link
            && self.reply_mode == ReplyMode::On
            && (self.subscriptions == [0; 3] || self.is_resp3)
    }

    /// A copy for a command that runs elsewhere, without transaction and watched keys, which stay here.
    /// [`Session::take_back`] brings home what the command changed.
    pub fn lend(&self) -> Session {
        Session {
            id: self.id,
            db: self.db,
            is_resp3: self.is_resp3,
            is_authenticated: self.is_authenticated,
            user: self.user.clone(),
            name: self.name.clone(),
            lib_name: self.lib_name.clone(),
            lib_version: self.lib_version.clone(),
            is_readonly: self.is_readonly,
            is_asking: self.is_asking,
            is_no_touch: self.is_no_touch,
            is_no_evict: self.is_no_evict,
            is_primary_link: self.is_primary_link,
            is_replica: self.is_replica,
            importing: self.importing.clone(),
            reply_mode: self.reply_mode,
            subscriptions: self.subscriptions,
            multi: None,
            watches: None,
            written: self.written,
        }
    }

    /// What a command that ran with [`Session::lend`] has left behind: its one-shot states and what it wrote.
    pub fn take_back(&mut self, lent: &Session) {
        self.is_asking = lent.is_asking;
        self.reply_mode = lent.reply_mode;
        self.written = lent.written;
    }

    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.iter().any(|n| *n > 0)
    }

    pub fn in_multi(&self) -> bool {
        self.multi.is_some()
    }
}
