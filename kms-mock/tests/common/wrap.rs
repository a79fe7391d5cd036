//! Key material, wrapped by OpenSSL as a stranger would.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::openssl::OpenSsl;

/// Options of `openssl pkeyutl -encrypt` for a wrapping algorithm.
fn options(algorithm: &str) -> &'static str {
    match algorithm {
        "RSAES_PKCS1_V1_5" => "-pkeyopt rsa_padding_mode:pkcs1",
        "RSAES_OAEP_SHA_1" => "-pkeyopt rsa_padding_mode:oaep",
        "RSAES_OAEP_SHA_256" => super::pki::Kind::Rsa.padding(),
        _ => "",
    }
}

/// Encrypts for a public key in Base64 DER.
pub fn wrap(public_key: &str, algorithm: &str, plain: &[u8]) -> String {
    let openssl = OpenSsl::new();
    openssl.write("key", BASE64.decode(public_key).expect("Base64"));
    openssl.write("plain", plain);
    let options = options(algorithm);
    openssl.run(&format!("pkeyutl -encrypt -pubin -keyform DER -inkey key -in plain -out out {options}"));
    BASE64.encode(openssl.read("out"))
}
