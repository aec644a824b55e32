//! When to try again: after 1, 2, 4 … seconds with full jitter, capped at 60 (requirement Z-14), and
//! only where the error says that a retry may help.

use std::{future::Future, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};

use crate::error::Error;

/// The back-off between machines and for whole tasks.
#[must_use]
pub fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_factor(2.0)
        .with_max_delay(Duration::from_secs(60))
        .with_jitter()
}

/// The back-off between daemons of one machine: a restarted daemon is back within a second.
#[must_use]
pub fn local_backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_factor(2.0)
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(40)
        .with_jitter()
}

/// Calls a daemon of this machine until it answers, for about half a minute; an error that says it
/// is not retryable ends it at once.
///
/// # Errors
/// The last error.
pub async fn local<T, F, Fut>(call: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    call.retry(local_backoff()).when(Error::retryable).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::error::Category;

    #[tokio::test]
    async fn only_retryable_errors_are_retried() {
        let calls = AtomicU32::new(0);
        let result: Result<(), Error> = local(|| async {
            calls.fetch_add(1, Ordering::SeqCst);
            Err(Error::new(Category::Auth, "no"))
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_passing_failure_passes() {
        let calls = AtomicU32::new(0);
        let result = local(|| async {
            if calls.fetch_add(1, Ordering::SeqCst) < 3 {
                Err(Error::new(Category::Network, "restarting"))
            } else {
                Ok(7)
            }
        })
        .await;
        assert_eq!(result, Ok(7));
    }
}
