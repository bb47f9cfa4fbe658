//! Accounts of all users.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AdminState;
use crate::auth::{AccountChange, AccountView, NewAccount, Quota, Role};
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::model::UserId;
use crate::model::limits::PAGE_ACCOUNTS_MAX;
use crate::model::time::rfc3339;
use crate::store::records::Usage;

/// How much an account may pin; what is absent has no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Quota)]
pub struct QuotaJson {
    /// Bytes of the DAGs that it has pinned, each root once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub bytes: Option<u64>,
    /// Pins in any status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pins: Option<u64>,
}

impl From<Quota> for QuotaJson {
    fn from(Quota { bytes, pins }: Quota) -> Self {
        Self { bytes, pins }
    }
}

/// What an account has pinned, each root once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pinned {
    /// Distinct roots.
    pub roots: u64,
    /// Bytes of their DAGs.
    pub bytes: u64,
}

impl From<Usage> for Pinned {
    fn from(Usage { roots, bytes }: Usage) -> Self {
        Self { roots, bytes }
    }
}

/// What an account may do besides working on its own pins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Role)]
pub enum RoleJson {
    /// Nothing.
    #[default]
    User,
    /// Everything that the operator may.
    Admin,
}

impl From<RoleJson> for Role {
    fn from(role: RoleJson) -> Self {
        match role {
            RoleJson::User => Self::User,
            RoleJson::Admin => Self::Admin,
        }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its number.
    pub id: u64,
    /// Its e-mail address.
    pub email: String,
    /// `user` or `admin`.
    pub role: String,
    /// `active`, `disabled`, or `deleting` while its pins are being removed.
    pub status: String,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// How much it may pin.
    #[serde(default)]
    pub quota: QuotaJson,
    /// Seconds until a pin of it goes by itself whose `meta` doesn't say when, 0 for never; as the configuration says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pin_lifetime_seconds: Option<u64>,
    /// What it has pinned.
    pub pinned: Pinned,
    /// Pins in any status.
    pub pins: u64,
}

impl From<AccountView> for Account {
    fn from(view: AccountView) -> Self {
        Self {
            id: view.id.0,
            email: view.email,
            role: view.role.as_str().to_owned(),
            status: view.standing.as_str().to_owned(),
            created: rfc3339(view.created_ms),
            quota: view.quota.into(),
            pin_lifetime_seconds: view.pin_lifetime_s,
            pinned: view.usage.into(),
            pins: view.pins,
        }
    }
}

/// A page of the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountList {
    /// In the order in which they were made.
    pub users: Vec<Account>,
    /// Whether there are more; the next page begins `after` the last `id` of this one.
    pub more: bool,
}

/// An account that is to be made.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Its e-mail address.
    #[schema(max_length = 254, pattern = r"^\s*[^@\s]+@\S+\s*$", example = "you@example.org")]
    pub email: String,
    /// Its password.
    #[schema(min_length = 8, max_length = 256, format = Password)]
    pub password: String,
    /// What it may do besides working on its own pins; nothing if absent.
    #[serde(default)]
    pub role: RoleJson,
    /// Bytes that it may pin; as the configuration says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Pins that it may have; as the configuration says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_pins: Option<u64>,
    /// Seconds until a pin of it goes by itself whose `meta` doesn't say when, 0 for never; as the configuration says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 315_360_000)]
    pub pin_lifetime_seconds: Option<u64>,
}

/// What is to be changed about an account; what is absent stays.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// Whether its tokens authorise nothing; its pins stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// What it may do besides working on its own pins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleJson>,
    /// Bytes that it may pin; `null` for what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub quota_bytes: Option<Option<u64>>,
    /// Pins that it may have; `null` for what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub quota_pins: Option<Option<u64>>,
    /// Seconds until a pin of it goes by itself whose `meta` doesn't say when, 0 for never; `null` for what the configuration says. Pins
    /// that are there keep their times.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<u64>, maximum = 315_360_000)]
    pub pin_lifetime_seconds: Option<Option<u64>>,
    /// A new password; all its logins end with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 8, max_length = 256, format = Password)]
    pub password: Option<String>,
}

/// A field that was given, as `null` or not.
#[expect(clippy::option_option, reason = "absent, null and a number are three things")]
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Which page of the accounts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct Page {
    /// The accounts after the one with this number.
    #[param(nullable = false)]
    after: Option<u64>,
    /// As many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
}

