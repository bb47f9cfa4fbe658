"""Just enough IPLD to make DAGs without a peer's help: CIDs, dag-cbor, dag-pb leaves, and CARv1 files both ways.

It writes canonical forms and reads only the CAR files that Kubo exports; it is no general decoder.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71
DAG_JSON = 0x0129

_IDENTITY = 0x00
_SHA2_256 = 0x12
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def varint(number: int) -> bytes:
    """Unsigned LEB128, as multiformats use it."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@dataclass(frozen=True)
class Cid:
    """A CID in its binary form."""

    binary: bytes

    def __str__(self) -> str:
        if self.binary[:2] == b"\x12\x20":
            return _base58(self.binary)
        return "b" + base64.b32encode(self.binary).decode().lower().rstrip("=")

    @property
    def is_identity(self) -> bool:
        """Whether the CID carries its data within itself."""
        return self.binary[0] == 1 and _skip_varint(self.binary, 1)[1] == _IDENTITY


def _skip_varint(data: bytes, start: int) -> tuple[int, int]:
    """The position behind the varint at `start`, and the byte that is there."""
    while data[start] & 0x80:
        start += 1
    return start + 1, data[start + 1]


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return text


@dataclass(frozen=True)
class Block:
    """Bytes and the CID that they were hashed into."""

    cid: Cid
    data: bytes


def block(codec: int, data: bytes) -> Block:
    """A block under a CIDv1 with SHA2-256."""
    return Block(Cid(b"\x01" + varint(codec) + bytes([_SHA2_256, 32]) + hashlib.sha256(data).digest()), data)


def identity(codec: int, data: bytes) -> Block:
    """A block whose CID is its data."""
    return Block(Cid(b"\x01" + varint(codec) + bytes([_IDENTITY]) + varint(len(data)) + data), data)


def unixfs_leaf_v0(content: bytes) -> Block:
    """A small UnixFS file in a single dag-pb node, under a CIDv0."""
    unixfs = b"\x08\x02\x12" + varint(len(content)) + content + b"\x18" + varint(len(content))
    node = b"\x0a" + varint(len(unixfs)) + unixfs
    return Block(Cid(bytes([_SHA2_256, 32]) + hashlib.sha256(node).digest()), node)


def dag_cbor(value: object) -> bytes:
    """Canonical dag-cbor of maps, lists, text, bytes, non-negative integers and links."""
    match value:
        case int():
            return _cbor_head(0, value)
        case bytes():
            return _cbor_head(2, len(value)) + value
        case str():
            return _cbor_head(3, len(value.encode())) + value.encode()
        case list():
            return _cbor_head(4, len(value)) + b"".join(map(dag_cbor, value))
        case dict():
            keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
            return _cbor_head(5, len(value)) + b"".join(dag_cbor(key) + dag_cbor(value[key]) for key in keys)
        case Cid():
            return b"\xd8\x2a" + dag_cbor(b"\x00" + value.binary)
    raise TypeError(f"dag-cbor of {type(value).__name__} is not supported here")


def _cbor_head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for additional, length in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * length:
            return bytes([major << 5 | additional]) + number.to_bytes(length, "big")
    raise ValueError(number)


def write_car(file: BinaryIO, roots: list[Cid], blocks: Iterable[Block]) -> None:
    """Writes a CARv1. Identity blocks are left out: their CIDs carry them."""
    header = dag_cbor({"roots": roots, "version": 1})
    file.write(varint(len(header)) + header)
    for each in blocks:
        if not each.cid.is_identity:
            file.write(varint(len(each.cid.binary) + len(each.data)) + each.cid.binary + each.data)


def read_car(data: bytes) -> Iterator[Block]:
    """The blocks of a CARv1."""
    length, position = _read_varint(data, 0)
    position += length
    while position < len(data):
        length, position = _read_varint(data, position)
        end = position + length
        if end > len(data):
            raise ValueError("the CAR file ends in the middle of a block")
        cid_end = _cid_end(data, position)
        yield Block(Cid(data[position:cid_end]), data[cid_end:end])
        position = end


def _cid_end(data: bytes, start: int) -> int:
    if data[start] == _SHA2_256:
        return start + 34
    _version, position = _read_varint(data, start)
    _codec, position = _read_varint(data, position)
    _function, position = _read_varint(data, position)
    length, position = _read_varint(data, position)
    return position + length


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
