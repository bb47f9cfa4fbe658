"""What schemathesis must know of the API beyond its document. It loads this file itself, by the configuration beside it."""

import base64
import hashlib
import itertools
import json
import os
import re
import urllib.request
from urllib.parse import quote, unquote

import schemathesis
from hypothesis import strategies

# The account and the token that the run works with.
OWN_EMAIL = os.environ["OWN_EMAIL"]
OWN_PASSWORD = os.environ["OWN_PASSWORD"]
OWN_TOKEN = os.environ["OWN_TOKEN"]
OWN_TOKEN_ID = os.environ["OWN_TOKEN_ID"]

# Where it is, and a server that may be named as a webhook.
SERVICE = os.environ["SERVICE"]
WEBHOOK = "https://example.org/hook"

_new_accounts = itertools.count()

_RAW, _DAG_PB, _DAG_CBOR = 0x55, 0x70, 0x71
_SHA2_256, _IDENTITY = 0x12, 0x00


def _cid(codec: int, hash_code: int, digest: bytes) -> str:
    binary = b"\x01" + bytes([codec, hash_code, len(digest)]) + digest
    return "b" + base64.b32encode(binary).decode().lower().rstrip("=")


# Of content that nobody has, of content that the CID carries and which is pinned at once, and of the old form.
_cids = strategies.one_of(
    strategies.builds(
        lambda codec, text: _cid(codec, _SHA2_256, hashlib.sha256(text).digest()),
        strategies.sampled_from([_RAW, _DAG_PB, _DAG_CBOR]),
        strategies.binary(max_size=8),
    ),
    strategies.builds(lambda text: _cid(_RAW, _IDENTITY, text), strategies.binary(max_size=8)),
    strategies.just("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"),
)
_text = strategies.text(strategies.characters(codec="utf-8"), max_size=8)

schemathesis.openapi.format("cid", _cids)
# The `meta` filter: JSON within the query string.
schemathesis.openapi.format("meta", strategies.dictionaries(_text, _text, max_size=3).map(json.dumps))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict) -> None:
    """Turns away from the run's own account and token what would end them, after which every answer would be 401.

    These are changing or deleting an account and revoking a token: the request goes to one that isn't there. And the rotation
    of keys forgets no old one. Logging out, which always ends a token, is a run of its own. Also makes succeed what a guess can't.
    """
    if case.operation.path.endswith("/webhook"):
        _name_an_account_with_a_webhook(case)
    elif case.operation.method.upper() in ("PATCH", "DELETE"):
        # They are percent-encoded by now.
        named = {name: unquote(str(value)).strip().lower() for name, value in (case.path_parameters or {}).items()}
        if named.get("email") == OWN_EMAIL:
            case.path_parameters["email"] = "nobody%40example.org"
        if named.get("id") == OWN_TOKEN_ID:
            case.path_parameters["id"] = "00000000-0000-4000-8000-000000000000"
    if case.operation.path.endswith("/keys/rotate") and isinstance(case.body, dict) and case.body.get("forget_old") is True:
        case.body["forget_old"] = False
    if case.operation.path.endswith("/auth/password") and isinstance(case.body, dict):
        _keep_the_password(case.body)
    if case.operation.path.endswith(("/admin/users", "/auth/register")) and isinstance(case.body, dict):
        _name_a_new_account(case.body)
    if case.operation.path.endswith("/webhook") and isinstance(case.body, dict):
        _name_a_public_server(case.body)


def _name_an_account_with_a_webhook(case: schemathesis.Case) -> None:
    """Makes a request that could succeed one that does: without a webhook there is none to look at or to remove.

    The run needs its own account's for nothing, so that one may go.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "email" in (case.path_parameters or {}):
        case.path_parameters["email"] = quote(OWN_EMAIL, safe="")
    if case.operation.method.upper() != "PUT":
        headers = {"Authorization": f"Bearer {OWN_TOKEN}", "Content-Type": "application/json"}
        body = json.dumps({"url": WEBHOOK}).encode()
        request = urllib.request.Request(f"{SERVICE}/api/auth/webhook", body, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass


def _name_a_public_server(webhook: dict) -> None:
    """Makes an absolute URI one that may be called: the others are refused by the profile, of which the document can't tell."""
    url = webhook.get("url")
    if isinstance(url, str) and len(url) <= 2048 and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", url):
        webhook["url"] = WEBHOOK


def _keep_the_password(change: dict) -> None:
    """Makes an acceptable change of the password one that succeeds and changes nothing: nobody guesses the old one."""
    lengths = [len(change[key]) if isinstance(change.get(key), str) else -1 for key in ("current_password", "new_password")]
    if 0 <= lengths[0] <= 1024 and 8 <= lengths[1] <= 1024:
        change["current_password"] = change["new_password"] = OWN_PASSWORD


def _name_a_new_account(account: dict) -> None:
    """Gives every other new account an address of its own: most would get the example's, which one has already."""
    number = next(_new_accounts)
    email = account.get("email")
    if number % 2 == 0 and isinstance(email, str) and re.fullmatch(r"[^@\s]+@[^@\s]{1,100}", email):
        account["email"] = f"{number}@{email.split('@', 1)[1]}"


@schemathesis.hook
def before_add_examples(context: schemathesis.HookContext, examples: list[schemathesis.Case]) -> None:
    """Makes the examples of a login such that they log in."""
    for case in examples:
        if case.operation.path.endswith("/login") and isinstance(case.body, dict):
            case.body = {"email": OWN_EMAIL, "password": OWN_PASSWORD}


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: object) -> object:
    """Writes whole numbers without a fraction. `1.0` is an integer for JSON Schema; for the service it is none."""
    match body:
        case dict():
            return {key: map_body(context, value) for key, value in body.items()}
        case list():
            return [map_body(context, value) for value in body]
        case float() if body.is_integer():
            return int(body)
    return body
