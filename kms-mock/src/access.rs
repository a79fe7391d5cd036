//! Application access points: who calls through them, what they may call, which resources they may touch, and from where.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::random::Random;
use crate::store::{Record, State};
use crate::tenants::Tenants;

/// The one VPC of the mock and its subnets: id, name, addresses.
pub const VPC: [&str; 3] = ["6f1a3c52-0d84-4b7e-9a25-3e7c18d4f001", "vpc-default", "192.168.0.0/16"];
pub const SUBNETS: [[&str; 3]; 2] = [
    ["6f1a3c52-0d84-4b7e-9a25-3e7c18d4f101", "subnet-a", "192.168.0.0/24"],
    ["6f1a3c52-0d84-4b7e-9a25-3e7c18d4f102", "subnet-b", "192.168.1.0/24"],
];

/// What permissions and tags are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResourceType {
    #[serde(rename = "CMK")]
    Cmk,
    #[serde(rename = "CERTIFICATE")]
    Certificate,
}

impl ResourceType {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "CMK" => Some(ResourceType::Cmk),
            "CERTIFICATE" => Some(ResourceType::Certificate),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ResourceType::Cmk => "CMK",
            ResourceType::Certificate => "CERTIFICATE",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessPoint {
    pub id: String,
    pub name: String,
    pub instance_id: String,
    pub vpc_id: String,
    pub subnet_id: String,
    pub description: String,
    pub created: Timestamp,
    /// Whether `apis` and `resources` are applied.
    pub permission_check: bool,
    /// Interfaces by name. While it is empty it restricts nothing; otherwise only what it lists as allowed may be called.
    pub apis: BTreeMap<String, bool>,
    /// By the same rule.
    pub resources: BTreeMap<ResourceType, BTreeMap<String, bool>>,
    /// While it is not empty, only these addresses may call, whether or not permissions are checked.
    pub endpoints: Vec<Endpoint>,
}

/// An entry of the white list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub cidr: Cidr,
    pub description: String,
}

impl Record for AccessPoint {
    const TABLE: &'static str = "access_points";

    fn id(&self) -> &str {
        &self.id
    }
}

impl AccessPoint {
    /// No API changes it.
    pub const STATUS: &str = "Enabled";

    /// The host name under which the access point would be reached. It resolves nowhere: the mock has one listener for all.
    pub fn endpoint(&self) -> String {
        format!("{}.kms.internal", self.id)
    }

    /// What the list says, applied or not.
    pub fn lists_api(&self, api: &str) -> bool {
        self.apis.is_empty() || self.apis.get(api) == Some(&true)
    }

    /// What the list says, applied or not.
    pub fn lists_resource(&self, kind: ResourceType, id: &str) -> bool {
        self.resources.is_empty() || self.resources.get(&kind).and_then(|ids| ids.get(id)) == Some(&true)
    }

    pub fn allows_api(&self, api: &str) -> bool {
        !self.permission_check || self.lists_api(api)
    }

    pub fn allows_resource(&self, kind: ResourceType, id: &str) -> bool {
        !self.permission_check || self.lists_resource(kind, id)
    }

    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.endpoints.is_empty() || self.endpoints.iter().any(|endpoint| endpoint.cidr.contains(address))
    }
}

/// A credential of an access point.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccessKey {
    pub access_key: String,
    pub secret_key: Zeroizing<String>,
    pub access_point_id: String,
    pub enabled: bool,
    pub created: Timestamp,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKey({})", self.access_key)
    }
}

impl Record for AccessKey {
    const TABLE: &'static str = "access_keys";

    fn id(&self) -> &str {
        &self.access_key
    }
}

impl AccessKey {
    pub fn status(&self) -> &'static str {
        if self.enabled { "Enabled" } else { "Disabled" }
    }

    /// 32 hexadecimal characters each, like those of the tenants.
    pub fn generate(access_point_id: &str, now: Timestamp, random: &Random) -> Self {
        let hex = || Zeroizing::new(random.bytes(16).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        AccessKey {
            access_key: hex().to_string(),
            secret_key: hex(),
            access_point_id: access_point_id.to_owned(),
            enabled: true,
            created: now,
        }
    }
}

