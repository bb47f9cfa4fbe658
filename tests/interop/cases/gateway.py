"""The gateway: what the conformance tests of its specification ask for, and what Kubo's own gateway answers."""

import json
import time
import urllib.parse
from itertools import product

from harness import conformance
from harness.contents import Content
from harness.gateway import Response, ask
from harness.runner import case
from harness.world import World

_RAW = "application/vnd.ipld.raw"


@case(seconds=600)
def gateway_conformance(world: World) -> str:
    suite = conformance.build(world.target)
    with world.new_pinnace("pinnace-as-gateway") as pinnace:
        for fixture in suite.fixtures():
            pinnace.run_bytes("import", str(fixture), "--json")
        passed, failed = suite.run(pinnace.gateway)
    assert not failed, "\n      ".join(f"{name}: {said}" for name, said in failed.items())
    wanted = {"TestTrustlessRaw", "TestTrustlessCarPathing", "TestTrustlessCarEntityBytes", "TestGatewayBlock"}
    assert wanted <= set(passed), f"{wanted - set(passed)} did not run; {passed} passed"
    return f"{len(passed)} groups of {conformance.VERSION}"


def _both(world: World, path: str, **headers: str) -> tuple[Response, Response]:
    ours = ask(world.pinnace.gateway, path, **headers)
    theirs = ask(world.origin.gateway, path, **headers)
    assert ours.status == theirs.status, f"{path} {headers}: {ours.status} instead of Kubo's {theirs.status}: {ours.body[:200]!r}"
    return ours, theirs


def _compare_cars(world: World, content: Content, paths: list[str], scopes: list[str]) -> str:
    root = world.pin(content)
    compared = blocks = 0
    for path, scope, repeats in product(paths, scopes, ("y", "n")):
        asked = f"{root}{path}?format=car&car-order=dfs&car-dups={repeats}&{scope}"
        ours, theirs = _both(world, asked)
        assert ours.status == 200, f"{asked}: {ours.status} {ours.body[:200]!r}"
        assert ours.header("content-type") == theirs.header("content-type"), f"{asked}: {ours.header('content-type')}"
        our_blocks, their_blocks = ours.blocks(), theirs.blocks()
        ours_named, theirs_named = [name for name, _ in our_blocks], [name for name, _ in their_blocks]
        assert ours_named == theirs_named, f"{asked}: {ours_named[:20]} instead of Kubo's {theirs_named[:20]}"
        assert our_blocks == their_blocks, f"{asked}: a block differs"
        compared += 1
        blocks += len(our_blocks)
    return f"{compared} CAR files with {blocks} blocks alike"


_SCOPES = ["dag-scope=block", "dag-scope=entity", "dag-scope=all"]


@case(seconds=120)
def gateway_cars_of_a_sharded_directory(world: World) -> str:
    return _compare_cars(world, world.directory_content, ["", "/file-00000", "/file-05000", "/file-09999"], _SCOPES)


@case(seconds=60)
def gateway_cars_of_a_file(world: World) -> str:
    mebibyte = 1024 * 1024
    parts = ["0:0", "0:*", f"{mebibyte}:{2 * mebibyte}", f"{mebibyte - 1}:{mebibyte}", "-1:*", "-9999999:-2000000", "5:-1000000"]
    return _compare_cars(world, world.file_v0, [""], [*_SCOPES, *(f"dag-scope=entity&entity-bytes={part}" for part in parts)])


@case(seconds=60)
def gateway_cars_of_nodes(world: World) -> str:
    notes = [
        _compare_cars(world, world.chain, ["", "/previous/previous/previous"], _SCOPES),
        _compare_cars(world, world.dag_json, ["", "/file", "/list/0", "/list/0/below/0", "/raw"], _SCOPES),
        _compare_cars(world, world.identity, [""], _SCOPES),
    ]
    return "; ".join(notes)


@case(seconds=60)
def gateway_blocks(world: World) -> str:
    roots = [world.pin(content) for content in (world.file_v0, world.raw_block, world.chain, world.dag_json)]
    for root in [*roots, "bafkqaaa", f"{roots[2]}/previous"]:
        for headers in ({"Accept": _RAW}, {"Accept": _RAW, "Range": "bytes=3-9"}):
            if root == "bafkqaaa" and "Range" in headers:
                continue
            ours, theirs = _both(world, root, **headers)
            assert ours.body == theirs.body, f"{root} {headers}: another block"
            for name in ("content-type", "content-length", "content-range", "cache-control", "x-ipfs-path", "x-ipfs-roots", "content-location"):
                assert ours.header(name) == theirs.header(name), f"{root} {headers}: {name} is {ours.header(name)}, of Kubo {theirs.header(name)}"
    nobody_has = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    answer = ask(world.pinnace.gateway, f"{nobody_has}?format=raw")
    assert answer.status == 404, f"a block that isn't held: {answer.status}"
    document = json.loads(ask(world.pinnace.gateway, f"{roots[3]}?format=raw").body)
    assert "raw" in document, f"{document}"
    return f"{len(roots) + 2} blocks alike"


@case(seconds=180)
def pins_from_the_gateway_of_kubo(world: World) -> str:
    """Kubo's gateway alone is named as an origin; no peer is connected."""
    wanted = [world.file_v0, world.chain, world.dag_json, world.directory_content, world.large_file]
    roots = [(content, world.root(content)) for content in wanted]
    gateway = urllib.parse.urlsplit(world.origin.gateway)
    origin = f"/ip4/{gateway.hostname}/tcp/{gateway.port}/http"
    notes = []
    with world.new_pinnace("pinnace-over-http") as pinnace:
        for content, root in roots:
            started = time.monotonic()
            answer = pinnace.request("POST", "/api/psa/pins", {"cid": root, "origins": [origin]})
            assert answer.status == 202 and answer.body is not None, f"{answer}"
            assert "origins_skipped" not in answer.body.get("info", {}), f"{answer.body}"
            pinnace.wait_pinned(answer.body["requestid"], 60)
            notes.append(f"{content.name} in {time.monotonic() - started:.1f} s")
        damaged = json.loads(pinnace.run_bytes("verify", "--json"))
        assert not damaged.get("damaged"), f"{damaged}"
    return "; ".join(notes)
