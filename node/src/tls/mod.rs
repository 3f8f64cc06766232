//! TLS, by rustls: who we are, whom we trust and what we speak, made of the configuration as a whole, so that a change
//! is in force for new connections at once or not at all. Connections keep what they began with.
//!
//! Invariant: files are read here alone, never on a thread that serves clients.

mod ciphers;
mod files;
mod sessions;
mod stream;

pub use stream::TlsStream;

use crate::config::Config;
use crate::env::Env;
use crate::shared::Shared;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ServerConfig, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use trust::Trust;

/// The directives, as they were set.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    certificate: KeyFiles,
    /// Who we are as a client; empty: who we are as a server.
    client: KeyFiles,
    ca_file: String,
    ca_dir: String,
    auth_clients: AuthClients,
    /// Other nodes are spoken to, and so must be known.
    has_peers: bool,
    protocols: String,
    ciphers: String,
    suites: String,
    prefers_own_ciphers: bool,
    /// Sessions kept and how long; `None`: none.
    sessions: Option<(usize, Duration)>,
}

#[derive(Clone, Debug)]
struct KeyFiles {
    certificate: String,
    key: String,
    password: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AuthClients {
    No,
    Optional,
    Yes,
}

impl TlsSettings {
    pub fn from(config: &Config) -> TlsSettings {
        let text = |name: &str| config.get(name).to_string();
        let flag = |name: &str| config.get(name) == "yes";
        let number = |name: &str| config.get(name).parse::<u64>().expect("checked when it was set");
        TlsSettings {
            certificate: KeyFiles {
                certificate: text("tls-cert-file"),
                key: text("tls-key-file"),
                password: text("tls-key-file-pass"),
            },
            client: KeyFiles {
                certificate: text("tls-client-cert-file"),
                key: text("tls-client-key-file"),
                password: text("tls-client-key-file-pass"),
            },
            ca_file: text("tls-ca-cert-file"),
            ca_dir: text("tls-ca-cert-dir"),
            auth_clients: match config.get("tls-auth-clients") {
                "no" => AuthClients::No,
                "optional" => AuthClients::Optional,
                _ => AuthClients::Yes,
            },
            has_peers: flag("tls-replication") || flag("tls-cluster"),
            protocols: text("tls-protocols"),
            ciphers: text("tls-ciphers"),
            suites: text("tls-ciphersuites"),
            prefers_own_ciphers: flag("tls-prefer-server-ciphers"),
            sessions: flag("tls-session-caching").then(|| {
                let age = Duration::from_secs(number("tls-session-cache-timeout"));
                (number("tls-session-cache-size") as usize, age)
            }),
        }
    }

    /// Whether the configuration speaks TLS anywhere.
    pub fn is_wanted(config: &Config) -> bool {
        config.get("tls-port") != "0"
            || config.get("tls-replication") == "yes"
            || config.get("tls-cluster") == "yes"
    }
}

/// What new connections use.
pub struct Tls {
    /// For clients.
    pub clients: Acceptor,
    /// For the bus, where both sides show who they are.
    pub bus: Acceptor,
    pub connector: Connector,
}

/// One side of a connection that a peer opens.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    complaints: Arc<Complaints>,
}

