"""What must not lose anything: kill -9, an origin that vanishes, and SIGTERM, each in the middle of a large pin."""

from harness.contents import MIB, File
from harness.pinnace import UNFINISHED, Pinnace
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

# Far enough to have written, and far enough from the end of 256 MiB to be caught.
_MIDWAY_BYTES = 8 * MIB


@case(seconds=180)
def kill_while_pinning(world: World) -> str:
    """kill -9 of the shared pinnace, so everything that was pinned before is at stake as well."""
    content = File("large file, to be killed at", 256 * MIB)
    root, pinnace = world.root(content), world.pinnace
    world.pin(world.raw_block)
    before = {pin["requestid"] for pin in pinnace.pins(status="pinned")}
    peer_id = pinnace.peer_id
    world.origin.remote_add(root, content.name, "--background")
    requestid = pinnace.pin_named(content.name)["requestid"]
    midway = pinnace.wait_midway(requestid, _MIDWAY_BYTES)
    pinnace.kill()

    pinnace.start()  # which also checks that no secret is shown again
    assert pinnace.peer_id == peer_id, f"the peer id was {peer_id} and is {pinnace.peer_id}"
    after = {pin["requestid"] for pin in pinnace.pins(status="pinned")}
    assert before <= after, f"{len(before - after)} of {len(before)} pins are not pinned any more"
    pinnace.wait_pinned(requestid, 90)
    world.origin.stop()
    with world.new_kubo("reader-after-kill") as reader:
        reader.peer_with(pinnace.multiaddr("/quic-v1/"), pinnace.peer_id)
        compared = content.compare(reader, root)
        world.raw_block.compare(reader, str(world.raw_block.root))
    return f"killed with {midway['info']['raw_size']} bytes stored; {compared} alike"


@case(seconds=240)
def origin_vanishes_while_pinning(world: World) -> str:
    root = world.root(world.large_file)
    with world.new_pinnace("pinnace-with-vanishing-origin") as pinnace:
        requestid = _pin_elsewhere(world, pinnace, root)
        midway = pinnace.wait_midway(requestid, _MIDWAY_BYTES)
        world.origin.kill()
        # What was on its way may still arrive, but the pin can't become whole.
        pin = pinnace.pin(requestid)
        assert pin["status"] in UNFINISHED and pin.get("info", {}).get("status_details"), f"without its origin: {pin}"
        seen: list[str] = []

        def stands_still() -> bool:
            seen.append(pinnace.pin(requestid)["info"]["blocks_fetched"])
            return len(seen) > 1 and seen[-1] == seen[-2]

        wait_until("the pin to stand still", stands_still, 60, every=1.0)
        pin = pinnace.pin(requestid)
        assert pin["status"] in UNFINISHED and pin.get("info", {}).get("status_details"), f"without its origin: {pin}"
        world.origin.start()
        pinnace.wait_pinned(requestid, 150)
    return f"gone at {midway['info']['raw_size']} bytes: {pin['info']['status_details']}"


@case(seconds=90)
def sigterm_while_pinning(world: World) -> str:
    root = world.root(world.large_file)
    with world.new_pinnace("pinnace-to-be-stopped") as pinnace:
        requestid = _pin_elsewhere(world, pinnace, root)
        pinnace.wait_midway(requestid, _MIDWAY_BYTES)
        status, seconds = pinnace.terminate()
        assert status == 0 and seconds <= 5, f"exit status {status} after {seconds:.1f} s"
        pinnace.start()
        pinnace.wait_pinned(requestid, 60)
    return f"stopped in {seconds:.2f} s"


def _pin_elsewhere(world: World, pinnace: Pinnace, root: str) -> str:
    """Starts to pin a root of the origin at another pinnace than the shared one, and returns the request's id."""
    world.add_service(world.origin, pinnace, service=pinnace.name)
    world.origin.remote_add(root, "large file", "--background", service=pinnace.name)
    return pinnace.pin_named("large file")["requestid"]
