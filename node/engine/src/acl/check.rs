//! Whether a user may run a command with these arguments.

use super::User;
use super::selector::Selector;
use crate::spec::channel;
use crate::table::{KeyPlaces, Spec};
use crate::{Args, Error};

/// Why a command is denied. A reason that comes later says more, and is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    Command,
    Key,
    /// AUTH did not succeed.
    Auth,
    Channel,
}

impl Reason {
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Auth => "auth",
            Reason::Channel => "channel",
        }
    }
}

/// Where a command was denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    Toplevel,
    Multi,
    Script,
}

impl Context {
    pub const fn name(self) -> &'static str {
        match self {
            Context::Toplevel => "toplevel",
            Context::Multi => "multi",
            Context::Script => "lua",
        }
    }
}

/// A command is not for this user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied {
    pub reason: Reason,
    /// The argument that the user may not use.
    pub place: usize,
}

impl Denied {
    /// What a client is told whose command came by itself.
    pub fn error(&self, spec: &Spec) -> Error {
        match self.reason {
            Reason::Key => {
                Error::text("NOPERM this user has no permissions to access one of the keys used as arguments")
            }
            Reason::Channel => Error::text(
                "NOPERM this user has no permissions to access one of the channels used as arguments",
            ),
            Reason::Command | Reason::Auth => Error::Text(
                format!("NOPERM this user has no permissions to run the '{}' command", spec.full_name).into(),
            ),
        }
    }
    /// What stands in the reply of EXEC.
    pub fn error_in_exec(&self) -> Error {
        let reason = match self.reason {
            Reason::Command | Reason::Auth => "no permission to execute the command or subcommand",
            Reason::Key => "no permission to touch the specified keys",
            Reason::Channel => "no permission to access one of the channels used as arguments",
        };
        Error::Text(
            format!("NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed for the following reason: {reason}")
                .into(),
        )
    }
    /// What a script gets.
    pub fn error_in_script(&self) -> Error {
        let reason = match self.reason {
            Reason::Command | Reason::Auth => "can't run this command or subcommand",
            Reason::Key => "can't access at least one of the keys mentioned in the command arguments",
            Reason::Channel => "can't publish to the channel mentioned in the command",
        };
        Error::err(&format!("The user executing the script {reason}"))
    }
    /// What ACL DRYRUN answers.
    pub fn explain(&self, spec: &Spec, args: Args) -> Vec<u8> {
        let name = args.get(self.place).copied().unwrap_or_default();
        let access = |what: &str| {
            [b"This user has no permissions to access the '", name, b"' ", what.as_bytes()].concat()
        };
        match self.reason {
            Reason::Key => access("key"),
            Reason::Channel => access("channel"),
            Reason::Command | Reason::Auth => {
                format!("This user has no permissions to run the '{}' command", spec.full_name).into_bytes()
            }
        }
    }
}

impl User {
    /// Whether one selector allows all of it. `args` are as many as the command wants.
    pub fn check(&self, spec: &Spec, args: Args) -> Result<(), Denied> {
        let mut places: Option<KeyPlaces> = None;
        let mut worst = Denied { reason: Reason::Command, place: 0 };
        for selector in &self.selectors {
            match selector.check(spec, args, &mut places) {
                Ok(()) => return Ok(()),
                Err(denied) => {
                    if (denied.reason, denied.place) > (worst.reason, worst.place) {
                        worst = denied;
                    }
                }
            }
        }
        Err(worst)
    }

    /// Whether a selector that allows the command allows every key to be used in this way (flags of a key spec), also
    /// those that the arguments do not name.
    pub fn may_use_any_key(&self, spec: &Spec, args: Args, flags: u16) -> bool {
        let mut places = None;
        self.selectors.iter().any(|s| s.check(spec, args, &mut places).is_ok() && s.allows_any_key(flags))
    }
}

impl Selector {
    fn check(&self, spec: &Spec, args: Args, places: &mut Option<KeyPlaces>) -> Result<(), Denied> {
        if !self.allows_command(spec, args) {
            return Err(Denied { reason: Reason::Command, place: 0 });
        }
        if !self.has_all_keys && !spec.command.keys.is_empty() {
            // Arguments that fit no key spec name no key: the command says what is wrong with them.
            let places = places.get_or_insert_with(|| spec.keys_with_flags(args).unwrap_or_default());
            for (place, flags) in places {
                if !self.allows_key(args[*place], *flags) {
                    return Err(Denied { reason: Reason::Key, place: *place });
                }
            }
        }
        let channels = spec.command.channels;
        if !self.has_all_channels && channels.flags & (channel::PUBLISH | channel::SUBSCRIBE) != 0 {
            for place in channels.places(args.len()) {
                if !self.allows_channel(args[place], channels.flags & channel::PATTERN != 0) {
                    return Err(Denied { reason: Reason::Channel, place });
                }
            }
        }
        Ok(())
    }
}
