//! The versions of `blocks.redb`: what a new file has, and how an older one becomes one of today.

use redb::{Database, ReadableTable, WriteTransaction};

use super::file::{INDEX, META, META_SCHEMA, META_SEGMENT_BYTES, QUARANTINE, SEGMENT_SIZES, SEGMENTS};
use super::recent::RECENT;
use super::sub_dag::{SUB_DAG_BLOCKS, SUB_DAGS};
use super::whole::WHOLE;
use super::{BlocksError, SCHEMA_VERSION};
use crate::store::database::begin_write;
use crate::store::disk;

/// Makes the tables of a new file, upgrades an older one, and refuses one that a newer program wrote.
///
/// All of it is one transaction: a process that is killed meanwhile leaves the file as it was.
pub(super) fn prepare(database: &Database, name: &str) -> Result<(), BlocksError> {
    let transaction = begin_write(database)?;
    let found = transaction.open_table(META)?.get(META_SCHEMA)?.map(|version| version.value());
    match found {
        Some(found) if found > SCHEMA_VERSION => {
            return Err(BlocksError::NewerSchema { path: name.to_owned(), found });
        }
        // Nothing to commit, so opening costs no write.
        Some(SCHEMA_VERSION) => return Ok(transaction.abort()?),
        Some(found) => {
            tracing::info!("{name} is of version {found} and becomes one of version {SCHEMA_VERSION}");
            upgrade(&transaction, found)?;
        }
        None => make_tables(&transaction)?,
    }
    transaction.open_table(META)?.insert(META_SCHEMA, SCHEMA_VERSION)?;
    Ok(disk::commit(transaction)?)
}

/// Makes the tables that aren't there.
pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), BlocksError> {
    transaction.open_table(SEGMENTS)?;
    transaction.open_table(SEGMENT_SIZES)?;
    transaction.open_table(INDEX)?;
    transaction.open_table(RECENT)?;
    transaction.open_table(QUARANTINE)?;
    transaction.open_table(WHOLE)?;
    transaction.open_table(SUB_DAGS)?;
    transaction.open_table(SUB_DAG_BLOCKS)?;
    Ok(())
}

/// In version 1 there was no front of the index, nobody counted the bytes of the segments, and there was no scrub; in version 2
/// nobody knew which DAGs are whole; in
/// version 3 that was known of the DAGs of pins alone.
fn upgrade(transaction: &WriteTransaction, found: u64) -> Result<(), BlocksError> {
    make_tables(transaction)?;
    if found > 1 {
        return Ok(());
    }
    let mut bytes = 0;
    for size in transaction.open_table(SEGMENT_SIZES)?.iter()? {
        bytes += u64::from(size?.1.value());
    }
    transaction.open_table(META)?.insert(META_SEGMENT_BYTES, bytes)?;
    Ok(())
}
