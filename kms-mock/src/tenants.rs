//! Who may call: access keys with their secrets, whether they are frozen, and how many calls a second they may make.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::error::*;

/// An access key and its secret key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub access_key: String,
    pub secret_key: String,
}

impl Credential {
    /// 32 hexadecimal characters each, like the vendor's.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Credential { access_key: random_hex()?, secret_key: random_hex()? })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.access_key)
    }
}

/// 32 hexadecimal characters of 16 random bytes.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; 16]);
    getrandom::fill(&mut *bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub struct Tenant {
    pub secret_key: Zeroizing<String>,
    pub frozen: bool,
    /// Calls a second; `None` for the quota of the mock.
    pub quota: Option<u32>,
}

#[derive(Default)]
pub struct Tenants {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tenants: HashMap<String, Tenant>,
    default_quota: Option<u32>,
    /// Calls of an access key in the second named.
    used: HashMap<String, (Timestamp, u32)>,
}

impl Tenants {
    pub fn put(&self, access_key: &str, tenant: Tenant) {
        self.lock().tenants.insert(access_key.to_owned(), tenant);
    }

    /// The quota of access keys that have none of their own; `None` for no limit.
    pub fn set_quota(&self, per_second: Option<u32>) {
        let mut inner = self.lock();
        inner.default_quota = per_second;
        inner.used.clear();
    }

    /// Lifts every quota and unfreezes every tenant.
    pub fn reset(&self) {
        self.set_quota(None);
        for tenant in self.lock().tenants.values_mut() {
            tenant.quota = None;
            tenant.frozen = false;
        }
    }

    /// `None` if there is no such access key; false if it is frozen.
    pub fn set_frozen(&self, access_key: &str, frozen: bool) -> Option<()> {
        self.lock().tenants.get_mut(access_key).map(|tenant| tenant.frozen = frozen)
    }

    pub fn secret_key(&self, access_key: &str) -> Option<Zeroizing<String>> {
        self.lock().tenants.get(access_key).map(|tenant| tenant.secret_key.clone())
    }

    pub fn is_frozen(&self, access_key: &str) -> bool {
        self.lock().tenants.get(access_key).is_none_or(|tenant| tenant.frozen)
    }

    /// Counts a call in the current second.
    pub fn charge(&self, access_key: &str, now: Timestamp) -> Result<(), Code> {
        let mut inner = self.lock();
        let own = inner.tenants.get(access_key).and_then(|tenant| tenant.quota);
        let Some(quota) = own.or(inner.default_quota) else { return Ok(()) };
        let used = inner.used.entry(access_key.to_owned()).or_insert((now, 0));
        if used.0 != now {
            *used = (now, 0);
        }
        if used.1 >= quota {
            return Err(KMS_0407);
        }
        used.1 += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_count_by_the_second() {
        let tenants = Tenants::default();
        let tenant = |quota| Tenant { secret_key: Zeroizing::new("s".into()), frozen: false, quota };
        tenants.put("a", tenant(None));
        tenants.put("b", tenant(Some(1)));
        tenants.set_quota(Some(2));
        assert_eq!([1, 1, 1, 2].map(|now| tenants.charge("a", now).is_ok()), [true, true, false, true]);
        assert_eq!([1, 1, 2].map(|now| tenants.charge("b", now).is_ok()), [true, false, true]);
        tenants.reset();
        assert!((0..10).all(|_| tenants.charge("b", 3).is_ok()));
    }

    #[test]
    fn secrets_are_not_printed() {
        let credential = Credential::generate().expect("random source");
        assert_eq!((credential.access_key.len(), credential.secret_key.len()), (32, 32));
        assert!(!format!("{credential:?}").contains(&credential.secret_key));
    }
}
