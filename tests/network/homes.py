"""Machines at home: behind a router that shares its one address, as nftables(8) does it, and lets nobody in."""

import os
import select
import socket
import struct
from pathlib import Path

from harness.waiting import wait_until
from places import Bridge, NoNamespaces, Place, add_address, add_default_route, add_pair, attribute

_ROUTER, _MACHINE, _PREFIX_BITS = "192.168.1.1", "192.168.1.2", 24

# The first of three ports on which the router is tried out; no node uses them.
_CHECKED = 4101

# nfnetlink(7), and include/uapi/linux/netfilter/nf_tables.h of Linux: messages of a batch, and their attributes.
_NETLINK_NETFILTER, _SUBSYSTEM = 12, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6
# NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, and with NLM_F_APPEND.
_CREATE, _APPEND = 0x405, 0xC05
_IPV4 = 2
_HOOK_INPUT, _HOOK_FORWARD, _HOOK_POSTROUTING = 1, 2, 4
_DROP, _ACCEPT = 0, 1
_REGISTER, _VERDICT_REGISTER = 1, 0
_ESTABLISHED_OR_RELATED = 0b110
_META_IIFNAME, _CT_STATE = 6, 0
_EQUAL, _NOT_EQUAL = 0, 1
_NESTED = 0x8000


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def _expression(name: str, *parts: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *parts))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER), _number(2, operation), _nested(3, attribute(1, value)))


def _accept() -> bytes:
    return _expression("immediate", _number(1, _VERDICT_REGISTER), _nested(2, _nested(2, _number(1, _ACCEPT))))


def _of_a_known_connection() -> bytes:
    value = struct.pack("I", _ESTABLISHED_OR_RELATED)
    return b"".join(
        [
            _expression("ct", _number(1, _REGISTER), _number(2, _CT_STATE)),
            _expression(
                "bitwise",
                _number(1, _REGISTER),
                _number(2, _REGISTER),
                _number(3, 4),
                _nested(4, attribute(1, value)),
                _nested(5, attribute(1, bytes(4))),
            ),
            _compare(_NOT_EQUAL, bytes(4)),
        ]
    )


def _from_inside() -> bytes:
    return _expression("meta", _number(1, _REGISTER), _number(2, _META_IIFNAME)) + _compare(_EQUAL, b"home".ljust(16, b"\0"))


def _chain(name: str, kind: str, hook: int, priority: int, policy: int) -> tuple[int, int, bytes]:
    place = _nested(4, _number(1, hook), _number(2, priority))
    return _NEW_CHAIN, _CREATE, _text(1, "router") + _text(3, name) + place + _number(5, policy) + _text(7, kind)


def _rule(chain: str, *expressions: bytes) -> tuple[int, int, bytes]:
    return _NEW_RULE, _APPEND, _text(1, "router") + _text(2, chain) + _nested(4, *expressions)


def _share_address() -> None:
    """Whatever leaves has the router's address, and only answers come in; everything else is dropped, unanswered."""
    messages = [
        (_NEW_TABLE, _CREATE, _text(1, "router")),
        _chain("out", "nat", _HOOK_POSTROUTING, 100, _ACCEPT),
        _rule("out", _expression("masq")),
        _chain("through", "filter", _HOOK_FORWARD, 0, _DROP),
        _rule("through", _of_a_known_connection(), _accept()),
        _rule("through", _from_inside(), _accept()),
        _chain("in", "filter", _HOOK_INPUT, 0, _DROP),
        _rule("in", _of_a_known_connection(), _accept()),
    ]
    batch = _message(_BATCH_BEGIN, 1, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM))
    for number, (kind, flags, body) in enumerate(messages, 1):
        batch += _message(_SUBSYSTEM << 8 | kind, flags, number, struct.pack(">BBH", _IPV4, 0, 0) + body)
    batch += _message(_BATCH_END, 1, len(messages) + 1, struct.pack(">BBH", 0, 0, _SUBSYSTEM))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netfilter:
        netfilter.settimeout(5)
        netfilter.send(batch)
        for _ in messages:
            answer = netfilter.recv(65536)
            kind, number, error = *struct.unpack_from("HxxI", answer, 4), struct.unpack_from("i", answer, 16)[0]
            if kind != 2 or error:
                raise NoNamespaces(f"the router's rule {number}: {os.strerror(-error)}")


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags, number, 0) + body


