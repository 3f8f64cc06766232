//! `tls-protocols`, `tls-ciphers` and `tls-ciphersuites`, in the words of OpenSSL, as far as rustls has what they name:
//! TLS 1.2 and 1.3, and suites with forward secrecy and authenticated encryption.

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::*;
use rustls::version::{TLS12, TLS13};

/// Names of the suites of TLS 1.2, as OpenSSL has them, in our order.
static SUITES_12: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

static SUITES_13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_256_GCM_SHA384", TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", TLS13_CHACHA20_POLY1305_SHA256),
];

/// What a list selected, and the names in it that nothing here goes by.
#[derive(Debug)]
pub struct Selection<T> {
    pub chosen: Vec<T>,
    pub unknown: Vec<String>,
}

/// Versions that `tls-protocols` names. `Err`: a word that is no version, or none that is left.
pub fn protocols(list: &str) -> Result<Selection<&'static rustls::SupportedProtocolVersion>, String> {
    let mut selection = Selection { chosen: vec![&TLS13, &TLS12], unknown: Vec::new() };
    if list.is_empty() {
        return Ok(selection);
    }
    let (mut has_12, mut has_13) = (false, false);
    for word in list.split(' ').filter(|w| !w.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => has_12 = true,
            "tlsv1.3" => has_13 = true,
            "tlsv1" | "tlsv1.1" => selection.unknown.push(word.to_string()),
            _ => {
                return Err(
                    "Invalid tls-protocols specified. Use a combination of 'TLSv1.2' and 'TLSv1.3'.".into()
                );
            }
        }
    }
    selection.chosen.retain(|v| if v.version == rustls::ProtocolVersion::TLSv1_2 { has_12 } else { has_13 });
    match selection.chosen.is_empty() {
        true => {
            Err(format!("Invalid tls-protocols specified: {list}: only TLSv1.2 and TLSv1.3 are supported."))
        }
        false => Ok(selection),
    }
}

/// Suites of TLS 1.2 that a list for OpenSSL selects, in its order. Names that mean nothing here are passed over, as
/// OpenSSL does. `Err`: none is left.
pub fn ciphers(list: &str) -> Result<Selection<SupportedCipherSuite>, String> {
    let list = if list.is_empty() { "DEFAULT" } else { list };
    let (mut chosen, mut unknown) = (Vec::<usize>::new(), Vec::new());
    for word in list.split([':', ',', ' ', ';']).filter(|w| !w.is_empty() && !w.starts_with('@')) {
        let (sign, name) = match word.as_bytes()[0] {
            sign @ (b'!' | b'-' | b'+') => (sign, &word[1..]),
            _ => (0, word),
        };
        let meant: Vec<usize> = (0..SUITES_12.len()).filter(|i| is_meant(SUITES_12[*i].0, name)).collect();
        match sign {
            0 => {
                if meant.is_empty() && name != "COMPLEMENTOFDEFAULT" {
                    unknown.push(name.to_string());
                }
                let fresh: Vec<usize> = meant.into_iter().filter(|i| !chosen.contains(i)).collect();
                chosen.extend(fresh);
            }
            b'+' => {
                let (last, first): (Vec<usize>, Vec<usize>) = chosen.iter().partition(|i| meant.contains(i));
                chosen = [first, last].concat();
            }
            _ => chosen.retain(|i| !meant.contains(i)),
        }
    }
    match chosen.is_empty() {
        true => Err(format!(
            "Failed to configure ciphers: {list}: none of them is supported. Supported are {}.",
            SUITES_12.map(|(name, _)| name).join(":")
        )),
        false => Ok(Selection { chosen: chosen.into_iter().map(|i| SUITES_12[i].1).collect(), unknown }),
    }
}

/// Whether a word of OpenSSL's lists means a suite: its name, or properties joined by `+`.
fn is_meant(suite: &str, word: &str) -> bool {
    word.split('+').all(|part| {
        let has = |text: &str| suite.split('-').any(|p| p == text) || suite.contains(text);
        match part {
            _ if part.eq_ignore_ascii_case(suite) => true,
            "DEFAULT" | "ALL" | "HIGH" | "AEAD" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" | "TLSv1.2" => true,
            "aRSA" => has("RSA-"),
            "ECDSA" | "aECDSA" => has("ECDSA-"),
            "AES" | "AESGCM" => has("AES"),
            "AES128" | "AES256" | "CHACHA20" => has(part),
            "SHA256" | "SHA384" => suite.ends_with(part),
            _ => false,
        }
    })
}

/// Suites of TLS 1.3. `Err`: a name that is none, or none that is left.
pub fn suites(list: &str) -> Result<Selection<SupportedCipherSuite>, String> {
    if list.is_empty() {
        return Ok(Selection { chosen: SUITES_13.map(|(_, s)| s).to_vec(), unknown: Vec::new() });
    }
    let (mut chosen, mut unknown) = (Vec::new(), Vec::new());
    for word in list.split([':', ',', ' ']).filter(|w| !w.is_empty()) {
        match SUITES_13.iter().find(|(name, _)| *name == word) {
            Some((_, suite)) if !chosen.contains(suite) => chosen.push(*suite),
            Some(_) => {}
            None if ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"].contains(&word) => {
                unknown.push(word.to_string());
            }
            None => return Err(format!("Failed to configure ciphersuites: {list}: '{word}' is not known")),
        }
    }
    match chosen.is_empty() {
        true => Err(format!("Failed to configure ciphersuites: {list}: none of them is supported")),
        false => Ok(Selection { chosen, unknown }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<&'static str> {
        let name = |s: &SupportedCipherSuite| SUITES_12.iter().find(|(_, t)| t == s).expect("ours").0;
        ciphers(list).unwrap().chosen.iter().map(name).collect()
    }

    #[test]
    fn lists_of_ciphers_are_read_as_openssl_reads_them() {
        assert_eq!(names("").len(), 6);
        assert_eq!(names("DEFAULT:-AES128-SHA256").len(), 6);
        assert_eq!(names("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(
            names("ECDHE+AESGCM+aRSA:!AES128"),
            ["ECDHE-RSA-AES256-GCM-SHA384"],
            "properties are joined"
        );
        assert_eq!(names("ALL:+ECDSA")[0], "ECDHE-RSA-AES256-GCM-SHA384", "what is moved stands last");
        assert_eq!(ciphers("HIGH:DHE-RSA-AES128-GCM-SHA256").unwrap().unknown, ["DHE-RSA-AES128-GCM-SHA256"]);
    }

    #[test]
    fn a_list_that_leaves_nothing_is_refused() {
        assert!(
            ciphers("AES128-SHA256:AES256-SHA256").unwrap_err().starts_with("Failed to configure ciphers")
        );
        assert!(ciphers("ALL:!ECDHE").is_err());
        assert!(suites("TLS_AES_128_CCM_SHA256").is_err());
        assert!(suites("TLS_AES_256_GCM_SHA384:NONSENSE").unwrap_err().contains("'NONSENSE'"));
        assert_eq!(suites("TLS_AES_128_GCM_SHA256").unwrap().chosen.len(), 1);
    }

    #[test]
    fn versions() {
        let count = |list: &str| protocols(list).map(|p| p.chosen.len());
        assert_eq!((count(""), count("TLSv1.2"), count("tlsv1.3 TLSv1.2")), (Ok(2), Ok(1), Ok(2)));
        assert!(count("TLSv1 TLSv1.1").is_err());
        assert!(count("SSLv3").is_err());
    }
}
