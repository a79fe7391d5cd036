//! Both authentications of the service: profile N (access point AK/SK, one HMAC over the sorted body values) and profile E (EOP
//! gateway). Pure functions over headers, path and body; who holds which secret is the business of `tenants`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use md5::{Digest, Md5};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::{self, BEIJING_OFFSET, Timestamp};
use crate::fields::RawFields;

/// Which protocol generation a request speaks; it also decides the form of a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Native,
    Eop,
}

/// A complete set of authentication headers, not yet believed.
#[derive(Debug)]
pub enum Presented {
    Native {
        access_key: String,
        date: String,
        hmac: String,
    },
    Eop {
        access_key: String,
        date: String,
        /// `name:value` of every signed header, sorted, each with LF.
        signed_headers: String,
        signature: String,
    },
}

/// What a signature covers besides the headers.
pub struct Signed<'a> {
    pub path: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
    /// The body as a JSON object; `None` if it is none. Profile N then signs the access key alone.
    pub fields: Option<&'a RawFields>,
}

impl Presented {
    /// The one complete set of headers of a request; `None` if there is none, or one of each profile.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        match (read_native(headers), read_eop(headers)) {
            (Some(native), None) => Some(native),
            (None, Some(eop)) => Some(eop),
            _ => None,
        }
    }

    pub fn profile(&self) -> Profile {
        match self {
            Presented::Native { .. } => Profile::Native,
            Presented::Eop { .. } => Profile::Eop,
        }
    }

    pub fn access_key(&self) -> &str {
        match self {
            Presented::Native { access_key, .. } | Presented::Eop { access_key, .. } => access_key,
        }
    }

    /// The moments that the date may mean: one, or for profile E two, since its `Z` stands for Beijing time and some clients
    /// send UTC. `None` if it is no date.
    pub fn moments(&self) -> Option<Vec<Timestamp>> {
        match self {
            Presented::Native { date, .. } => clock::parse_request_date(date).map(|at| vec![at]),
            Presented::Eop { date, .. } => clock::parse_eop_date(date).map(|at| vec![at - BEIJING_OFFSET, at]),
        }
    }

    /// Compares the signature in constant time.
    pub fn is_signed_with(&self, secret_key: &str, signed: &Signed<'_>) -> bool {
        let (mac, given) = match self {
            Presented::Native { access_key, date, hmac } => {
                (native_mac(access_key, secret_key, date, signed.path, signed.fields), hmac)
            }
            Presented::Eop { access_key, date, signed_headers, signature } => {
                (eop_mac(access_key, secret_key, date, signed_headers, signed), signature)
            }
        };
        BASE64.decode(given).is_ok_and(|given| mac.verify_slice(&given).is_ok())
    }
}

type HmacSha256 = Hmac<Sha256>;

fn read_native(headers: &HeaderMap) -> Option<Presented> {
    Some(Presented::Native {
        access_key: header(headers, "accessKey")?,
        date: header(headers, "requestDate")?,
        hmac: header(headers, "hmac")?,
    })
}

