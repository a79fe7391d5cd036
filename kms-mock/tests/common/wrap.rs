//! Key material, wrapped by OpenSSL as a stranger would.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Options of `openssl pkeyutl -encrypt` for a wrapping algorithm.
fn options(algorithm: &str) -> &'static [&'static str] {
    match algorithm {
        "RSAES_PKCS1_V1_5" => &["rsa_padding_mode:pkcs1"],
        "RSAES_OAEP_SHA_1" => &["rsa_padding_mode:oaep"],
        "RSAES_OAEP_SHA_256" => &["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"],
        _ => &[],
    }
}

/// Encrypts for a public key in Base64 DER.
pub fn wrap(public_key: &str, algorithm: &str, plain: &[u8]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("key"), BASE64.decode(public_key).expect("Base64")).expect("written");
    std::fs::write(path("plain"), plain).expect("written");
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER"]);
    for (option, file) in [("-inkey", "key"), ("-in", "plain"), ("-out", "out")] {
        command.arg(option).arg(path(file));
    }
    for option in options(algorithm) {
        command.args(["-pkeyopt", option]);
    }
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    BASE64.encode(std::fs::read(path("out")).expect("read"))
}
