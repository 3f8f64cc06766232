//! Certificates and keys as they stand in files.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;
use trust::x509;

/// A certificate with the chain behind it and its key. `Err`: the line for the log.
pub fn certified(
    certificate_file: &str,
    key_file: &str,
    password: &str,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let in_certificate = |why: String| format!("Failed to load certificate: {certificate_file}: {why}");
    let in_key = |why: String| format!("Failed to load private key: {key_file}: {why}");
    let text = std::fs::read(certificate_file).map_err(|e| in_certificate(e.to_string()))?;
    let chain = certificates(&text).map_err(in_certificate)?;
    let first = chain.first().ok_or_else(|| in_certificate("there is no certificate in it".into()))?;
    let outline = x509::outline(first).ok_or_else(|| in_certificate("it is no certificate".into()))?;
    let text = std::fs::read(key_file).map_err(|e| in_key(e.to_string()))?;
    let key = private_key(&text, password).map_err(in_key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|e| in_key(e.to_string()))?;
    if key.public_key().is_some_and(|k| k.as_ref() != outline.key) {
        return Err(in_key("it is not the key of the certificate".into()));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Certificates of a file and of all files of a folder; either may be empty. `Err`: the line for the log.
pub fn authorities(file: &str, folder: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |what: &str, why: String| {
        format!("Failed to configure CA certificate(s) file/directory: {what}: {why}")
    };
    let mut found = Vec::new();
    if !file.is_empty() {
        let text = std::fs::read(file).map_err(|e| fail(file, e.to_string()))?;
        found = certificates(&text).map_err(|e| fail(file, e))?;
        if found.is_empty() {
            return Err(fail(file, "there is no certificate in it".into()));
        }
    }
    if !folder.is_empty() {
        let entries = std::fs::read_dir(folder).map_err(|e| fail(folder, e.to_string()))?;
        let mut paths: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        paths.sort();
        for path in paths {
            // Such folders hold keys and links as well.
            found.extend(read_certificates(&path).unwrap_or_default());
        }
    }
    found.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    found.dedup();
    Ok(found)
}

fn read_certificates(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    path.is_file().then_some(())?;
    certificates(&std::fs::read(path).ok()?).ok()
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn private_key(text: &[u8], password: &str) -> Result<PrivateKeyDer<'static>, String> {
    const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let as_text = String::from_utf8_lossy(text);
    if let Some(start) = as_text.find(ENCRYPTED) {
        return decrypt(&as_text[start..], password);
    }
    if as_text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(
            "it is encrypted in the traditional format; `openssl pkcs8 -topk8` makes one that can be read"
                .into(),
        );
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|e| e.to_string())
}

/// A key in PKCS #8 under a password.
fn decrypt(text: &str, password: &str) -> Result<PrivateKeyDer<'static>, String> {
    use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
    if password.is_empty() {
        return Err("it is encrypted, and there is no password for it".into());
    }
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let end = text.find(END).map_or(text.len(), |at| at + END.len());
    let (_, document) = SecretDocument::from_pem(&text[..end]).map_err(|e| e.to_string())?;
    let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|e| e.to_string())?;
    let plain = encrypted.decrypt(password).map_err(|e| format!("it cannot be decrypted: {e}"))?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_cannot_be_read_say_why() {
        let error = |text: &str, password: &str| private_key(text.as_bytes(), password).unwrap_err();
        assert!(error("", "").contains("no items found"), "{}", error("", ""));
        let traditional =
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----\n";
        assert!(error(traditional, "x").contains("traditional"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(error(encrypted, "").contains("no password"));
        assert!(private_key(encrypted.as_bytes(), "1234").is_err(), "rubbish in the right wrapping");
    }

    #[test]
    fn a_key_under_a_password() {
        // Made by: openssl genpkey -algorithm ed25519 -aes256 -pass pass:1234
        let text = include_str!("fixtures/encrypted.key");
        assert!(private_key(text.as_bytes(), "1234").is_ok());
        assert!(private_key(text.as_bytes(), "4321").unwrap_err().contains("cannot be decrypted"));
    }
}
