//! Answers from a real store.

use futures::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::car::{Decoder, Item};
use crate::dag::shapes::Shapes;
use crate::model::Block;
use crate::model::cids::codec;
use crate::store::blocks::BlockStore;

/// A store with these blocks, without those that are left out.
async fn open(shapes: &Shapes, without: &[Cid]) -> (TempDir, BlockStore, Gateway) {
    let directory = tempfile::tempdir().unwrap();
    let store = BlockStore::open(&directory.path().join("blocks.redb"), 8 << 20, 8 << 20).unwrap();
    let blocks = shapes.blocks.iter().filter(|(cid, _)| !without.contains(cid));
    let blocks = blocks.map(|(cid, data)| Block::verify(*cid, data.clone()).unwrap()).collect();
    store.writer().submit(blocks).await.unwrap().committed().await.unwrap();
    let gateway = Gateway::new(store.reader());
    (directory, store, gateway)
}

async fn car(gateway: &Gateway, root: Cid, scope: AskedScope, repeats: bool) -> Result<Car, GatewayError> {
    let resolved = gateway.resolve(root, Vec::new()).await?;
    gateway.car(root, resolved, scope, repeats).await
}

/// The blocks that come, and the error that ends them.
async fn blocks(gateway: &Gateway, car: Car) -> (Vec<Cid>, Option<GatewayError>) {
    let mut stream = Box::pin(gateway.stream(car, gateway.slot().unwrap()));
    let (mut decoder, mut blocks) = (Decoder::new(), Vec::new());
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => decoder.feed(&piece),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (blocks, Some(error));
            }
        }
        while let Some(item) = decoder.next_item().unwrap() {
            if let Item::Block(block) = item {
                blocks.push(*block.cid());
            }
        }
    }
    decoder.finish().unwrap();
    (blocks, None)
}

#[test]
fn bytes_are_counted_from_both_ends() {
    let part = |first, last| Scope::Entity(Some(ByteRange { first, last }));
    for (from, to, expected) in [
        (0, None, Scope::Entity(None)),
        (0, Some(99), Scope::Entity(None)),
        (-500, Some(5000), Scope::Entity(None)),
        (0, Some(0), part(0, 0)),
        (99, None, part(99, 99)),
        (-1, None, part(99, 99)),
        (-10, Some(-1), part(90, 99)),
        (-500, Some(-3), part(0, 97)),
        (10, Some(-10), part(10, 90)),
        (50, Some(1000), part(50, 99)),
        (60, Some(-50), Scope::Block),
        (i64::MIN, Some(i64::MAX), Scope::Entity(None)),
    ] {
        assert_eq!(AskedBytes { from, to }.within(100).unwrap(), expected, "{from}:{to:?}");
    }
    for (from, to) in [(100, None), (200, Some(300)), (0, Some(-101)), (-300, Some(-200))] {
        let refused = AskedBytes { from, to }.within(100);
        assert!(matches!(refused, Err(GatewayError::OutOfRange { file_bytes: 100 })), "{from}:{to:?}");
    }
    assert_eq!(AskedBytes { from: 0, to: None }.within(0).unwrap(), Scope::Block);
}

#[tokio::test]
async fn a_block_that_is_missing_ends_an_answer_with_an_error() {
    let mut shapes = Shapes::default();
    let leaves = ["a", "b", "c"].map(|text| shapes.raw(text));
    let root = shapes.cbor(&leaves);
    let (_directory, store, gateway) = open(&shapes, &leaves[1..2]).await;
    let (told, error) = blocks(&gateway, car(&gateway, root, AskedScope::All, false).await.unwrap()).await;
    assert!(matches!(error, Some(GatewayError::Missing { missing }) if missing == leaves[1]), "{error:?}");
    assert_eq!(told, [root, leaves[0]], "what comes before it is sound");
    let refused = car(&gateway, leaves[1], AskedScope::All, false).await;
    assert!(matches!(refused, Err(GatewayError::Missing { missing }) if missing == leaves[1]));
    let (told, error) = blocks(&gateway, car(&gateway, root, AskedScope::Block, false).await.unwrap()).await;
    assert!(error.is_none() && told == [root], "{told:?} {error:?}");
    store.close();
}

