"""`ipfs pin remote ls` and `rm`: pages, filters, pins that never finish, and removal."""

from harness import contents, ipld
from harness.contents import Blocks
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

# More than two of the pages of 10 that Kubo asks for.
_MANY = 25
_many_pins: dict[str, str] = {}


def _pin_many(world: World) -> dict[str, str]:
    """The CIDs of the small pins by their names; pins them the first time."""
    if not _many_pins:
        added: dict[str, str] = {}
        for number in range(_MANY):
            content = contents.raw_block(f"many {number:02}", 1000)
            added[content.name] = world.root(content)
            world.origin.remote_add(added[content.name], content.name, "--background")
        wait_until(
            f"all {_MANY} pins to be pinned",
            lambda: added.keys() <= {pin["Name"] for pin in world.origin.remote_ls()},
            every=0.2,
        )
        _many_pins.update(added)
    return _many_pins


@case(seconds=90)
def list_more_than_20_pins(world: World) -> str:
    expected = _pin_many(world)
    listed = world.origin.remote_ls("--status=pinned")
    by_name = {pin["Name"]: pin["Cid"] for pin in listed}
    assert len(by_name) == len(listed), f"a pin is listed twice: {sorted(pin['Name'] for pin in listed)}"
    assert expected.items() <= by_name.items(), f"missing: {expected.keys() - by_name.keys()}"
    assert all(pin["Status"] == "pinned" for pin in listed), f"not only pinned: {listed}"
    assert world.origin.remote_ls() == listed, "without --status, `ls` shows something else than the pinned ones"
    count = len(world.pinnace.pins(status="pinned"))
    assert count == len(listed), f"`ls` shows {len(listed)} pins, the API {count}"
    stat = world.origin.run("pin", "remote", "service", "ls", "--stat").split()[-1]
    assert stat == f"0/0/{count}/0", f"`service ls --stat` shows {stat}, not 0/0/{count}/0"
    return f"{count} pins"


@case(seconds=60)
def service_stat_of_every_status(world: World) -> str:
    """Kubo asks for the four counts at once and shows queued, pinning, pinned and failed."""
    garbage = Blocks("garbage", [ipld.block(ipld.DAG_CBOR, b"\xff" + contents.random_bytes("counted", 100))])
    world.origin.run("block", "put", "--cid-codec=dag-cbor", input=garbage.blocks[0].data)
    with world.new_pinnace("pinnace-to-be-counted") as pinnace:
        world.add_service(world.origin, pinnace, service="counted")
        for number in range(2):
            content = contents.raw_block(f"counted {number}")
            world.origin.remote_add(world.root(content), content.name, service="counted")
        world.origin.remote_add(garbage.root, "failed", service="counted", status=1)
        world.origin.remote_add(contents.raw_block("nobody has it").root, "waits", "--background", service="counted")
        lines = world.origin.run("pin", "remote", "service", "ls", "--stat").splitlines()
    counted = next(line.split()[-1] for line in lines if line.startswith("counted "))
    queued, pinning, pinned, failed = map(int, counted.split("/"))
    assert (queued + pinning, pinned, failed) == (1, 2, 1), f"`service ls --stat` shows {counted}"
    return counted


@case(seconds=90)
def list_by_name_and_cid(world: World) -> None:
    expected = _pin_many(world)
    name, cid = "many 07", expected["many 07"]
    assert _names(world, f"--name={name}") == [name]
    assert _names(world, "--name=many 0") == [], "--name must match the whole name"
    assert _names(world, f"--cid={cid}") == [name]
    assert _names(world, f"--cid={cid},{expected['many 11']}") == [name, "many 11"]
    assert _names(world, f"--cid={cid}", "--name=many 11") == [], "filters must be ANDed"
    assert _names(world, f"--cid={cid}", "--status=queued,pinning,failed") == []


def _names(world: World, *options: str) -> list[str]:
    return sorted(pin["Name"] for pin in world.origin.remote_ls(*options))


@case(seconds=60)
def pin_that_nobody_has(world: World) -> str:
    """It waits and says so, everything else goes on, and it can be removed."""
    cid = contents.raw_block("nobody has this").root
    world.origin.remote_add(cid, "nobody", "--background")
    listed = world.origin.remote_ls("--status=queued,pinning,failed")
    assert [pin["Cid"] for pin in listed] == [str(cid)], f"unfinished pins: {listed}"
    assert listed[0]["Status"] in ("queued", "pinning"), f"unfinished pins: {listed}"
    # The status may change between the two commands, but a command never shows another one than it was asked for.
    for status in ("queued", "pinning", "failed"):
        shown = {pin["Status"] for pin in world.origin.remote_ls(f"--status={status}")}
        assert shown <= {status}, f"--status={status} shows {shown}"
    assert _names(world, "--name=nobody") == [], "an unfinished pin is listed as pinned"

    world.origin.remote_add(world.root(contents.raw_block("meanwhile")), "meanwhile")
    pin = world.pinnace.pin_named("nobody")
    details = pin.get("info", {}).get("status_details", "")
    assert pin["status"] in ("queued", "pinning") and details, f"the pin says nothing about its state: {pin}"

    world.origin.remote_rm("--status=queued,pinning", "--name=nobody")
    assert world.pinnace.pins(name="nobody") == [], "the pin is still there"
    return details


@case(seconds=60)
def remove_by_name_and_by_cid(world: World) -> None:
    by_name, by_cid, stays = (contents.raw_block(f"remove {how}") for how in ("by name", "by cid", "not this"))
    for content in (by_name, by_cid, stays):
        world.pin(content)
    world.origin.remote_rm(f"--name={by_name.name}")
    _assert_gone(world, by_name)
    world.origin.remote_rm(f"--cid={by_cid.root}")
    _assert_gone(world, by_cid)
    assert _names(world, f"--cid={stays.root}") == [stays.name], "a pin that was not named is gone"


def _assert_gone(world: World, content: Blocks) -> None:
    assert _names(world, f"--name={content.name}", "--status=queued,pinning,pinned,failed") == []
    assert _names(world, f"--cid={content.root}", "--status=queued,pinning,pinned,failed") == []


@case(seconds=60)
def replace_over_http(world: World) -> None:
    """What Kubo has no command for, and other clients do."""
    old, new = contents.raw_block("replaced"), contents.raw_block("replacement")
    world.pin(old)
    before = world.pinnace.pin_named(old.name)
    body = {"cid": world.root(new), "name": new.name, "origins": before["pin"]["origins"]}
    answer = world.pinnace.request("POST", f"/api/psa/pins/{before['requestid']}", body)
    assert answer.status == 202 and answer.body, f"the replacement answered {answer}"
    assert answer.body["requestid"] != before["requestid"], "the replacement has the id of what it replaced"
    gone = world.pinnace.request("GET", f"/api/psa/pins/{before['requestid']}")
    assert gone.status == 404 and gone.body and gone.body["error"]["reason"], f"the replaced pin answers {gone}"
    world.pinnace.wait_pinned(answer.body["requestid"], 30)
    assert _names(world, f"--name={old.name}") == []
    assert _names(world, f"--cid={new.root}") == [new.name]
