//! Certificates and chains of OpenSSL, and damaged ones.

use super::*;
use crate::asymmetric::{AsymmetricSpec, PrivateKey, system_rng};
use crate::openssl::OpenSsl;
use crate::pki::{Subject, csr};

/// Without it OpenSSL signs and verifies with SM2 in the name of nobody.
const SIGNER: &str = "distid:1234567812345678";

/// A root and an authority under it: files `root.{key,pem}` and `ca.{key,pem}`.
fn authorities(openssl: &OpenSsl, spec: AsymmetricSpec) {
    let (new_key, sign) = match spec {
        AsymmetricSpec::Rsa2048 => ("-algorithm RSA -pkeyopt rsa_keygen_bits:3072", "-sha384".to_owned()),
        AsymmetricSpec::Sm2 => ("-algorithm SM2", format!("-sm3 -sigopt {SIGNER}")),
    };
    openssl.run(&format!("genpkey {new_key} -out root.key"));
    openssl.run(&format!("genpkey {new_key} -out ca.key"));
    openssl.write("ca.ext", "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n");
    openssl.run(&format!("req -x509 -key root.key -subj /C=CN/CN=Root -days 30 {sign} -out root.pem"));
    openssl.run(&format!("req -new -key ca.key -subj /C=CN/CN=CA {sign} -out ca.csr"));
    issue(openssl, "ca", "root", "ca.ext", if spec == AsymmetricSpec::Sm2 { "-sm3" } else { "-sha384" });
}

/// Issues `NAME.pem` for `NAME.csr`.
fn issue(openssl: &OpenSsl, name: &str, by: &str, extensions: &str, sign: &str) {
    let sign = if sign.contains("-sm3") { format!("-sm3 -vfyopt {SIGNER} -sigopt {SIGNER}") } else { sign.to_owned() };
    openssl.run(&format!(
        "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -set_serial 0x00d1ab -days 20 -extfile {extensions} {sign} -out {name}.pem"
    ));
}

struct Issued {
    key: PrivateKey,
    leaf: Certificate,
    chain: Vec<Certificate>,
}

/// A certificate for our request, issued by OpenSSL's authority.
fn issued(openssl: &OpenSsl, spec: AsymmetricSpec) -> Issued {
    let sign = if spec == AsymmetricSpec::Sm2 { "-sm3" } else { "-sha256" };
    authorities(openssl, spec);
    let key = PrivateKey::generate(spec, &mut system_rng());
    let subject = Subject::parse(r"C=CN,O=天翼云\, Example,CN=www.example.com").unwrap();
    openssl.write("leaf.csr", csr(&key, &subject, &["www.example.com".to_owned()], &mut system_rng()).unwrap());
    openssl.write(
        "leaf.ext",
        "subjectAltName=DNS:www.example.com,IP:2001:db8::1,email:a@b.cn\nsubjectKeyIdentifier=hash\n",
    );
    issue(openssl, "leaf", "ca", "leaf.ext", sign);
    let leaf = Certificate::from_pem(&openssl.read_text("leaf.pem")).unwrap();
    let chain = openssl.read_text("ca.pem") + &openssl.read_text("root.pem");
    Issued { key, leaf, chain: Certificate::chain_from_pem(&chain).unwrap() }
}

#[test]
fn certificates_of_openssl_are_read_and_their_chain_is_good() {
    for spec in [AsymmetricSpec::Rsa2048, AsymmetricSpec::Sm2] {
        let openssl = OpenSsl::new();
        let Issued { key, leaf, chain } = issued(&openssl, spec);
        assert_eq!(leaf.public_key(), Some(&key.public()));
        assert_eq!(leaf.subject(), r"C=CN,O=天翼云\, Example,CN=www.example.com");
        assert_eq!((leaf.issuer().as_str(), leaf.serial().as_str()), ("C=CN,CN=CA", "d1ab"));
        assert_eq!(leaf.subject_alternative_names(), ["www.example.com", "2001:db8::1", "a@b.cn"]);
        assert_eq!(leaf.not_after() - leaf.not_before(), 20 * 86_400);
        let text = openssl.text("x509 -in leaf.pem -noout -ext subjectKeyIdentifier");
        let identifier = text.lines().last().unwrap().trim().replace(':', "").to_lowercase();
        assert_eq!(leaf.subject_key_identifier(), identifier);
        let text = openssl.text("x509 -in leaf.pem -noout -text");
        assert!(text.contains(leaf.signature_algorithm()), "{text}");
        assert_eq!(leaf.pem(), openssl.read_text("leaf.pem"));
        assert!(verify_chain(&leaf, &chain));
        assert!(verify_chain(&leaf, &chain[..1]));
        assert!(verify_chain(&leaf, &[]));
    }
}

