"""What strangers who know nothing but a CID must be able to do, with pinnace on either side."""

import json
import time
from datetime import datetime
from pathlib import Path

from harness.contents import KIB, MIB, Directory, File
from harness.runner import case
from harness.waiting import wait_until
from internet import Internet, PublicKubo, PublicPinnace
from reached import status

# Kubos of which each has something that is looked for.
_PUBLISHERS = 20

# CIDs whose records are looked for, of all that are provided.
_LOOKED_FOR = 25

# Pins of which it is measured how soon they are found.
_NEW_PINS = 40


def _pin(pinnace: PublicPinnace, root: str, name: str) -> str:
    """Asks for a pin by its CID alone."""
    answer = pinnace.request("POST", "/api/psa/pins", {"cid": root, "name": name})
    assert answer.status == 202 and answer.body is not None, f"POST answered {answer}"
    return answer.body["requestid"]


def _provided(pinnace: PublicPinnace) -> dict:
    """What `pinnace provide status` says."""
    return json.loads(pinnace.run_bytes("provide", "status", "--json"))


def _find(kubo: PublicKubo, cid: str, peer_id: str) -> bool:
    """Whether a Kubo is told by the DHT that a peer has it."""
    return peer_id in kubo.run("routing", "findprovs", "--num-providers=20", cid).split()


@case(seconds=300)
def a_cid_that_kubo_has_is_found(internet: Internet) -> str:
    """Without origins, from Kubos with which nobody here was ever connected; how soon each is asked once the DHT has named it."""
    # A server of the DHT would be told by the Kubos themselves, so who asks is none: it is at home, where nobody reaches it.
    told = {"PINNACE_LOG__FILTER": "info,pinnace=debug", "PINNACE_LOG__FORMAT": "json"}
    at_home, _home = internet.new_pinnace_at_home("who-asks", PINNACE_NETWORK__RELAYS="false", PINNACE_NETWORK__UPNP="false", **told)
    took, asked = [], []
    with at_home as pinnace:
        wait_until("the DHT to be entered", lambda: status(pinnace)["dht"]["servers"] >= 10, 60)
        for number in range(_PUBLISHERS):
            content = File(f"a file that is found {number}", 3 * MIB)
            with internet.new_kubo(f"publisher-{number}") as publisher:
                root = content.add(publisher)
                publisher.run("routing", "provide", root)
                assert pinnace.peer_id not in publisher.peers(), "they are connected before anybody has asked"
                started = time.monotonic()
                pinnace.wait_pinned(_pin(pinnace, root, content.name), 60)
                took.append(time.monotonic() - started)
                asked.append(_asked_after(pinnace.log, root, publisher.peer_id))
    return (
        f"{len(took)} pinned within {_spread(took, 's')} after they were asked for; "
        f"providers were asked within {_spread(asked, 'ms', 1000)} after the DHT had named them"
    )


