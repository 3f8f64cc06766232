//! Whether a peer's certificate is to be trusted: a chain to one of the configured authorities. As in Redis names are not
//! compared: nodes are known by address, and whoever holds a certificate of the authority belongs to the house.
//!
//! Two kinds are trusted that webpki refuses and OpenSSL takes: a certificate that is itself among the authorities, and
//! one of version 1 that an authority signed.

use crate::x509;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;

/// The authorities.
#[derive(Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// `Err`: one of them is no certificate.
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Trust, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Trust { roots: Arc::new(roots), certificates, algorithms, provider })
    }

    /// Asks clients for certificates; `is_mandatory`: and closes those that have none.
    pub fn of_clients(self: &Arc<Trust>, is_mandatory: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        let builder = if is_mandatory { builder } else { builder.allow_unauthenticated() };
        let webpki = builder.build().map_err(|e| e.to_string())?;
        Ok(Arc::new(OfClients { trust: self.clone(), webpki }))
    }

    pub fn of_servers(self: &Arc<Trust>) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let builder = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        let webpki = builder.build().map_err(|e| e.to_string())?;
        Ok(Arc::new(OfServers { trust: self.clone(), webpki }))
    }

    /// Whether a certificate that webpki refused for `error` is one of the kinds that we trust.
    fn second_look(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
        error: Error,
    ) -> Result<(), Error> {
        let Some(outline) = x509::outline(certificate) else { return Err(error) };
        let is_authority = self.certificates.iter().any(|c| c.as_ref() == certificate.as_ref());
        if !is_authority && !outline.is_v1 {
            return Err(error);
        }
        let now_s = now.as_secs() as i64;
        if now_s < outline.not_before_s {
            return Err(CertificateError::NotValidYet.into());
        }
        if now_s > outline.not_after_s {
            return Err(CertificateError::Expired.into());
        }
        match is_authority || self.has_signed(&outline) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn has_signed(&self, certificate: &x509::Outline<'_>) -> bool {
        self.roots.roots.iter().filter(|r| r.subject.as_ref() == certificate.issuer).any(|root| {
            let Some((kind, key)) = x509::key_parts(&root.subject_public_key_info) else { return false };
            // Names are not looked at here, so that an authority for some names only is none.
            root.name_constraints.is_none()
                && self.algorithms.all.iter().any(|a| {
                    a.signature_alg_id().as_ref() == certificate.algorithm
                        && a.public_key_alg_id().as_ref() == kind
                        && a.verify_signature(key, certificate.signed, certificate.signature).is_ok()
                })
        })
    }

    /// The signature of the handshake, by the key of a certificate of version 1; `otherwise`: of any other.
    fn verify_12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(outline) = x509::outline(certificate).filter(|o| o.is_v1) else {
            return rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms);
        };
        let parts = x509::sequence(outline.key).and_then(x509::key_parts);
        let (kind, key) = parts.ok_or(CertificateError::BadEncoding)?;
        let schemes = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = schemes.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let is_valid = algorithms.iter().any(|a| {
            a.public_key_alg_id().as_ref() == kind
                && a.verify_signature(key, message, signed.signature()).is_ok()
        });
        match is_valid {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match x509::outline(certificate).filter(|o| o.is_v1) {
            None => rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms),
            Some(outline) => {
                let key = SubjectPublicKeyInfoDer::from(outline.key);
                rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
        }
    }
}

#[derive(Debug)]
struct OfClients {
    trust: Arc<Trust>,
    webpki: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for OfClients {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.webpki.verify_client_cert(certificate, others, now).or_else(|error| {
            self.trust.second_look(certificate, now, error).map(|()| ClientCertVerified::assertion())
        })
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_12(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_13(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct OfServers {
    trust: Arc<Trust>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.webpki.verify_server_cert(certificate, others, name, ocsp, now) {
            // The name is looked at last: everything else holds.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                self.trust.second_look(certificate, now, error).map(|()| ServerCertVerified::assertion())
            }
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_12(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_13(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
