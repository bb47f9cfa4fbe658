"""What the service says of its own API, and what the specification says of it, held against what it does."""

import os

from harness import schemathesis
from harness.runner import NotRun, case
from harness.world import World

from .compliance import SPECIFICATION_VARIABLE

# Operations with a run of their own. Few registrations from one address are let through, so they come before others have
# made the accounts. A logout ends the token that a run works with; of what else could, schemathesis/hooks.py knows.
_FIRST = "POST /api/auth/register"
_LAST = "POST /api/auth/logout"

# Takes failed pins only, and none fails within the time of a run.
_RETRY = "POST /api/admin/pins/{id}/retry"


@case(seconds=400)
def schemathesis_with_our_document(world: World) -> str:
    tool = schemathesis.install(world.target)
    with world.new_pinnace("pinnace-for-schemathesis", PINNACE_AUTH__REGISTRATION="open") as pinnace:
        document = f"{pinnace.gateway}/api/openapi.json"
        described = sum(len(_methods(each)) for each in pinnace.document()["paths"].values())
        runs = [
            tool.run(pinnace, document, "schemathesis.toml", *chosen)
            for chosen in (
                [f"--include-name={_FIRST}"],
                [f"--exclude-name={_FIRST}", f"--exclude-name={_LAST}"],
                [f"--include-name={_LAST}"],
            )
        ]
        tested = sum(each.operations for each in runs)
        assert tested == described, f"{tested} of {described} operations were tested"
        refused = set().union(*(each.never_accepted for each in runs)) - {_RETRY}
        assert not refused, f"not one request was accepted of {refused}"
        ended = [each.ends_logged_in for each in runs]
        assert ended == [True, True, False], f"which of the runs are logged in at their ends: {ended}"
    return f"{tested} operations with {sum(each.requests for each in runs)} requests"


def _methods(path: dict) -> set[str]:
    return path.keys() & {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@case(seconds=400)
def schemathesis_with_the_specification(world: World) -> str:
    named = os.environ.get(SPECIFICATION_VARIABLE)
    if not named:
        raise NotRun(f"{SPECIFICATION_VARIABLE} names no ipfs-pinning-service.yaml")
    tool = schemathesis.install(world.target)
    with world.new_pinnace("pinnace-for-the-specification") as pinnace:
        file = os.path.abspath(named)
        outcome = tool.run(pinnace, file, "specification.toml", f"--url={pinnace.endpoint.rstrip('/')}")
    assert not outcome.never_accepted, f"not one request was accepted of {outcome.never_accepted}"
    return f"{outcome.operations} operations with {outcome.requests} requests"
