//! When garbage is collected without anyone asking: again and again, and when room gets short.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::blocks::BlockReader;
use super::gc::GarbageCollector;

/// How often the room is looked at: the longest that writing waits after room has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a collection this many times its duration goes by before a shortage begins the next.
const REST_FACTOR: u32 = 2;

/// Watches over the room, and collects when it is time. Never ends.
///
/// `interval` is the time between two collections, zero for none; `removals` says how many pins were removed or replaced
/// up to now: while that stays the same, another collection would find nothing more.
pub async fn keep(
    collector: Arc<GarbageCollector>,
    blocks: BlockReader,
    interval: Duration,
    removals: impl Fn() -> u64 + Send,
) {
    let mut next = Instant::now() + interval;
    let mut rest_until = Instant::now();
    let mut removals_tried = None;
    let mut collecting: Option<(Instant, JoinHandle<()>)> = None;
    loop {
        let reader = blocks.clone();
        let is_high = match tokio::task::spawn_blocking(move || reader.look_for_space()).await {
            Ok(Ok(state)) => state.is_high,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the room for blocks is unknown");
                false
            }
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "looking at the room for blocks panicked");
                false
            }
            // The program ends.
            Err(_) => return,
        };
        let now = Instant::now();
        if let Some((began, _)) = collecting.take_if(|(_, task)| task.is_finished()) {
            rest_until = now + began.elapsed() * REST_FACTOR;
            next = now + interval;
        }
        let is_due = !interval.is_zero() && now >= next;
        let removals_now = removals();
        let is_wanted = is_high && removals_tried != Some(removals_now) && now >= rest_until;
        if collecting.is_none() && (is_due || is_wanted) {
            if is_wanted {
                tracing::info!("room for blocks gets short: collecting garbage");
            }
            removals_tried = Some(removals_now);
            let collector = Arc::clone(&collector);
            // Its end, good or bad, is in the log.
            let task = tokio::spawn(async move { drop(collector.collect().await) });
            collecting = Some((now, task));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Block;
    use crate::model::cids::codec;
    use crate::store::blocks::BlockStore;
    use crate::store::records::Records;

    #[tokio::test(flavor = "multi_thread")]
    async fn garbage_is_collected_again_and_again_without_anyone_asking() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 1 << 20, 1 << 20).unwrap();
        let records = Arc::new(Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap());
        let collector = GarbageCollector::new(store.collector(|_, _| Vec::new()), records);
        let interval = Duration::from_millis(10);
        let keeping = tokio::spawn(keep(Arc::clone(&collector), store.reader(), interval, || 0));
        for text in ["first", "second"] {
            let block = Block::new_sha256(codec::RAW, Bytes::from_static(text.as_bytes())).unwrap();
            store.writer().put(vec![block.clone()]).await.unwrap();
            let gone = async {
                while store.reader().has(block.cid()).unwrap() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), gone).await.expect("nobody needs the block");
        }
        keeping.abort();
        collector.stop().await;
    }
}
