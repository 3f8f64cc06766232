//! An authority and what it signs, in files, as servers and clients want them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// An authority with a folder of its own, which ends with it.
pub struct Authority {
    pub dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// `name` must be its own in this process.
    pub fn new(name: &str) -> Authority {
        let dir = std::env::temp_dir().join(format!("shoal-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the folder for temporary files is ours");
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        std::fs::write(dir.join("ca.crt"), issuer.as_ref().pem()).expect("the folder is ours");
        Authority { dir, issuer }
    }

    /// The path of a file in its folder.
    pub fn path(&self, file: &str) -> String {
        self.dir.join(file).to_str().expect("a path of ASCII").to_string()
    }

    /// Writes `name.crt` and `name.key` for this machine, for both sides of a connection.
    pub fn issue(&self, name: &str) {
        let mut params = params(name);
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let write = |path: &Path, text: String| std::fs::write(path, text).expect("the folder is ours");
        write(&self.dir.join(format!("{name}.crt")), certificate.pem());
        write(&self.dir.join(format!("{name}.key")), key.serialize_pem());
    }

    /// A server's arguments: this authority, and the certificate `name` that it issued.
    pub fn server_args(&self, name: &str) -> Vec<String> {
        let pair = |directive: &str, file: String| [directive.to_string(), self.path(&file)];
        [
            pair("--tls-ca-cert-file", "ca.crt".into()),
            pair("--tls-cert-file", format!("{name}.crt")),
            pair("--tls-key-file", format!("{name}.key")),
        ]
        .concat()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are good names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
