//! What is sent to a webhook: the event as JSON, and the header that shows who sent it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use uuid::Uuid;

use super::hex;
use crate::model::PinState;
use crate::model::time::rfc3339;
use crate::pins::service::{PinView, view};
use crate::store::records::NoticeRecord;

/// The header that shows who sent an event: `t=SECONDS,v1=HEX`, where the second part is the HMAC-SHA256 of the seconds, a dot and
/// the body.
pub const SIGNATURE_HEADER: &str = "pinnace-signature";

/// An event.
#[derive(Serialize)]
struct Body {
    id: Uuid,
    event: &'static str,
    created: String,
    pin: Pin,
}

/// The pin as its owner saw it when the event happened.
#[derive(Serialize)]
struct Pin {
    requestid: String,
    status: &'static str,
    created: String,
    cid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    meta: BTreeMap<String, String>,
    info: BTreeMap<String, String>,
}

/// The event as it is sent; the same each time.
pub(super) fn body(notice: NoticeRecord) -> Result<Bytes, serde_json::Error> {
    let is_unfinished = notice.pin.state == PinState::Queued;
    let PinView { record, status, mut info, .. } = view(notice.pin, None, &Arc::default());
    if is_unfinished {
        info.insert("status_details".into(), "its time has come before it was whole".into());
    }
    let pin = Pin {
        requestid: record.id.to_string(),
        status: status.as_str(),
        created: rfc3339(record.created_ms),
        cid: record.cid_text,
        name: record.name,
        meta: record.meta,
        info,
    };
    let body = Body { id: notice.id, event: notice.event.as_str(), created: rfc3339(notice.created_ms), pin };
    serde_json::to_vec(&body).map(Bytes::from)
}

/// What [`SIGNATURE_HEADER`] says of a body that is sent at this time.
pub(super) fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Block, Failure, FailureCode, PinId, PinRecord, UserId};
    use crate::store::records::PinEvent;

    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        // Computed with Python's `hmac`.
        assert_eq!(
            signature("whsec_00ff", 1_700_000_000, b"{\"id\":1}"),
            "t=1700000000,v1=885b279390fbab0bfe1fea47ed06d8575f09eb2b159b53dfe239d6888c73dfab"
        );
    }

    #[test]
    fn an_event_has_what_its_owner_sees_of_the_pin() {
        let root = *Block::new_sha256(0x55, "x".into()).unwrap().cid();
        let failure =
            Failure { code: FailureCode::NoProvider, sentence: "nobody has it".into(), tried: vec!["a peer".into()] };
        let pin = |state| PinRecord {
            id: PinId::MIN,
            user: UserId(7),
            cid_text: root.to_string(),
            root,
            name: Some("a name".into()),
            origins: Vec::new(),
            origins_skipped: Vec::new(),
            meta: [("key".to_owned(), "value".to_owned())].into(),
            created_ms: 0,
            expires_ms: Some(1000),
            state,
            retained_roots: Vec::new(),
        };
        let json = |event, state| {
            let notice = NoticeRecord { id: Uuid::nil(), event, created_ms: 1000, pin: pin(state) };
            serde_json::from_slice::<Value>(&body(notice).unwrap()).unwrap()
        };
        let failed = json(PinEvent::Failed, PinState::Failed(failure));
        let nil = "00000000-0000-0000-0000-000000000000";
        assert_eq!(
            failed,
            json!({ "id": nil, "event": "failed", "created": "1970-01-01T00:00:01.000Z", "pin": {
                "requestid": nil, "status": "failed", "created": "1970-01-01T00:00:00.000Z", "cid": root.to_string(),
                "name": "a name", "meta": { "key": "value" }, "info": {
                    "failure": "no_provider", "status_details": "nobody has it", "pinned_until": "1970-01-01T00:00:01.000Z",
                },
            } })
        );
        let expired = json(PinEvent::Expired, PinState::Queued);
        assert_eq!((&expired["event"], &expired["pin"]["status"]), (&json!("expired"), &json!("queued")));
        assert_eq!(expired["pin"]["info"]["status_details"], "its time has come before it was whole");
        let pinned = json(PinEvent::Pinned, PinState::Pinned { blocks: 2, bytes: 30 });
        assert_eq!((&pinned["pin"]["status"], &pinned["pin"]["info"]["dag_size"]), (&json!("pinned"), &json!("30")));
    }
}
