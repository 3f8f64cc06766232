//! What the engine knows of one connection.

use crate::acl::{Denied, User};
use crate::multi::{Multi, Watches};
use crate::spec::key;
use crate::{Args, Spec};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// State of a connection that commands read and change.
pub struct Session {
    /// Unique in the node's life; CLIENT ID.
    pub id: u64,
    pub db: u16,
    pub is_resp3: bool,
    /// Its connection speaks TLS: it is told of ports that do.
    pub is_tls: bool,
    /// It may run anything: the user is logged in and has no limits.
    is_free: bool,
    /// Its commands are looked at, or remembered: it is not free, or it tracks keys.
    is_watched: bool,
    tracking: Option<Tracking>,
    /// CLIENT CACHING: holds for the next command or transaction.
    pub is_caching: bool,
    is_authenticated: bool,
    user: Option<Arc<User>>,
    /// State of the users that `user` was taken from.
    pub users_epoch: u64,
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
    /// MONITOR: it is shown all commands.
    pub is_monitor: bool,
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

/// How a client wants to be told of keys that changed. Follows CLIENT TRACKING.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tracking {
    /// It is told of all keys with its prefixes, whether it read them or not.
    pub is_bcast: bool,
    /// Keys are remembered only after CLIENT CACHING YES.
    pub is_optin: bool,
    /// Keys are remembered unless CLIENT CACHING NO was said.
    pub is_optout: bool,
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
            is_tls: false,
            is_free: true,
            is_watched: false,
            tracking: None,
            is_caching: false,
            is_authenticated: true,
            user: None,
            users_epoch: 0,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            is_readonly: false,
            is_asking: false,
            is_no_touch: false,
            is_no_evict: false,
            is_primary_link: false,
            is_replica: false,
            is_monitor: false,
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

    /// Sets whose connection this is; `None`: nobody's, which may run anything.
    pub fn set_user(&mut self, user: Option<Arc<User>>, is_authenticated: bool) {
        self.is_free = is_authenticated && user.as_ref().is_none_or(|u| u.is_unrestricted());
        self.is_authenticated = is_authenticated;
        self.user = user;
        self.is_watched = !self.is_free || self.tracking.is_some();
    }
    /// CLIENT TRACKING.
    pub fn set_tracking(&mut self, tracking: Option<Tracking>) {
        self.tracking = tracking;
        self.is_caching = false;
        self.is_watched = !self.is_free || self.tracking.is_some();
    }
    pub fn tracking(&self) -> Option<Tracking> {
        self.tracking
    }
    /// Its commands are looked at, or remembered.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.is_watched
    }
    /// The client is to be told when the keys that it reads now change.
    pub fn remembers_keys(&self) -> bool {
        self.tracking.is_some_and(|t| {
            !t.is_bcast && (!t.is_optin || self.is_caching) && (!t.is_optout || !self.is_caching)
        })
    }
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }
    #[inline]
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }
    #[inline]
    pub fn is_free(&self) -> bool {
        self.is_free
    }
    /// Whether the user may run this, authenticated or not.
    #[inline]
    pub fn check(&self, spec: &Spec, args: Args) -> Result<(), Denied> {
        match &self.user {
            Some(user) if !self.is_free => user.check(spec, args),
            _ => Ok(()),
        }
    }
    /// Whether the command may read keys that its arguments do not name.
    pub fn may_read_any_key(&self, spec: &Spec, args: Args) -> bool {
        self.is_free || self.user.as_ref().is_none_or(|u| u.may_use_any_key(spec, args, key::ACCESS))
    }

    /// Nothing about this connection makes its commands different from anybody's.
    #[inline]
    pub fn is_plain(&self) -> bool {
        !self.is_watched
            && self.multi.is_none()
            && !self.is_asking
            && !self.is_primary_link
            && self.reply_mode == ReplyMode::On
            && (self.subscriptions == [0; 3] || self.is_resp3)
    }

    /// Moves transaction and watched keys to another copy of this session.
    pub fn hand_over(&mut self, to: &mut Session) {
        to.multi = self.multi.take();
        to.watches = self.watches.take();
    }

    /// A copy for a command that runs elsewhere, without transaction and watched keys, which [`Session::hand_over`] moves.
    /// [`Session::take_back`] brings home what the command changed.
    pub fn lend(&self) -> Session {
        Session {
            id: self.id,
            db: self.db,
            is_resp3: self.is_resp3,
            is_tls: self.is_tls,
            is_free: self.is_free,
            is_watched: self.is_watched,
            tracking: self.tracking,
            is_caching: self.is_caching,
            is_authenticated: self.is_authenticated,
            user: self.user.clone(),
            users_epoch: self.users_epoch,
            name: self.name.clone(),
            lib_name: self.lib_name.clone(),
            lib_version: self.lib_version.clone(),
            is_readonly: self.is_readonly,
            is_asking: self.is_asking,
            is_no_touch: self.is_no_touch,
            is_no_evict: self.is_no_evict,
            is_primary_link: self.is_primary_link,
            is_replica: self.is_replica,
            is_monitor: self.is_monitor,
            importing: self.importing.clone(),
            reply_mode: self.reply_mode,
            subscriptions: self.subscriptions,
            multi: None,
            watches: None,
            written: self.written,
        }
    }

    /// What the commands of a script see of their client.
    pub fn for_script(&self) -> Session {
        let mut own = Session {
            db: self.db,
            is_readonly: self.is_readonly,
            is_asking: self.is_asking,
            is_no_touch: self.is_no_touch,
            is_primary_link: self.is_primary_link,
            importing: self.importing.clone(),
            ..Session::new(self.id)
        };
        own.set_user(self.user.clone(), true);
        own.set_tracking(self.tracking);
        own.is_caching = self.is_caching;
        own
    }

    /// Becomes what a command that ran with [`Session::lend`] has left behind. A transaction's commands may have changed
    /// anything; meanwhile the client had nobody else run any.
    pub fn take_back(&mut self, lent: Session) {
        let (multi, watches) = (self.multi.take(), self.watches.take());
        *self = Session { multi, watches, ..lent };
    }

    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.iter().any(|n| *n > 0)
    }

    pub fn in_multi(&self) -> bool {
        self.multi.is_some()
    }

    /// It sends commands over a plain connection and gets their replies, nothing more.
    pub fn may_move(&self) -> bool {
        let is_told = self.is_subscribed() || self.tracking.is_some() || self.is_monitor;
        let is_link = self.is_tls || self.is_replica || self.is_primary_link || self.importing.is_some();
        !is_told && !is_link && !self.in_multi() && self.watches.is_none()
    }
}
