"""Clients written in JavaScript: Helia with its remote pinning, and the client that others build upon."""

from harness import javascript
from harness.runner import case
from harness.world import World


def _run(world: World, name: str, program: str, *preloaded: str, **environment: str) -> str:
    packages = javascript.install(world.target)
    with world.new_pinnace(f"pinnace-for-{name}") as pinnace:
        return packages.run(program, pinnace, *preloaded, **environment)


@case(seconds=400)
def pinning_service_client_with_every_filter(world: World) -> str:
    return _run(world, "filters", "client-filters.mjs")


@case(seconds=400)
def pinning_service_client_pages_and_changes(world: World) -> str:
    return _run(world, "changes", "client-changes.mjs")


@case(seconds=400)
def helia_remote_pinning(world: World) -> str:
    return _run(world, "helia", "helia.mjs", "promises.mjs", LISTEN="/ip4/127.0.0.1/tcp/0")


@case(seconds=400)
def helia_that_nobody_can_dial(world: World) -> str:
    """As in a browser: it listens nowhere, names no origin, and dials the delegates."""
    return _run(world, "helia-undialable", "helia.mjs", "promises.mjs", LISTEN="")
