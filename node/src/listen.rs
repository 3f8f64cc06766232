//! Where clients connect: listeners on the configured addresses, in plain TCP and over TLS, which CONFIG SET may change,
//! and the acceptor.

use crate::config::Config;
use crate::env::Env;
use crate::mail::Letter;
use crate::shared::{Shared, Ticket};
use crate::tls::{self, Tls, TlsSettings};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Refusals over TLS that are under way; who comes beyond is closed without a word.
const REFUSALS_MAX: usize = 64;
/// Time for a refusal.
const REFUSAL: std::time::Duration = std::time::Duration::from_secs(2);

/// Time for the ports to be closed. Choice: far more than it takes, unless certificates are just read.
const CLOSE_TIME: std::time::Duration = std::time::Duration::from_millis(100);

/// CONFIG SET of directives of which some say where to listen or what to speak there. They were checked against the configuration of then.
pub struct Relisten<S> {
    pub ticket: Ticket<S>,
    /// Directives and the words that they are set to.
    pub pairs: Vec<(&'static str, Vec<String>)>,
}

/// What is asked of who listens.
enum Request<S> {
    Relisten(Relisten<S>),
    /// See [`ListenHandle::close`].
    Close(oneshot::Sender<()>),
}

/// The way to who listens.
pub struct ListenHandle<S> {
    requests: mpsc::UnboundedSender<Request<S>>,
    /// Taken by who listens.
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Request<S>>>>,
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
        let _ = self.requests.send(Request::Relisten(request));
    }
    /// Closes all ports, since the node ends: who sees its connection end finds nobody to connect to. The kernel closes
    /// what a process leaves open in no order that could be relied upon. Waits for at most [`CLOSE_TIME`].
    pub async fn close(&self) {
        let is_listening = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let (done, answer) = oneshot::channel();
        if is_listening && self.requests.send(Request::Close(done)).is_ok() {
            // An error: nobody listens any more.
            let _ = tokio::time::timeout(CLOSE_TIME, answer).await;
        }
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Plain, Kind::Tls];

    fn directive(self) -> &'static str {
        match self {
            Kind::Plain => "port",
            Kind::Tls => "tls-port",
        }
    }
    fn port(self, config: &Config) -> u16 {
        config.get(self.directive()).parse().expect("checked when it was set")
    }
}

