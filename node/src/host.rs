//! The node as the engine sees it while a client's command runs.

use crate::clients::Client;
use crate::connection::Connection;
use crate::env::Env;
use crate::mail::Mail;
use crate::persist::Emptied;
use crate::pubsub::Space;
use crate::shared::{Shared, Ticket};
use crate::tracking;
use crate::worker::Setting;
use engine::acl::{Context, Denied, Reason};
use engine::{Args, ChangedKey, Error, Host, HostOutcome, Ran, Session, Spec};
use proto::resp::Reply;
use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use storage::GateClosed;

/// The host of one client's command.
pub struct NodeHost<'a, E: Env> {
    pub shared: &'a Arc<Shared<E>>,
    pub client: &'a Arc<Client>,
    /// `None` on a side thread: a command that scripts may not call is never there.
    pub connection: Option<&'a Rc<Connection<E>>>,
    pub setting: &'a Setting<'a>,
    /// The gate is closed.
    pub is_exclusive: bool,
    /// The command has emptied everything: this has to be written before its client is answered.
    pub emptied: Option<Emptied>,
}

/// What a command's function in the node gets.
pub struct HostCx<'a, 'h, E: Env> {
    pub host: &'a NodeHost<'h, E>,
    pub spec: &'static Spec,
    pub args: Args<'a>,
    pub session: &'a mut Session,
    pub out: &'a mut Reply,
}

/// A command that runs in the node.
pub type HostFn<E> = fn(&mut HostCx<'_, '_, E>) -> Result<HostOutcome, Error>;

impl<E: Env> HostCx<'_, '_, E> {
    pub fn shared(&self) -> &Arc<Shared<E>> {
        self.host.shared
    }
    /// Stands for the client's reply when somebody else makes it; the function then answers `Later`.
    pub fn ticket(&self) -> Ticket<E::Socket> {
        Ticket::new(
            self.host.shared.mail_of(self.host.client).clone(),
            self.session.id,
            self.session.is_resp3,
        )
    }
    /// For work that nobody waits for: what it answers goes nowhere.
    pub fn ticket_of_nobody(&self) -> Ticket<E::Socket> {
        const NOBODY: u64 = 0; // ids of clients begin with 1
        Ticket::new(self.host.shared.mail_of(self.host.client).clone(), NOBODY, false)
    }
    /// The client's connection, for commands that only its worker runs.
    pub fn connection(&self) -> &Rc<Connection<E>> {
        self.host.connection.expect("scripts, which run elsewhere, may not call this command")
    }
    /// The command runs inside another one, such as EXEC, and must answer at once.
    pub fn is_nested(&self) -> bool {
        let own = self.host.client.command.load(std::sync::atomic::Ordering::Relaxed);
        own != self.spec.id + 1
    }
    /// Statistics of all threads, this one's up to now.
    pub fn stats(&self) -> engine::stats::Stats {
        self.host.shared.total_stats()
    }
    pub fn arg(&self, index: usize) -> &[u8] {
        self.args[index]
    }
    /// An argument as text; what is not UTF-8 is replaced.
    pub fn text(&self, index: usize) -> String {
        String::from_utf8_lossy(self.args[index]).into_owned()
    }
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.args.get(index).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }
    pub fn int(&self, index: usize) -> Result<i64, Error> {
        engine::number::parse_i64(self.args[index]).ok_or(Error::NotInteger)
    }
    pub fn ok(&mut self) -> Result<HostOutcome, Error> {
        self.out.ok();
        Ok(HostOutcome::Done)
    }
    /// The arguments are no form of the subcommand.
    pub fn unknown_form(&self) -> Error {
        let container = self.spec.full_name.split('|').next().unwrap_or_default().to_uppercase();
        let shown = String::from_utf8_lossy(&self.args[1][..self.args[1].len().min(128)]).into_owned();
        Error::err(&format!(
            "unknown subcommand or wrong number of arguments for '{shown}'. Try {container} HELP."
        ))
    }
    /// Whether a directive of the kind `enable-*-command` lets this client in: all, or those of this machine.
    pub fn is_enabled(&self, directive: &str) -> bool {
        self.is_enabled_in(&self.shared().config(), directive)
    }
    /// As [`HostCx::is_enabled`], for who holds the configuration.
    pub fn is_enabled_in(&self, config: &crate::config::Config, directive: &str) -> bool {
        match config.get(directive) {
            "yes" => true,
            "local" => self.host.client.peer.ip().to_canonical().is_loopback(),
            _ => false,
        }
    }
    /// Answers with the lines of a container's help.
    pub fn help(&mut self) -> Result<HostOutcome, Error> {
        let container = self.spec.full_name.split('|').next().unwrap_or_default();
        let container = self.shared().engine.table.declared(container.as_bytes()).expect("a container");
        let lines = container.help();
        self.out.array(lines.len());
        lines.iter().for_each(|l| self.out.simple(l));
        Ok(HostOutcome::Done)
    }
}

