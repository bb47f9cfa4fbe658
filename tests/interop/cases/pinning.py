"""`ipfs pin remote add` of every kind of DAG, from clients that can and that can't be dialled."""

import time

from harness import contents, ipld
from harness.contents import KIB, MIB, Blocks, Content, File
from harness.runner import case
from harness.waiting import wait_until
from harness.world import ClosedPort, World


@case(seconds=90)
def service_add(world: World) -> str:
    shown = world.origin.run("pin", "remote", "service", "ls", "--stat").split()
    # Kubo shows an endpoint without its trailing slash.
    expected = ["pinnace", world.pinnace.endpoint.rstrip("/"), "0/0/0/0"]
    assert shown == expected, f"`service ls --stat` shows {shown}, not {expected}"
    return world.pinnace.endpoint


def _pin(world: World, content: Content) -> str:
    root = world.root(content)
    started = time.monotonic()
    world.pin(content)
    seconds = time.monotonic() - started
    return f"{root} in {seconds:.1f} s"


@case(seconds=120)
def pin_large_file(world: World) -> str:
    return _pin(world, world.large_file)


@case(seconds=120)
def pin_directory_of_10000_files(world: World) -> str:
    return _pin(world, world.directory_content)


@case(seconds=60)
def pin_chain_of_1000_nodes(world: World) -> str:
    return _pin(world, world.chain)


@case(seconds=30)
def pin_raw_block(world: World) -> str:
    return _pin(world, world.raw_block)


@case(seconds=30)
def pin_cidv0_file(world: World) -> str:
    root = world.root(world.file_v0)
    assert root.startswith("Qm"), f"{root} is no CIDv0"
    note = _pin(world, world.file_v0)
    cids = [pin["Cid"] for pin in world.origin.remote_ls(f"--cid={root}")]
    assert cids == [root], f"the CID comes back as {cids}, not as it was written"
    return note


@case(seconds=30)
def pin_dag_json_node(world: World) -> str:
    return _pin(world, world.dag_json)


@case(seconds=30)
def pin_identity_children(world: World) -> str:
    return _pin(world, world.identity)


@case(seconds=30)
def pin_identity_root(world: World) -> None:
    world.origin.remote_add("bafkqaaa", "identity root")


@case(seconds=30)
def pin_twice(world: World) -> None:
    """A second request for the same CID is a pin of its own, and removing it leaves the first."""
    root = world.pin(world.raw_block)
    world.origin.remote_add(root, "raw block again")
    names = sorted(pin["Name"] for pin in world.origin.remote_ls(f"--cid={root}"))
    assert names == ["raw block", "raw block again"], f"pins of {root}: {names}"
    world.origin.remote_rm("--name=raw block again")
    names = [pin["Name"] for pin in world.origin.remote_ls(f"--cid={root}")]
    assert names == ["raw block"], f"pins of {root} after one was removed: {names}"


@case(seconds=60)
def pin_in_background(world: World) -> None:
    root = world.root(File("background", 8 * MIB))
    started = time.monotonic()
    world.origin.remote_add(root, "background", "--background")
    assert time.monotonic() - started < 10, "--background waited"
    wait_until(
        "`ls --status=pinned` to show the pin",
        lambda: [pin["Cid"] for pin in world.origin.remote_ls("--status=pinned", "--name=background")] == [root],
        every=0.2,
    )


@case(seconds=90)
def pin_from_a_client_that_cannot_be_dialled(world: World) -> str:
    """Like a laptop behind NAT: it announces an address where nobody answers, and dials our delegates itself."""
    with ClosedPort() as port, world.new_kubo("undialable", announce=[f"/ip4/127.0.0.1/tcp/{port}"]) as client:
        world.add_service(client, world.pinnace)
        root = File("undialable", 8 * MIB).add(client)
        client.remote_add(root, "undialable")
        origins = world.pinnace.pin_named("undialable")["pin"].get("origins", [])
        expected = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{client.peer_id}"]
        assert origins == expected, f"the pin's origins are {origins}, so this shows nothing"
        return f"origin {expected[0]}"


@case(seconds=60)
def pin_that_fails(world: World) -> str:
    """A block that no decoder accepts: waiting doesn't help, so the command must end, and `ls` must show it."""
    garbage = Blocks("garbage", [ipld.block(ipld.DAG_CBOR, b"\xff" + contents.random_bytes("garbage", KIB))])
    root = world.origin.run("block", "put", "--cid-codec=dag-cbor", input=garbage.blocks[0].data).strip()
    assert root == str(garbage.root), f"Kubo stored {root}, not {garbage.root}"
    errors = world.origin.remote_add(root, "garbage", status=1)
    assert "failed to pin" in errors, f"`ipfs pin remote add` said {errors!r}"
    listed = world.origin.remote_ls("--status=failed")
    assert [(pin["Name"], pin["Status"]) for pin in listed] == [("garbage", "failed")], f"failed pins: {listed}"
    info = world.pinnace.pin_named("garbage").get("info", {})
    assert info.get("failure") == "block_invalid" and info.get("status_details"), f"the pin's info is {info}"
    world.origin.remote_rm("--status=failed", "--name=garbage")
    assert not world.origin.remote_ls("--status=failed"), "the failed pin is still listed"
    return info["status_details"]
