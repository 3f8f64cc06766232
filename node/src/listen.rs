//! Where clients connect: listeners on the configured addresses, which CONFIG SET may change, and the acceptor.

use crate::config::Config;
use crate::env::Env;
use crate::mail::Letter;
use crate::shared::{Shared, Ticket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// CONFIG SET of directives of which some say where to listen. They were checked against the configuration of then.
pub struct Relisten<S> {
    pub ticket: Ticket<S>,
    /// Directives and the words that they are set to.
    pub pairs: Vec<(&'static str, Vec<String>)>,
}

/// The way to who listens.
pub struct ListenHandle<S> {
    requests: mpsc::UnboundedSender<Relisten<S>>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Relisten<S>>>>,
}

impl<S> Default for ListenHandle<S> {
    fn default() -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        ListenHandle { requests, inbox: Mutex::new(Some(inbox)) }
    }
}

impl<S> ListenHandle<S> {
    /// A request after the node's end gets no answer.
    pub fn request(&self, request: Relisten<S>) {
        let _ = self.requests.send(request);
    }
}

/// The listeners, and who accepts from them.
pub struct Listening<E: Env> {
    shared: Arc<Shared<E>>,
    inbox: mpsc::UnboundedReceiver<Relisten<E::Socket>>,
    acceptors: Vec<JoinHandle<()>>,
}

impl<E: Env> Listening<E> {
    /// Listens as the configuration says. `Err`: the node must not start. Once for each node.
    pub async fn start(shared: &Arc<Shared<E>>) -> Result<Listening<E>, String> {
        let inbox = shared.listening.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = inbox.expect("a node listens once");
        let mut listening = Listening { shared: shared.clone(), inbox, acceptors: Vec::new() };
        let listeners = listen_on(shared, shared.settings().port).await?;
        listening.accept_from(listeners);
        if let Some(listener) = listen_unix(shared)? {
            // Not among those that CONFIG SET may end.
            tokio::task::spawn_local(accept(shared.clone(), listener));
        }
        Ok(listening)
    }

    /// Serves requests until the node ends.
    pub async fn run(mut self) {
        while let Some(Relisten { ticket, pairs }) = self.inbox.recv().await {
            match self.change(&pairs).await {
                Ok(()) => ticket.answer(|out| out.ok()),
                Err(error) => ticket.answer(|out| out.error(&error)),
            }
        }
    }

    /// All of it, or nothing and why.
    async fn change(&mut self, pairs: &[(&'static str, Vec<String>)]) -> Result<(), String> {
        let next = self.next(pairs)?;
        let (bind, port) = place(&next);
        let (old_bind, old_port) = place(&self.shared.config().clone());
        let failed =
            |name, why| Err(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"));
        if port != old_port {
            // The old port is kept until the new one is ours.
            match listen_at(&self.shared, &bind, port).await {
                Ok(listeners) => {
                    self.stop().await;
                    self.accept_from(listeners);
                }
                Err(_) => return failed("port", "Unable to listen on this port. Check server logs."),
            }
        } else if bind != old_bind {
            // Addresses may overlap: none is free before the old ones are.
            self.stop().await;
            let listeners = listen_at(&self.shared, &bind, port).await;
            let has_failed = listeners.is_err();
            let listeners = match listeners {
                Ok(listeners) => listeners,
                Err(_) => listen_at(&self.shared, &old_bind, port).await.unwrap_or_default(),
            };
            self.accept_from(listeners);
            if has_failed {
                return failed("bind", "Failed to bind to specified addresses.");
            }
        }
        // What others have set meanwhile stays.
        let next = self.next(pairs)?;
        self.shared.replace_config(next);
        Ok(())
    }

    fn next(&self, pairs: &[(&'static str, Vec<String>)]) -> Result<Config, String> {
        let mut next = self.shared.config().clone();
        for (name, words) in pairs {
            next.reset_and_set(name, words)?;
        }
        Ok(next)
    }

    fn accept_from(&mut self, listeners: Vec<E::Listener>) {
        let spawn = |listener| tokio::task::spawn_local(accept(self.shared.clone(), listener));
        self.acceptors.extend(listeners.into_iter().map(spawn));
    }

    async fn stop(&mut self) {
        for acceptor in self.acceptors.drain(..) {
            acceptor.abort();
            // The listener is closed when the task has ended.
            let _ = acceptor.await;
        }
    }
}

fn listen_unix<E: Env>(shared: &Shared<E>) -> Result<Option<E::Listener>, String> {
    let config = shared.config();
    let path = config.get("unixsocket");
    if path.is_empty() {
        return Ok(None);
    }
    let mode = u32::from_str_radix(config.get("unixsocketperm"), 8).expect("checked when it was set");
    match shared.env.listen_unix(path, mode) {
        Ok(listener) => {
            let _ = shared.clients.unix_path.set(path.into());
            Ok(Some(listener))
        }
        Err(error) => {
            tracing::warn!("Failed opening Unix socket: bind: {error}");
            Err(format!("Failed opening Unix socket {path}: {error}"))
        }
    }
}

fn place(config: &Config) -> (Vec<String>, u16) {
    let bind = config.get("bind").split_whitespace().map(String::from).collect();
    (bind, config.get("port").parse().expect("checked when it was set"))
}

/// Listens on a port of every configured address.
pub async fn listen_on<E: Env>(shared: &Shared<E>, port: u16) -> Result<Vec<E::Listener>, String> {
    let bind = shared.settings().bind.clone();
    listen_at(shared, &bind, port).await
}

async fn listen_at<E: Env>(
    shared: &Shared<E>,
    bind: &[String],
    port: u16,
) -> Result<Vec<E::Listener>, String> {
    let mut listeners = Vec::new();
    if port == 0 {
        return Ok(listeners);
    }
    for address in bind {
        let (is_optional, address) = match address.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, address.as_str()),
        };
        let host = match address {
            "*" => "0.0.0.0",
            "::*" => "::",
            other => other,
        };
        match shared.env.listen(host, port).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_optional => tracing::debug!(%error, "not listening on {address}"),
            Err(error) => {
                tracing::warn!("Failed listening on port {} (tcp), aborting: {error}", port);
                return Err(format!("Could not create server TCP listening socket {host}:{port}: {error}"));
            }
        }
    }
    Ok(listeners)
}

/// Hands each new connection to the worker with the fewest.
async fn accept<E: Env>(shared: Arc<Shared<E>>, listener: E::Listener) {
    loop {
        match shared.env.accept(&listener).await {
            Ok((socket, peer, own)) => {
                shared.clients.accepted.fetch_add(1, Ordering::Relaxed);
                if let Err(text) = admit(&shared, peer) {
                    shared.clients.rejected.fetch_add(1, Ordering::Relaxed);
                    refuse(&shared, socket, text).await;
                    continue;
                }
                let load = |i: &usize| shared.load[*i].load(Ordering::Relaxed);
                let index = (0..shared.mail.len()).min_by_key(load).expect("at least one worker");
                shared.load[index].fetch_add(1, Ordering::Relaxed);
                shared.mail[index].post(Letter::Socket(socket, peer, own));
            }
            Err(error) => {
                // Out of file descriptors, or a client that left at once: go on, but not in a tight loop.
                tracing::warn!(%error, "Accepting client connection");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

fn admit<E: Env>(shared: &Shared<E>, peer: std::net::SocketAddr) -> Result<(), &'static str> {
    let settings = shared.settings();
    let count: usize = shared.load.iter().map(|l| l.load(Ordering::Relaxed)).sum();
    if count >= settings.maxclients {
        return Err("-ERR max number of clients reached\r\n");
    }
    if settings.is_protected
        && !peer.ip().to_canonical().is_loopback()
        && shared.users.default_user().is_nopass
    {
        return Err(
            "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. 4) Set up an authentication password for the default user. NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n",
        );
    }
    Ok(())
}

async fn refuse<E: Env>(shared: &Shared<E>, socket: E::Socket, text: &str) {
    use tokio::io::AsyncWriteExt;
    if let Ok(mut stream) = shared.env.adopt(socket) {
        let _ = stream.write_all(text.as_bytes()).await;
    }
}
