"""CAR files: what Kubo exports is imported here and pinned, and what is exported here Kubo imports, with the same CIDs."""

import json

from harness.contents import Content
from harness.runner import case
from harness.world import World


def _there_and_back(world: World, content: Content) -> str:
    root = world.root(content)
    exported = world.origin.run_bytes("dag", "export", "--progress=false", root)
    with world.new_pinnace("pinnace-with-car") as pinnace:
        imported = json.loads(pinnace.run_bytes("import", "-", "--name", content.name, "--json", input=exported))
        assert [pin["cid"] for pin in imported["pins"]] == [root], f"pins of the import: {imported}"
        # Nobody is connected, so it becomes pinned only if all of it came with the file.
        pinnace.wait_pinned(imported["pins"][0]["id"], 30)
        ours = pinnace.run_bytes("export", root)
        assert len(ours) == len(exported), f"{len(ours)} bytes instead of the {len(exported)} of Kubo"
    kubo = world.new_kubo("kubo-with-car")
    printed = kubo.run("dag", "import", "--stats", input=ours)
    assert root in printed and "error" not in printed.lower(), f"`ipfs dag import` printed {printed!r}"
    return f"{len(ours)} bytes; {content.compare(kubo, root)} alike"


@case(seconds=120)
def car_of_directory_of_10000_files(world: World) -> str:
    return _there_and_back(world, world.directory_content)


@case(seconds=60)
def car_of_file_with_cid_v0(world: World) -> str:
    return _there_and_back(world, world.file_v0)


@case(seconds=60)
def car_of_chain_of_1000_nodes(world: World) -> str:
    return _there_and_back(world, world.chain)


@case(seconds=60)
def car_of_dag_json(world: World) -> str:
    return _there_and_back(world, world.dag_json)


@case(seconds=60)
def car_that_is_cut_off(world: World) -> str:
    root = world.root(world.chain)
    exported = world.origin.run_bytes("dag", "export", "--progress=false", root)
    refused = world.pinnace.run_bytes("import", "-", input=exported[: len(exported) // 2], status=1).decode()
    assert "ends early" in refused, f"half a file: {refused}"
    return refused.strip()
