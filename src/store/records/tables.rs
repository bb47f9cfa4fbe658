//! The tables of `records.redb`, how values become bytes, and the schema's version.

use redb::{Database, Key, ReadableTable, Table, TableDefinition, TableHandle, Value, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{RecordsError, SCHEMA_VERSION, upgrade};
use crate::store::database::begin_write;
use crate::store::disk;

/// Values of the whole installation, by name.
pub(super) const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
/// Accounts by number.
pub(super) const USERS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("users");
/// Numbers of accounts by e-mail address in lower case.
pub(super) const USERS_BY_EMAIL: TableDefinition<'static, &'static str, u64> = TableDefinition::new("users_by_email");
/// Tokens by their `jti`.
pub(super) const TOKENS: TableDefinition<'static, &'static [u8; 16], &'static [u8]> = TableDefinition::new("tokens");
/// Which tokens an account has: (account, family, `jti`).
pub(super) const TOKENS_BY_USER: TableDefinition<'static, (u64, &'static [u8; 16], &'static [u8; 16]), ()> =
    TableDefinition::new("tokens_by_user");
/// Pins by id.
pub(super) const PINS: TableDefinition<'static, &'static [u8; 16], &'static [u8]> = TableDefinition::new("pins");
/// Ids and ordinals of pins by (account, `created` in milliseconds).
pub(super) const PINS_BY_CREATED: TableDefinition<'static, (u64, i64), (&'static [u8; 16], u64)> =
    TableDefinition::new("pins_by_created");
/// Ids of pins by (account, ordinal).
pub(super) const PINS_BY_ORDINAL: TableDefinition<'static, (u64, u64), &'static [u8; 16]> =
    TableDefinition::new("pins_by_ordinal");
/// What is known of all pins of an account together: see [`super::account`].
pub(super) const ACCOUNT_PINS: TableDefinition<'static, u64, (i64, u64, u64, bool)> =
    TableDefinition::new("account_pins");
/// Chunks of postings: see [`super::index`].
pub(super) const POSTINGS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("posting_chunks");
/// Terms of an account's newest pins by (account, ordinal): see [`super::front`].
pub(super) const FRONT: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("postings_front");
/// Groups of names by (account, number of the group): see [`super::names`].
pub(super) const NAMES: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("names");
/// Ids of the pins that are neither pinned nor failed; they sort by the time they were made.
pub(super) const PINS_UNFINISHED: TableDefinition<'static, &'static [u8; 16], ()> =
    TableDefinition::new("pins_unfinished");
/// Ids of the pins that failed.
pub(super) const PINS_FAILED: TableDefinition<'static, &'static [u8; 16], ()> = TableDefinition::new("pins_failed");

/// When pins go by themselves: (time in milliseconds, id).
pub(super) const EXPIRIES: TableDefinition<'static, (i64, &'static [u8; 16]), ()> = TableDefinition::new("expiries");

/// Webhooks by account: see [`super::notices`].
pub(super) const HOOKS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("hooks");
/// Events that wait for their webhook, by (account, number).
pub(super) const NOTICES: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("notices");

/// How many pins of an account have a root pinned, and the bytes of its DAG, by (account, [`crate::model::ContentKey`]).
pub(super) const ROOTS_BY_USER: TableDefinition<'static, (u64, &'static [u8]), (u64, u64)> =
    TableDefinition::new("roots_by_user");
/// Distinct roots that an account has pinned and the bytes of their DAGs, by account.
pub(super) const USAGE: TableDefinition<'static, u64, (u64, u64)> = TableDefinition::new("usage");

/// Chunks of postings with 65,536 ordinals each, in files and backups of versions 3 to 6.
pub(super) const OLD_POSTINGS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("postings");
/// The ordinal of an account's next pin, in files and backups of version 3.
pub(super) const OLD_ORDINALS_NEXT: TableDefinition<'static, u64, u64> = TableDefinition::new("ordinals_next");
/// The newest `created` that an account was ever given, in milliseconds, in files and backups of versions 1 to 3.
pub(super) const OLD_CREATED_LAST: TableDefinition<'static, u64, i64> = TableDefinition::new("created_last");
/// Ids of pins by (account, `created` in milliseconds), in files and backups of versions 1 and 2.
pub(super) const OLD_PINS_BY_USER: TableDefinition<'static, (u64, i64), &'static [u8; 16]> =
    TableDefinition::new("pins_by_user");

/// The tables that each change of a pin writes. Opening one costs as much as writing to it, so they are opened once in a
/// transaction.
pub(super) struct PinTables<'transaction> {
    /// [`PINS`].
    pub(super) pins: Table<'transaction, &'static [u8; 16], &'static [u8]>,
    /// [`PINS_BY_CREATED`].
    pub(super) by_created: Table<'transaction, (u64, i64), (&'static [u8; 16], u64)>,
    /// [`PINS_BY_ORDINAL`].
    pub(super) by_ordinal: Table<'transaction, (u64, u64), &'static [u8; 16]>,
    /// [`PINS_UNFINISHED`].
    pub(super) unfinished: Table<'transaction, &'static [u8; 16], ()>,
    /// [`PINS_FAILED`].
    pub(super) failed: Table<'transaction, &'static [u8; 16], ()>,
    /// [`ACCOUNT_PINS`].
    pub(super) accounts: Table<'transaction, u64, (i64, u64, u64, bool)>,
    /// [`EXPIRIES`].
    pub(super) expiries: Table<'transaction, (i64, &'static [u8; 16]), ()>,
}

