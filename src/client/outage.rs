//! How an API server is borne with that is away, has just come back, or refuses.

use std::time::{Duration, Instant};

use kube::runtime::watcher;
use tokio::time::timeout;

use super::{forward::refusal, submission::Lost};

/// How long one call may take.
pub(super) const CALL: Duration = Duration::from_secs(20);
/// How soon what failed is tried again.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// How long an API server may be away, or have too much to do, while a build is made.
const AWAY: Duration = Duration::from_secs(30);
/// How long an API server that has just started may refuse whom it knows.
pub(super) const FORBIDDEN: Duration = Duration::from_secs(20);
/// After so long without an answer the operator has given the build up too.
pub(super) const SILENT: Duration = Duration::from_mins(5);
/// A watch that is tried again fails sooner than this, if it fails again.
const LULL: Duration = Duration::from_mins(2);

/// Asks again while the API server is away, and while one that has just come back does not know this account yet.
pub async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let (begin, mut was_away) = (Instant::now(), false);
    loop {
        let answer = timeout(CALL, Box::pin(ask()))
            .await
            .unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())));
        let error = match answer {
            Err(error) if begin.elapsed() < AWAY => error,
            ended => return ended,
        };
        match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) && was_away => {}
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                return Err(error);
            }
            _ => was_away = true,
        }
        tracing::debug!(%error, "the API server does not answer");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A quota answers 409 too.
pub fn is_there_already(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// A watch that fails in the same way again and again.
#[derive(Clone, Copy)]
pub struct Blind {
    /// Since when.
    pub since: Instant,
    last: Instant,
    is_refused: bool,
}

impl Blind {
    /// It has failed once more. Nothing tells of a watch that works again until the build changes: what has not failed for a while
    /// has worked, and what could not be reached and is refused now has been started anew.
    pub fn again(before: Option<Self>, is_refused: bool) -> Self {
        let now = Instant::now();
        let same =
            before.filter(|before| before.is_refused == is_refused && before.last.elapsed() < LULL);
        Self { since: same.map_or(now, |same| same.since), last: now, is_refused }
    }
}

/// The failure of a watch that was answered by a refusal.
pub fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(refusal(error), Some(401 | 403))
        }
        _ => false,
    }
}

/// Why a watch that has failed for so long is given up; nothing while waiting may help.
pub fn given_up(error: watcher::Error, since: Duration) -> Option<Lost> {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        other => return (since > SILENT).then(|| Lost::Silent(other.to_string())),
    };
    match error {
        kube::Error::SerdeError(error) => Some(Lost::Unreadable(error.to_string())),
        kube::Error::Api(status) if status.code == 403 => {
            (since > FORBIDDEN).then_some(Lost::Unwatchable(status.message))
        }
        kube::Error::Api(status) if status.code == 401 => {
            (since > FORBIDDEN).then_some(Lost::Forbidden(status.message))
        }
        error => (since > SILENT).then(|| Lost::Silent(words(error))),
    }
}

/// What the API server says, without the rest of its answer; of another error all that is known.
pub fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => format!("{:#}", anyhow::Error::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::ready,
        time::Duration,
    };

    use kube::{core::Status, runtime::watcher};

    use super::{Blind, FORBIDDEN, Instant, Lost, SILENT, given_up, patiently};

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("words", "Reason").with_code(code).boxed())
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
        let not_json = || kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err());
        for (answers, expected, asked) in [
            (vec![Ok(())], Ok(()), 1),
            (vec![Err(refused(503)), Ok(())], Ok(()), 2),
            (vec![Err(not_json()), Ok(())], Ok(()), 2),
            (vec![Err(refused(403)), Ok(())], Err(403), 1),
            (vec![Err(refused(422)), Ok(())], Err(422), 1),
            // One that has just come back knows nobody yet.
            (vec![Err(refused(500)), Err(refused(403)), Ok(())], Ok(()), 3),
        ] {
            let (answers, count) = (RefCell::new(answers.into_iter()), Cell::new(0));
            let answer = patiently(|| {
                count.set(count.get() + 1);
                ready(answers.borrow_mut().next().unwrap())
            });
            let answer = answer.await.map_err(|error| {
                if let kube::Error::Api(status) = error { status.code } else { 0 }
            });
            assert_eq!((answer, count.get()), (expected, asked));
        }
    }

    #[test]
    fn a_watch_that_failed_before_an_api_server_came_back_is_not_blamed_for_it() {
        let long_ago = Instant::now().checked_sub(SILENT).unwrap();
        let before = |last, is_refused| Some(Blind { since: long_ago, last, is_refused });
        assert_eq!(Blind::again(before(Instant::now(), true), true).since, long_ago);
        for (before, is_refused) in
            [(before(Instant::now(), false), true), (before(long_ago, true), true), (None, true)]
        {
            assert!(Blind::again(before, is_refused).since > long_ago);
        }
    }

    #[test]
    fn a_watch_is_given_up_when_waiting_cannot_help() {
        let unreadable = kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err());
        assert!(matches!(
            given_up(watcher::Error::InitialListFailed(unreadable), Duration::ZERO),
            Some(Lost::Unreadable(_))
        ));
        let second = Duration::from_secs(1);
        for (code, patience, lost) in [
            (403, FORBIDDEN, "Unwatchable"),
            (401, FORBIDDEN, "Forbidden"),
            (500, SILENT, "Silent"),
        ] {
            let after = |since| given_up(watcher::Error::WatchStartFailed(refused(code)), since);
            assert!(after(patience).is_none(), "{code}");
            assert!(format!("{:?}", after(patience + second).unwrap()).starts_with(lost), "{code}");
        }
    }
}
