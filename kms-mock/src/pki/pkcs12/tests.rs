//! Files of OpenSSL read here, and ours read by OpenSSL.

use super::*;
use crate::asymmetric::{AsymmetricSpec, system_rng};
use crate::openssl::OpenSsl;
use crate::pki::to_pem;

const SPECS: [AsymmetricSpec; 2] = [AsymmetricSpec::Rsa2048, AsymmetricSpec::Sm2];

/// Files `root.{key,pem}` of an authority and `leaf.{key,pem}` below it.
fn certified(openssl: &OpenSsl, spec: AsymmetricSpec) {
    let signer = "distid:1234567812345678";
    let (new_key, sign, verify) = match spec {
        AsymmetricSpec::Rsa2048 => ("-algorithm RSA", "-sha256".to_owned(), String::new()),
        AsymmetricSpec::Sm2 => ("-algorithm SM2", format!("-sm3 -sigopt {signer}"), format!("-vfyopt {signer}")),
    };
    openssl.run(&format!("genpkey {new_key} -out root.key"));
    openssl.run(&format!("genpkey {new_key} -out leaf.key"));
    openssl.run(&format!("req -x509 -key root.key -subj /CN=root {sign} -out root.pem"));
    openssl.run(&format!("req -new -key leaf.key -subj /CN=leaf {sign} -out leaf.csr"));
    openssl.run(&format!(
        "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -set_serial 7 {sign} {verify} -out leaf.pem"
    ));
}

fn certificate(openssl: &OpenSsl, name: &str) -> Certificate {
    Certificate::from_pem(&openssl.read_text(name)).unwrap()
}

#[test]
fn files_of_openssl_are_read() {
    for spec in SPECS {
        let openssl = OpenSsl::new();
        certified(&openssl, spec);
        for (options, passphrase) in [
            ("", "a-pass-phrase"),
            ("", "天翼"),
            ("", ""),
            ("-legacy", "a-pass-phrase"),
            ("-legacy", "天翼"),
            ("-legacy", ""),
            ("-macalg sha512 -iter 1 -maciter", "x"),
            ("-certpbe NONE -keypbe NONE", "x"),
        ] {
            openssl.run(&format!(
                "pkcs12 -export {options} -inkey leaf.key -in leaf.pem -certfile root.pem -passout pass:{passphrase} -out f.p12"
            ));
            let file = openssl.read("f.p12");
            let read = pkcs12_read(&file, passphrase).unwrap_or_else(|error| panic!("{options} {passphrase}: {error}"));
            assert_eq!(read.key.spec(), spec);
            assert_eq!(read.leaf, certificate(&openssl, "leaf.pem"));
            assert_eq!(read.leaf.public_key(), Some(&read.key.public()));
            assert_eq!(read.chain, [certificate(&openssl, "root.pem")]);
            for wrong in ["wrong", "a-pass-phras", ""].iter().filter(|wrong| **wrong != passphrase) {
                assert_eq!(pkcs12_read(&file, wrong).err(), Some(Pkcs12Error::Passphrase), "{options}");
            }
        }
    }
}

#[test]
fn openssl_reads_our_files_with_their_pass_phrase_only() {
    for spec in SPECS {
        let openssl = OpenSsl::new();
        certified(&openssl, spec);
        openssl.run("pkcs8 -topk8 -nocrypt -in leaf.key -outform DER -out leaf.der");
        let key = PrivateKey::from_pkcs8_der(&openssl.read("leaf.der")).unwrap();
        let (leaf, root) = (certificate(&openssl, "leaf.pem"), certificate(&openssl, "root.pem"));
        for passphrase in ["a-pass-phrase", "天翼", ""] {
            let file = pkcs12_write(&key, &leaf, std::slice::from_ref(&root), passphrase, &mut system_rng());
            openssl.write("f.p12", &file);
            let text = openssl.text(&format!("pkcs12 -in f.p12 -passin pass:{passphrase} -nodes"));
            assert!(text.contains(&to_pem("PRIVATE KEY", &key.to_pkcs8_der())), "{text}");
            assert!(text.contains(&leaf.pem()) && text.contains(&root.pem()), "{text}");
            assert!(openssl.try_run("pkcs12 -in f.p12 -passin pass:wrong -nodes").is_err());

            let read = pkcs12_read(&file, passphrase).unwrap();
            assert_eq!((read.key.public(), read.leaf, read.chain), (key.public(), leaf.clone(), vec![root.clone()]));
            assert_eq!(pkcs12_read(&file, "wrong").err(), Some(Pkcs12Error::Passphrase));
        }
    }
}

#[test]
fn files_without_what_we_need_are_refused() {
    let openssl = OpenSsl::new();
    certified(&openssl, AsymmetricSpec::Rsa2048);
    let export = |options: &str| {
        openssl.run(&format!("pkcs12 -export -passout pass:x {options} -out f.p12"));
        pkcs12_read(&openssl.read("f.p12"), "x").err()
    };
    assert_eq!(export("-inkey leaf.key -in leaf.pem"), None);
    assert_eq!(export("-inkey leaf.key -in leaf.pem -nomac"), Some(Pkcs12Error::Format));
    assert_eq!(export("-nokeys -in leaf.pem"), Some(Pkcs12Error::Content));
    assert_eq!(export("-inkey leaf.key -in leaf.pem -iter 1000000"), Some(Pkcs12Error::TooCostly));
    assert_eq!(
        export("-inkey leaf.key -in leaf.pem -certpbe camellia-256-cbc"),
        Some(Pkcs12Error::UnsupportedAlgorithm)
    );
    openssl.run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -subj /CN=a -out c.pem");
    assert_eq!(export("-inkey k -in c.pem"), Some(Pkcs12Error::UnsupportedAlgorithm));
}

#[test]
fn no_damage_makes_a_panic() {
    let openssl = OpenSsl::new();
    certified(&openssl, AsymmetricSpec::Sm2);
    openssl.run("pkcs12 -export -inkey leaf.key -in leaf.pem -iter 1 -passout pass:x -out f.p12");
    let file = openssl.read("f.p12");
    for at in 0..file.len() {
        assert!(pkcs12_read(&file[..at], "x").is_err());
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let _ = pkcs12_read(&damaged, "x");
        // Past the MAC, where the parts themselves are read.
        let Ok(pfx) = Pfx::from_der(&damaged) else { continue };
        let Ok(safe) = octets(pfx.content.content) else { continue };
        for part in Vec::<ContentInfo<'_>>::from_der(safe).unwrap_or_default() {
            let _ = Contents::default().read_part(&part, &Passphrase::new("x"), &mut Budget::new());
        }
    }
    assert_eq!(pkcs12_read(&vec![0x30; MAX_FILE + 1], "x").err(), Some(Pkcs12Error::Format));
}
