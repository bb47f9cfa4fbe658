//! A task that wakes itself is polled again at once.
//!
//! The task of a connection does so all the time: what its multiplexer has read wakes the stream that it is for, and
//! both belong to that task. tokio puts a task that was woken while it ran at the end of its queue, and wakes another thread
//! for it. So each such step costs system calls, and takes the task to another core, away from what it has just read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::task::coop;

/// How often a task is polled in a row, at most, before others get their turn.
const POLLS_IN_A_ROW_MAX: usize = 32;

/// How long a task is polled again, at most. Those that it woke wait meanwhile: their thread is this one.
const POLLING_MAX: Duration = Duration::from_millis(1);

/// The task isn't being polled: the runtime has to be told when it is woken.
const RESTING: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It is being polled and was woken meanwhile.
const WOKEN: u8 = 2;

/// What the future wakes, or those that it waits for.
#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let note = |state| (state != RESTING).then_some(WOKEN);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, note).is_err() {
            self.task.wake();
        }
    }
}

/// The task.
pub struct Repolled<F> {
    future: F,
    wakes: Arc<Wakes>,
    waker: Waker,
}

impl<F: Future + Unpin> Repolled<F> {
    /// A task that does this.
    pub fn new(future: F) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self { future, waker: Waker::from(Arc::clone(&wakes)), wakes }
    }
}

impl<F: Future + Unpin> Future for Repolled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, wakes, waker } = &mut *self;
        wakes.task.register(context.waker());
        let began_at = Instant::now();
        for _ in 0..POLLS_IN_A_ROW_MAX {
            // Nothing that was woken before may be seen as it was: what wakes writes first, and then swaps as well.
            wakes.state.swap(POLLED, Ordering::AcqRel);
            let polled = Pin::new(&mut *future).poll(&mut Context::from_waker(waker));
            if polled.is_ready() {
                return polled;
            }
            let rests = wakes.state.compare_exchange(POLLED, RESTING, Ordering::AcqRel, Ordering::Acquire);
            if rests.is_ok() {
                return Poll::Pending;
            }
            // Without a budget, whatever it asked would make it wait.
            if !coop::has_budget_remaining() || began_at.elapsed() >= POLLING_MAX {
                break;
            }
        }
        wakes.state.swap(RESTING, Ordering::AcqRel);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts how often the runtime was told.
    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls a task that wakes itself so often before it is done: the outcome, how often it was polled itself, and how often the
    /// runtime was told.
    fn poll_once(wakes_itself: usize) -> (Poll<()>, usize, usize) {
        let told = Arc::<Told>::default();
        let mut polls = 0;
        let mut task = Repolled::new(std::future::poll_fn(|context| {
            polls += 1;
            if polls > wakes_itself {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let polled = Pin::new(&mut task).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&told))));
        drop(task);
        (polled, polls, told.0.load(Ordering::SeqCst))
    }

    #[test]
    fn who_wakes_itself_goes_on_without_the_runtime() {
        assert_eq!(poll_once(3), (Poll::Ready(()), 4, 0));
    }

    #[test]
    fn who_wakes_itself_without_end_lets_others_have_their_turn() {
        let (polled, polls, told) = poll_once(usize::MAX);
        assert_eq!((polled, told), (Poll::Pending, 1));
        assert!((1..=POLLS_IN_A_ROW_MAX).contains(&polls), "{polls}");
    }

    #[test]
    fn who_rests_is_woken_through_the_runtime_once() {
        let told = Arc::<Told>::default();
        let mut kept = None;
        let mut task = Repolled::new(std::future::poll_fn(|context| {
            kept = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        let outer = Waker::from(Arc::clone(&told));
        assert!(Pin::new(&mut task).poll(&mut Context::from_waker(&outer)).is_pending());
        drop(task);
        let waker = kept.unwrap();
        waker.wake_by_ref();
        waker.wake();
        assert_eq!(told.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(Repolled::new(Box::pin(async move {
            let mut sum = 0_u64;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        })));
        for number in 0..20_000 {
            sender.send(number).await.unwrap();
        }
        drop(sender);
        assert_eq!(task.await.unwrap(), 199_990_000);
    }
}
