"""A trustless gateway as a client sees it: requests, and what their answers say."""

import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message

from . import ipld

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Response:
    """An answer of a gateway."""

    status: int
    headers: Message
    body: bytes

    def header(self, name: str) -> str | None:
        """A header."""
        return self.headers.get(name)

    def blocks(self) -> list[tuple[str, bytes]]:
        """The blocks of a CAR file in their order."""
        return [(str(each.cid), each.data) for each in ipld.read_car(self.body)]


def ask(gateway: str, path: str, method: str = "GET", **headers: str) -> Response:
    """One request to a path below `/ipfs/`; `_` in the name of a header stands for `-`."""
    request = urllib.request.Request(f"{gateway}/ipfs/{path}", method=method)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with _NO_PROXY.open(request, timeout=60) as answer:
            return Response(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read())
