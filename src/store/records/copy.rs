//! Copies all tables into a backup's file and back, as they are.

use redb::{Database, Key, ReadTransaction, ReadableTable, TableDefinition, TableError, TableHandle, Value};

use super::tables::{EachTable, each_old_table, each_table};
use super::{Records, RecordsError};

/// Before the names of the tables in a backup, which has others besides.
const PREFIX: &str = "records.";

/// Entries that one transaction writes; the largest is a pin with all its `meta`.
const COMMIT_ENTRIES: usize = 1000;

impl Records {
    /// The state of this moment, for a backup.
    pub(in crate::store) fn snapshot(&self) -> Result<ReadTransaction, RecordsError> {
        Ok(self.read()?.transaction)
    }
}

/// Copies a snapshot of the records into a backup.
pub(in crate::store) fn copy_out(records: &ReadTransaction, backup: &Database) -> Result<(), RecordsError> {
    each_table(&mut Copy { source: records, source_prefix: "", target: backup, target_prefix: PREFIX })
}

/// Copies what a backup has of the records into a new file. The error names a table that only a newer program can know.
pub(in crate::store) fn copy_in(backup: &ReadTransaction, records: &Database) -> Result<(), CopyInError> {
    let mut known = Names(Vec::new());
    each_table(&mut known)?;
    each_old_table(&mut known)?;
    for table in backup.list_tables().map_err(RecordsError::from)? {
        if let Some(name) = table.name().strip_prefix(PREFIX)
            && !known.0.iter().any(|known| known == name)
        {
            return Err(CopyInError::UnknownTable(name.to_owned()));
        }
    }
    let mut copy = Copy { source: backup, source_prefix: PREFIX, target: records, target_prefix: "" };
    each_table(&mut copy)?;
    Ok(each_old_table(&mut copy)?)
}

/// Why records can't be taken from a backup.
#[derive(Debug)]
pub(in crate::store) enum CopyInError {
    /// It has a table that this program doesn't know.
    UnknownTable(String),
    /// Either file failed.
    Records(RecordsError),
}

impl From<RecordsError> for CopyInError {
    fn from(error: RecordsError) -> Self {
        Self::Records(error)
    }
}

struct Names(Vec<String>);

impl EachTable for Names {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), RecordsError> {
        self.0.push(table.name().to_owned());
        Ok(())
    }
}

struct Copy<'a> {
    source: &'a ReadTransaction,
    source_prefix: &'static str,
    target: &'a Database,
    target_prefix: &'static str,
}

impl EachTable for Copy<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), RecordsError> {
        let source_name = format!("{}{}", self.source_prefix, table.name());
        let target_name = format!("{}{}", self.target_prefix, table.name());
        let source = match self.source.open_table(TableDefinition::<K, V>::new(&source_name)) {
            // An older program didn't have it; opening the records makes what they lack.
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            source => source?,
        };
        let mut entries = source.iter()?.peekable();
        loop {
            let transaction = self.target.begin_write()?;
            {
                let mut target = transaction.open_table(TableDefinition::<K, V>::new(&target_name))?;
                for entry in entries.by_ref().take(COMMIT_ENTRIES) {
                    let (key, value) = entry?;
                    target.insert(key.value(), value.value())?;
                }
            }
            transaction.commit()?;
            if entries.peek().is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::ReadableDatabase;

    /// Who adds a table must add it to the list, or backups would lack it.
    #[test]
    fn the_list_of_tables_has_all_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.redb");
        Records::open(&path, 1 << 20).unwrap().close();
        let database = Database::open(&path).unwrap();
        let read = database.begin_read().unwrap();
        let mut found: Vec<String> = read.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        let mut listed = Names(Vec::new());
        each_table(&mut listed).unwrap();
        found.sort();
        listed.0.sort_unstable();
        assert_eq!(found, listed.0);
        assert_eq!(read.list_multimap_tables().unwrap().count(), 0);
    }
}