def _asked_after(log: Path, root: str, peer_id: str) -> float:
    """The seconds between the DHT's naming of a provider and the message that asks it for the root, as the log tells."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("peer") == peer_id]

    def first(message: str, **fields: str) -> datetime:
        wanted = {"message": message} | fields
        times = [line["timestamp"] for line in about if wanted.items() <= line.items()]
        assert times, f"the log doesn't tell of {wanted} and {peer_id}"
        return datetime.fromisoformat(times[0])

    named = first("the DHT names a provider", cid=root)
    # What is asked waits until the peer has agreed on a protocol.
    sent = max(first("a peer is asked for blocks", cid=root), first("a peer takes our messages"))
    assert named <= sent, f"asked at {sent}, before the DHT named it at {named}"
    return (sent - named).total_seconds()


def _spread(seconds: list[float], unit: str, factor: float = 1) -> str:
    ordered = sorted(seconds)
    half, last = ordered[len(ordered) // 2] * factor, ordered[-1] * factor
    return f"{half:.2f} {unit} (half of them) and {last:.2f} {unit} (all)"


@case(seconds=120)
def a_router_names_who_has_a_cid(internet: Internet) -> str:
    """Where there is no DHT, a Kubo that has one is asked over HTTP: delegated routing against a real server."""
    content = File("a file that a router knows of", 3 * MIB)
    router = internet.servers[5]
    with internet.new_kubo("named-by-a-router") as publisher:
        root = content.add(publisher)
        publisher.run("routing", "provide", root)
        with internet.new_pinnace("without-dht", PINNACE_NETWORK__DHT="off", PINNACE_ROUTING__ENDPOINTS=router.router) as asker:
            started = time.monotonic()
            requestid = _pin(asker, root, content.name)
            asker.wait_pinned(requestid, 60)
            took = time.monotonic() - started
            nobody = _pin(asker, "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", "nobody has it")

            def said() -> str:
                details = str(asker.pin(nobody).get("info", {}).get("status_details", ""))
                return details if "knows nobody who has it" in details else ""

            wait_until("the router to be asked", said, 60)
    return f"pinned {took:.1f} s after it was asked for"


@case(seconds=120)
def that_nobody_has_a_cid_is_said(internet: Internet) -> str:
    """The pin tells who was asked, while it is still being looked for."""
    pinnace = internet.pinnace
    requestid = _pin(pinnace, "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", "nobody has it")

    def said() -> str:
        details = str(pinnace.pin(requestid).get("info", {}).get("status_details", ""))
        return details if "servers answered" in details else ""

    return wait_until("the DHT to be asked", said, 60)


@case(seconds=180)
def a_stranger_finds_what_is_pinned(internet: Internet) -> str:
    """Once the one who had it is gone, a Kubo fetches it from pinnace, by its CID alone; and again after a restart."""
    content = File("a file that is provided", 5 * MIB)
    pinnace = internet.pinnace
    with internet.new_kubo("first-owner") as owner, internet.new_kubo("stranger") as stranger:
        root = content.add(owner)
        owner.run("routing", "provide", root)
        pinnace.wait_pinned(_pin(pinnace, root, content.name), 60)
        pinned = time.monotonic()
        owner.stop()
        wait_until("the stranger to be told", lambda: _find(stranger, root, pinnace.peer_id), 30, every=0.1)
        took = time.monotonic() - pinned
        compared = content.compare(stranger, root)
    check = json.loads(pinnace.run_bytes("check", root, "--json"))
    assert check["fetchable"] and check["provider_record"].startswith("found"), check
    pinnace.terminate()
    pinnace.start()
    with internet.new_kubo("another-stranger") as stranger:
        content.compare(stranger, root)
    return f"found {took:.1f} s after it was pinned; {compared} alike, and again after a restart"


@case(seconds=240)
def new_pins_are_found_within_seconds(internet: Internet) -> str:
    """Many pins, one after the other: how long after each is whole a stranger is told who has it."""
    pinnace = internet.pinnace
    took = []
    with internet.new_kubo("owner-of-new-ones") as owner, internet.new_kubo("who-waits") as stranger:
        for number in range(_NEW_PINS):
            content = File(f"a new file {number}", 64 * KIB)
            root = content.add(owner)
            answer = pinnace.request("POST", "/api/psa/pins", {"cid": root, "name": content.name, "origins": [owner.multiaddr]})
            assert answer.status == 202 and answer.body is not None, f"POST answered {answer}"
            pinnace.wait_pinned(answer.body["requestid"], 60)
            pinned = time.monotonic()
            wait_until("the stranger to be told", lambda root=root: _find(stranger, root, pinnace.peer_id), 60, every=0.05)
            took.append(time.monotonic() - pinned)
    took.sort()
    return f"{len(took)} pins: half within {took[len(took) // 2]:.2f} s, 95 % within {took[len(took) * 95 // 100 - 1]:.2f} s, all within {took[-1]:.2f} s"


@case(seconds=200)
def every_block_of_1000_is_provided(internet: Internet) -> str:
    return _all_is_provided(internet, 1_000)


@case(seconds=400)
def every_block_of_10000_is_provided(internet: Internet) -> str:
    return _all_is_provided(internet, 10_000)


def _all_is_provided(internet: Internet, files: int) -> str:
    """The sweep tells real servers of all blocks, at its first round."""
    content = Directory(f"a directory of {files} that is provided", files, KIB)
    # Pinned while it takes no part in the DHT; so all of it is due when it does.
    alone = internet.new_pinnace(f"sweeper-of-{files}", PINNACE_NETWORK__DHT="off")
    with internet.new_kubo(f"owner-of-{files}") as owner:
        root = content.add(owner)
        blocks = owner.run("refs", "--recursive", "--unique", root).split()
        with alone:
            answer = alone.request("POST", "/api/psa/pins", {"cid": root, "origins": [owner.multiaddr]})
            assert answer.status == 202 and answer.body is not None, f"POST answered {answer}"
            alone.wait_pinned(answer.body["requestid"], 120)
    alone.with_dht()
    with alone as sweeper:
        started = time.monotonic()
        wait_until("the sweep to be through", lambda: _provided(sweeper)["cells_due"] == 0, 240, every=0.5)
        took, cost = time.monotonic() - started, _provided(sweeper)
        assert cost["cids"] == len(blocks) + 1, f"{len(blocks) + 1} blocks, and {cost}"
        with internet.new_kubo(f"who-looks-for-{files}") as stranger:
            looked_for = [root, *blocks[:: len(blocks) // _LOOKED_FOR]]
            missing = [cid for cid in looked_for if not _find(stranger, cid, sweeper.peer_id)]
            assert not missing, f"{len(missing)} of {len(looked_for)} are not found, such as {missing[0]}; {cost}"
    return (
        f"{cost['cids']} CIDs in {took:.0f} s: {cost['lookups']} look-ups, {cost['streams']} streams, "
        f"{cost['records']} records with {cost['bytes']} bytes; {len(looked_for)} looked for, all found"
    )
