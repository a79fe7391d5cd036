//! The tokens of getParametersForImport: each is bound to one key, one key pair and one day.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::key::DAY;
use crate::store::Record;

pub const TOKEN_LIFE: i64 = DAY;

#[derive(Serialize, Deserialize)]
pub struct ImportToken {
    pub token: String,
    pub cmk_uuid: String,
    /// Name of the wrapping algorithm.
    pub algorithm: String,
    /// PKCS#8 in Base64.
    pub private_key: Zeroizing<String>,
    pub expires: Timestamp,
}

impl Record for ImportToken {
    const TABLE: &'static str = "import_tokens";

    fn id(&self) -> &str {
        &self.token
    }

    fn due(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}
