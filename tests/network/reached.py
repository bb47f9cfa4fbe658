"""That a node finds out by itself whether others reach it, and tells only of addresses where they do."""

import json
import time

from harness.contents import MIB, File
from harness.runner import case
from harness.waiting import wait_until
from internet import Internet, PublicPinnace
from router import Router


def status(pinnace: PublicPinnace) -> dict:
    """What `pinnace status` says."""
    return json.loads(pinnace.run_bytes("status", "--json"))


def _addresses(texts: list[str]) -> set[str]:
    return {text.split("/p2p/")[0] for text in texts}


@case(seconds=180)
def an_address_is_confirmed_before_others_are_told(internet: Internet) -> str:
    """Nobody names its address: peers try it, and then it serves the DHT and strangers find it; also without bootstrap peers, after a restart."""
    content = File("a file of a node that confirms its address", MIB)
    unconfirmed = internet.new_pinnace("unconfirmed", is_named=False)
    with unconfirmed as pinnace, internet.new_kubo("owner-for-unconfirmed") as owner:
        started = time.monotonic()
        first = status(pinnace)
        assert first["addresses"]["last_resort"] or first["reachability"]["state"] == "reachable", first
        wait_until("peers to confirm an address", lambda: status(pinnace)["reachability"]["state"] == "reachable", 90)
        took = time.monotonic() - started
        own = set(pinnace.own_addresses)
        said = status(pinnace)
        # The Go library dials by UDP for others only once it has seen that UDP works, which takes more peers than there are here.
        confirmed = {each["address"] for each in said["reachability"]["addresses"] if each["state"] == "confirmed"}
        assert confirmed and confirmed <= own and _addresses(said["addresses"]["announced"]) == confirmed, said
        assert said["dht"]["server"] and not said["addresses"]["last_resort"], said
        requestid = pinnace.request("POST", "/api/psa/pins", {"cid": content.add(owner), "origins": [owner.multiaddr]}).body["requestid"]
        pin = pinnace.wait_pinned(requestid, 60)
        assert _addresses(pin["delegates"]) <= own, pin["delegates"]
    unconfirmed.forget_bootstrap()
    with unconfirmed as pinnace, internet.new_kubo("stranger-of-unconfirmed") as stranger:
        root = pin["pin"]["cid"]
        wait_until("the DHT to be entered by servers known before", lambda: status(pinnace)["dht"]["servers"] > 0, 60)
        wait_until("an address to be confirmed again", lambda: status(pinnace)["reachability"]["state"] == "reachable", 90)
        content.compare(stranger, root)
    return f"confirmed {took:.1f} s after the start"


@case(seconds=240)
def who_is_behind_a_nat_is_found_and_reached(internet: Internet) -> str:
    """It has places at relays, provides with them, and a stranger that knows only a CID comes through one and then directly."""
    content = File("a file of a node at home", 3 * MIB)
    at_home, home = internet.new_pinnace_at_home("at-home")
    with at_home as pinnace:
        started = time.monotonic()
        wait_until("a place at a relay", lambda: status(pinnace)["reachability"]["state"] == "relayed", 120)
        relayed_after = time.monotonic() - started
        said = status(pinnace)
        assert not said["dht"]["server"] and said["warnings"] and "through relays" in " ".join(said["warnings"]), said
        assert all("/p2p-circuit" in each for each in said["addresses"]["announced"]), said["addresses"]
        with internet.new_kubo("owner-for-home") as owner:
            root = content.add(owner)
            owner.run("routing", "provide", root)
            requestid = pinnace.request("POST", "/api/psa/pins", {"cid": root}).body["requestid"]
            pinnace.wait_pinned(requestid, 60)
        with internet.new_kubo("stranger-of-home") as stranger:
            asked = time.monotonic()
            compared = content.compare(stranger, root)
            took = time.monotonic() - asked
            here = [line for line in stranger.run("swarm", "peers").splitlines() if pinnace.peer_id in line]
            direct = [line for line in here if f"/ip4/{home.seen_as}/" in line and "p2p-circuit" not in line]
            assert direct, f"connected only as {here}"
    return f"relayed {relayed_after:.0f} s after the start; a stranger had {compared} {took:.1f} s after it asked, over {direct[0].rsplit('/p2p/', 1)[0]}"


@case(seconds=300)
def a_router_is_asked_to_forward_ports(internet: Internet) -> str:
    """By UPnP: strangers come in through the router then, with no relay. What it says when the router is behind another one, or refuses."""
    content = File("a file of a node behind a router that forwards ports", 3 * MIB)
    at_home, home = internet.new_pinnace_at_home("forwarded")
    tcp, both = f"/ip4/{home.seen_as}/tcp/4001", {("TCP", 4001), ("UDP", 4001)}
    with Router(home) as router:
        with at_home as pinnace:
            started = time.monotonic()
            wait_until("the router to forward both ports", lambda: router.mapped == both, 20)
            mapped_after = time.monotonic() - started
            # Only what it forwards comes in, so whatever is reached in the following is so through it.
            internet.check_home(home)
            wait_until("peers to confirm an address", lambda: status(pinnace)["reachability"]["state"] == "reachable", 90)
            took = time.monotonic() - started
            said = status(pinnace)
            reachability = said["reachability"]
            assert reachability["router"] == "mapped" and not reachability["relayed"] and not said["warnings"], said
            assert ("mapped", "confirmed") in [(each["source"], each["state"]) for each in reachability["addresses"] if each["address"] == tcp], said
            # UDP may be confirmed as well, where servers dial it.
            assert _addresses(said["addresses"]["announced"]) <= {tcp, f"/ip4/{home.seen_as}/udp/4001/quic-v1"}, said
            assert said["dht"]["server"], said
            with internet.new_kubo("owner-for-forwarded") as owner:
                root = content.add(owner)
                requestid = pinnace.request("POST", "/api/psa/pins", {"cid": root, "origins": [owner.multiaddr]}).body["requestid"]
                pin = pinnace.wait_pinned(requestid, 60)
            assert tcp in _addresses(pin["delegates"]), pin["delegates"]
            with internet.new_kubo("stranger-of-forwarded") as stranger:
                compared = content.compare(stranger, root)
                here = [line for line in stranger.run("swarm", "peers", "--direction").splitlines() if pinnace.peer_id in line]
                assert any(line.startswith(f"/ip4/{home.seen_as}/") and line.endswith("outbound") for line in here), f"connected only as {here}"
                assert not any("p2p-circuit" in line for line in here), f"connected as {here}"
        left = len(router.mapped)
        router.forget()
        router.address = "10.64.0.2"
        with at_home as pinnace:
            wait_until("it to see that the router is behind another one", lambda: status(pinnace)["reachability"]["router"] == "behind_another", 20)
            assert not router.mapped
        router.address, router.is_taken = home.seen_as, True
        with at_home as pinnace:
            wait_until("the router to refuse", lambda: any(each.refused for each in router.asked), 20)
            wait_until("a place at a relay", lambda: status(pinnace)["reachability"]["state"] == "relayed", 120)
            refused = status(pinnace)
            assert refused["reachability"]["router"] != "mapped" and "forward the ports" in " ".join(refused["warnings"]), refused
    return (
        f"asked {mapped_after:.1f} s and confirmed {took:.1f} s after the start, a stranger had {compared} through it; {left} mappings left after the stop; "
        f"when it refuses: {refused['reachability']['router']}"
    )
