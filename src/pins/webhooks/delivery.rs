//! Tells events to webhooks: of each account one after the other, of a few accounts at the same time. An event goes from the records
//! only after it was told, so one may be told twice, and none is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;

use super::turns::{Ended, Turns};
use super::{Retries, SIGNATURE_HEADER, event};
use crate::model::UserId;
use crate::model::limits::HOOKS_CALLED_AT_ONCE;
use crate::retrieval::post::{Call, Caller};
use crate::store::records::{Attempt, NextNotice};
use crate::store::{Records, RecordsError};

/// How long it waits after the records failed.
const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// Tells events, for ever.
pub(super) async fn run(records: &Arc<Records>, caller: &Caller, retries: Retries) {
    let news = records.notice_news();
    let mut turns = Turns::new(retries);
    for user in with_events(records).await {
        turns.news(user, false);
    }
    // They run within this task, so that they end with it.
    let mut calls = FuturesUnordered::new();
    loop {
        for (user, is_set) in news.take() {
            turns.news(user, is_set);
        }
        while calls.len() < HOOKS_CALLED_AT_ONCE
            && let Some(user) = turns.begin(Instant::now())
        {
            calls.push(async move { (user, tell(records, caller, retries, user).await) });
        }
        // When all calls are taken, the end of one comes first.
        let next_try = turns.next_at().filter(|_| calls.len() < HOOKS_CALLED_AT_ONCE);
        tokio::select! {
            () = news.come() => {}
            Some((user, ended)) = calls.next(), if !calls.is_empty() => {
                turns.ended(user, ended, Instant::now(), rand::random());
            }
            () = until(next_try) => {}
        }
    }
}

/// The accounts that have events waiting; a few bytes are read for each webhook.
async fn with_events(records: &Records) -> Vec<UserId> {
    loop {
        match records.users_with_notices() {
            Ok(users) => return users,
            Err(error) => tracing::error!(%error, "which webhooks have events waiting can't be read"),
        }
        tokio::time::sleep(FAILED_PAUSE).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Tells the oldest event of an account.
async fn tell(records: &Records, caller: &Caller, retries: Retries, user: UserId) -> Ended {
    match try_to_tell(records, caller, retries, user).await {
        Ok(ended) => ended,
        Err(error) => {
            tracing::error!(%error, account = %user, "an event can't be read, or written down as told");
            Ended::Failed
        }
    }
}

async fn try_to_tell(
    records: &Records,
    caller: &Caller,
    retries: Retries,
    user: UserId,
) -> Result<Ended, RecordsError> {
    let Some(next) = records.next_notice(user)? else { return Ok(Ended::Nothing) };
    let (status, error) = call(caller, &next).await;
    let now_ms = Timestamp::now().as_millisecond();
    let age_max_ms = i64::try_from(retries.give_up_after.as_millis()).unwrap_or(i64::MAX);
    let ended = if error.is_none() { Ended::Told } else { Ended::Failed };
    if let Some(error) = &error {
        tracing::debug!(account = %user, event = %next.notice.id, error, "a webhook can't be told an event");
    }
    let attempt = Attempt { at_ms: now_ms, status, error };
    let give_up_before_ms = now_ms.saturating_sub(age_max_ms);
    let dropped = records.write(move |change| change.settle_notice(user, &next, attempt, give_up_before_ms)).await?;
    if dropped > 0 {
        tracing::warn!(account = %user, dropped, "a webhook fails for too long; its oldest events are dropped");
    }
    Ok(ended)
}

/// The status of the answer and what was wrong.
async fn call(caller: &Caller, next: &NextNotice) -> (Option<u16>, Option<String>) {
    let body = match event::body(next.notice.clone()) {
        Ok(body) => body,
        Err(error) => return (None, Some(format!("the event can't be written: {error}"))),
    };
    let signature = event::signature(&next.hook.secret, Timestamp::now().as_second(), &body);
    let call = Call { url: &next.hook.url, header: (SIGNATURE_HEADER, signature), body };
    match caller.post(call).await {
        Ok(status) => (Some(status), None),
        Err(failure) => (failure.status, Some(failure.sentence)),
    }
}
