//! How a pin ends, within what its account may have pinned.

use bytesize::ByteSize;
use cid::Cid;

use super::tables::ROOTS_BY_USER;
use super::{Change, Records, RecordsError, usage};
use crate::model::{ContentKey, Failure, FailureCode, PinId, PinState, UserId};

/// How a pin ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// As it was to.
    Yes,
    /// It was removed meanwhile.
    Gone,
    /// It failed, as its account has pinned as much as it may.
    OverQuota(Failure),
}

/// The failure of a pin whose account has pinned as much as it may.
pub fn over_quota(quota_bytes: u64) -> Failure {
    let sentence = format!(
        "with it, the account would have pinned more than the {} ({quota_bytes} bytes) that it may; remove other pins and try again, or ask the operator for more",
        ByteSize(quota_bytes)
    );
    Failure { code: FailureCode::Quota, sentence, tried: Vec::new() }
}

impl Records {
    /// Stores how a pin ended. One that is pinned fails instead when its account had more than `quota_bytes` pinned with it.
    pub async fn finish_within(
        &self,
        id: PinId,
        state: PinState,
        quota_bytes: Option<u64>,
    ) -> Result<Finished, RecordsError> {
        self.write(move |change| {
            if let (PinState::Pinned { bytes, .. }, Some(quota)) = (&state, quota_bytes)
                && change.exceeds(id, *bytes, quota)?
            {
                let failure = over_quota(quota);
                let known = change.finish(id, PinState::Failed(failure.clone()))?;
                return Ok(if known { Finished::OverQuota(failure) } else { Finished::Gone });
            }
            Ok(if change.finish(id, state)? { Finished::Yes } else { Finished::Gone })
        })
        .await
    }

    /// Whether an account has this root pinned already, so that another pin of it counts for nothing.
    pub fn has_pinned(&self, user: UserId, root: &Cid) -> Result<bool, RecordsError> {
        let key = ContentKey::of(root);
        Ok(self.read()?.open_table(ROOTS_BY_USER)?.get((user.0, key.as_bytes()))?.is_some())
    }
}

impl Change<'_> {
    /// Whether an account would have more than `quota` bytes pinned, with a DAG of so many bytes.
    fn exceeds(&self, id: PinId, bytes: u64, quota: u64) -> Result<bool, RecordsError> {
        let Some(record) = self.pin(id)? else { return Ok(false) };
        let pinned = usage::of(self.transaction(), record.user)?.bytes;
        let counts = !usage::has_root(self.transaction(), record.user, &record.root)?;
        Ok(counts && pinned.saturating_add(bytes) > quota)
    }
}

#[cfg(test)]
mod tests {

    use bytes::Bytes;

    use super::*;
    use crate::model::Block;
    use crate::model::cids::codec;
    use crate::store::records::NewPin;

    #[tokio::test]
    async fn a_pin_that_exceeds_the_quota_fails_in_the_commit_that_would_have_pinned_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap();
        let user = UserId(1);
        let add = async |number: u8| {
            let root = *Block::new_sha256(codec::RAW, Bytes::from(vec![number])).unwrap().cid();
            let new = NewPin::plain(user, root);
            records.add_pin(new, None).await.unwrap().unwrap()
        };
        let pinned = |bytes| PinState::Pinned { blocks: 1, bytes };
        let first = add(1).await;
        assert!(!records.has_pinned(user, &first.root).unwrap());
        assert_eq!(records.finish_within(first.id, pinned(60), Some(100)).await.unwrap(), Finished::Yes);
        assert!(records.has_pinned(user, &first.root).unwrap());
        let second = add(2).await;
        let outcome = records.finish_within(second.id, pinned(41), Some(100)).await.unwrap();
        let Finished::OverQuota(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.code, FailureCode::Quota);
        assert_eq!(records.get(second.id).unwrap().unwrap().state, PinState::Failed(failure));
        assert_eq!(records.usage(user).unwrap().bytes, 60);
        // The same root again counts for nothing, and exactly the quota is within it.
        let again = add(1).await;
        assert_eq!(records.finish_within(again.id, pinned(60), Some(60)).await.unwrap(), Finished::Yes);
        let third = add(3).await;
        assert_eq!(records.finish_within(third.id, pinned(40), Some(100)).await.unwrap(), Finished::Yes);
        assert!(records.remove_pin(user, third.id).await.unwrap());
        assert_eq!(records.finish_within(third.id, pinned(40), Some(1)).await.unwrap(), Finished::Gone);
        assert_eq!(records.finish_within(third.id, pinned(40), None).await.unwrap(), Finished::Gone);
    }
}
