"""Machines at home: behind a router that shares its one address, as nftables(8) does it, and lets nobody in."""

import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from harness.waiting import wait_until
from places import Backbone, NoNamespaces, Place, add_address, add_default_route, add_pair, attribute

ROUTER, _MACHINE, _PREFIX_BITS = "192.168.1.1", "192.168.1.2", 24

# The first of three ports on which the router is tried out; no node uses them.
_CHECKED = 4101

# nfnetlink(7), and include/uapi/linux/netfilter/nf_tables.h of Linux: messages of a batch, and their attributes.
_NETLINK_NETFILTER, _SUBSYSTEM = 12, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _DELETE_RULE = 0, 3, 6, 8
# NLM_F_REQUEST | NLM_F_ACK, that with NLM_F_CREATE, and with NLM_F_APPEND as well.
_DELETE, _CREATE, _APPEND = 0x005, 0x405, 0xC05
_IPV4 = 2
_HOOK_PREROUTING, _HOOK_INPUT, _HOOK_FORWARD, _HOOK_POSTROUTING = 0, 1, 2, 4
_DROP, _ACCEPT = 0, 1
_REGISTER, _SECOND_REGISTER, _VERDICT_REGISTER = 1, 2, 0
_CT_STATE, _ESTABLISHED_OR_RELATED = 0, 0b110
_CT_STATUS, _FORWARDED = 2, 0b10_0000
_META_IIFNAME, _META_OIFNAME, _META_L4PROTO = 6, 7, 16
_TRANSPORT_HEADER, _DESTINATION_PORT = 2, 2
_DESTINATION_NAT = 1
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


def _connection_has(key: int, bits: int) -> bytes:
    return b"".join(
        [
            _expression("ct", _number(1, _REGISTER), _number(2, key)),
            _expression(
                "bitwise",
                _number(1, _REGISTER),
                _number(2, _REGISTER),
                _number(3, 4),
                _nested(4, attribute(1, struct.pack("I", bits))),
                _nested(5, attribute(1, bytes(4))),
            ),
            _compare(_NOT_EQUAL, bytes(4)),
        ]
    )


def _of_a_known_connection() -> bytes:
    return _connection_has(_CT_STATE, _ESTABLISHED_OR_RELATED)


def _meta(key: int, value: bytes) -> bytes:
    return _expression("meta", _number(1, _REGISTER), _number(2, key)) + _compare(_EQUAL, value)


def _at(key: int, interface: str) -> bytes:
    return _meta(key, interface.encode().ljust(16, b"\0"))


def _load(register: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register), _nested(2, attribute(1, value)))


def _to_port(port: int) -> bytes:
    place = [_number(1, _REGISTER), _number(2, _TRANSPORT_HEADER), _number(3, _DESTINATION_PORT), _number(4, 2)]
    return _expression("payload", *place) + _compare(_EQUAL, struct.pack(">H", port))


def _send_on_to(address: str, port: int) -> bytes:
    to = [_number(3, _REGISTER), _number(4, _REGISTER), _number(5, _SECOND_REGISTER), _number(6, _SECOND_REGISTER)]
    nat = _expression("nat", _number(1, _DESTINATION_NAT), _number(2, _IPV4), *to)
    return _load(_REGISTER, socket.inet_aton(address)) + _load(_SECOND_REGISTER, struct.pack(">H", port)) + nat


def _chain(name: str, kind: str, hook: int, priority: int, policy: int) -> tuple[int, int, bytes]:
    place = _nested(4, _number(1, hook), attribute(2, struct.pack(">i", priority)))
    return _NEW_CHAIN, _CREATE, _text(1, "router") + _text(3, name) + place + _number(5, policy) + _text(7, kind)


def _rule(chain: str, *expressions: bytes) -> tuple[int, int, bytes]:
    return _NEW_RULE, _APPEND, _text(1, "router") + _text(2, chain) + _nested(4, *expressions)


def _share_address() -> None:
    """Whatever leaves has the router's address, and only answers come in; everything else is dropped, unanswered."""
    _ask(
        [
            (_NEW_TABLE, _CREATE, _text(1, "router")),
            _chain("out", "nat", _HOOK_POSTROUTING, 100, _ACCEPT),
            _rule("out", _at(_META_OIFNAME, "eth0"), _expression("masq")),
            _chain("forwarded", "nat", _HOOK_PREROUTING, -100, _ACCEPT),
            _chain("through", "filter", _HOOK_FORWARD, 0, _DROP),
            _rule("through", _of_a_known_connection(), _accept()),
            _rule("through", _at(_META_IIFNAME, "home"), _accept()),
            _rule("through", _connection_has(_CT_STATUS, _FORWARDED), _accept()),
            _chain("in", "filter", _HOOK_INPUT, 0, _DROP),
            _rule("in", _of_a_known_connection(), _accept()),
            _rule("in", _at(_META_IIFNAME, "home"), _accept()),
        ]
    )


def forward_ports(router: Place, ports: dict[tuple[int, int], tuple[str, int]]) -> None:
    """From now on the router sends on who comes from outside to these ports, each given by its protocol and number, and to no others."""
    rules = [
        _rule("forwarded", _at(_META_IIFNAME, "eth0"), _meta(_META_L4PROTO, bytes([protocol])), _to_port(port), _send_on_to(*inner))
        for (protocol, port), inner in ports.items()
    ]
    with router.inside():
        _ask([(_DELETE_RULE, _DELETE, _text(1, "router") + _text(2, "forwarded")), *rules])


def _ask(messages: list[tuple[int, int, bytes]]) -> None:
    """Has the kernel carry out all of it or nothing, in the namespace of this thread."""
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


@dataclass(frozen=True)
class Home:
    """A machine behind a router."""

    machine: Place
    # The machine's own address.
    own: str
    router: Place
    # The router's, under which others see the machine.
    seen_as: str


def new_home(backbone: Backbone) -> Home:
    """Makes a router, and a machine behind it."""
    router, seen_as = backbone.new_place()
    machine = Place()
    with router.inside():
        add_pair("home", machine)
        add_address("home", ROUTER, _PREFIX_BITS)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        _share_address()
    with machine.inside():
        add_address("eth0", _MACHINE, _PREFIX_BITS)
        add_default_route("eth0", ROUTER)
    return Home(machine, _MACHINE, router, seen_as)


def _bound(kind: socket.SocketKind, place: Place, address: str, port: int = _CHECKED) -> socket.socket:
    """A socket on a port that others there may use as well: who punches holes dials from where it listens."""
    with place.inside():
        made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((address, port))
    made.settimeout(5)
    return made


def check_home(backbone: Backbone, home: Home) -> None:
    """That the machine gets out under the router's address, and nobody gets in but who was asked, or dials while the machine dials as well."""
    place, own, seen_as = home.machine, home.own, home.seen_as
    outside, address = backbone.new_place()
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