impl<'transaction> PinTables<'transaction> {
    /// Opens them; each can be open once in a transaction.
    pub(super) fn open(transaction: &'transaction WriteTransaction) -> Result<Self, RecordsError> {
        Ok(Self {
            pins: transaction.open_table(PINS)?,
            by_created: transaction.open_table(PINS_BY_CREATED)?,
            by_ordinal: transaction.open_table(PINS_BY_ORDINAL)?,
            unfinished: transaction.open_table(PINS_UNFINISHED)?,
            failed: transaction.open_table(PINS_FAILED)?,
            accounts: transaction.open_table(ACCOUNT_PINS)?,
            expiries: transaction.open_table(EXPIRIES)?,
        })
    }
}

/// The tables of webhooks, which each pin that ends looks at: opened once in a transaction, as those of pins are.
pub(super) struct NoticeTables<'transaction> {
    /// [`HOOKS`].
    pub(super) hooks: Table<'transaction, u64, &'static [u8]>,
    /// [`NOTICES`].
    pub(super) notices: Table<'transaction, (u64, u64), &'static [u8]>,
}

impl<'transaction> NoticeTables<'transaction> {
    /// Opens them; each can be open once in a transaction.
    pub(super) fn open(transaction: &'transaction WriteTransaction) -> Result<Self, RecordsError> {
        Ok(Self { hooks: transaction.open_table(HOOKS)?, notices: transaction.open_table(NOTICES)? })
    }
}

/// Something that is done with each table.
pub(super) trait EachTable {
    /// Does it with one of them.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), RecordsError>;
}

/// Every table there is: what makes, backs up and restores them goes through this list.
pub(super) fn each_table(job: &mut impl EachTable) -> Result<(), RecordsError> {
    job.table(META)?;
    job.table(USERS)?;
    job.table(USERS_BY_EMAIL)?;
    job.table(TOKENS)?;
    job.table(TOKENS_BY_USER)?;
    job.table(PINS)?;
    job.table(PINS_BY_CREATED)?;
    job.table(PINS_BY_ORDINAL)?;
    job.table(ACCOUNT_PINS)?;
    job.table(POSTINGS)?;
    job.table(FRONT)?;
    job.table(NAMES)?;
    job.table(PINS_UNFINISHED)?;
    job.table(PINS_FAILED)?;
    job.table(EXPIRIES)?;
    job.table(HOOKS)?;
    job.table(NOTICES)?;
    job.table(ROOTS_BY_USER)?;
    job.table(USAGE)
}

/// Every table that older versions have and this one doesn't: a backup may hold them, and opening the records makes of them
/// what this version has.
pub(super) fn each_old_table(job: &mut impl EachTable) -> Result<(), RecordsError> {
    job.table(OLD_PINS_BY_USER)?;
    job.table(OLD_POSTINGS)?;
    job.table(OLD_ORDINALS_NEXT)?;
    job.table(OLD_CREATED_LAST)
}

/// Makes the tables that aren't there.
struct Make<'a>(&'a WriteTransaction);

impl EachTable for Make<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), RecordsError> {
        self.0.open_table(table)?;
        Ok(())
    }
}

/// Where the schema's version is in [`META`].
pub(super) const SCHEMA_KEY: &str = "schema_version";

/// The bytes of a value: DAG-CBOR, which has one encoding for each value.
pub(super) fn encode<T: Serialize>(table: &'static str, value: &T) -> Result<Vec<u8>, RecordsError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|error| RecordsError::Codec { table, reason: error.to_string() })
}

/// The value of bytes that [`encode`] made.
pub(super) fn decode<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, RecordsError> {
    serde_ipld_dagcbor::from_slice(bytes).map_err(|error| RecordsError::Codec { table, reason: error.to_string() })
}

/// Makes the tables of a new file, upgrades an older one, and refuses a foreign file and one with a newer schema. All of
/// it is one transaction: a process that is killed meanwhile leaves the file as it was.
pub(super) fn prepare(database: &Database, path: &str) -> Result<(), RecordsError> {
    let transaction = begin_write(database)?;
    let tables = transaction.list_tables()?.count() + transaction.list_multimap_tables()?.count();
    if tables > 0 && !transaction.list_tables()?.any(|table| table.name() == META.name()) {
        return Err(RecordsError::Foreign { path: path.to_owned() });
    }
    let found = {
        let meta = transaction.open_table(META).map_err(|_| RecordsError::Foreign { path: path.to_owned() })?;
        meta.get(SCHEMA_KEY)?.map(|value| decode::<u64>("meta", value.value())).transpose()?
    };
    match found {
        Some(found) if found > SCHEMA_VERSION => return Err(RecordsError::Newer { path: path.to_owned(), found }),
        // Nothing to commit, so opening costs no write.
        Some(SCHEMA_VERSION) => return Ok(transaction.abort()?),
        Some(found) => {
            tracing::info!("{path} is of version {found} and becomes one of version {SCHEMA_VERSION}");
            each_table(&mut Make(&transaction))?;
            upgrade::run(&transaction, found)?;
        }
        None if tables > 0 => return Err(RecordsError::Foreign { path: path.to_owned() }),
        None => each_table(&mut Make(&transaction))?,
    }
    transaction.open_table(META)?.insert(SCHEMA_KEY, encode("meta", &SCHEMA_VERSION)?.as_slice())?;
    Ok(disk::commit(transaction)?)
}
