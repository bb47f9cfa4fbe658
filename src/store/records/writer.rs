//! The one writer of `records.redb`, with group commit: an idle writer commits at once; everything that queues up
//! during a commit shares the next one.

use std::cell::{OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use redb::{Database, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::index::Pending;
use super::tables::{NoticeTables, PinTables};
use super::{NoticeNews, RecordsError};
use crate::model::UserId;
use crate::model::limits::RECORD_WRITES_QUEUED_MAX;
use crate::store::database::{Slot, begin_write};
use crate::store::disk;

/// A write transaction as the operations of this module see it.
pub struct Change<'transaction> {
    transaction: &'transaction WriteTransaction,
    /// What the operations change in the index, which is written once for all of them.
    index: RefCell<Pending>,
    pin_tables: OnceCell<RefCell<PinTables<'transaction>>>,
    notice_tables: OnceCell<RefCell<NoticeTables<'transaction>>>,
    /// The accounts whose webhooks the operations concern, and whether the webhook itself is another one.
    news: RefCell<BTreeMap<UserId, bool>>,
}

impl<'transaction> Change<'transaction> {
    fn new(transaction: &'transaction WriteTransaction) -> Self {
        let (index, news) = (RefCell::default(), RefCell::default());
        Self { transaction, index, pin_tables: OnceCell::new(), notice_tables: OnceCell::new(), news }
    }

    /// The tables of pins, which stay open for all operations. Nothing that is called while this is held may ask for it too.
    pub(super) fn pin_tables(&self) -> Result<RefMut<'_, PinTables<'transaction>>, RecordsError> {
        let tables = match self.pin_tables.get() {
            Some(tables) => tables,
            None => {
                let tables = PinTables::open(self.transaction)?;
                self.pin_tables.get_or_init(|| RefCell::new(tables))
            }
        };
        Ok(tables.borrow_mut())
    }

    /// The tables of webhooks, which stay open for all operations. Nothing that is called while this is held may ask for it too.
    pub(super) fn notice_tables(&self) -> Result<RefMut<'_, NoticeTables<'transaction>>, RecordsError> {
        let tables = match self.notice_tables.get() {
            Some(tables) => tables,
            None => {
                let tables = NoticeTables::open(self.transaction)?;
                self.notice_tables.get_or_init(|| RefCell::new(tables))
            }
        };
        Ok(tables.borrow_mut())
    }

    /// Notes whom the commit concerns who tells events: `is_set` when the webhook itself is another one.
    pub(super) fn concerns(&self, user: UserId, is_set: bool) {
        *self.news.borrow_mut().entry(user).or_default() |= is_set;
    }

    pub(super) fn transaction(&self) -> &WriteTransaction {
        self.transaction
    }

    /// What is to be changed in the index. Nothing that is called while this is held may ask for it too.
    pub(super) fn index(&self) -> RefMut<'_, Pending> {
        self.index.borrow_mut()
    }
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Change")
    }
}

/// One queued operation: run inside the transaction, answered after it.
trait Job: Send {
    fn run(&mut self, change: &Change<'_>) -> Result<(), RecordsError>;
    fn answer(self: Box<Self>, outcome: Result<(), RecordsError>);
}

struct Operation<T, F> {
    run: Option<F>,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, RecordsError>>,
}

impl<T, F> Job for Operation<T, F>
where
    T: Send,
    F: FnOnce(&Change<'_>) -> Result<T, RecordsError> + Send,
{
    fn run(&mut self, change: &Change<'_>) -> Result<(), RecordsError> {
        if let Some(operation) = self.run.take() {
            self.value = Some(operation(change)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), RecordsError>) {
        let Self { value, answer, .. } = *self;
        // The caller may have gone away; the commit stands all the same.
        let _ = answer.send(outcome.and_then(|()| value.ok_or(RecordsError::Closed)));
    }
}

/// The writer's queue and thread.
pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(file: Arc<Slot>, news: Arc<NoticeNews>) -> Result<Self, RecordsError> {
        let (sender, receiver) = mpsc::channel(RECORD_WRITES_QUEUED_MAX);
        let thread = std::thread::Builder::new()
            .name("records-writer".into())
            .spawn(move || work(&file, receiver, &news))
            .map_err(|error| RecordsError::Thread(Arc::new(error)))?;
        Ok(Self { jobs: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, RecordsError>
    where
        T: Send + 'static,
        F: FnOnce(&Change<'_>) -> Result<T, RecordsError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(RecordsError::Closed)?;
        let job = Operation { run: Some(operation), value: None, answer };
        jobs.send(Box::new(job)).await.map_err(|_| RecordsError::Closed)?;
        // The queue ends when its last sender is dropped, so this one must not be held while waiting.
        drop(jobs);
        answered.await.map_err(|_| RecordsError::Closed)?
    }

    pub(super) fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer of the records panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Writer")
    }
}

fn work(file: &Slot, mut queue: mpsc::Receiver<Box<dyn Job>>, news: &NoticeNews) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < RECORD_WRITES_QUEUED_MAX
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        if file.is_out_of_service() {
            file.reopen(|_| Ok(()));
        }
        let outcome = match file.with(|database| commit(database, &mut batch)) {
            Ok(outcome) => outcome.map(|changed| news.add(changed)),
            Err(error) => Err(RecordsError::OutOfService(error)),
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, operations = batch.len(), "a commit of the records failed");
            if matches!(error, RecordsError::Storage(_)) {
                // The next commit finds a file that works, if there is one to be had.
                file.reopen(|_| Ok(()));
            }
        }
        for job in batch {
            job.answer(outcome.clone());
        }
    }
}

/// Returns whose webhooks are concerned. Dropping the transaction on the way out of an error aborts it.
fn commit(database: &Database, batch: &mut [Box<dyn Job>]) -> Result<BTreeMap<UserId, bool>, RecordsError> {
    let transaction = begin_write(database)?;
    let change = Change::new(&transaction);
    for job in batch {
        job.run(&change)?;
        if change.index().is_large() {
            change.index().write(&transaction)?;
        }
    }
    change.index().write(&transaction)?;
    let news = change.news.take();
    drop(change);
    disk::commit(transaction)?;
    Ok(news)
}
