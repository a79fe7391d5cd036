//! Everything the mock knows while it runs, shared by its connections, the control doors and the handle of the library.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::LastUsed;
use crate::blob::PayloadMode;
use crate::calls::Calls;
use crate::clock::{Clock, Timestamp};
use crate::console::Token;
use crate::dice::Dice;
use crate::fault::Faults;
use crate::key::{Alias, Key, KeySpec, Protection};
use crate::latency::Latencies;
use crate::random::Random;
use crate::store::{Store, StoreError};
use crate::tenants::Tenants;
use crate::usage::Usage;

pub struct Service {
    pub store: Store,
    pub tenants: Tenants,
    pub clock: Clock,
    pub faults: Faults,
    pub latencies: Latencies,
    /// What latencies and faults with a probability are drawn from.
    pub dice: Dice,
    pub calls: Calls,
    pub usage: Usage,
    pub last_used: LastUsed,
    pub random: Random,
    pub console_token: Token,
    pub started: Timestamp,
    /// Whether the control doors are open.
    pub control: bool,
    /// How long a client may take to send a header, or a body.
    pub read_timeout: Duration,
    switches: Mutex<Switches>,
}

/// What can be switched while the mock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switches {
    /// createKey fills in what it would refuse as absent, SM4 keys may have SOFTWARE protection, AES keys make AES_128 data keys.
    pub lenient: bool,
    /// Errors are sent with HTTP status 200; only the body tells.
    pub soft_errors: bool,
    pub payload_mode: PayloadMode,
    /// How far the date of a request may be from the clock of the mock, in seconds.
    pub skew_s: u64,
    /// Longest body, in bytes.
    pub max_body: usize,
    /// listAliases demands a `regionId` (KMS.0115).
    pub strict_region: bool,
    /// How old the latest version of a key must be before createKeyVersion makes another, in seconds.
    pub rotation_min_age_s: u64,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            lenient: false,
            soft_errors: false,
            payload_mode: PayloadMode::Gcm,
            skew_s: 900,
            max_body: MAX_BODY,
            strict_region: false,
            rotation_min_age_s: 7 * 86_400,
        }
    }
}

/// The default and the upper bound of `max_body`.
pub const MAX_BODY: usize = 65_536;

impl Service {
    pub fn new(
        store: Store,
        tenants: Tenants,
        random: Random,
        switches: Switches,
        control: bool,
        read_timeout: Duration,
    ) -> Self {
        Service {
            store,
            tenants,
            clock: Clock::default(),
            faults: Faults::default(),
            latencies: Latencies::default(),
            dice: Dice::new(random.number()),
            calls: Calls::default(),
            usage: Usage::default(),
            console_token: Token::new(&random),
            started: Clock::default().now(),
            last_used: LastUsed::default(),
            random,
            control,
            read_timeout,
            switches: Mutex::new(bounded(switches)),
        }
    }

    pub fn switches(&self) -> Switches {
        *self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_switches(&self, switches: Switches) {
        *self.switches.lock().unwrap_or_else(PoisonError::into_inner) = bounded(switches);
    }

    /// Forgets faults, latencies, calls, quotas and the movement of the clock. Keys and switches stay.
    pub fn reset(&self) {
        self.faults.clear();
        self.latencies.clear();
        self.calls.reset();
        self.usage.reset();
        self.tenants.reset();
        self.clock.reset();
    }

    /// Makes the default CMK of a cloud product unless it is there.
    pub fn seed(&self, product: &str) -> Result<(), StoreError> {
        let alias = format!("alias/{product}");
        if self.store.key_by_alias(&alias).is_some() {
            return Ok(());
        }
        let key = Key::generate(KeySpec::Aes256, Protection::Software, self.clock.now(), &self.random);
        let key = Key { product: Some(product.to_owned()), creator: "system".to_owned(), ..key };
        self.store.change(|state| {
            state.aliases.put(Alias { name: alias, cmk_uuid: key.id.clone() });
            state.keys.put(key);
            Ok(())
        })
    }
}

fn bounded(switches: Switches) -> Switches {
    Switches { max_body: switches.max_body.min(MAX_BODY), ..switches }
}