/// One side of a connection that we open.
#[derive(Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Tls {
    /// Reads the files. `Err`: the line for the log, as Redis words it where it has one.
    pub fn load(settings: &TlsSettings) -> Result<Tls, String> {
        let needs_authorities = settings.auth_clients != AuthClients::No || settings.has_peers;
        if settings.certificate.certificate.is_empty() {
            return Err("No tls-cert-file configured!".into());
        }
        if settings.certificate.key.is_empty() {
            return Err("No tls-key-file configured!".into());
        }
        if needs_authorities && settings.ca_file.is_empty() && settings.ca_dir.is_empty() {
            return Err("Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-cluster, tls-replication or tls-auth-clients are enabled!".into());
        }
        let protocols = ciphers::protocols(&settings.protocols)?;
        let ciphers = ciphers::ciphers(&settings.ciphers)?;
        let suites = ciphers::suites(&settings.suites)?;
        for name in protocols.unknown.iter().chain(&ciphers.unknown).chain(&suites.unknown) {
            tracing::warn!("TLS: {name} is not supported and is passed over");
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: [suites.chosen, ciphers.chosen].concat(),
            ..rustls::crypto::ring::default_provider()
        });
        let load =
            |f: &KeyFiles| files::certified(&f.certificate, &f.key, &f.password, &provider).map(Arc::new);
        let own = load(&settings.certificate)?;
        let as_client = match settings.client.certificate.is_empty() || settings.client.key.is_empty() {
            true => own.clone(),
            false => load(&settings.client)?,
        };
        let authorities = files::authorities(&settings.ca_file, &settings.ca_dir)?;
        if needs_authorities && authorities.is_empty() {
            return Err(format!(
                "Failed to configure CA certificate(s) file/directory: {}: there is no certificate in it",
                settings.ca_dir
            ));
        }
        let trust = Trust::new(authorities, provider.clone());
        let trust =
            trust.map_err(|e| format!("Failed to configure CA certificate(s) file/directory: {e}"))?;
        let make = Make { settings, provider, versions: protocols.chosen, trust: Arc::new(trust) };
        let complaints = Arc::new(Complaints::default());
        let acceptor = |auth: AuthClients| -> Result<Acceptor, String> {
            Ok(Acceptor { config: make.server(own.clone(), auth)?, complaints: complaints.clone() })
        };
        // Without authorities there are no peers, and nobody comes by the bus.
        let on_bus = if needs_authorities { AuthClients::Yes } else { AuthClients::No };
        Ok(Tls {
            clients: acceptor(settings.auth_clients)?,
            bus: acceptor(on_bus)?,
            connector: Connector(make.client(as_client, needs_authorities)?),
        })
    }
}

/// What the sides have in common.
struct Make<'a> {
    settings: &'a TlsSettings,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
    trust: Arc<Trust>,
}

impl Make<'_> {
    fn server(&self, own: Arc<CertifiedKey>, auth: AuthClients) -> Result<Arc<ServerConfig>, String> {
        let verifier = match auth {
            AuthClients::No => Arc::new(NoClientAuth),
            AuthClients::Optional => self.trust.of_clients(false)?,
            AuthClients::Yes => self.trust.of_clients(true)?,
        };
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_protocol_versions(&self.versions).map_err(|e| e.to_string())?;
        let resolver = Arc::new(SingleCertAndKey::from(own));
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.ignore_client_order = self.settings.prefers_own_ciphers;
        config.session_storage = match self.settings.sessions {
            Some((count, age)) => {
                Arc::new(sessions::Sessions::new(count, age)) as Arc<dyn StoresServerSessions>
            }
            None => Arc::new(NoServerSessionStorage {}),
        };
        if self.settings.sessions.is_none() {
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn client(&self, own: Arc<CertifiedKey>, has_authorities: bool) -> Result<Arc<ClientConfig>, String> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_protocol_versions(&self.versions).map_err(|e| e.to_string())?;
        let resolver = Arc::new(SingleCertAndKey::from(own));
        let mut config = match has_authorities {
            true => builder.dangerous().with_custom_certificate_verifier(self.trust.of_servers()?),
            // Trusts nobody: it is not used before there are peers.
            false => builder.with_root_certificates(rustls::RootCertStore::empty()),
        }
        .with_client_cert_resolver(resolver);
        config.enable_sni = false;
        // Each link to a peer proves anew who is there.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Handshakes that failed, told to the log at most once a second.
#[derive(Default)]
struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    fn tell(&self, from: &str, error: &dyn std::fmt::Display) {
        const EVERY: Duration = Duration::from_secs(1);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        if state.0.is_none_or(|last| last.elapsed() >= EVERY) {
            let count = std::mem::take(&mut state.1);
            state.0 = Some(Instant::now());
            drop(state);
            tracing::warn!("Error accepting a client connection: {error} (addr={from}, {count} of late)");
        }
    }
}

/// Reads the configured files where that holds up nobody. `Err`: the line for the log.
pub async fn load<E: Env>(env: &E, config: &Config) -> Result<Arc<Tls>, String> {
    let (settings, env_) = (TlsSettings::from(config), env.clone());
    env.blocking(move || env_.load_tls(&settings)).await.map(Arc::new)
}

/// Opens a connection to another node; over TLS if `is_tls`, which must be configured then. `own`: the address to come
/// from; empty: any.
pub async fn connect<E: Env>(
    shared: &Shared<E>,
    own: &str,
    host: &str,
    port: u16,
    is_tls: bool,
) -> io::Result<E::Stream> {
    let stream = shared.env.connect_from(own, host, port).await?;
    if !is_tls {
        return Ok(stream);
    }
    let tls = shared.tls.load_full().ok_or_else(|| io::Error::other("TLS is not configured"))?;
    shared.env.secure_connected(stream, &tls.connector, host).await
}
