//! Accounts as they are stored. What they may do is decided in `auth`.

use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use super::tables::{META, TOKENS, TOKENS_BY_USER, USERS, USERS_BY_EMAIL, decode, encode};
use super::{Change, Records, RecordsError};
use crate::model::UserId;

/// Where the highest number that an account was ever given is in [`META`].
const USER_LAST_KEY: &str = "user_last";

/// What an account may do besides working on its own pins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing.
    #[default]
    User,
    /// Everything that the operator may: accounts, tokens and pins of all.
    Admin,
}

impl Role {
    /// The role as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// Whether an account may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It may.
    #[default]
    Active,
    /// Its tokens authorise nothing, and its pins stay.
    Disabled,
    /// It is gone for everyone, and its pins are being removed.
    Deleting,
}

impl Standing {
    /// The standing as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Deleting => "deleting",
        }
    }
}

/// How much an account may pin; what is absent has no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes of the DAGs that it has pinned, each root once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Pins in any status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<u64>,
}

impl Quota {
    /// No bound.
    pub const NONE: Self = Self { bytes: None, pins: None };

    /// These bounds, and those of `other` where there are none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { bytes: self.bytes.or(other.bytes), pins: self.pins.or(other.pins) }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its number.
    pub id: UserId,
    /// Its e-mail address, in lower case.
    pub email: String,
    /// Its password's hash, as a PHC string.
    pub password_hash: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// What it may do besides working on its own pins.
    #[serde(default)]
    pub role: Role,
    /// Whether it may be used.
    #[serde(default)]
    pub standing: Standing,
    /// How much it may pin, where that differs from what the configuration says for all.
    #[serde(default)]
    pub quota: Quota,
    /// Seconds until a pin of it goes whose client doesn't say, where that differs from what the configuration says for all; zero
    /// for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_lifetime_s: Option<u64>,
}

/// An account that is to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Its e-mail address, in lower case.
    pub email: String,
    /// Its password's hash, as a PHC string.
    pub password_hash: String,
    /// Now, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// What it may do besides working on its own pins.
    pub role: Role,
    /// How much it may pin.
    pub quota: Quota,
    /// Seconds until a pin of it goes whose client doesn't say; zero for never, and as the configuration says if absent.
    pub pin_lifetime_s: Option<u64>,
}

impl Records {
    /// Whether there is any account.
    pub fn has_users(&self) -> Result<bool, RecordsError> {
        Ok(self.read()?.open_table(USERS)?.first()?.is_some())
    }

    /// The account that was made first of those that are left, which is usually the operator's.
    pub fn first_user(&self) -> Result<Option<UserRecord>, RecordsError> {
        Ok(self.users(None, 1)?.pop())
    }

    /// At most `max` accounts in the order in which they were made, from the one after `after` on.
    pub fn users(&self, after: Option<UserId>, max: usize) -> Result<Vec<UserRecord>, RecordsError> {
        let snapshot = self.read()?;
        let table = snapshot.open_table(USERS)?;
        let start = after.map_or(0, |id| id.0.saturating_add(1));
        table.range(start..)?.take(max).map(|entry| decode("users", entry?.1.value())).collect()
    }

    /// The account with this number.
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, RecordsError> {
        let snapshot = self.read()?;
        let table = snapshot.open_table(USERS)?;
        table.get(id.0)?.map(|value| decode("users", value.value())).transpose()
    }

    /// The account with this e-mail address, which must be in lower case.
    pub fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, RecordsError> {
        let transaction = self.read()?;
        let Some(id) = transaction.open_table(USERS_BY_EMAIL)?.get(email)?.map(|id| id.value()) else {
            return Ok(None);
        };
        let table = transaction.open_table(USERS)?;
        table.get(id)?.map(|value| decode("users", value.value())).transpose()
    }
}