const ACCOUNTS_DEFAULT: usize = 100;

/// List accounts
#[utoipa::path(get, path = "/users", operation_id = "list_users", tag = "admin", params(Page),
    responses((status = 200, description = "a page of the accounts", body = AccountList)))]
pub(in crate::http) async fn list(
    State(state): State<AdminState>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<AccountList>, ApiError> {
    let Query(Page { after, limit }) = page.map_err(|_| {
        ApiError::bad_request(format!(
            "a list of accounts takes \"after\", a number, and \"limit\", from 1 to {PAGE_ACCOUNTS_MAX}"
        ))
    })?;
    let limit = limit.unwrap_or(ACCOUNTS_DEFAULT);
    if after.is_some_and(|after| i64::try_from(after).is_err()) {
        return Err(ApiError::bad_request("\"after\" is larger than any number of an account"));
    }
    if !(1..=PAGE_ACCOUNTS_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!("\"limit\" must be a number from 1 to {PAGE_ACCOUNTS_MAX}")));
    }
    let accounts = tokio::task::spawn_blocking(move || state.accounts.accounts(after.map(UserId), limit + 1)).await;
    let mut accounts = accounts.map_err(|_| ApiError::stopping())??;
    let more = accounts.len() > limit;
    accounts.truncate(limit);
    Ok(Json(AccountList { users: accounts.into_iter().map(Account::from).collect(), more }))
}

/// Make an account
#[utoipa::path(post, path = "/users", operation_id = "create_user", tag = "admin", request_body = NewUser,
    responses((status = 201, description = "the account", body = Account)))]
pub(in crate::http) async fn create(
    State(state): State<AdminState>,
    JsonBody(new): JsonBody<NewUser>,
) -> Result<Response, ApiError> {
    let NewUser { email, password, role, quota_bytes, quota_pins, pin_lifetime_seconds } = new;
    let quota = Quota { bytes: quota_bytes, pins: quota_pins };
    let new = NewAccount { email, password, role: role.into(), quota, pin_lifetime_s: pin_lifetime_seconds };
    let made = state.accounts.create_account(new).await?;
    Ok((StatusCode::CREATED, Json(Account::from(made))).into_response())
}

/// Show an account
#[utoipa::path(get, path = "/users/{email}", operation_id = "get_user", tag = "admin", params(("email" = String, Path)),
    responses((status = 200, description = "the account", body = Account)))]
pub(in crate::http) async fn get(
    State(state): State<AdminState>,
    Path(email): Path<String>,
) -> Result<Json<Account>, ApiError> {
    Ok(Json(state.accounts.account(&email)?.into()))
}

/// Change an account
///
/// A disabled account's tokens stop at once, and its pins stay.
#[utoipa::path(patch, path = "/users/{email}", operation_id = "change_user", tag = "admin", params(("email" = String, Path)), request_body = UserChange,
    responses((status = 200, description = "the account as it is now", body = Account)))]
pub(in crate::http) async fn change(
    State(state): State<AdminState>,
    Path(email): Path<String>,
    JsonBody(change): JsonBody<UserChange>,
) -> Result<Json<Account>, ApiError> {
    let UserChange { disabled, role, quota_bytes, quota_pins, pin_lifetime_seconds, password } = change;
    let change = AccountChange {
        is_disabled: disabled,
        role: role.map(Role::from),
        quota_bytes,
        quota_pins,
        pin_lifetime_s: pin_lifetime_seconds,
        password,
    };
    Ok(Json(state.accounts.change_account(&email, change).await?.into()))
}

/// Delete an account
///
/// It is gone at once for whoever used it; its pins are removed after the answer.
#[utoipa::path(delete, path = "/users/{email}", operation_id = "delete_user", tag = "admin", params(("email" = String, Path)),
    responses((status = 202, description = "its pins are being removed")))]
pub(in crate::http) async fn delete(
    State(state): State<AdminState>,
    Path(email): Path<String>,
) -> Result<StatusCode, ApiError> {
    let user = state.accounts.begin_delete(&email).await?;
    tokio::spawn(async move {
        // The next start goes on with what is left.
        if let Err(error) = state.pins.remove_account(user).await {
            tracing::warn!(%error, account = %user, "the pins of a deleted account can't be removed now");
        }
    });
    Ok(StatusCode::ACCEPTED)
}