#[tokio::test]
async fn large_answers_come_in_pieces_and_in_order() {
    let mut shapes = Shapes::default();
    let leaves: Vec<Cid> =
        (0..40_u8).map(|number| shapes.block(codec::RAW, vec![number; 100_000 + usize::from(number)])).collect();
    let root = shapes.cbor(&leaves);
    let (_directory, store, gateway) = open(&shapes, &[]).await;
    let car = car(&gateway, root, AskedScope::All, false).await.unwrap();
    let (told, error) = blocks(&gateway, car).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(told, [vec![root], leaves].concat());
    store.close();
}

#[tokio::test]
async fn an_answer_that_nobody_takes_reads_no_further_and_gives_its_slot_back() {
    let mut shapes = Shapes::default();
    let leaf = shapes.block(codec::RAW, vec![7; GATEWAY_PIECE_BYTES]);
    let root = shapes.cbor(&vec![leaf; 1000]);
    let (_directory, store, gateway) = open(&shapes, &[]).await;
    let car = car(&gateway, root, AskedScope::All, true).await.unwrap();
    let (sender, mut receiver) = mpsc::channel(GATEWAY_PIECES_AHEAD_MAX);
    let task = tokio::spawn(gateway.clone().read_ahead(car, sender));
    let mut bytes = 0;
    for _ in 0..3 {
        bytes += receiver.recv().await.unwrap().unwrap().unwrap().len();
    }
    assert!(bytes >= 2 * GATEWAY_PIECE_BYTES);
    drop(receiver);
    task.await.unwrap();

    let slots: Vec<Slot> = std::iter::from_fn(|| gateway.slot()).collect();
    assert_eq!(slots.len(), GATEWAY_ANSWERS_MAX);
    drop(slots);
    let slot = gateway.slot().unwrap();
    let car = self::car(&gateway, root, AskedScope::All, true).await.unwrap();
    let mut stream = Box::pin(gateway.stream(car, slot));
    stream.next().await.unwrap().unwrap();
    assert_eq!(gateway.answers.available_permits(), GATEWAY_ANSWERS_MAX - 1);
    drop(stream);
    assert_eq!(gateway.answers.available_permits(), GATEWAY_ANSWERS_MAX);
    store.close();
}

#[tokio::test]
async fn what_walks_remember_is_bounded_for_all_together() {
    let mut shapes = Shapes::default();
    let leaf = shapes.raw("leaf");
    let links: Vec<Cid> = (0..40_000_u32)
        .map(|number| {
            Cid::new_v1(codec::RAW, crate::model::block::HashFunction::of(0x12).unwrap().digest(&number.to_be_bytes()))
        })
        .collect();
    let wide = shapes.cbor(&links);
    let small = shapes.cbor(&[leaf]);
    let (_directory, store, gateway) = open(&shapes, &[]).await;
    let free = gateway.walks.available_permits();
    let mut first = car(&gateway, wide, AskedScope::All, true).await.unwrap();
    assert!(first.next_piece().unwrap().is_some());
    let claimed = free - gateway.walks.available_permits();
    assert!(claimed > 0, "nothing was claimed");

    let _others = Arc::clone(&gateway.walks).try_acquire_many_owned(u32::try_from(free - claimed).unwrap()).unwrap();
    let mut second = car(&gateway, wide, AskedScope::All, true).await.unwrap();
    second.next_piece().unwrap();
    assert!(matches!(second.next_piece(), Err(GatewayError::TooLarge)));
    // Those that need little don't mind.
    let (told, error) = blocks(&gateway, car(&gateway, small, AskedScope::All, false).await.unwrap()).await;
    assert!(error.is_none() && told == [small, leaf], "{told:?} {error:?}");
    drop(first);
    let mut second = car(&gateway, wide, AskedScope::All, true).await.unwrap();
    assert!(second.next_piece().unwrap().is_some());
    assert!(matches!(second.next_piece(), Err(GatewayError::Missing { .. })), "its leaves aren't there");
    store.close();
}
