//! What an operator does with all accounts: make, list, change and delete them.

use super::{Accounts, AuthError, Quota, Role, check_lifetime, check_password, normalize_email};
use crate::model::UserId;
use crate::store::records::{Standing, Usage, UserRecord};

/// An account that is to be made.
#[derive(Clone)]
pub struct NewAccount {
    /// Its e-mail address.
    pub email: String,
    /// Its password.
    pub password: String,
    /// What it may do besides working on its own pins.
    pub role: Role,
    /// How much it may pin.
    pub quota: Quota,
    /// Seconds until a pin of it goes whose client doesn't say; zero for never, and as the configuration says if absent.
    pub pin_lifetime_s: Option<u64>,
}

impl std::fmt::Debug for NewAccount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewAccount").field("email", &self.email).finish_non_exhaustive()
    }
}

/// What is to be changed about an account; what is absent stays.
#[derive(Clone, Default)]
pub struct AccountChange {
    /// Whether its tokens authorise nothing.
    pub is_disabled: Option<bool>,
    /// What it may do besides working on its own pins.
    pub role: Option<Role>,
    /// How many bytes it may pin; `Some(None)` for as many as the configuration says.
    pub quota_bytes: Option<Option<u64>>,
    /// How many pins it may have; `Some(None)` for as many as the configuration says.
    pub quota_pins: Option<Option<u64>>,
    /// Seconds until a pin of it goes whose client doesn't say, zero for never; `Some(None)` for what the configuration says.
    pub pin_lifetime_s: Option<Option<u64>>,
    /// A new password; all logins of the account end with that.
    pub password: Option<String>,
}

impl std::fmt::Debug for AccountChange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AccountChange")
            .field("is_disabled", &self.is_disabled)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// An account as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// Its number.
    pub id: UserId,
    /// Its e-mail address.
    pub email: String,
    /// What it may do besides working on its own pins.
    pub role: Role,
    /// Whether it may be used.
    pub standing: Standing,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// How much it may pin, all in all.
    pub quota: Quota,
    /// Seconds until a pin of it goes whose client doesn't say, where that differs from what the configuration says; zero for never.
    pub pin_lifetime_s: Option<u64>,
    /// What it has pinned.
    pub usage: Usage,
    /// How many pins it has, in any status.
    pub pins: u64,
}

impl Accounts {
    /// At most `max` accounts in the order in which they were made, from the one after `after` on.
    pub fn accounts(&self, after: Option<UserId>, max: usize) -> Result<Vec<AccountView>, AuthError> {
        self.records.users(after, max)?.into_iter().map(|account| self.view(account)).collect()
    }

    /// The account with this e-mail address.
    pub fn account(&self, email: &str) -> Result<AccountView, AuthError> {
        self.view(self.find(email)?)
    }

    /// Changes an account. The last active admin stays one.
    pub async fn change_account(&self, email: &str, wanted: AccountChange) -> Result<AccountView, AuthError> {
        if let Some(password) = &wanted.password {
            check_password(password).map_err(AuthError::BadAccount)?;
        }
        check_lifetime(wanted.pin_lifetime_s.flatten())?;
        let AccountChange { is_disabled, role, quota_bytes, quota_pins, pin_lifetime_s, password } = wanted;
        let address = normalize_email(email);
        let changed = self
            .records
            .write(move |change| {
                let Some(mut account) = change.user_by_email(&address)? else { return Ok(Err(address)) };
                let was_admin = account.role == Role::Admin && account.standing == Standing::Active;
                account.role = role.unwrap_or(account.role);
                account.standing = match is_disabled {
                    None => account.standing,
                    Some(true) => Standing::Disabled,
                    Some(false) => Standing::Active,
                };
                account.quota.bytes = quota_bytes.unwrap_or(account.quota.bytes);
                account.quota.pins = quota_pins.unwrap_or(account.quota.pins);
                account.pin_lifetime_s = pin_lifetime_s.unwrap_or(account.pin_lifetime_s);
                let is_admin = account.role == Role::Admin && account.standing == Standing::Active;
                if was_admin && !is_admin && change.count_active_admins()? < 2 {
                    return Ok(Ok(None));
                }
                change.put_user(&account)?;
                Ok(Ok(Some(account)))
            })
            .await?;
        self.sessions.forget();
        let account = changed.map_err(AuthError::NoSuchAccount)?.ok_or(AuthError::LastAdmin)?;
        if let Some(password) = password {
            self.put_password(account.id, &password, None).await?;
        }
        self.view(account)
    }

    /// Begins to delete an account: it is gone for everyone, and its pins are still to be removed.
    pub async fn begin_delete(&self, email: &str) -> Result<UserId, AuthError> {
        let address = normalize_email(email);
        let deleted = self
            .records
            .write(move |change| {
                let Some(account) = change.user_by_email(&address)? else { return Ok(Err(address)) };
                let is_admin = account.role == Role::Admin && account.standing == Standing::Active;
                if is_admin && change.count_active_admins()? < 2 {
                    return Ok(Ok(None));
                }
                let id = account.id;
                change.begin_delete_user(account)?;
                Ok(Ok(Some(id)))
            })
            .await?;
        self.sessions.forget();
        deleted.map_err(AuthError::NoSuchAccount)?.ok_or(AuthError::LastAdmin)
    }

    fn find(&self, email: &str) -> Result<UserRecord, AuthError> {
        let address = normalize_email(email);
        self.records.user_by_email(&address)?.ok_or(AuthError::NoSuchAccount(address))
    }

    pub(super) fn view(&self, account: UserRecord) -> Result<AccountView, AuthError> {
        let quota = self.quota_of(&account);
        let UserRecord { id, email, created_ms, role, standing, pin_lifetime_s, .. } = account;
        let (usage, pins) = (self.records.usage(id)?, self.records.count_pins_of(id)?);
        Ok(AccountView { id, email, role, standing, created_ms, quota, pin_lifetime_s, usage, pins })
    }
}
