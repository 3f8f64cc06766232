//! TLS with servers: whom to trust and who to be, as redis-cli's options say.
//!
//! Whoever names authorities trusts all that these have signed, by whatever name it goes, as redis-cli does and as nodes
//! among themselves do. Of the machine's own authorities, who sign for everybody, the name must fit as well.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The options, as they were given.
#[derive(Clone, Default, Debug)]
pub struct TlsOptions {
    pub ca_file: Option<PathBuf>,
    pub ca_dir: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The name that the server is asked for and must have; otherwise the host.
    pub name: Option<String>,
    pub is_insecure: bool,
}

/// How to begin TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<String>,
}

/// A connection, with or without.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Where machines keep the authorities that they trust.
const MACHINES_OWN: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Tls {
    /// Reads the files. `Err`: what to tell the user.
    pub fn new(options: &TlsOptions) -> Result<Tls, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let has_own = options.ca_file.is_some() || options.ca_dir.is_some();
        let builder = match (options.is_insecure, has_own) {
            (true, _) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
            (false, true) => {
                let found = authorities(options)?;
                let trust = trust::Trust::new(found, provider).map_err(|e| e.to_string())?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(trust).of_servers()?)
            }
            (false, false) => builder.with_root_certificates(machines_own()?),
        };
        let config = match (&options.certificate, &options.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let in_key = |e: &dyn std::fmt::Display| format!("{}: {e}", key.display());
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| in_key(&e))?;
                builder.with_client_auth_cert(certificates(certificate)?, secret).map_err(|e| in_key(&e))?
            }
            _ => return Err("--cert and --key go together".into()),
        };
        Ok(Tls { config: Arc::new(config), name: options.name.clone() })
    }

    /// Puts TLS on a connection. The handshake comes with the first bytes.
    pub fn begin(&self, tcp: TcpStream, host: &str) -> io::Result<Stream> {
        let name = self.name.clone().unwrap_or_else(|| host.to_string());
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let connection = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, tcp))))
    }
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buf),
            Stream::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |e: rustls::pki_types::pem::Error| format!("{}: {e}", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(fail)?.collect();
    match found.map_err(fail)? {
        found if found.is_empty() => Err(format!("{}: there is no certificate in it", path.display())),
        found => Ok(found),
    }
}

fn authorities(options: &TlsOptions) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = options.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
    if let Some(folder) = &options.ca_dir {
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        // Such folders hold other files as well.
        let paths = entries.filter_map(|e| e.ok().map(|e| e.path()));
        found.extend(paths.filter_map(|path| certificates(&path).ok()).flatten());
    }
    Ok(found)
}

fn machines_own() -> Result<RootCertStore, String> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let path = chosen.or_else(|| MACHINES_OWN.iter().map(PathBuf::from).find(|p| p.exists()));
    let path = path.ok_or("This machine names no authorities to trust: give --cacert or --cacertdir")?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&path)?);
    Ok(roots)
}

/// `--insecure`: whoever answers is believed.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |options: TlsOptions| Tls::new(&options).unwrap_err();
        let ca_file = Some("/nowhere/ca".into());
        assert!(error(TlsOptions { ca_file, ..TlsOptions::default() }).contains("/nowhere/ca"));
        let half = TlsOptions { certificate: Some("x".into()), is_insecure: true, ..TlsOptions::default() };
        assert_eq!(error(half), "--cert and --key go together");
        assert!(Tls::new(&TlsOptions { is_insecure: true, ..TlsOptions::default() }).is_ok());
    }
}