#[test]
fn a_chain_with_a_wrong_link_is_bad() {
    let openssl = OpenSsl::new();
    let Issued { leaf, chain, .. } = issued(&openssl, AsymmetricSpec::Sm2);
    let [ca, root] = &chain[..] else { panic!("two authorities") };
    assert!(!verify_chain(&leaf, std::slice::from_ref(root)));
    assert!(!verify_chain(&leaf, &[root.clone(), ca.clone()]));
    assert!(!verify_chain(&leaf, &[ca.clone(), ca.clone()]));
    assert!(!verify_chain(ca, std::slice::from_ref(&leaf)));
    let other = OpenSsl::new();
    let Issued { chain: same_names, .. } = issued(&other, AsymmetricSpec::Sm2);
    assert!(!verify_chain(&leaf, &same_names));
    assert!(!verify_chain(&leaf, &[ca.clone(), same_names[1].clone()]));
}

/// The leaf signs for somebody, and the authority lets another authority issue though its path length is 0.
#[test]
fn who_may_not_issue_breaks_the_chain() {
    let openssl = OpenSsl::new();
    let Issued { key, leaf, chain } = issued(&openssl, AsymmetricSpec::Rsa2048);
    openssl.write("leaf.key", crate::pki::to_pem("PRIVATE KEY", &key.to_pkcs8_der()));
    let request = csr(&key, &Subject::parse("CN=below").unwrap(), &[], &mut system_rng()).unwrap();
    openssl.write("below.csr", &request);
    issue(&openssl, "below", "leaf", "leaf.ext", "-sha256");
    let below = Certificate::from_pem(&openssl.read_text("below.pem")).unwrap();
    assert!(below.is_issued_by(&leaf));
    assert!(!verify_chain(&below, std::slice::from_ref(&leaf)));

    openssl.write("sub.csr", csr(&key, &Subject::parse("CN=sub").unwrap(), &[], &mut system_rng()).unwrap());
    issue(&openssl, "sub", "ca", "ca.ext", "-sha512");
    openssl.write("sub.key", openssl.read("leaf.key"));
    issue(&openssl, "below", "sub", "leaf.ext", "-sha256");
    let below = Certificate::from_pem(&openssl.read_text("below.pem")).unwrap();
    let sub = Certificate::from_pem(&openssl.read_text("sub.pem")).unwrap();
    assert!(verify_chain(&below, std::slice::from_ref(&sub)));
    assert!(!verify_chain(&below, &[sub, chain[0].clone()]));
}

#[test]
fn a_self_signed_certificate_answers_for_itself() {
    let openssl = OpenSsl::new();
    authorities(&openssl, AsymmetricSpec::Sm2);
    let root = Certificate::from_pem(&openssl.read_text("root.pem")).unwrap();
    assert!(root.is_self_issued() && verify_chain(&root, &[]));
    let mut broken = root.der().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let broken = Certificate::from_der(&broken).unwrap();
    assert!(!verify_chain(&broken, &[]));
}

#[test]
fn other_algorithms_are_told_from_other_formats() {
    let openssl = OpenSsl::new();
    for (kind, sign) in [
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha256"),
        ("rsa:1024", "-sha256"),
        ("rsa:2048", "-sha1"),
        ("rsa:2048", "-sha256 -sigopt rsa_padding_mode:pss"),
        ("ed25519", ""),
    ] {
        openssl.run(&format!("req -x509 -newkey {kind} -nodes -keyout k -subj /CN=a {sign} -out c.pem"));
        let read = Certificate::from_pem(&openssl.read_text("c.pem"));
        assert_eq!(read, Err(CertificateError::UnsupportedAlgorithm), "{kind} {sign}");
    }
    openssl.run("req -x509 -newkey rsa:2048 -nodes -keyout k -subj /CN=a -out c.pem");
    let pem = openssl.read_text("c.pem");
    assert!(Certificate::from_pem(&pem).is_ok());
    let format = Err(CertificateError::Format);
    assert_eq!(Certificate::from_pem(&pem.repeat(2)), format);
    assert_eq!(Certificate::from_pem(""), format);
    assert_eq!(Certificate::chain_from_pem(&pem.repeat(MAX_CHAIN + 1)), Err(CertificateError::Format));
    assert_eq!(Certificate::chain_from_pem(&pem.repeat(MAX_CHAIN)).map(|chain| chain.len()), Ok(MAX_CHAIN));
}

#[test]
fn no_damage_makes_a_panic() {
    let openssl = OpenSsl::new();
    let Issued { leaf, .. } = issued(&openssl, AsymmetricSpec::Sm2);
    for at in 0..leaf.der().len() {
        assert!(Certificate::from_der(&leaf.der()[..at]).is_err());
        for flip in [1, 0x80, 0xff] {
            let mut damaged = leaf.der().to_vec();
            damaged[at] ^= flip;
            if let Ok(certificate) = Certificate::from_der(&damaged) {
                let _ = (certificate.subject(), certificate.issuer(), certificate.serial(), certificate.not_after());
            }
        }
    }
}