impl Change<'_> {
    /// Whether there is any account.
    pub fn has_users(&self) -> Result<bool, RecordsError> {
        Ok(self.transaction().open_table(USERS)?.first()?.is_some())
    }

    /// Makes an account; `None` when its e-mail address is taken.
    pub fn create_user(&self, new: NewUser) -> Result<Option<UserRecord>, RecordsError> {
        let mut by_email = self.transaction().open_table(USERS_BY_EMAIL)?;
        if by_email.get(new.email.as_str())?.is_some() {
            return Ok(None);
        }
        // The number of one that was deleted must not come again: what it left would be the new one's.
        let last: u64 = self.meta(USER_LAST_KEY)?.unwrap_or_default();
        let mut users = self.transaction().open_table(USERS)?;
        let id = UserId(users.last()?.map_or(0, |(id, _)| id.value()).max(last) + 1);
        self.set_meta(USER_LAST_KEY, &id.0)?;
        let NewUser { email, password_hash, created_ms, role, quota, pin_lifetime_s } = new;
        let standing = Standing::Active;
        let user = UserRecord { id, email, password_hash, created_ms, role, standing, quota, pin_lifetime_s };
        users.insert(id.0, encode("users", &user)?.as_slice())?;
        by_email.insert(user.email.as_str(), id.0)?;
        Ok(Some(user))
    }

    /// The account with this e-mail address, which must be in lower case.
    pub fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, RecordsError> {
        let id = self.transaction().open_table(USERS_BY_EMAIL)?.get(email)?.map(|id| id.value());
        id.map_or(Ok(None), |id| self.user(UserId(id)))
    }

    /// The account with this number.
    pub fn user(&self, id: UserId) -> Result<Option<UserRecord>, RecordsError> {
        let table = self.transaction().open_table(USERS)?;
        let value = table.get(id.0)?;
        value.map(|value| decode("users", value.value())).transpose()
    }

    /// Stores a new state of an account. Its number and its e-mail address must be as they were.
    pub fn put_user(&self, user: &UserRecord) -> Result<(), RecordsError> {
        self.transaction().open_table(USERS)?.insert(user.id.0, encode("users", user)?.as_slice())?;
        Ok(())
    }

    /// How many accounts are active and have the role of an admin.
    pub fn count_active_admins(&self) -> Result<usize, RecordsError> {
        let mut admins = 0;
        for entry in self.transaction().open_table(USERS)?.iter()? {
            let user: UserRecord = decode("users", entry?.1.value())?;
            admins += usize::from(user.role == Role::Admin && user.standing == Standing::Active);
        }
        Ok(admins)
    }

    /// Begins to delete an account: its tokens, its e-mail address and its webhook are gone with the commit, and no pin of it can be made any
    /// more. Its pins are to be removed, and then [`Self::forget_user`] ends it.
    pub fn begin_delete_user(&self, mut user: UserRecord) -> Result<(), RecordsError> {
        self.transaction().open_table(USERS_BY_EMAIL)?.remove(user.email.as_str())?;
        user.standing = Standing::Deleting;
        self.put_user(&user)?;
        self.close_account(user.id)?;
        self.remove_hook(user.id)?;
        let mut by_user = self.transaction().open_table(TOKENS_BY_USER)?;
        let mut tokens = self.transaction().open_table(TOKENS)?;
        let range = (user.id.0, &[0; 16], &[0; 16])..=(user.id.0, &[0xff; 16], &[0xff; 16]);
        for entry in by_user.extract_from_if(range, |_, ()| true)? {
            tokens.remove(entry?.0.value().2)?;
        }
        Ok(())
    }

    /// Ends the deletion of an account; false while it still has pins, or when it isn't being deleted.
    pub fn forget_user(&self, id: UserId) -> Result<bool, RecordsError> {
        let Some(user) = self.user(id)? else { return Ok(true) };
        if user.standing != Standing::Deleting || self.count_pins_of(id)? > 0 {
            return Ok(false);
        }
        self.transaction().open_table(USERS)?.remove(id.0)?;
        Ok(true)
    }
}

/// Makes the account that was made first the operator's: files of versions before 4 knew no roles.
pub(super) fn promote_first(transaction: &redb::WriteTransaction) -> Result<(), RecordsError> {
    let mut users = transaction.open_table(USERS)?;
    let Some(mut first) = users.first()?.map(|(_, value)| decode::<UserRecord>("users", value.value())).transpose()?
    else {
        return Ok(());
    };
    first.role = Role::Admin;
    users.insert(first.id.0, encode("users", &first)?.as_slice())?;
    let last = users.last()?.map_or(0, |(id, _)| id.value());
    transaction.open_table(META)?.insert(USER_LAST_KEY, encode("meta", &last)?.as_slice())?;
    Ok(())
}
