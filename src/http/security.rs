//! Headers that tell browsers to be careful. They are on every answer that a handler makes.

use axum::http::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// What browsers are told. Answers are data: nothing in them is to be run, framed or guessed at.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// For how long browsers come back with TLS only, in seconds: 30 days, anew with each answer. Not longer, so that an operator can
/// go back.
const WITH_TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=2592000");

/// Adds the headers; those that a handler has set stay as they are, such as the policy of the page that describes the API.
pub(super) fn secure(headers: &mut HeaderMap, is_tls: bool) {
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    if is_tls {
        headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(WITH_TLS_ONLY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_handler_has_set_stays() {
        let mut headers = HeaderMap::new();
        let own = HeaderValue::from_static("default-src 'self'");
        headers.insert(CONTENT_SECURITY_POLICY, own.clone());
        secure(&mut headers, false);
        assert_eq!(headers[CONTENT_SECURITY_POLICY], own);
        assert_eq!(headers[X_FRAME_OPTIONS], "DENY");
        assert_eq!(headers.len(), 4);
        secure(&mut headers, true);
        assert_eq!(headers[STRICT_TRANSPORT_SECURITY], "max-age=2592000");
    }
}