/// Whether a change says where to listen, or what to speak there: it is carried out by who listens.
pub fn is_concerned(pairs: &[(&'static str, Vec<String>)], old: &Config, next: &Config) -> bool {
    ["port", "tls-port", "bind"].iter().any(|name| next.get(name) != old.get(name)) || is_tls_new(pairs, next)
}

/// Whether a change makes TLS anew. Files may have other contents under the same name.
fn is_tls_new(pairs: &[(&'static str, Vec<String>)], next: &Config) -> bool {
    TlsSettings::is_wanted(next)
        && pairs.iter().any(|(name, _)| name.starts_with("tls-") && *name != "tls-port")
}

/// The listeners, and who accepts from them.
pub struct Listening<E: Env> {
    shared: Arc<Shared<E>>,
    inbox: mpsc::UnboundedReceiver<Request<E::Socket>>,
    /// By [`Kind`].
    acceptors: [Vec<JoinHandle<()>>; 2],
}

impl<E: Env> Listening<E> {
    /// Listens as the configuration says. `Err`: the node must not start. Once for each node.
    pub async fn start(shared: &Arc<Shared<E>>) -> Result<Listening<E>, String> {
        let inbox = shared.listening.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = inbox.expect("a node listens once");
        let mut listening = Listening { shared: shared.clone(), inbox, acceptors: Default::default() };
        let config = shared.config().clone();
        if TlsSettings::is_wanted(&config) {
            let tls = tls::load(&shared.env, &config).await.map_err(|why| {
                tracing::warn!("{why}");
                format!("Failed to configure TLS: {why}")
            })?;
            shared.tls.store(Some(tls));
        }
        for kind in Kind::ALL {
            let listeners = listen_on(shared, kind.port(&config)).await?;
            listening.accept_from(kind, listeners);
        }
        if let Some(listener) = listen_unix(shared)? {
            // Not among those that CONFIG SET may end.
            tokio::task::spawn_local(accept(shared.clone(), listener, Kind::Plain));
        }
        Ok(listening)
    }

    /// Serves requests until the node ends.
    pub async fn run(mut self) {
        while let Some(request) = self.inbox.recv().await {
            match request {
                Request::Relisten(Relisten { ticket, pairs }) => match self.change(&pairs).await {
                    Ok(()) => ticket.answer(|out| out.ok()),
                    Err(error) => ticket.answer(|out| out.error(&error)),
                },
                Request::Close(done) => {
                    for kind in Kind::ALL {
                        self.stop(kind).await;
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    /// All of it, or nothing and why.
    async fn change(&mut self, pairs: &[(&'static str, Vec<String>)]) -> Result<(), String> {
        let old = self.shared.config().clone();
        let next = self.next(pairs)?;
        let tls = self.tls(pairs, &next).await?;
        let bind = |config: &Config| config.get("bind").to_string();
        match bind(&next) == bind(&old) {
            true => self.change_ports(&old, &next).await?,
            false => self.change_all(&old, &next).await?,
        }
        // What others have set meanwhile stays.
        let next = self.next(pairs)?;
        if tls.is_some() {
            self.shared.tls.store(tls);
        }
        self.shared.replace_config(next);
        Ok(())
    }

    /// TLS as the next configuration has it, if it is made anew.
    async fn tls(
        &self,
        pairs: &[(&'static str, Vec<String>)],
        next: &Config,
    ) -> Result<Option<Arc<Tls>>, String> {
        let is_first = TlsSettings::is_wanted(next) && self.shared.tls.load().is_none();
        if !is_first && !is_tls_new(pairs, next) {
            return Ok(None);
        }
        let is_tls = |name: &&str| name.starts_with("tls-");
        let name = pairs.iter().map(|(name, _)| *name).find(is_tls).expect("it is made anew for one of them");
        tls::load(&self.shared.env, next).await.map(Some).map_err(|why| {
            tracing::warn!("{why}");
            failed(name, "Unable to update TLS configuration. Check server logs.")
        })
    }

    /// Ports are given up first, and others kept until the new ones are ours.
    async fn change_ports(&mut self, old: &Config, next: &Config) -> Result<(), String> {
        let changed = Kind::ALL.into_iter().filter(|k| k.port(old) != k.port(next));
        let (left, moved): (Vec<Kind>, Vec<Kind>) = changed.partition(|k| k.port(next) == 0);
        for kind in &left {
            self.stop(*kind).await;
        }
        let mut fresh = Vec::new();
        for kind in &moved {
            match listen_at(&self.shared, &bind(next), kind.port(next)).await {
                Ok(listeners) => fresh.push((*kind, listeners)),
                Err(_) => {
                    drop(fresh);
                    for kind in left {
                        let listeners = listen_at(&self.shared, &bind(old), kind.port(old)).await;
                        self.accept_from(kind, listeners.unwrap_or_default());
                    }
                    let name = kind.directive();
                    return Err(failed(name, "Unable to listen on this port. Check server logs."));
                }
            }
        }
        for (kind, listeners) in fresh {
            self.stop(kind).await;
            self.accept_from(kind, listeners);
        }
        Ok(())
    }

    /// Addresses may overlap: none is free before the old ones are.
    async fn change_all(&mut self, old: &Config, next: &Config) -> Result<(), String> {
        for kind in Kind::ALL {
            self.stop(kind).await;
        }
        let mut fresh = Vec::new();
        for kind in Kind::ALL {
            match listen_at(&self.shared, &bind(next), kind.port(next)).await {
                Ok(listeners) => fresh.push((kind, listeners)),
                Err(_) => {
                    drop(fresh);
                    for kind in Kind::ALL {
                        let listeners = listen_at(&self.shared, &bind(old), kind.port(old)).await;
                        self.accept_from(kind, listeners.unwrap_or_default());
                    }
                    return Err(failed("bind", "Failed to bind to specified addresses."));
                }
            }
        }
        for (kind, listeners) in fresh {
            self.accept_from(kind, listeners);
        }
        Ok(())
    }

    fn next(&self, pairs: &[(&'static str, Vec<String>)]) -> Result<Config, String> {
        let mut next = self.shared.config().clone();
        for (name, words) in pairs {
            next.reset_and_set(name, words)?;
        }
        Ok(next)
    }

    fn accept_from(&mut self, kind: Kind, listeners: Vec<E::Listener>) {
        let spawn = |listener| tokio::task::spawn_local(accept(self.shared.clone(), listener, kind));
        self.acceptors[kind as usize].extend(listeners.into_iter().map(spawn));
    }

    async fn stop(&mut self, kind: Kind) {
        for acceptor in self.acceptors[kind as usize].drain(..) {
            acceptor.abort();
            // The listener is closed when the task has ended.
            let _ = acceptor.await;
        }
    }
}

fn failed(name: &str, why: &str) -> String {
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
}

fn bind(config: &Config) -> Vec<String> {
    config.get("bind").split_whitespace().map(String::from).collect()
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

/// Hands each new connection to the worker with the fewest, of those that serve.
async fn accept<E: Env>(shared: Arc<Shared<E>>, listener: E::Listener, kind: Kind) {
    let refusals = Arc::new(AtomicUsize::new(0));
    loop {
        match shared.env.accept(&listener).await {
            Ok((socket, peer, own)) => {
                shared.clients.accepted.fetch_add(1, Ordering::Relaxed);
                let Some(socket) = secured(&shared, socket, kind) else { continue };
                if let Err(text) = admit(&shared, peer) {
                    shared.clients.rejected.fetch_add(1, Ordering::Relaxed);
                    match kind {
                        Kind::Plain => refuse(&shared, socket, text).await,
                        Kind::Tls => refuse_later(&shared, socket, text, &refusals),
                    }
                    continue;
                }
                let index = shared.least_loaded();
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

/// The connection as it is spoken on this port, with what is configured now.
fn secured<E: Env>(shared: &Shared<E>, socket: E::Socket, kind: Kind) -> Option<E::Socket> {
    match kind {
        Kind::Plain => Some(socket),
        Kind::Tls => {
            let tls = shared.tls.load();
            let acceptor = &tls.as_ref().expect("nobody listens before it is configured").clients;
            shared.env.secure_accepted(socket, acceptor).ok()
        }
    }
}

/// Over TLS nothing can be said before the handshake, which nobody here waits for.
fn refuse_later<E: Env>(
    shared: &Arc<Shared<E>>,
    socket: E::Socket,
    text: &'static str,
    refusals: &Arc<AtomicUsize>,
) {
    if refusals.load(Ordering::Relaxed) >= REFUSALS_MAX {
        return;
    }
    refusals.fetch_add(1, Ordering::Relaxed);
    let (shared, refusals) = (shared.clone(), refusals.clone());
    tokio::task::spawn_local(async move {
        let _ = tokio::time::timeout(REFUSAL, refuse(&shared, socket, text)).await;
        refusals.fetch_sub(1, Ordering::Relaxed);
    });
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
