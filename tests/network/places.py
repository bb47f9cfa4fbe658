"""Machines of an internet that has no way out: network namespaces, joined by a router. Talks to the kernel as rtnetlink(7) says."""

import ctypes
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000

_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
# NLM_F_REQUEST | NLM_F_ACK, and those with NLM_F_CREATE | NLM_F_EXCL.
_CHANGE, _CREATE = 0x005, 0x605
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_GATEWAY = 4, 5
# RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST.
_ROUTE = bytes([254, 3, 0, 1])

_PREFIX_BITS = 16

_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespaces(Exception):
    """This machine doesn't let us make networks of our own."""


def _checked(result: int) -> None:
    if result != 0:
        raise NoNamespaces(os.strerror(ctypes.get_errno()))


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a request, see netlink(7)."""
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _ask(kind: int, flags: int, body: bytes) -> None:
    """One request to the kernel, in the namespace of this thread."""
    header = struct.pack("IHHII", 16 + len(body), kind, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.send(header + body)
        error = struct.unpack_from("i", route.recv(4096), 16)[0]
    if error:
        raise NoNamespaces(f"request {kind}: {os.strerror(-error)}")


def _raise(name: str) -> None:
    _ask(_RTM_NEWLINK, _CHANGE, _link(socket.if_nametoindex(name), _IFF_UP))


def add_pair(name: str, other: "Place") -> None:
    """Joins this thread's namespace with another one, where the cable's end is `eth0`."""
    peer = _link(0) + attribute(_IFLA_IFNAME, b"eth0\0") + attribute(_IFLA_NET_NS_FD, struct.pack("I", other.handle))
    pair = attribute(_IFLA_INFO_KIND, b"veth") + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
    named = attribute(_IFLA_IFNAME, name.encode() + b"\0")
    _ask(_RTM_NEWLINK, _CREATE, _link(0) + named + attribute(_IFLA_LINKINFO, pair))


def add_address(name: str, address: str, prefix_bits: int) -> None:
    """Gives an interface of this thread's namespace an address, and switches it on."""
    packed = socket.inet_aton(address)
    body = struct.pack("BBBBI", socket.AF_INET, prefix_bits, 0, 0, socket.if_nametoindex(name))
    _ask(_RTM_NEWADDR, _CREATE, body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed))
    _raise(name)


def add_default_route(name: str, gateway: str) -> None:
    """Sends what goes elsewhere to this neighbour."""
    body = struct.pack("BBBB", socket.AF_INET, 0, 0, 0) + _ROUTE + struct.pack("I", 0)
    by = attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
    _ask(_RTM_NEWROUTE, _CREATE, body + by + attribute(_RTA_OIF, struct.pack("I", socket.if_nametoindex(name))))


class Place:
    """A network namespace."""

    def __init__(self) -> None:
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _checked(_libc.unshare(_CLONE_NEWNET))
        self.handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _raise("lo")
        _checked(_libc.setns(self._before, _CLONE_NEWNET))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread does there, and the programs that it starts, are in the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _checked(_libc.setns(self.handle, _CLONE_NEWNET))
        try:
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
            os.close(before)


class Backbone:
    """What joins the places: each has a cable to it, and no other neighbour, as the kernel remembers no more than 1,024 for all places."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise NoNamespaces("only Linux has them")
        user, group = os.geteuid(), os.getegid()
        if user != 0:
            # With a network of its own: one may go back only to what one owns.
            _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        self._lock = threading.Lock()
        self._count = 0
        self._place = Place()
        with self._place.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def new_place(self) -> tuple[Place, str]:
        """A further machine, and its address, which looks routable. Each is in a /16 of its own: Kubo wants few servers from one."""
        with self._lock:
            self._count += 1
            number = self._count
        address, neighbour = f"45.{10 + number}.0.1", f"45.{10 + number}.0.2"
        place = Place()
        port = f"port{number}"
        with self._place.inside():
            add_pair(port, place)
            add_address(port, neighbour, _PREFIX_BITS)
        with place.inside():
            add_address("eth0", address, _PREFIX_BITS)
            add_default_route("eth0", neighbour)
        return place, address