def new_home(bridge: Bridge) -> tuple[Place, str, str]:
    """A machine behind a router: where it is, its own address, and the router's, under which others see it."""
    router, seen_as = bridge.new_place()
    machine = Place()
    with router.inside():
        add_pair("home", machine)
        add_address("home", _ROUTER, _PREFIX_BITS)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        _share_address()
    with machine.inside():
        add_address("eth0", _MACHINE, _PREFIX_BITS)
        add_default_route("eth0", _ROUTER)
    return machine, _MACHINE, seen_as


def _bound(kind: socket.SocketKind, place: Place, address: str, port: int = _CHECKED) -> socket.socket:
    """A socket on a port that others there may use as well: who punches holes dials from where it listens."""
    with place.inside():
        made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((address, port))
    made.settimeout(5)
    return made


def check_home(bridge: Bridge, home: tuple[Place, str, str]) -> None:
    """That the machine gets out under the router's address, and nobody gets in but who was asked, or dials while the machine dials as well."""
    place, own, seen_as = home
    outside, address = bridge.new_place()
    with _bound(socket.SOCK_DGRAM, place, own, _CHECKED + 2) as inner, _bound(socket.SOCK_DGRAM, outside, address, _CHECKED + 2) as asked:
        asked.settimeout(0.05)

        def arrives() -> bool:
            inner.sendto(b"is anybody there", asked.getsockname())
            try:
                return asked.recv(64) != b""
            except TimeoutError:
                return False

        # The kernel drops what is sent within the first second, until it has noticed that both ends of a cable are up.
        wait_until("the cables to carry something", arrives, 10)
    router = (seen_as, _CHECKED)
    with (
        _bound(socket.SOCK_DGRAM, place, own) as inner,
        _bound(socket.SOCK_DGRAM, outside, address) as asked,
        _bound(socket.SOCK_DGRAM, outside, address, _CHECKED + 1) as stranger,
    ):
        stranger.sendto(b"before anybody was asked", router)
        inner.sendto(b"question", asked.getsockname())
        seen = asked.recvfrom(64)
        assert seen == (b"question", router), f"{seen} came out instead of the question, from {router}"
        stranger.sendto(b"from a port that was not asked", router)
        asked.sendto(b"answer", router)
        let_in = inner.recvfrom(64)
        assert let_in == (b"answer", asked.getsockname()), f"{let_in} came in"
    with _bound(socket.SOCK_STREAM, place, own) as inner, _bound(socket.SOCK_STREAM, outside, address) as listener:
        listener.listen()
        inner.connect(listener.getsockname())
        coming, seen_tcp = listener.accept()
        coming.close()
        assert seen_tcp == router, f"seen as {seen_tcp} instead of {router}"
    # On other ports, as those have had a connection. Somebody listens, so that only the router is in the way.
    router = (seen_as, _CHECKED + 1)
    with (
        _bound(socket.SOCK_STREAM, place, own, _CHECKED + 1) as listener,
        _bound(socket.SOCK_STREAM, place, own, _CHECKED + 1) as inner,
        _bound(socket.SOCK_STREAM, outside, address, _CHECKED + 1) as stranger,
    ):
        listener.listen()
        stranger.setblocking(False)
        stranger.connect_ex(router)
        if select.select([], [stranger], [], 0.3)[1]:
            error = stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            raise AssertionError(f"the router answers strangers: {os.strerror(error) if error else 'it lets them in'}")
        # It goes on dialling. Had the router refused it, or did it give the machine another port, they wouldn't meet.
        inner.connect(stranger.getsockname())
        stranger.settimeout(5)
        inner.sendall(b"through")
        assert stranger.recv(7) == b"through"
        assert stranger.getpeername() == router