/// Whose access key a request presents.
pub enum Caller {
    /// A credential of the mock itself: it belongs to no access point and may do everything.
    Root {
        secret_key: Zeroizing<String>,
    },
    Point {
        key: Arc<AccessKey>,
        point: Arc<AccessPoint>,
    },
}

impl Caller {
    pub fn find(access_key: &str, tenants: &Tenants, read: impl FnOnce() -> Option<Caller>) -> Option<Self> {
        match tenants.secret_key(access_key) {
            Some(secret_key) => Some(Caller::Root { secret_key }),
            None => read(),
        }
    }

    /// The caller behind an access key of the store.
    pub fn of_point(access_key: &str, state: &State) -> Option<Self> {
        let key = state.access_keys.get(access_key)?;
        let point = state.access_points.get(&key.access_point_id)?;
        Some(Caller::Point { key: key.clone(), point: point.clone() })
    }

    pub fn secret_key(&self) -> &str {
        match self {
            Caller::Root { secret_key } => secret_key,
            Caller::Point { key, .. } => &key.secret_key,
        }
    }

    pub fn point(&self) -> Option<&Arc<AccessPoint>> {
        match self {
            Caller::Root { .. } => None,
            Caller::Point { point, .. } => Some(point),
        }
    }
}

/// When each access key was last used, in memory only: a call that changes nothing writes nothing.
#[derive(Default)]
pub struct LastUsed {
    moments: Mutex<HashMap<String, Timestamp>>,
}

impl LastUsed {
    pub fn note(&self, access_key: &str, now: Timestamp) {
        let mut moments = self.lock();
        match moments.get_mut(access_key) {
            Some(moment) => *moment = now,
            None => drop(moments.insert(access_key.to_owned(), now)),
        }
    }

    pub fn of(&self, access_key: &str) -> Option<Timestamp> {
        self.lock().get(access_key).copied()
    }

    pub fn forget(&self, access_key: &str) {
        self.lock().remove(access_key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block of addresses, `address/prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` unless the prefix is there, in plain decimal, and no bit beyond it is set.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, digits) = text.split_once('/')?;
        let network: IpAddr = network.parse().ok()?;
        let prefix: u8 = digits.parse().ok()?;
        let cidr = Cidr { network, prefix };
        let plain = prefix.to_string() == digits && prefix <= cidr.width();
        (plain && bits(network) == bits(network) & cidr.mask()).then_some(cidr)
    }

    /// An IPv4 address in the clothes of IPv6 counts as IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && bits(address) & self.mask() == bits(self.network)
    }

    fn width(self) -> u8 {
        if self.network.is_ipv4() { 32 } else { 128 }
    }

    fn mask(self) -> u128 {
        let ones = u128::MAX >> (128 - u32::from(self.width()));
        let rest = u32::from(self.width() - self.prefix.min(self.width()));
        ones & u128::MAX.checked_shl(rest).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Cidr::parse(&text).ok_or("no block of addresses")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_addresses() {
        for (block, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("127.0.0.1/32", "::ffff:127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("::1/128", "::1", "::2"),
        ] {
            let cidr = Cidr::parse(block).expect(block);
            assert_eq!(cidr.to_string(), block);
            assert!(cidr.contains(inside.parse().expect("an address")), "{block} {inside}");
            assert!(!cidr.contains(outside.parse().expect("an address")), "{block} {outside}");
        }
    }

    #[test]
    fn what_is_no_block() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.1/8",
            "10.0.0/8",
            " 10.0.0.0/8",
            "010.0.0.0/8",
            "::/129",
            "::1/127",
            "::/256",
            "10.0.0.0/8/8",
            "host/8",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = AccessKey::generate("p", 1, &Random::from_seed("access"));
        assert_eq!((key.access_key.len(), key.secret_key.len()), (32, 32));
        assert!(!format!("{key:?}").contains(key.secret_key.as_str()));
    }
}