impl<E: Env> NodeHost<'_, E> {
    /// Puts something that was denied into ACL LOG.
    pub fn log_denied(&self, reason: Reason, context: Context, object: &[u8], user: &[u8]) {
        let now_ms = self.setting.now.wall.0;
        let entry = crate::acl_log::Entry {
            id: 0,
            count: 1,
            reason,
            context,
            object: object.to_vec(),
            user: user.to_vec(),
            created_ms: now_ms,
            updated_ms: now_ms,
            client: crate::commands::client::line(self.shared, self.client, now_ms, None),
        };
        self.shared.users.log.add(entry, self.setting.settings.acl_log_max);
    }
}

impl<E: Env> Host for NodeHost<'_, E> {
    fn run(
        &mut self,
        spec: &'static Spec,
        args: Args,
        session: &mut Session,
        out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        let run = self.shared.functions[spec.id].expect("every command of the node has a function");
        run(&mut HostCx { host: self, spec, args, session, out })
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        self.shared.dispose_at(self.shared.mail_of(self.client), garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
    }
    fn remember(&mut self, keys: &mut dyn Iterator<Item = &[u8]>) {
        tracking::remember(self.shared, self.client.id, keys);
    }
    fn invalidate(&mut self, changed: &[ChangedKey]) {
        tracking::invalidate(self.shared, Some(self.client.id), changed);
    }
    fn invalidate_all(&mut self) {
        tracking::invalidate_all(self.shared);
    }
    fn emptied(&mut self, closed: &GateClosed<'_>) {
        self.emptied = crate::persist::emptied(self.shared, closed);
    }
    fn ran(&mut self, ran: &Ran) {
        crate::observe::ran(self.shared, self.client, ran);
    }
    fn begins(&mut self, ran: &Ran) {
        crate::observe::show(self.shared, self.client, ran);
    }
    fn told_ticks(&self) -> u64 {
        self.shared.observe.told_ticks()
    }
    fn denied(&mut self, denied: &Denied, context: Context, spec: &Spec, args: Args, session: &Session) {
        let object = match denied.reason {
            Reason::Key | Reason::Channel => args[denied.place],
            Reason::Command | Reason::Auth => spec.full_name.as_bytes(),
        };
        let user = session.user().map_or(&b""[..], |u| &u.name);
        self.log_denied(denied.reason, context, object, user);
    }
    fn log(&mut self, level: u8, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        match level {
            0 => tracing::trace!("{line}"),
            1 => tracing::debug!("{line}"),
            2 => tracing::info!("{line}"),
            _ => tracing::warn!("{line}"),
        }
    }
}

/// The host of a worker's background work: it runs no commands.
pub struct RoundHost<'a, E: Env> {
    pub shared: &'a Shared<E>,
    pub mail: &'a Mail<E::Socket>,
}

impl<E: Env> Host for RoundHost<'_, E> {
    fn run(
        &mut self,
        spec: &'static Spec,
        _args: Args,
        _session: &mut Session,
        _out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        // A replication stream and a log hold only commands that change data.
        Err(Error::err(&format!("'{}' does not belong into a stream of writes", spec.full_name)))
    }
    fn invalidate(&mut self, changed: &[ChangedKey]) {
        tracking::invalidate(self.shared, None, changed);
    }
    fn invalidate_all(&mut self) {
        tracking::invalidate_all(self.shared);
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        self.shared.dispose_at(self.mail, garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
    }
}
