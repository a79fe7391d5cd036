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

    /// Whether a header can carry it: printable ASCII without spaces.
    pub fn is_access_key(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
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
    /// What access keys without a quota of their own may make in all.
    default_quota: Option<u32>,
    /// What each access key may make of one API.
    api_quotas: HashMap<String, u32>,
    /// Calls of an access key in the second named: of one API, or of all (`""`).
    used: HashMap<(String, &'static str), (Timestamp, u32)>,
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

    /// The quota of access keys that have none of their own.
    pub fn quota(&self) -> Option<u32> {
        self.lock().default_quota
    }

    /// How many calls of one API each access key may make, besides what it may make in all; `None` for no limit.
    pub fn set_api_quota(&self, api: &str, per_second: Option<u32>) {
        let mut inner = self.lock();
        match per_second {
            Some(per_second) => drop(inner.api_quotas.insert(api.to_owned(), per_second)),
            None => drop(inner.api_quotas.remove(api)),
        }
        inner.used.clear();
    }

    /// Lifts every quota and unfreezes every tenant.
    pub fn reset(&self) {
        self.set_quota(None);
        let mut inner = self.lock();
        inner.api_quotas.clear();
        for tenant in inner.tenants.values_mut() {
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

    /// Counts a call of `api` in the current second, unless a quota forbids it.
    pub fn charge(&self, access_key: &str, api: &'static str, now: Timestamp) -> Result<(), Code> {
        let inner = &mut *self.lock();
        let own = inner.tenants.get(access_key).and_then(|tenant| tenant.quota);
        let quotas = [("", own.or(inner.default_quota)), (api, inner.api_quotas.get(api).copied())];
        let limits = || quotas.iter().filter_map(|(scope, quota)| quota.map(|quota| (*scope, quota)));
        for (scope, quota) in limits() {
            let used = inner.used.entry((access_key.to_owned(), scope)).or_insert((now, 0));
            if used.0 != now {
                *used = (now, 0);
            }
            if used.1 >= quota {
                return Err(KMS_0407);
            }
        }
        for (scope, _) in limits() {
            inner.used.entry((access_key.to_owned(), scope)).and_modify(|used| used.1 += 1);
        }
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
        assert_eq!([1, 1, 1, 2].map(|now| tenants.charge("a", "x", now).is_ok()), [true, true, false, true]);
        assert_eq!([1, 1, 2].map(|now| tenants.charge("b", "x", now).is_ok()), [true, false, true]);
        tenants.reset();
        assert!((0..10).all(|_| tenants.charge("b", "x", 3).is_ok()));
    }

    #[test]
    fn quotas_of_an_api_count_beside_the_one_of_all() {
        let tenants = Tenants::default();
        tenants.set_quota(Some(3));
        tenants.set_api_quota("x", Some(1));
        let mut charge = |api| tenants.charge("a", api, 1).is_ok();
        // What one quota refuses is not counted by the other.
        assert_eq!(["x", "x", "x", "y", "y", "y"].map(&mut charge), [true, false, false, true, true, false]);
        assert!(tenants.charge("b", "x", 1).is_ok(), "each access key has its own");
        tenants.set_api_quota("x", None);
        assert_eq!([(); 4].map(|()| tenants.charge("a", "x", 1).is_ok()), [true, true, true, false]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let credential = Credential::generate().expect("random source");
        assert_eq!((credential.access_key.len(), credential.secret_key.len()), (32, 32));
        assert!(!format!("{credential:?}").contains(&credential.secret_key));
    }
}