/// `Eop-Authorization: <ak> Headers=ctyun-eop-request-id;eop-date Signature=<Signature>`; two pages of the vendor write `Header=`.
fn read_eop(headers: &HeaderMap) -> Option<Presented> {
    header(headers, "ctyun-eop-request-id")?;
    let date = header(headers, "eop-date")?;
    let authorization = header(headers, "Eop-Authorization")?;
    let mut words = authorization.split_ascii_whitespace();
    let (access_key, names, signature) = (words.next()?, words.next()?, words.next()?);
    let names = names.strip_prefix("Headers=").or_else(|| names.strip_prefix("Header="))?;
    let signature = signature.strip_prefix("Signature=")?;
    let mut names: Vec<String> = names.split(';').map(str::to_ascii_lowercase).collect();
    names.sort_unstable();
    let complete = ["ctyun-eop-request-id", "eop-date"].iter().all(|name| names.iter().any(|given| given == name));
    if words.next().is_some() || !complete {
        return None;
    }
    let mut signed_headers = String::new();
    for name in names {
        signed_headers += &format!("{name}:{}\n", header(headers, &name)?);
    }
    Some(Presented::Eop { access_key: access_key.into(), date, signed_headers, signature: signature.into() })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Profile N: HMAC-SHA256(secretKey, contentMD5 LF requestDate LF servicePath).
fn native_mac(ak: &str, secret_key: &str, date: &str, path: &str, fields: Option<&RawFields>) -> HmacSha256 {
    let content_md5 = BASE64.encode(Md5::digest(native_content(ak, fields)));
    keyed(secret_key.as_bytes(), format!("{content_md5}\n{date}\n{path}").as_bytes())
}

/// The values of the body and of `accessKey`, in the order of their names, joined with LF.
fn native_content(access_key: &str, fields: Option<&RawFields>) -> String {
    let mut values: Vec<(&str, String)> = vec![("accessKey", access_key.to_owned())];
    if let Some(fields) = fields {
        values.extend(fields.signed_texts());
    }
    // Stable, so that a body field named accessKey comes after the real one.
    values.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    values.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

/// Profile E: a key derived from date and access key, over the signed headers, the query and the hash of the body as sent.
fn eop_mac(ak: &str, secret_key: &str, date: &str, signed_headers: &str, signed: &Signed<'_>) -> HmacSha256 {
    let text = eop_string_to_sign(signed_headers, signed.query, signed.body);
    keyed(&eop_key(ak, secret_key, date), text.as_bytes())
}

fn eop_string_to_sign(signed_headers: &str, query: &str, body: &[u8]) -> String {
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_by_key(|pair| pair.split('=').next());
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{signed_headers}\n{}\n{hash}", pairs.join("&"))
}

fn eop_key(ak: &str, secret_key: &str, date: &str) -> Zeroizing<Vec<u8>> {
    let step = |key: &[u8], data: &str| Zeroizing::new(keyed(key, data.as_bytes()).finalize().into_bytes().to_vec());
    let ktime = step(secret_key.as_bytes(), date);
    let kak = step(&ktime, ak);
    step(&kak, date.get(..8).unwrap_or(date))
}

fn keyed(key: &[u8], data: &[u8]) -> HmacSha256 {
    let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(data);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Wed, 16 Jul 2025 15:47:53 CST";
    const AK: &str = "0123456789abcdef0123456789abcdef";
    const SK: &str = "fedcba9876543210fedcba9876543210";
    const SIGNED: &str = "ctyun-eop-request-id:27cfe4dc-e640-45f6-92ca-492ca73e8680\neop-date:20250716T154753Z\n";

    fn native(path: &str, body: &str, content: &str, content_md5: &str, hmac: &str) {
        let fields = RawFields::parse(body.as_bytes()).expect("an object");
        assert_eq!(native_content("AKEXAMPLE0001", Some(&fields)), content);
        assert_eq!(BASE64.encode(Md5::digest(content)), content_md5);
        let mac = native_mac("AKEXAMPLE0001", "SKEXAMPLE0001secret", DATE, path, Some(&fields));
        assert_eq!(BASE64.encode(mac.finalize().into_bytes()), hmac);
    }

    #[test]
    fn vector_n1_encrypt() {
        native(
            "/keyCompute/encrypt",
            r#"{"cmkUuid":"241ede22-6261-4617-9caf-10d89990516c","plaintext":"SGVsbG8gd29ybGQ="}"#,
            "AKEXAMPLE0001\n241ede22-6261-4617-9caf-10d89990516c\nSGVsbG8gd29ybGQ=",
            "PYLqC6yittOUQ1+BBhSU+A==",
            "y0KB3DMOR/DpqiyJ9VK2XfPCOFwgve/tyOF1LidhbjQ=",
        );
    }

    #[test]
    fn vector_n2_generate_data_key() {
        native(
            "/keyCompute/generateDataKey",
            r#"{"cmkUuid":"241ede22-6261-4617-9caf-10d89990516c","keySpec":"AES_256"}"#,
            "AKEXAMPLE0001\n241ede22-6261-4617-9caf-10d89990516c\nAES_256",
            "h8Ba3NJs75U8SQN0xjPmFw==",
            "lyHsIragnbEEFf0jZRpjKixusxgPEvaE4pelx7J6LPU=",
        );
    }

    #[test]
    fn vector_n3_booleans() {
        native(
            "/keyVersion/updateRotationPolicy",
            r#"{"cmkUuid":"241ede22-6261-4617-9caf-10d89990516c","enableAutomaticRotation":true,"rotationInterval":"30"}"#,
            "AKEXAMPLE0001\n241ede22-6261-4617-9caf-10d89990516c\ntrue\n30",
            "2kbrT7GDJgb/TTJ7+uzdTw==",
            "M+Djfc924NcfjgWf3TDifN155GBXfkg6RQ2YYCmDlcw=",
        );
    }

    #[test]
    fn vector_n4_empty_object() {
        native(
            "/cmkManage/listKeys",
            "{}",
            "AKEXAMPLE0001",
            "e5BtzKc/ZJVvkvbnarBv4Q==",
            "Fhf2wHOmoZVD5xLk2KVoSSOGvmyEY7xG5w5xbX1UTP8=",
        );
    }

    #[test]
    fn names_are_sorted_bytewise_and_nested_values_are_compact() {
        let fields =
            RawFields::parse(br#"{"b":{"y": 1, "x": "a b"},"Z":7,"a":null,"c":[true, false]}"#).expect("object");
        assert_eq!(native_content("AK", Some(&fields)), "7\n\nAK\n{\"y\":1,\"x\":\"a b\"}\n[true,false]");
        assert_eq!(native_content("AK", None), "AK");
    }

    fn eop(query: &str, body: &[u8]) -> String {
        let signed = Signed { path: "/", query, body, fields: None };
        BASE64.encode(eop_mac(AK, SK, "20250716T154753Z", SIGNED, &signed).finalize().into_bytes())
    }

    #[test]
    fn vector_e1_body() {
        let body = br#"{"cmkUuid":"241ede22-6261-4617-9caf-10d89990516c","keySpec":"AES_256"}"#;
        assert_eq!(body.len(), 70);
        let text = eop_string_to_sign(SIGNED, "", body);
        assert_eq!(text, format!("{SIGNED}\n\nef46a8e5239c0f0935387ff54464845f627c19695e285662e00993b3dbcebacc"),);
        assert_eq!(
            hex::encode(&*eop_key(AK, SK, "20250716T154753Z")),
            "50f669a5468625c97a5883e147baea7e2ea97687d5259bcd0506cbdd89502fa1"
        );
        assert_eq!(eop("", body), "GalgdAISCrgehcpRS7aThug9vyxJduAHk33GSIsiyX8=");
    }

    #[test]
    fn vector_e2_query() {
        assert_eq!(eop("pageNumber=1&pageSize=10", b""), "gtwzc0lTdnb55UIYUiEAXzcrue7eQQCfQWJN9a/A8ec=");
        assert_eq!(eop("pageSize=10&pageNumber=1", b""), eop("pageNumber=1&pageSize=10", b""));
    }

    #[test]
    fn the_vendors_body_hash() {
        let body = br#"{"product_code": "008", "tag_group": "Ypp-group_1702950925", "tag": "1702950925-yPP_tag-1"}"#;
        assert!(
            eop_string_to_sign("", "", body)
                .ends_with("59fc6acc115298cbac86cb188f995f7804ff6633a6d6e87acab7a9131bdabc66")
        );
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = hyper::header::HeaderName::try_from(*name).expect("a name");
            map.insert(name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn one_complete_set_of_headers() {
        let native = [("accessKey", "A"), ("requestDate", DATE), ("hmac", "x")];
        assert_eq!(Presented::read(&headers(&native)).map(|p| p.profile()), Some(Profile::Native));
        let eop = |authorization| {
            vec![("ctyun-eop-request-id", "1"), ("eop-date", "20250716T154753Z"), ("Eop-Authorization", authorization)]
        };
        for good in [
            "A Headers=ctyun-eop-request-id;eop-date Signature=x",
            "A Header=Eop-Date;ctyun-eop-request-id Signature=x",
        ] {
            assert_eq!(Presented::read(&headers(&eop(good))).map(|p| p.profile()), Some(Profile::Eop));
        }
        for bad in ["A", "A Headers=eop-date Signature=x", "A Headers=ctyun-eop-request-id;eop-date;x-none Signature=x"]
        {
            assert!(Presented::read(&headers(&eop(bad))).is_none(), "{bad}");
        }
        for missing in 0..3 {
            let part: Vec<_> = (0..3).filter(|i| *i != missing).map(|i| native[i]).collect();
            assert!(Presented::read(&headers(&part)).is_none());
        }
        let mut both = eop("A Headers=ctyun-eop-request-id;eop-date Signature=x");
        both.extend(native);
        assert!(Presented::read(&headers(&both)).is_none());
    }
}
