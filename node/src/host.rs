//! The node as the engine sees it while a client's command runs.

use crate::clients::Client;
use crate::connection::Connection;
use crate::env::Env;
use crate::pubsub::Space;
use crate::shared::{Shared, Ticket};
use crate::worker::Setting;
use engine::{Args, Error, Host, HostOutcome, Session, Spec};
use proto::resp::Reply;
use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

/// The host of one client's command.
pub struct NodeHost<'a, E: Env> {
    pub shared: &'a Arc<Shared<E>>,
    pub client: &'a Arc<Client>,
    /// `None` on a side thread: a command that scripts may not call is never there.
    pub connection: Option<&'a Rc<Connection<E>>>,
    pub setting: &'a Setting<'a>,
    /// The gate is closed.
    pub is_exclusive: bool,
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
            self.host.shared.mail[self.host.client.worker].clone(),
            self.session.id,
            self.session.is_resp3,
        )
    }
    /// For work that nobody waits for: what it answers goes nowhere.
    pub fn ticket_of_nobody(&self) -> Ticket<E::Socket> {
        const NOBODY: u64 = 0; // ids of clients begin with 1
        Ticket::new(self.host.shared.mail[self.host.client.worker].clone(), NOBODY, false)
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
    /// Answers with the lines of a container's help.
    pub fn help(&mut self) -> Result<HostOutcome, Error> {
        let container = self.spec.full_name.split('|').next().unwrap_or_default();
        let container = self.shared().engine.table.by_name(container.as_bytes()).expect("a container");
        let lines = container.help();
        self.out.array(lines.len());
        lines.iter().for_each(|l| self.out.simple(l));
        Ok(HostOutcome::Done)
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
        dispose(self.shared, garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
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

/// The host of background work: it runs no commands.
pub struct RoundHost<'a, E: Env> {
    pub shared: &'a Shared<E>,
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
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        dispose(self.shared, garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
    }
}

/// Frees large values where nobody waits for it.
fn dispose<E: Env>(shared: &Shared<E>, garbage: Vec<Box<dyn Any + Send>>) {
    shared.persist.dispose(garbage);
}
