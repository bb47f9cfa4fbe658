//! The account that the first start makes: once, with its token, in one commit.

use super::{
    Accounts, AuthError, NewDeviceToken, Options, Quota, Role, check_email, check_password, normalize_email, now_ms,
    password,
};
use crate::store::records::{NewUser, Scopes};

/// The e-mail address of an account that nobody named.
const EMAIL_DEFAULT: &str = "admin@localhost";
/// The name of the token that is shown at the first start.
const TOKEN_NAME: &str = "first start";

/// What the first start shows, once.
#[derive(Clone)]
pub struct FirstStart {
    /// The account's e-mail address.
    pub email: String,
    /// The account's password, if it was generated.
    pub password: Option<String>,
    /// A device token without an end, for both scopes.
    pub token: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FirstStart").field("email", &self.email).finish_non_exhaustive()
    }
}

pub(super) async fn ensure_admin(accounts: &Accounts, options: &Options) -> Result<Option<FirstStart>, AuthError> {
    if accounts.records.has_users()? {
        return Ok(None);
    }
    let (email, given) = credentials(options).await?;
    let generated = if given.is_none() { Some(password::generate()) } else { None };
    let password = given.as_ref().or(generated.as_ref()).map_or("", String::as_str);
    let password_hash = accounts.passwords.hash(password).await?;
    let (role, quota) = (Role::Admin, Quota::NONE);
    let created_ms = now_ms();
    let new = NewUser { email: email.clone(), password_hash, created_ms, role, quota, pin_lifetime_s: None };
    let keys = accounts.keys();
    let key = keys.newest();

    let made = accounts
        .records
        .write(move |change| {
            if change.has_users()? {
                return Ok(None);
            }
            let Some(user) = change.create_user(new)? else { return Ok(None) };
            let token = NewDeviceToken { name: TOKEN_NAME.to_owned(), scopes: Scopes::ALL, expires_ms: None };
            let token = token.record(user.id, key, now_ms());
            change.put_token(&token)?;
            Ok(Some(token))
        })
        .await?;
    let Some(record) = made else { return Ok(None) };
    Ok(Some(FirstStart { email, password: generated, token: keys.sign(&record)? }))
}

/// The e-mail address, and the password if one is given: options first, then the file.
async fn credentials(options: &Options) -> Result<(String, Option<String>), AuthError> {
    let mut email = normalize_email(&options.admin_email);
    let mut password = options.admin_password.clone();
    if !options.admin_file.as_os_str().is_empty() {
        let shown = options.admin_file.display();
        let text = tokio::fs::read_to_string(&options.admin_file)
            .await
            .map_err(|error| AuthError::BadAdmin(format!("auth.admin_file {shown} can't be read: {error}")))?;
        let mut lines = text.lines().map(str::trim_end);
        let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
            return Err(AuthError::BadAdmin(format!(
                "auth.admin_file {shown} must have two lines: the e-mail address and the password"
            )));
        };
        if email.is_empty() {
            email = normalize_email(first);
        }
        if password.is_empty() {
            second.clone_into(&mut password);
        }
    }
    if email.is_empty() {
        EMAIL_DEFAULT.clone_into(&mut email);
    }
    check_email(&email).map_err(|reason| AuthError::BadAdmin(format!("the account of the first start: {reason}")))?;
    if password.is_empty() {
        return Ok((email, None));
    }
    check_password(&password)
        .map_err(|reason| AuthError::BadAdmin(format!("the account of the first start: {reason}")))?;
    Ok((email, Some(password)))
}
