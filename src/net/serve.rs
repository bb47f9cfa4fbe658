//! Reads from the block store what a peer wants: the only way by which the network sees the store.

use crate::bitswap::serve::{ReadJob, ReadResult};
use crate::bitswap::wire::WantKind;
use crate::denylist::Denylist;
use crate::model::limits::ANSWER_BYTES_TARGET;
use crate::store::blocks::BlockReader;

/// A block up to this size, in bytes, is sent to who asks whether we have it, as boxo does (`WantHaveReplaceSize`): it costs
/// hardly more than the answer, and saves the round trip.
const HAVE_REPLACE_BYTES_MAX: u32 = 1024;

/// Carries out a job. What can't be read counts as missing: the peer looks elsewhere, and the log says why; what the operator
/// doesn't want here is missing too.
pub fn read(reader: &BlockReader, denylist: &Denylist, job: &ReadJob) -> ReadResult {
    let mut result = ReadResult::default();
    let cids: Vec<_> = job.wants.iter().map(|(cid, _)| *cid).collect();
    let sizes = match reader.sizes_many(&cids) {
        Ok(sizes) => sizes,
        Err(error) => {
            tracing::error!(%error, "wanted blocks can't be looked up");
            result.missing = cids;
            return result;
        }
    };
    let (mut wanted, mut bytes) = (Vec::new(), 0usize);
    for ((cid, kind), size) in job.wants.iter().zip(sizes) {
        match (size.filter(|_| !denylist.denies(cid)), kind) {
            (None, _) => result.missing.push(*cid),
            (Some(size), WantKind::Have) if size > HAVE_REPLACE_BYTES_MAX || !job.with_blocks => {
                result.present.push(*cid);
            }
            (Some(size), _) => {
                let size = size as usize;
                if wanted.is_empty() || bytes + size <= ANSWER_BYTES_TARGET {
                    wanted.push(*cid);
                    bytes += size;
                }
                // Others are for the next job; what is small or not here is answered now, ahead of blocks.
            }
        }
    }
    match reader.get_many(&wanted) {
        Ok(blocks) => {
            for (cid, data) in wanted.into_iter().zip(blocks) {
                match data {
                    Some(data) => result.blocks.push((cid, data)),
                    None => result.missing.push(cid),
                }
            }
        }
        Err(error) => {
            tracing::error!(%error, "wanted blocks can't be read");
            result.missing.extend(wanted);
        }
    }
    result
}
