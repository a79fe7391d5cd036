//! Standing latencies: how long every call of an API waits before it is looked at, until another setting replaces it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dice::Dice;

/// How waits are distributed. Waits are rounded up to milliseconds by the timer, and never longer than [`LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Latency {
    Fixed {
        #[serde(rename = "ms", with = "millis")]
        delay: Duration,
    },
    Uniform {
        #[serde(rename = "min_ms", with = "millis")]
        min: Duration,
        #[serde(rename = "max_ms", with = "millis")]
        max: Duration,
    },
    /// Waits below zero count as zero.
    Normal {
        #[serde(rename = "median_ms", with = "millis")]
        median: Duration,
        #[serde(rename = "p99_ms", with = "millis")]
        p99: Duration,
    },
    /// What services over a network look like: most calls near the median, a long tail.
    LogNormal {
        #[serde(rename = "median_ms", with = "millis")]
        median: Duration,
        #[serde(rename = "p99_ms", with = "millis")]
        p99: Duration,
    },
    /// This fraction of the calls waits, the others do not.
    Spikes {
        fraction: f64,
        #[serde(rename = "ms", with = "millis")]
        delay: Duration,
    },
}

/// No call waits longer, whatever the tail of its distribution.
const LONGEST: Duration = Duration::from_secs(3600);

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874_040_841;

impl Latency {
    /// What is wrong with the numbers.
    pub fn check(&self) -> Result<(), &'static str> {
        match *self {
            Latency::Uniform { min, max } if min > max => Err("min_ms is above max_ms"),
            Latency::Normal { median, p99 } | Latency::LogNormal { median, p99 } if median > p99 => {
                Err("median_ms is above p99_ms")
            }
            Latency::LogNormal { median, .. } if median.is_zero() => Err("log_normal needs a median_ms above 0"),
            Latency::Spikes { fraction, .. } if !(0.0..=1.0).contains(&fraction) => Err("fraction is 0 to 1"),
            _ => Ok(()),
        }
    }

    pub fn draw(&self, dice: &Dice) -> Duration {
        let seconds = match *self {
            Latency::Fixed { delay } => return delay.min(LONGEST),
            Latency::Uniform { min, max } => {
                let (min, max) = (min.as_secs_f64(), max.as_secs_f64());
                min + dice.fraction() * (max - min)
            }
            Latency::Normal { median, p99 } => {
                let (median, p99) = (median.as_secs_f64(), p99.as_secs_f64());
                median + dice.normal() * (p99 - median) / Z99
            }
            Latency::LogNormal { median, p99 } => {
                let (median, p99) = (median.as_secs_f64(), p99.as_secs_f64());
                median * (dice.normal() * (p99 / median).ln() / Z99).exp()
            }
            Latency::Spikes { fraction, delay } => {
                return if dice.fraction() < fraction { delay.min(LONGEST) } else { Duration::ZERO };
            }
        };
        // `max` makes 0 of what is no number, such as the result of a median of 0.
        Duration::try_from_secs_f64(seconds.max(0.0)).map_or(LONGEST, |wait| wait.min(LONGEST))
    }
}

/// The setting of each API, and the one (`None`) of all APIs that have none of their own.
#[derive(Debug, Default)]
pub struct Latencies {
    settings: Mutex<BTreeMap<Option<String>, Latency>>,
}

impl Latencies {
    /// Replaces the setting of an API, or the one of all others; `None` takes it away.
    pub fn set(&self, api: Option<&str>, latency: Option<Latency>) {
        let api = api.map(str::to_owned);
        match latency {
            Some(latency) => drop(self.lock().insert(api, latency)),
            None => drop(self.lock().remove(&api)),
        }
    }

