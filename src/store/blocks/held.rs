//! A walk over what is held below some roots, for whoever wants to know which blocks there are and not what is in them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use roaring::RoaringTreemap;

use super::BlocksError;
use super::file::{BlockFile, SEGMENTS};
use super::gc::{Links, distinct};
use super::pack;
use crate::model::block::IDENTITY_HASH;
use crate::model::cids::codec;

/// Blocks that one step looks at.
const STEP_BLOCKS: usize = if cfg!(test) { 16 } else { 256 };

/// A walk that was begun. Nodes are read once, however many lead to them; a few bits of memory remember each.
#[derive(Debug)]
pub struct HeldWalk {
    file: Arc<BlockFile>,
    links: Links,
    pending: Vec<Cid>,
    /// Nodes whose links were followed, by codec: the same bytes have other links under another codec.
    walked: HashMap<u64, RoaringTreemap>,
}

impl HeldWalk {
    /// A walk that follows `links`.
    pub(super) fn new(file: Arc<BlockFile>, links: Links) -> Self {
        Self { file, links, pending: Vec::new(), walked: HashMap::new() }
    }

    /// Goes through what is below this root as well.
    pub fn add_root(&mut self, root: &Cid) {
        self.pending.push(*root);
    }

    /// Shows some blocks; `false` when there are none left. Leaves aren't looked up: one is shown for each node that links to it, and even
    /// if it is damaged. Nodes are shown once, if they are held.
    pub fn step(&mut self, mut visit: impl FnMut(&Cid)) -> Result<bool, BlocksError> {
        let mut cids = Vec::with_capacity(STEP_BLOCKS);
        while cids.len() < STEP_BLOCKS
            && let Some(cid) = self.pending.pop()
        {
            if cid.hash().code() == IDENTITY_HASH {
                self.pending.extend((self.links)(&cid, &Bytes::copy_from_slice(cid.hash().digest())));
            } else if codec::is_leaf(cid.codec()) {
                visit(&cid);
            } else {
                cids.push(cid);
            }
        }
        let keys: Vec<_> = cids.iter().map(pack::key).collect();
        let (pending, walked, links) = (&mut self.pending, &mut self.walked, self.links);
        self.file.read_places(&keys, |transaction, places| {
            let segments = transaction.open_table(SEGMENTS)?;
            for (cid, place) in cids.iter().zip(places) {
                let Some(place) = place else { continue };
                // An empty block must not stand for the one behind it, whose number it has.
                let is_new = place.length == 0 || walked.entry(cid.codec()).or_default().insert(place.number());
                if is_new {
                    visit(cid);
                    pending.extend(distinct(links(cid, &pack::read(&segments, place)?)));
                }
            }
            Ok(())
        })?;
        Ok(!self.pending.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Block;
    use crate::store::blocks::BlockStore;

    fn block(codec: u64, text: &str) -> Block {
        Block::new_sha256(codec, Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    /// Each line of a node is a CID that it links to.
    fn lines(_: &Cid, data: &Bytes) -> Vec<Cid> {
        std::str::from_utf8(data).unwrap().lines().filter_map(|line| line.parse().ok()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_held_below_the_roots_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks.redb"), 1 << 20, 1 << 20).unwrap();
        let leaves: Vec<Block> = (0..40).map(|number| block(codec::RAW, &format!("leaf {number}"))).collect();
        let other = block(codec::RAW, "of nobody");
        let lost = block(codec::DAG_PB, "never stored");
        let linking = |blocks: &[Block]| {
            let links: Vec<String> = blocks.iter().map(|block| block.cid().to_string()).collect();
            links.join("\n")
        };
        let lower = block(codec::DAG_PB, &format!("{}\n{}", linking(&leaves), lost.cid()));
        let upper: Vec<Block> =
            (0..40).map(|number| block(codec::DAG_PB, &format!("{number}\n{}", lower.cid()))).collect();
        let root = block(codec::DAG_PB, &linking(&upper));
        let stored = [leaves.clone(), upper.clone(), vec![other, lower.clone(), root.clone()]].concat();
        store.writer().put(stored).await.unwrap();

        let mut walk = store.reader().held_walk(lines);
        walk.add_root(root.cid());
        walk.add_root(root.cid());
        let mut shown = Vec::new();
        while walk.step(|cid| shown.push(*cid)).unwrap() {}
        let expected = [leaves, upper, vec![lower, root]].concat();
        let mut expected: Vec<Cid> = expected.iter().map(|block| *block.cid()).collect();
        expected.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, expected, "each once, as one node alone links to the leaves");
        assert!(!walk.step(|_| panic!("there is no more")).unwrap());
    }
}
