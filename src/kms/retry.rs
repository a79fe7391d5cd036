//! Tries again what may be tried again, within the deadline. Asks the error, never the status.
//!
//! That the service asks for fewer calls is no failed attempt: such a call waits for its turn, until the deadline.

use std::future::Future;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::{KmsError, Retry};

/// Full jitter: the wait before attempt n is drawn from zero to `base * 2^n`, at most `cap`, so that clients which
/// failed together do not come back together.
pub(super) struct RetryPolicy {
    pub max_attempts: u32,
    pub base: Duration,
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 4, base: Duration::from_millis(100), cap: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    /// The result of the last attempt. When the deadline comes while an attempt runs, that attempt is dropped; a refusal
    /// seen before is the better answer then, since it has a code.
    pub(super) async fn run<T, F: Future<Output = Result<T, KmsError>>>(
        &self,
        what: &'static str,
        deadline: Instant,
        repeatable: bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, KmsError> {
        let start = Instant::now();
        let mut last: Option<KmsError> = None;
        let mut fresh_date_tried = false;
        let mut attempts = 0;
        for number in 1.. {
            let error = match timeout_at(deadline, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(last.unwrap_or(KmsError::TimedOut { after: start.elapsed() })),
            };
            let throttled = error.is_throttled();
            attempts += u32::from(!throttled);
            let wait = match error.retry() {
                _ if !repeatable || attempts >= self.max_attempts => return Err(error),
                // The limit knows when its turn is.
                Retry::Backoff if throttled => self.wait_before(1),
                Retry::Final => return Err(error),
                Retry::FreshDate if fresh_date_tried => return Err(error),
                Retry::FreshDate => {
                    fresh_date_tried = true;
                    Duration::ZERO
                }
                Retry::Backoff => self.wait_before(number),
            };
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::debug!(call = what, attempt = number, %error, ?wait, "KMS call will be tried again");
            last = Some(error);
            sleep(wait).await;
        }
        unreachable!("the loop ends by returning")
    }

    fn wait_before(&self, number: u32) -> Duration {
        let most = self.base.saturating_mul(1 << number.min(16)).min(self.cap);
        most.mul_f64(random_fraction())
    }
}

fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the wait is merely not spread.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::kms::error::Refusal;

    fn refused(code: &str, status: u16) -> KmsError {
        KmsError::from(Refusal::new("decrypt", code.into(), String::new(), None, status))
    }

    async fn attempts(error: KmsError, repeatable: bool) -> (u32, KmsError) {
        let calls = Cell::new(0);
        let policy = RetryPolicy::default();
        let deadline = Instant::now() + Duration::from_secs(60);
        let result: Result<(), _> = policy
            .run("decrypt", deadline, repeatable, async || {
                calls.set(calls.get() + 1);
                Err(error.clone())
            })
            .await;
        (calls.get(), result.expect_err("always fails"))
    }

    #[tokio::test(start_paused = true)]
    async fn each_class_is_tried_as_often_as_it_should() {
        assert_eq!(attempts(refused("KMS.0206", 400), true).await.0, 1);
        assert_eq!(attempts(refused("KMS.0402", 401), true).await.0, 1);
        assert_eq!(attempts(refused("KMS.0404", 401), true).await.0, 2);
        assert_eq!(attempts(refused("KMS.0403", 401), true).await.0, 2);
        assert_eq!(attempts(refused("KMS.0512", 500), true).await.0, 4);
        assert_eq!(attempts(refused("KMS.0504", 500), true).await.0, 1);
        assert_eq!(attempts(refused("KMS.0513", 500), true).await.0, 1);
        assert_eq!(attempts(refused("KMS.0514", 500), true).await.0, 1);
        assert_eq!(attempts(KmsError::unreachable("refused"), true).await.0, 4);
        assert_eq!(attempts(KmsError::bad_response("html"), true).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_waits_until_the_deadline() {
        let start = Instant::now();
        let (calls, error) = attempts(refused("kms.0407", 401), true).await;
        assert!(
            error.is_throttled() && start.elapsed() >= Duration::from_secs(59),
            "{error} after {:?}",
            start.elapsed()
        );
        assert!((300..3000).contains(&calls), "{calls} calls, with a mean of 100 ms between them");
        assert_eq!(attempts(refused("kms.0407", 401), false).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_be_repeated_is_not() {
        assert_eq!(attempts(refused("KMS.0515", 500), false).await.0, 1);
        assert_eq!(attempts(KmsError::unreachable("refused"), false).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_hanging_attempt() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(10);
        let result: Result<(), _> =
            RetryPolicy::default().run("decrypt", deadline, true, async || std::future::pending().await).await;
        assert!(matches!(result, Err(KmsError::TimedOut { .. })), "{result:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_a_refusal_seen_before_is_told() {
        let calls = Cell::new(0);
        let result: Result<(), _> = RetryPolicy::default()
            .run("decrypt", Instant::now() + Duration::from_secs(10), true, async || {
                calls.set(calls.get() + 1);
                match calls.get() {
                    1 => Err(refused("kms.0407", 401)),
                    _ => std::future::pending().await,
                }
            })
            .await;
        assert_eq!(result.expect_err("throttled").refusal().map(|r| r.code.as_str()), Some("kms.0407"));
    }

    #[test]
    fn waits_stay_within_their_bounds() {
        let policy = RetryPolicy::default();
        for number in 1..40 {
            assert!(policy.wait_before(number) <= policy.cap);
        }
        assert!(policy.wait_before(1) <= Duration::from_millis(200));
    }
}
