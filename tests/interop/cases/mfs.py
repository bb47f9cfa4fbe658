"""Kubo's MFS policy: the root of a user's files is pinned by itself, and pinned anew in its place when a file changes."""

import json

from harness import contents
from harness.kubo import Kubo
from harness.pinnace import Pinnace
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

# How often Kubo looks at its files; 30 s unless this variable, which is for tests, says something else.
_OFTEN = {"MFS_PIN_POLL_INTERVAL": "500ms"}


def _enable(kubo: Kubo, service: str, **policy: object) -> None:
    # At the end: Kubo looks at its files between two of these, and would pin them under another name.
    for key, value in ({"RepinInterval": "1s"} | policy | {"Enable": True}).items():
        path = f"Pinning.RemoteServices.{service}.Policies.MFS.{key}"
        kubo.run("config", "--json", path, json.dumps(value))


def _root(kubo: Kubo) -> str:
    return kubo.run("files", "stat", "--hash", "/").strip()


def _write(kubo: Kubo, path: str, content: bytes) -> str:
    """Puts a file into MFS and returns the root that this makes."""
    kubo.run("files", "write", "--create", "--parents", "--truncate", path, input=content)
    kubo.run("files", "flush")
    return _root(kubo)


def _wait_for(pinnace: Pinnace, name: str, root: str) -> dict:
    """Waits until the only pin of this name is a whole one of this root."""

    def is_there() -> dict | None:
        pins = pinnace.pins(name=name)
        assert len(pins) <= 1, f"the policy has left {len(pins)} pins: {pins}"
        if pins and pins[0]["status"] == "pinned" and pins[0]["pin"]["cid"] == root:
            return pins[0]
        return None

    return wait_until(f"the policy to pin {root}", is_there, 30)


@case(seconds=120)
def mfs_policy_repins_what_changes(world: World) -> str:
    name = "files of the laptop"
    with world.new_pinnace("pinnace-for-mfs") as pinnace, world.new_kubo("mfs", environment=_OFTEN) as kubo:
        world.add_service(kubo, pinnace)
        first = _write(kubo, "/documents/first", contents.random_bytes("mfs first", 600 * contents.KIB))
        _enable(kubo, "pinnace", PinName=name)
        requestids = [_wait_for(pinnace, name, first)["requestid"]]
        roots = [first]
        for number in range(3):
            root = _write(kubo, f"/documents/{number}", contents.random_bytes(f"mfs {number}", 300 * contents.KIB))
            assert root not in roots, f"the root is {root} again"
            roots.append(root)
            requestids.append(_wait_for(pinnace, name, root)["requestid"])
            gone = pinnace.request("GET", f"/api/psa/pins/{requestids[-2]}")
            assert gone.status == 404, f"the pin of the former root answers {gone}"
        assert len(set(requestids)) == len(requestids), f"a pin was kept: {requestids}"
        assert len(pinnace.pins()) == 1, f"{pinnace.pins()}"
        kubo.stop()
        # All of it is there without the user: the file of the first pin as well, which each replacement took over.
        with world.new_kubo("reader-of-mfs") as reader:
            reader.peer_with(pinnace.multiaddr(), pinnace.peer_id)
            fetched = reader.run_bytes("cat", "--progress=false", f"{roots[-1]}/documents/first")
            assert fetched == contents.random_bytes("mfs first", 600 * contents.KIB), "the first file differs"
    return f"{len(roots)} roots, each in the place of the one before"


@case(seconds=90)
def mfs_policy_with_kubos_own_name(world: World) -> str:
    """Without a name of the user's, Kubo takes one with a slash and its peer id; after a restart it finds the pin again."""
    with world.new_pinnace("pinnace-for-mfs-again") as pinnace, world.new_kubo("mfs-again", environment=_OFTEN) as kubo:
        world.add_service(kubo, pinnace)
        name = f"policy/{kubo.peer_id}/mfs"
        root = _write(kubo, "/a", b"a")
        _enable(kubo, "pinnace")
        before = _wait_for(pinnace, name, root)["requestid"]
        kubo.stop()
        kubo.start()
        root = _write(kubo, "/b", b"b")
        after = _wait_for(pinnace, name, root)["requestid"]
        assert before != after, "the pin of another root has the same id"
        # What Kubo compares with the CID that it wrote itself.
        shown = [(pin["Cid"], pin["Name"]) for pin in kubo.remote_ls(f"--cid={root}")]
        assert shown == [(root, name)], f"`ls --cid` shows {shown}"
    return name
