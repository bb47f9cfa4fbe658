"""Logging in with e-mail and password, and using the token in Kubo; what a wrong one gets."""

from harness import contents
from harness.runner import case
from harness.world import World


@case(seconds=60)
def log_in_and_use_the_token(world: World) -> None:
    pinnace, origin = world.pinnace, world.origin
    credentials = {"email": pinnace.email, "password": pinnace.password}
    answer = pinnace.request("POST", "/api/auth/login", credentials, token="")
    assert answer.status == 200 and answer.body and answer.body["status"] == "success", f"login: status {answer.status}"
    origin.run("pin", "remote", "service", "add", "laptop", pinnace.endpoint, answer.body["access_token"])
    content = contents.raw_block("through the second service")
    origin.remote_add(world.root(content), content.name, service="laptop")
    # Another token, the same account: both see the same pins.
    for service in ("laptop", "pinnace"):
        listed = origin.remote_ls(f"--name={content.name}", service=service)
        assert [pin["Cid"] for pin in listed] == [str(content.root)], f"`ls` of {service}: {listed}"


@case(seconds=30)
def refuse_wrong_secrets(world: World) -> str:
    pinnace, origin = world.pinnace, world.origin
    for credentials in (
        {"email": pinnace.email, "password": "wrong"},
        {"email": "nobody@example.com", "password": pinnace.password},
    ):
        answer = pinnace.request("POST", "/api/auth/login", credentials, token="")
        assert answer.status == 401 and answer.body and answer.body["error"]["reason"], f"a wrong login answered {answer}"
    for token in ("", "wrong"):
        answer = pinnace.request("GET", "/api/psa/pins", token=token)
        assert answer.status == 401 and answer.body and answer.body["error"]["reason"], f"token {token!r} got {answer}"
    origin.run("pin", "remote", "service", "add", "wrong", pinnace.endpoint, "wrong")
    errors = origin.run("pin", "remote", "ls", "--service=wrong", status=1)
    assert "undefined response type" not in errors, f"Kubo can't read the refusal: {errors}"
    return errors.strip()
