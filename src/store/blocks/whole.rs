//! Which DAGs are held whole: for a store that isn't in service, such as one that was just restored.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use roaring::RoaringTreemap;

use super::file::{BlockFile, INDEX, SEGMENTS};
use super::pack::{self, Place};
use super::{BlocksError, Links};
use crate::model::block::IDENTITY_HASH;
use crate::model::cids::codec;

/// Looks at one DAG after the other. What is below a whole DAG is looked at once, however many share it.
#[derive(Debug)]
pub(in crate::store) struct WholeDags {
    file: Arc<BlockFile>,
    links: Links,
    /// Blocks of whole DAGs, by codec: the same bytes have other links under another codec.
    whole: HashMap<u64, RoaringTreemap>,
}

impl WholeDags {
    pub(super) fn new(file: Arc<BlockFile>, links: Links) -> Self {
        Self { file, links, whole: HashMap::new() }
    }

    /// Whether every block of the DAG is held. Memory is what the walk has before it, and a bitmap.
    pub(in crate::store) fn is_whole(&mut self, root: &Cid) -> Result<bool, BlocksError> {
        let (whole, links) = (&self.whole, self.links);
        let mut walked: HashMap<u64, RoaringTreemap> = HashMap::new();
        let is_whole = self.file.read(|transaction| {
            let index = transaction.open_table(INDEX)?;
            let segments = transaction.open_table(SEGMENTS)?;
            let mut pending = vec![*root];
            while let Some(cid) = pending.pop() {
                if cid.hash().code() == IDENTITY_HASH {
                    pending.extend(links(&cid, &Bytes::copy_from_slice(cid.hash().digest())));
                    continue;
                }
                let Some(key) = pack::key(&cid) else { continue };
                let Some(place) = index.get(&*key)?.map(|place| Place::from_bytes(place.value())) else {
                    return Ok(false);
                };
                let is_leaf = matches!(cid.codec(), codec::RAW | codec::CBOR | codec::JSON);
                let number = place.number();
                if is_leaf || whole.get(&cid.codec()).is_some_and(|whole| whole.contains(number)) {
                    continue;
                }
                if walked.entry(cid.codec()).or_default().insert(number) {
                    pending.extend(links(&cid, &pack::read(&segments, place)?));
                }
            }
            Ok(true)
        })?;
        if is_whole {
            for (codec, walked) in walked {
                *self.whole.entry(codec).or_default() |= walked;
            }
        }
        Ok(is_whole)
    }
}
