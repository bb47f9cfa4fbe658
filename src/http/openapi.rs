//! What the API is, for programs (`/api/openapi.json`) and for people (`/api/docs`), made from the handlers themselves.

use std::sync::{Arc, OnceLock};

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ContentBuilder, InfoBuilder, License, OpenApi, PathItem, Ref, RefOr, ResponseBuilder, Server};
use utoipa::{PartialSchema, ToSchema};
use utoipa_swagger_ui::Config;

use super::error::{self, ApiError, Failure};
use super::pins::TextMatchingStrategy;
use super::router::api;

/// Where the description for programs is.
pub(super) const DOCUMENT_PATH: &str = "/api/openapi.json";
/// The page for people.
pub(super) const PAGE_PATH: &str = "/api/docs/index.html";

/// The page's styles are in its markup, and its icons in its styles; everything else comes from here.
const PAGE_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// The name of the one way to authorise a request.
const BEARER: &str = "bearer";

const DESCRIPTION: &str = "pinnace fetches IPFS content, keeps it, and serves it to other peers. `/api/psa` is the IPFS \
Pinning Services API, version 1.0.0; `/api/pins` tells whether others can fetch a pin; `/api/auth` has accounts and their tokens; `/api/admin` is for admins.";

/// The description of the API, as JSON in the form of `OpenAPI`.
pub fn document() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT
        .get_or_init(|| {
            let mut document = api().into_openapi();
            complete(&mut document);
            // Everything in it has a form in JSON.
            let mut document = serde_json::to_value(document).unwrap_or_default();
            describe_filters(&mut document);
            Bytes::from(format!("{document:#}\n"))
        })
        .clone()
}

/// Adds what is the same for all operations.
fn complete(document: &mut OpenApi) {
    let mut license = License::new("MIT OR Apache-2.0");
    license.identifier = Some("MIT OR Apache-2.0".to_owned());
    let info = InfoBuilder::new().title("pinnace").version(env!("CARGO_PKG_VERSION"));
    document.info = info.description(Some(DESCRIPTION)).license(Some(license)).build();
    document.servers = Some(vec![Server::new("/")]);
    // In this order the page shows them.
    let tag = |name: &str, description: &str| TagBuilder::new().name(name).description(Some(description)).build();
    document.tags = Some(vec![
        tag("pins", "The IPFS Pinning Services API"),
        tag("accounts", "One's own account, and its tokens"),
        tag("admin", "Accounts, tokens and pins of all, for admins"),
    ]);
    let components = document.components.get_or_insert_default();
    let mut schemas = vec![(Failure::name().into_owned(), Failure::schema())];
    Failure::schemas(&mut schemas);
    // Only parameters name it.
    schemas.push((TextMatchingStrategy::name().into_owned(), TextMatchingStrategy::schema()));
    components.schemas.extend(schemas);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The `access_token` of a login, or the token of a device."))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let is_admin = path.starts_with("/api/admin");
        for operation in operations(item) {
            if is_admin {
                operation.security =
                    Some(vec![utoipa::openapi::security::SecurityRequirement::new(BEARER, Vec::<String>::new())]);
            }
            add_failures(operation);
        }
    }
}

/// Says of the filters of a list what the library has no words for: what a CID is, and that `meta` is JSON, in the way of the specification.
fn describe_filters(document: &mut Value) {
    let parameters = document.pointer_mut("/paths/~1api~1psa~1pins/get/parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
        if parameter.get("name").is_some_and(|name| name == "cid") {
            parameter["schema"]["items"]["format"] = "cid".into();
        }
        if parameter.get("name").is_some_and(|name| name == "meta") {
            let pairs =
                json!({ "type": "object", "additionalProperties": { "type": "string" }, "maxProperties": 1000 });
            parameter.remove("schema");
            parameter.insert("content".to_owned(), json!({ "application/json": { "schema": pairs } }));
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
    [get, put, post, delete, options, head, patch, trace].into_iter().flatten()
}

/// Adds the answers to requests that fail, which are the same everywhere.
fn add_failures(operation: &mut Operation) {
    let needs_token = operation.security.is_some();
    let failures = [
        ("400", "the request can't be understood or accepted", true),
        ("401", "there is no valid token, or the credentials are wrong", true),
        ("403", "the token, or the account, may not do this", needs_token),
        ("404", "there is no such thing", operation.parameters.is_some()),
        ("409", "what there is doesn't allow it, such as a full quota", operation.request_body.is_some()),
        ("4XX", "the request can't be handled", true),
        ("5XX", "the service can't handle it", true),
    ];
    for (status, description, applies) in failures {
        if applies && !operation.responses.responses.contains_key(status) {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Failure::name()))).build();
            let response = ResponseBuilder::new().description(description).content("application/json", content).build();
            operation.responses.responses.insert(status.to_owned(), RefOr::T(response));
        }
    }
}

/// `GET /api/openapi.json`
pub(super) async fn json() -> Response {
    ([(CONTENT_TYPE, "application/json")], document()).into_response()
}

/// `GET /api/docs`: the page has a name, as slashes at the end are forgiven and its parts lie beside it.
pub(super) async fn page() -> Redirect {
    Redirect::permanent(PAGE_PATH)
}

/// `GET /api/docs/{file}`
pub(super) async fn file(Path(name): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let config = Arc::new(Config::from(DOCUMENT_PATH));
    let found = utoipa_swagger_ui::serve(&name, config).map_err(|error| {
        tracing::error!(%error, "a part of the page about the API can't be made");
        ApiError::internal()
    })?;
    let Some(file) = found else { return Err(error::not_found(uri).await) };
    let mut headers = HeaderMap::new();
    let media_type = HeaderValue::from_str(&file.content_type).map_err(|_| ApiError::internal())?;
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    if file.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok((headers, file.bytes.into_owned()).into_response())
}
