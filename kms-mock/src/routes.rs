//! Every API of the service that the mock answers: its name, its path, the fields it takes, its function. A path that is not here
//! is one that nobody may visit (KMS.0405).

use crate::api::{Call, Reply, key_compute, key_lifecycle};
use crate::fields::Kind::{self, Any, Number, Text, TextOrNumber};

/// One path of the service.
pub struct Route {
    pub api: &'static str,
    pub path: &'static str,
    pub fields: &'static [(&'static str, Kind)],
    pub run: fn(&Call<'_>) -> Reply,
}

pub fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path)
}

#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    // Key lifecycle
    Route { api: "createKey", path: "/cmkManage/createKey", fields: CREATE_KEY, run: key_lifecycle::create_key },
    Route { api: "enableKey", path: "/cmkManage/enableKey", fields: CMK, run: key_lifecycle::enable_key },
    Route { api: "disableKey", path: "/cmkManage/disableKey", fields: CMK, run: key_lifecycle::disable_key },
    Route { api: "scheduleKeyDeletion", path: "/cmkManage/scheduleKeyDeletion", fields: SCHEDULE, run: key_lifecycle::schedule_key_deletion },
    Route { api: "cancelKeyDeletion", path: "/cmkManage/cancelKeyDeletion", fields: CMK, run: key_lifecycle::cancel_key_deletion },
    Route { api: "describeKey", path: "/cmkManage/describeKey", fields: CMK, run: key_lifecycle::describe_key },
    Route { api: "listKeys", path: "/cmkManage/listKeys", fields: LIST_KEYS, run: key_lifecycle::list_keys },
    // Cryptographic operations
    Route { api: "encrypt", path: "/keyCompute/encrypt", fields: ENCRYPT, run: key_compute::encrypt },
    Route { api: "generateDataKey", path: "/keyCompute/generateDataKey", fields: DATA_KEY, run: key_compute::generate_data_key },
    // The path that a client's comment gives as an example
    Route { api: "generateDataKey", path: "/create/datakey", fields: DATA_KEY, run: key_compute::generate_data_key },
    Route { api: "generateDataKeyWithoutPlaintext", path: "/keyCompute/generateDataKeyWithoutPlaintext", fields: DATA_KEY, run: key_compute::generate_data_key_without_plaintext },
    Route { api: "decrypt", path: "/keyCompute/decrypt", fields: DECRYPT, run: key_compute::decrypt },
    Route { api: "reEncrypt", path: "/keyCompute/reEncrypt", fields: RE_ENCRYPT, run: key_compute::re_encrypt },
];

const CMK: &[(&str, Kind)] = &[("cmkUuid", Text)];
const CREATE_KEY: &[(&str, Kind)] = &[
    ("keySpec", Text),
    ("keyUsage", Text),
    ("protectionLevel", TextOrNumber),
    ("enableAutomaticRotation", Any),
    ("rotationInterval", TextOrNumber),
    ("origin", Text),
    ("description", Text),
    ("algorithm", Text),
    ("instanceId", Text),
    ("epId", Text),
    ("tags", Any),
];
const SCHEDULE: &[(&str, Kind)] = &[("cmkUuid", Text), ("pendingWindowInDays", Number)];
const LIST_KEYS: &[(&str, Kind)] = &[
    ("pageNumber", Number),
    ("pageSize", Number),
    ("keyState", Text),
    ("keySpec", Text),
    ("keyUsage", Text),
    ("origin", Text),
    ("protectionLevel", TextOrNumber),
    ("product", Text),
];
const ENCRYPT: &[(&str, Kind)] = &[("cmkUuid", Text), ("plaintext", Text)];
const DATA_KEY: &[(&str, Kind)] = &[("cmkUuid", Text), ("keySpec", Text), ("numberOfBytes", Number)];
const DECRYPT: &[(&str, Kind)] = &[("ciphertextBlob", Text)];
const RE_ENCRYPT: &[(&str, Kind)] = &[
    ("ciphertextBlob", Text),
    ("destinationCmkUuid", Text),
    ("sourceCmkUuid", Text),
    ("sourceKeyVersionId", Text),
    ("sourceEncryptionAlgorithm", Text),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_end_in_the_name_of_their_api() {
        for route in ROUTES {
            assert_eq!(ROUTES.iter().filter(|other| other.path == route.path).count(), 1);
            assert!(route.path.ends_with(&format!("/{}", route.api)) || route.path == "/create/datakey");
        }
        assert!(find("/keyCompute/encrypt/").is_none());
    }
}
