//! Surveys of DAGs beside everything else, so that the next walk of one, or of what shares much with it, is short: one at a time, and at most
//! half of the time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use crate::dag::links;
use crate::model::cids;
use crate::store::blocks::{BlockWriter, BlocksError, Survey, SurveyStep};

/// Surveys that wait for their turn; a DAG beyond that isn't surveyed.
const WAITING_MAX: usize = 256;

/// How often one is begun that was disturbed, and how long it waits before that: garbage is collected for seconds or minutes.
const TRIES_MAX: usize = 60;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Who surveys. Surveys end with it.
#[derive(Debug)]
pub(super) struct Surveys {
    writer: BlockWriter,
    turn: Arc<Semaphore>,
    waiting: Arc<Mutex<HashSet<Cid>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Surveys {
    pub(super) fn new(writer: BlockWriter) -> Self {
        Self { writer, turn: Arc::new(Semaphore::new(1)), waiting: Arc::default(), tasks: Mutex::default() }
    }

    /// Has what is held below `root` surveyed soon.
    pub(super) fn begin(&self, root: Cid) {
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= WAITING_MAX || !waiting.insert(root) {
                return;
            }
        }
        let (writer, turn, waiting) = (self.writer.clone(), Arc::clone(&self.turn), Arc::clone(&self.waiting));
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            // Nobody closes it.
            let Ok(_turn) = turn.acquire().await else { return };
            // What comes from now on is for the next one.
            lock(&waiting).remove(&root);
            for _ in 0..TRIES_MAX {
                match survey(&writer, root).await {
                    Ok(Ok(true)) | Err(_) => return,
                    Ok(Ok(false)) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
                    Ok(Err(error)) => {
                        tracing::warn!(%root, %error, "which parts of a DAG are whole can't be written down");
                        return;
                    }
                }
            }
        });
    }
}

/// Goes through the DAG; says whether nothing disturbed that.
async fn survey(writer: &BlockWriter, root: Cid) -> Result<Result<bool, BlocksError>, JoinError> {
    let begun = {
        let writer = writer.clone();
        tokio::task::spawn_blocking(move || writer.survey(&root, all_links)).await?
    };
    let mut survey = match begun {
        Ok(survey) => survey,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let step: (Survey, _, Duration) = tokio::task::spawn_blocking(move || {
            let began_at = Instant::now();
            let step = survey.step();
            (survey, step, began_at.elapsed())
        })
        .await?;
        survey = step.0;
        match step.1 {
            Ok(SurveyStep::More) => tokio::time::sleep(step.2).await,
            Ok(SurveyStep::Done) => return Ok(Ok(true)),
            Ok(SurveyStep::Disturbed) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// What a node links to, if a walk gets past it.
pub(super) fn all_links(cid: &Cid, data: &Bytes) -> Option<Vec<Cid>> {
    let links = links::links(cid, data).ok()?;
    links.iter().all(|link| cids::check(link).is_ok()).then_some(links)
}

/// A poisoned lock is harmless here: nothing is left half-way under it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
