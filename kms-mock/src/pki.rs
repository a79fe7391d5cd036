//! Certificates: names, requests (PKCS#10), X.509, and private keys under a pass phrase (PKCS#8, PKCS#12).
//!
//! Keys are RSA or SM2. What is read here comes from clients: it is bounded in size and in cost, and never makes a panic.

mod certificate;
mod csr;
mod name;
mod passphrase;
mod pkcs12;

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use certificate::{Certificate, CertificateError, verify_chain};
pub use csr::{check_alternative_names, csr};
pub use name::Subject;
pub use passphrase::encrypted_pkcs8_pem;
pub use pkcs12::{Pkcs12Error, pkcs12_read, pkcs12_write};

/// RFC 7468: Base64 in lines of 64 characters.
fn to_pem(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        let line = std::str::from_utf8(line).expect("Base64 is ASCII");
        writeln!(pem, "{line}").expect("writing to a string");
    }
    pem + &format!("-----END {label}-----\n")
}

/// What all blocks of a label hold, in their order; `None` if one of them is broken. Text around them is ignored, as OpenSSL
/// writes some there, and lines may have any length.
fn from_pem(label: &str, text: &str) -> Option<Vec<Vec<u8>>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, after) = after.split_once(&end)?;
        let base64: String = body.split_ascii_whitespace().collect();
        blocks.push(BASE64.decode(base64).ok()?);
        rest = after;
    }
    Some(blocks)
}

/// Lower-case hex.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_comes_back() {
        for len in [0, 1, 47, 48, 49, 200] {
            let der = vec![7; len];
            let pem = to_pem("X", &der);
            assert!(pem.lines().all(|line| line.len() <= 64));
            assert_eq!(from_pem("X", &pem), Some(vec![der.clone()]));
            assert_eq!(from_pem("Y", &pem), Some(vec![]));
            let around = format!("first\n{}then\n{pem}last", pem.replace('\n', "\r\n"));
            assert_eq!(from_pem("X", &around), Some(vec![der.clone(), der]));
        }
    }

    #[test]
    fn broken_pem_is_told() {
        for broken in
            ["-----BEGIN X-----\n", "-----BEGIN X-----\nA\n-----END X-----", "-----BEGIN X-----?-----END X-----"]
        {
            assert_eq!(from_pem("X", broken), None);
        }
    }
}
