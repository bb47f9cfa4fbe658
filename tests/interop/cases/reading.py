"""The morning after: the client that pinned is stopped, and a third Kubo fetches everything from pinnace alone."""

import time
import urllib.parse

from harness import contents
from harness.contents import MIB, Content, File
from harness.kubo import Kubo
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World


def _read(world: World, *wanted: Content) -> str:
    roots = [(content, world.pin(content)) for content in wanted]
    reader = world.reader
    _assert_only_pinnace(world, reader)
    started = time.monotonic()
    compared = [content.compare(reader, root) for content, root in roots]
    seconds = time.monotonic() - started
    _assert_only_pinnace(world, reader)
    return f"{', '.join(compared)} alike, in {seconds:.1f} s"


def _assert_only_pinnace(world: World, reader: Kubo) -> None:
    peers = reader.peers()
    assert peers == {world.pinnace.peer_id}, f"the reader is connected with {peers}, not with pinnace alone"


@case(seconds=90)
def read_large_file(world: World) -> str:
    return _read(world, world.large_file)


@case(seconds=150)
def read_directory_of_10000_files(world: World) -> str:
    return _read(world, world.directory_content)


@case(seconds=120)
def read_chain_of_1000_nodes(world: World) -> str:
    return _read(world, world.chain)


@case(seconds=60)
def read_small_dags(world: World) -> str:
    note = _read(world, world.raw_block, world.file_v0, world.dag_json, world.identity)
    stat = world.reader.run("block", "stat", str(world.raw_block.root)).split()
    assert stat == ["Key:", str(world.raw_block.root), "Size:", str(len(world.raw_block.blocks[0].data))], f"block stat: {stat}"
    return note


@case(seconds=60)
def read_over_websocket(world: World) -> str:
    """A Kubo comes to the port of the HTTP side."""
    content = File("read over WebSocket", 5 * MIB)
    root = world.pin(content)
    address = f"/ip4/127.0.0.1/tcp/{urllib.parse.urlsplit(world.pinnace.endpoint).port}/ws"
    with world.new_kubo("over-websocket") as reader:
        reader.peer_with(f"{address}/p2p/{world.pinnace.peer_id}", world.pinnace.peer_id)
        compared = content.compare(reader, root)
        over = reader.run("swarm", "peers").split()
        assert over == [f"{address}/p2p/{world.pinnace.peer_id}"], f"connected as {over}"
    return f"{compared} alike"


@case(seconds=90)
def asked_before_it_arrived(world: World) -> None:
    """A peer that asks for what isn't there yet gets it as soon as it is."""
    block, file = contents.raw_block("asked early"), File("asked early, a file", 5 * MIB)
    block_root, file_root = world.root(block), world.root(file)
    with world.new_kubo("waiting") as reader:
        reader.peer_with(world.pinnace.multiaddr(), world.pinnace.peer_id)
        outputs = [reader.directory / "block", reader.directory / "file"]
        commands = [
            reader.spawn("block", "get", block_root, output=outputs[0]),
            reader.spawn("cat", "--progress=false", file_root, output=outputs[1]),
        ]
        wait_until("both roots to be wanted", lambda: {block_root, file_root} <= _wants(reader))
        assert [each.exit_status() for each in commands] == [None, None], "a command ended before the content was there"
        for content, root in ((block, block_root), (file, file_root)):
            world.origin.remote_add(root, content.name)
        wait_until("both commands to end", lambda: all(each.exit_status() is not None for each in commands), 60)
        assert [each.exit_status() for each in commands] == [0, 0], "a waiting command failed"
        assert outputs[0].read_bytes() == block.blocks[0].data, "the block differs"
        file.compare(reader, file_root)
        assert outputs[1].stat().st_size == file.length, "the waiting `cat` printed another length"
        _assert_only_pinnace(world, reader)


def _wants(reader: Kubo) -> set[str]:
    return set(reader.run("bitswap", "wantlist").split())
