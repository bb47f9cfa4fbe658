//! Tokens of any account.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::AdminState;
use crate::http::auth::uncached;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::tokens::{MadeToken, NamedToken, NewToken, TokenList};

/// List the tokens of an account
#[utoipa::path(get, path = "/users/{email}/tokens", operation_id = "list_tokens_of", tag = "admin",
    params(("email" = String, Path)),
    responses((status = 200, description = "the tokens that authorise requests", body = TokenList)))]
pub(in crate::http) async fn list(
    State(state): State<AdminState>,
    Path(email): Path<String>,
) -> Result<Json<TokenList>, ApiError> {
    let account = state.accounts.account(&email)?;
    let tokens = tokio::task::spawn_blocking(move || state.accounts.tokens(account.id)).await;
    Ok(Json(tokens.map_err(|_| ApiError::stopping())??.into()))
}

/// Make a token for a device of an account
#[utoipa::path(post, path = "/users/{email}/tokens", operation_id = "create_token_for", tag = "admin",
    params(("email" = String, Path)), request_body = NewToken,
    responses((status = 201, description = "the token; its text is shown only now", body = MadeToken)))]
pub(in crate::http) async fn create(
    State(state): State<AdminState>,
    Path(email): Path<String>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, ApiError> {
    let account = state.accounts.account(&email)?;
    let made = state.accounts.create_device_token(account.id, new.checked()?).await?;
    Ok((StatusCode::CREATED, uncached(MadeToken::from(made))).into_response())
}

/// Revoke a token of any account
#[utoipa::path(delete, path = "/tokens/{id}", operation_id = "revoke_token_of", tag = "admin",
    params(("id" = String, Path, description = "the `id` of the token")),
    responses((status = 204, description = "it is revoked")))]
pub(in crate::http) async fn revoke(
    State(state): State<AdminState>,
    NamedToken(id): NamedToken,
) -> Result<StatusCode, ApiError> {
    state.accounts.revoke_token(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
