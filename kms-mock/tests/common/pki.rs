//! An authority, and holders of keys, played by OpenSSL.

use super::openssl::OpenSsl;

/// In whose name OpenSSL has to sign with SM2: that of everybody, and not that of nobody.
const SIGNER: &str = "distid:1234567812345678";

/// The algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rsa,
    Sm2,
}

impl Kind {
    fn choose(self, rsa: &'static str, sm2: &'static str) -> &'static str {
        if self == Kind::Rsa { rsa } else { sm2 }
    }

    pub fn spec(self) -> &'static str {
        self.choose("RSA2048", "SM2")
    }

    pub fn ukey_algorithm(self) -> &'static str {
        self.choose("RSA 2048", "SM2")
    }

    pub fn sign_algorithm(self) -> &'static str {
        self.choose("RSA_PKCS1_SHA_256", "SM2DSA")
    }

    pub fn encrypt_algorithm(self) -> &'static str {
        self.choose("RSAES_OAEP_SHA_256", "SM2PKE")
    }

    pub fn digest(self) -> &'static str {
        self.choose("sha256", "sm3")
    }

    /// Options of `pkeyutl` for signatures.
    pub fn signer(self) -> String {
        if self == Kind::Rsa { String::new() } else { format!("-pkeyopt {SIGNER}") }
    }

    /// Options of `pkeyutl` for encryption.
    pub fn padding(self) -> &'static str {
        self.choose("-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256", "")
    }

    /// Options of `req` and `x509` that look at a signature.
    pub fn verify(self) -> String {
        if self == Kind::Rsa { String::new() } else { format!("-vfyopt {SIGNER}") }
    }

    /// Options of `req` and `x509` that make one.
    fn sign(self) -> String {
        if self == Kind::Rsa { "-sha256".to_owned() } else { format!("-sm3 -sigopt {SIGNER}") }
    }

    fn new_key(self) -> &'static str {
        self.choose("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-algorithm SM2")
    }
}

/// `NAME.key` and the certificate `NAME.pem`, which names itself.
pub fn self_signed(openssl: &OpenSsl, kind: Kind, name: &str, days: u32) {
    openssl.run(&format!("genpkey -quiet {} -out {name}.key", kind.new_key()));
    let sign = kind.sign();
    openssl.run(&format!("req -x509 -key {name}.key -subj /C=CN/CN={name} -days {days} {sign} -out {name}.pem"));
}

/// An authority: `ca.key` and `ca.pem`.
pub fn authority(openssl: &OpenSsl, kind: Kind) {
    openssl.run(&format!("genpkey -quiet {} -out ca.key", kind.new_key()));
    let extension = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
    let sign = kind.sign();
    openssl.run(&format!("req -x509 -key ca.key -subj /C=CN/CN=CA -days 30 {extension} {sign} -out ca.pem"));
}

/// The authority's certificate `NAME.pem` for the request `NAME.csr`.
pub fn issue(openssl: &OpenSsl, kind: Kind, name: &str) {
    openssl.run(&format!(
        "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -set_serial 0xd1ab -days 20 -copy_extensions copyall {} {} -out {name}.pem",
        kind.verify(),
        kind.sign()
    ));
}