    pub fn all(&self) -> BTreeMap<Option<String>, Latency> {
        self.lock().clone()
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How long the next call of `api` has to wait.
    pub fn draw(&self, api: &str, dice: &Dice) -> Duration {
        let settings = self.lock();
        if settings.is_empty() {
            return Duration::ZERO;
        }
        let latency = settings.get(&Some(api.to_owned())).or_else(|| settings.get(&None));
        latency.map_or(Duration::ZERO, |latency| latency.draw(dice))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<String>, Latency>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Durations as milliseconds, which may have a fraction.
mod millis {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64() * 1e3)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(millis / 1e3).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Enough for the 99th percentile of the widest distribution below to be found within a few percent.
    const DRAWS: usize = 100_000;

    fn sorted_draws(latency: Latency) -> Vec<Duration> {
        let dice = Dice::new(42);
        let mut draws: Vec<_> = (0..DRAWS).map(|_| latency.draw(&dice)).collect();
        draws.sort();
        draws
    }

    fn near(found: Duration, expected: Duration) -> bool {
        found.abs_diff(expected) < expected / 10
    }

    #[test]
    fn draws_follow_their_distribution() {
        assert!(sorted_draws(Latency::Fixed { delay: ms(5) }).iter().all(|draw| *draw == ms(5)));
        let uniform = sorted_draws(Latency::Uniform { min: ms(10), max: ms(30) });
        assert!(uniform[0] >= ms(10) && uniform[DRAWS - 1] <= ms(30) && near(uniform[DRAWS / 2], ms(20)));
        let (median, p99) = (ms(20), ms(80));
        for latency in [Latency::Normal { median, p99 }, Latency::LogNormal { median, p99 }] {
            let draws = sorted_draws(latency);
            let found = (draws[DRAWS / 2], draws[DRAWS / 100 * 99]);
            assert!(near(found.0, median) && near(found.1, p99), "{latency:?}: {found:?}");
        }
        let spikes = sorted_draws(Latency::Spikes { fraction: 0.1, delay: ms(500) });
        assert!(spikes[DRAWS / 100 * 88].is_zero() && spikes[DRAWS / 100 * 92] == ms(500));
    }

    #[test]
    fn odd_numbers_do_not_panic() {
        let huge = Duration::MAX;
        for latency in [
            Latency::Fixed { delay: huge },
            Latency::Uniform { min: huge, max: ms(0) },
            Latency::Normal { median: huge, p99: ms(0) },
            Latency::LogNormal { median: ms(0), p99: huge },
            Latency::LogNormal { median: ms(1), p99: huge },
            Latency::LogNormal { median: ms(0), p99: ms(0) },
            Latency::Spikes { fraction: f64::NAN, delay: huge },
        ] {
            assert!(sorted_draws(latency)[DRAWS - 1] <= LONGEST);
        }
    }

    #[test]
    fn an_api_of_its_own_goes_before_all() {
        let (latencies, dice) = (Latencies::default(), Dice::new(1));
        latencies.set(None, Some(Latency::Fixed { delay: ms(1) }));
        latencies.set(Some("decrypt"), Some(Latency::Fixed { delay: ms(2) }));
        assert_eq!((latencies.draw("encrypt", &dice), latencies.draw("decrypt", &dice)), (ms(1), ms(2)));
        latencies.set(Some("decrypt"), None);
        assert_eq!(latencies.draw("decrypt", &dice), ms(1));
        latencies.clear();
        assert_eq!(latencies.draw("decrypt", &dice), Duration::ZERO);
    }

    #[test]
    fn json_of_a_setting() {
        let latency = Latency::Uniform { min: ms(1), max: Duration::from_micros(2500) };
        let json = serde_json::json!({"kind": "uniform", "min_ms": 1.0, "max_ms": 2.5});
        assert_eq!(serde_json::to_value(latency).expect("JSON"), json);
        assert_eq!(serde_json::from_value::<Latency>(json).expect("a latency"), latency);
        for bad in [r#"{"kind":"fixed","ms":-1}"#, r#"{"kind":"fixed"}"#, r#"{"kind":"fixed","ms":1,"max_ms":1}"#] {
            assert!(serde_json::from_str::<Latency>(bad).is_err(), "{bad}");
        }
    }
}
