//! Every API of the service: its name, its path, the fields it takes and gives, the codes it may answer, its function. One file a
//! family. A path that is not here is one that nobody may visit (KMS.0405).

mod access_point;
mod alias;
mod certificate;
mod import;
mod key_compute;
mod key_lifecycle;
mod key_version;
mod random_digest;
mod tag;
mod ukey;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::api::{Call, Reply};
use crate::error::{Code, KMS_0128, KMS_0129, KMS_0401, KMS_0402, KMS_0403, KMS_0404, KMS_0405, KMS_0406, KMS_0407};
use crate::fields::Field;

/// One path of the service.
pub struct Route {
    pub api: &'static str,
    pub path: &'static str,
    /// Its title on the provider's page.
    pub title: &'static str,
    pub request: &'static [Field],
    pub response: &'static [Output],
    /// Codes it may answer beside those of [`COMMON`], injected faults apart.
    pub codes: &'static [Code],
    pub run: fn(&Call<'_>) -> Reply,
}

/// A field of an answer.
pub struct Output {
    pub name: &'static str,
    pub shape: Shape,
    /// Whether every success has it.
    pub always: bool,
}

#[derive(Clone, Copy)]
pub enum Shape {
    Text,
    Number,
    Flag,
    Texts,
    Object(&'static [Output]),
    Objects(&'static [Output]),
}

pub const fn output(name: &'static str, shape: Shape) -> Output {
    Output { name, shape, always: true }
}

/// A field that some successes have, and others have not.
pub const fn sometimes(name: &'static str, shape: Shape) -> Output {
    Output { name, shape, always: false }
}

/// The codes of the checks that come before every API.
pub const COMMON: &[Code] = &[KMS_0128, KMS_0129, KMS_0401, KMS_0402, KMS_0403, KMS_0404, KMS_0405, KMS_0406, KMS_0407];

/// A family of APIs, as the provider's page groups them.
pub struct Family {
    pub name: &'static str,
    pub title: &'static str,
    pub routes: &'static [Route],
}

pub static FAMILIES: &[Family] = &[
    Family { name: "Key lifecycle", title: "密钥生命周期管理", routes: key_lifecycle::ROUTES },
    Family { name: "Aliases", title: "别名管理", routes: alias::ROUTES },
    Family { name: "Import of key material", title: "外部密钥导入", routes: import::ROUTES },
    Family { name: "Key versions", title: "密钥版本管理", routes: key_version::ROUTES },
    Family { name: "Cryptographic operations", title: "密码运算", routes: key_compute::ROUTES },
    Family { name: "Random numbers and digests", title: "随机数与摘要", routes: random_digest::ROUTES },
    Family { name: "Certificates", title: "证书管理", routes: certificate::ROUTES },
    Family { name: "Certificates of USB keys", title: "UK证书管理", routes: ukey::ROUTES },
    Family { name: "Access points", title: "应用接入点管理", routes: access_point::ROUTES },
    Family { name: "Tags", title: "标签管理", routes: tag::ROUTES },
];

pub fn all() -> impl Iterator<Item = &'static Route> {
    FAMILIES.iter().flat_map(|family| family.routes)
}

pub fn find(path: &str) -> Option<&'static Route> {
    static BY_PATH: LazyLock<HashMap<&str, &Route>> =
        LazyLock::new(|| all().map(|route| (route.path, route)).collect());
    BY_PATH.get(path).copied()
}

/// APIs that may take long: they make RSA key pairs, or keys from pass phrases.
const SLOW: [&str; 5] =
    ["createKey", "getParametersForImport", "createCertificate", "importCertificate", "exportCertificate"];

impl Route {
    /// Whether it is worth a thread of its own.
    pub fn is_slow(&self) -> bool {
        SLOW.contains(&self.api)
    }
}

pub fn is_api(name: &str) -> bool {
    all().any(|route| route.api == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Paths whose last part is not the name of the API.
    const OTHER_NAMES: [&str; 3] = ["/create/datakey", "/get/hmaccompute", "/get/random"];

    #[test]
    fn paths_are_unique_and_end_in_the_name_of_their_api() {
        for route in all() {
            assert_eq!(all().filter(|other| other.path == route.path).count(), 1);
            assert!(route.path.ends_with(&format!("/{}", route.api)) || OTHER_NAMES.contains(&route.path));
        }
        assert!(find("/keyCompute/encrypt").is_some() && find("/keyCompute/encrypt/").is_none());
    }

    /// The provider's navigation tree has 80 APIs; two more are attested beside it (messageDigest, and the verification for USB
    /// keys). importCertificate and generateRandom stand elsewhere in the tree.
    #[test]
    fn every_api_of_the_service_is_there() {
        let counts: Vec<usize> = FAMILIES
            .iter()
            .map(|family| family.routes.iter().map(|route| route.api).collect::<BTreeSet<_>>().len())
            .collect();
        assert_eq!(counts, [10, 5, 3, 4, 13, 2, 13, 6, 20, 6]);
        assert_eq!(counts.iter().sum::<usize>(), 82);
    }

    #[test]
    fn every_row_names_a_field_or_a_code_once() {
        for route in all() {
            for field in route.request {
                assert_eq!(route.request.iter().filter(|other| other.name == field.name).count(), 1, "{}", route.api);
            }
            for code in route.codes {
                assert_eq!(route.codes.iter().filter(|other| *other == code).count(), 1, "{} {code:?}", route.api);
                assert!(!COMMON.contains(code), "{} {code:?}", route.api);
            }
        }
    }
}
