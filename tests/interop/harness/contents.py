"""What gets pinned: made from seeds, added to a Kubo, and compared byte by byte with what another Kubo fetched."""

import hashlib
import random
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from . import ipld
from .ipld import Block, Cid
from .kubo import Kubo

KIB = 1024
MIB = 1024 * KIB

# Every random byte comes from this and the content's name, so that a run can be repeated.
SEED = "pinnace interop 1"

_PART_BYTES = MIB


def random_bytes(name: str, length: int) -> bytes:
    """The same bytes for the same name and length, on every machine."""
    return random.Random(f"{SEED} {name}").randbytes(length)


class Content(ABC):
    """A DAG that can be added to one Kubo and looked for in another."""

    name: str

    @abstractmethod
    def add(self, kubo: Kubo) -> str:
        """Puts the DAG into a Kubo and returns its root."""

    @abstractmethod
    def compare(self, kubo: Kubo, root: str) -> str:
        """Fetches the whole DAG through a Kubo, compares each byte, and says how much that was."""


class File(Content):
    """A UnixFS file."""

    def __init__(self, name: str, length: int, *add_options: str) -> None:
        self.name = name
        self.length = length
        self._add_options = add_options

    def _parts(self) -> Iterator[bytes]:
        generator = random.Random(f"{SEED} {self.name}")
        for start in range(0, self.length, _PART_BYTES):
            yield generator.randbytes(min(_PART_BYTES, self.length - start))

    def digest(self) -> str:
        """The SHA-256 of all of it, in hexadecimal digits."""
        sha256 = hashlib.sha256()
        for part in self._parts():
            sha256.update(part)
        return sha256.hexdigest()

    def add(self, kubo: Kubo) -> str:
        with tempfile.TemporaryDirectory(dir=kubo.directory) as directory:
            path = Path(directory) / "file"
            with path.open("wb") as file:
                file.writelines(self._parts())
            return kubo.run("add", "--quieter", "--progress=false", *self._add_options, str(path)).strip()

    def compare(self, kubo: Kubo, root: str) -> str:
        position = 0
        with kubo.stream("cat", root) as output:
            for part in self._parts():
                fetched = output.read(len(part))
                assert fetched == part, f"\"{self.name}\" differs, or ends, between bytes {position} and {position + len(part)}"
                position += len(part)
            assert not output.read(1), f"\"{self.name}\" is longer than {self.length} bytes"
        return f"{self.length} bytes"


class Directory(Content):
    """A UnixFS directory of equally long files; Kubo makes it a HAMT when it is large."""

    def __init__(self, name: str, files: int, file_length: int) -> None:
        self.name = name
        self.files = files
        self._file_length = file_length

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        generator = random.Random(f"{SEED} {self.name}")
        for number in range(self.files):
            yield f"file-{number:05}", generator.randbytes(self._file_length)

    def add(self, kubo: Kubo) -> str:
        with tempfile.TemporaryDirectory(dir=kubo.directory) as directory:
            for name, data in self._entries():
                (Path(directory) / name).write_bytes(data)
            return kubo.run("add", "--quieter", "--progress=false", "--recursive", directory).strip()

    def compare(self, kubo: Kubo, root: str) -> str:
        # `get` alone asks for one file after the other; a pin fetches many at once.
        kubo.run("pin", "add", "--progress=false", root)
        path = kubo.directory / "fetched"
        try:
            kubo.run("get", "--progress=false", f"--output={path}", root)
            names = {entry.name for entry in path.iterdir()}
            for name, data in self._entries():
                assert name in names, f"{name} of \"{self.name}\" is missing"
                assert (path / name).read_bytes() == data, f"{name} of \"{self.name}\" differs"
            assert len(names) == self.files, f"\"{self.name}\" has {len(names)} entries instead of {self.files}"
        finally:
            shutil.rmtree(path, ignore_errors=True)
        return f"{self.files} files"


class Blocks(Content):
    """A DAG made here block by block; the last block is the root."""

    def __init__(self, name: str, blocks: list[Block]) -> None:
        self.name = name
        self.blocks = blocks

    @property
    def root(self) -> Cid:
        """The root's CID."""
        return self.blocks[-1].cid

    def add(self, kubo: Kubo) -> str:
        with tempfile.NamedTemporaryFile(dir=kubo.directory, suffix=".car") as file:
            ipld.write_car(file, [self.root], self.blocks)
            file.flush()
            kubo.run("dag", "import", "--pin-roots=false", file.name)
        return str(self.root)

    def compare(self, kubo: Kubo, root: str) -> str:
        exported = kubo.run_bytes("dag", "export", "--progress=false", root)
        fetched = {each.cid: each.data for each in ipld.read_car(exported) if not each.cid.is_identity}
        wanted = {each.cid: each.data for each in self.blocks if not each.cid.is_identity}
        for cid, data in wanted.items():
            assert cid in fetched, f"{cid} of \"{self.name}\" is missing"
            assert fetched[cid] == data, f"{cid} of \"{self.name}\" differs"
        assert len(fetched) == len(wanted), f"\"{self.name}\" has {len(fetched)} blocks instead of {len(wanted)}"
        return f"{len(wanted)} blocks"


def raw_block(name: str, length: int = 4 * KIB) -> Blocks:
    """A single raw block."""
    return Blocks(name, [ipld.block(ipld.RAW, random_bytes(name, length))])


def chain(name: str, nodes: int) -> Blocks:
    """dag-cbor nodes of which each links to the one before: nobody can ask for two of them at once."""
    blocks: list[Block] = []
    for number in range(nodes):
        node: dict[str, object] = {"number": number, "payload": random_bytes(f"{name} {number}", 64)}
        if blocks:
            node["previous"] = blocks[-1].cid
        blocks.append(ipld.block(ipld.DAG_CBOR, ipld.dag_cbor(node)))
    return Blocks(name, blocks)


def dag_json_node(name: str) -> Blocks:
    """A dag-json node that links to four codecs and holds bytes, which look like a link and are none."""
    raw = ipld.block(ipld.RAW, random_bytes(f"{name} raw", KIB))
    below = ipld.block(ipld.RAW, random_bytes(f"{name} below", KIB))
    cbor = ipld.block(ipld.DAG_CBOR, ipld.dag_cbor({"below": [below.cid]}))
    file = ipld.unixfs_leaf_v0(random_bytes(f"{name} file", 100))
    leaf = ipld.block(ipld.DAG_JSON, b'{"leaf":true}')
    text = (
        f'{{"bytes":{{"/":{{"bytes":"AAECAw"}}}},"file":{{"/":"{file.cid}"}},'
        f'"list":[{{"/":"{cbor.cid}"}},{{"/":"{leaf.cid}"}}],"raw":{{"/":"{raw.cid}"}}}}'
    )
    return Blocks(name, [below, raw, cbor, file, leaf, ipld.block(ipld.DAG_JSON, text.encode())])


def identity_children(name: str) -> Blocks:
    """A node with two identity children, of which one links on to a real block that is reached no other way."""
    raw = ipld.block(ipld.RAW, random_bytes(f"{name} raw", KIB))
    text = ipld.identity(ipld.RAW, b"carried by the CID itself")
    node = ipld.identity(ipld.DAG_CBOR, ipld.dag_cbor({"on": raw.cid}))
    root = ipld.block(ipld.DAG_CBOR, ipld.dag_cbor({"node": node.cid, "text": text.cid}))
    return Blocks(name, [raw, text, node, root])
