"""A router at home that forwards ports for whoever asks: an Internet gateway device of UPnP, with what programs need of it.

It answers to searches (SSDP), describes itself (XML over HTTP) and takes three actions (SOAP), after UPnP Device Architecture 1.0 and
WANIPConnection:1. A connection from outside keeps its source address, as with real ones.
"""

import socket
import socketserver
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Self
from xml.sax.saxutils import escape

from homes import ROUTER, Home, forward_ports

_SEARCHED_AT, _DESCRIBED_AT = ("239.255.255.250", 1900), (ROUTER, 5000)
_DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}

# Each action with its arguments, those that go in and those that come out.
_ACTIONS = {
    "GetExternalIPAddress": ([], ["NewExternalIPAddress"]),
    "AddPortMapping": (
        [
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration",
        ],
        [],
    ),
    "DeletePortMapping": (["NewRemoteHost", "NewExternalPort", "NewProtocol"], []),
}

_ANSWER_TO_SEARCH = (
    "HTTP/1.1 200 OK\r\n"
    "CACHE-CONTROL: max-age=120\r\n"
    "EXT:\r\n"
    f"LOCATION: http://{_DESCRIBED_AT[0]}:{_DESCRIBED_AT[1]}/device.xml\r\n"
    "SERVER: Linux UPnP/1.0 test/1\r\n"
    f"ST: {_DEVICE}\r\n"
    f"USN: uuid:00000000-0000-0000-0000-000000000001::{_DEVICE}\r\n\r\n"
)


def _device(kind: str, number: int, inner: str) -> str:
    return (
        f"<device><deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType><friendlyName>test</friendlyName><manufacturer>test</manufacturer>"
        f"<modelName>test</modelName><UDN>uuid:00000000-0000-0000-0000-00000000000{number}</UDN>{inner}</device>"
    )


def _description() -> str:
    service = (
        f"<service><serviceType>{_SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>"
        "<controlURL>/control</controlURL><eventSubURL>/events</eventSubURL><SCPDURL>/service.xml</SCPDURL></service>"
    )
    connection = _device("WANConnectionDevice", 3, f"<serviceList>{service}</serviceList>")
    outside = _device("WANDevice", 2, f"<deviceList>{connection}</deviceList>")
    device = _device("InternetGatewayDevice", 1, f"<deviceList>{outside}</deviceList>")
    version = "<specVersion><major>1</major><minor>0</minor></specVersion>"
    return f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{version}{device}</root>'


def _service() -> str:
    def argument(name: str, direction: str) -> str:
        return f"<argument><name>{name}</name><direction>{direction}</direction><relatedStateVariable>{name[3:]}</relatedStateVariable></argument>"

    actions = "".join(
        f"<action><name>{name}</name><argumentList>{''.join([argument(each, 'in') for each in into] + [argument(each, 'out') for each in out])}"
        "</argumentList></action>"
        for name, (into, out) in _ACTIONS.items()
    )
    version = "<specVersion><major>1</major><minor>0</minor></specVersion>"
    return f'<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0">{version}<actionList>{actions}</actionList></scpd>'


def _envelope(body: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        f's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{body}</s:Body></s:Envelope>'
    )


class _Refused(Exception):
    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code


@dataclass(frozen=True)
class Asked:
    """An action that the router was asked for, and with which code it refused, if it did."""

    action: str
    arguments: dict[str, str]
    refused: int | None


class Router:
    """What the router of a home does besides sharing its address; use it in `with`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._mapped: dict[tuple[int, int], tuple[str, int]] = {}
        self.asked: list[Asked] = []
        # What it takes for its address outside: another one, if a further router stands before it.
        self.address = home.seen_as
        # Whether another machine has all ports.
        self.is_taken = False

    def __enter__(self) -> Self:
        with self._home.router.inside():
            search = _Searches(("", _SEARCHED_AT[1]), _Search)
            group = socket.inet_aton(_SEARCHED_AT[0]) + socket.inet_aton(ROUTER)
            search.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            self._servers = [search, _Requests(_DESCRIBED_AT, self._requests())]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def mapped(self) -> set[tuple[str, int]]:
        """The ports that it forwards, each with the name of its protocol."""
        names = {number: name for name, number in _PROTOCOLS.items()}
        with self._lock:
            return {(names[protocol], port) for protocol, port in self._mapped}

    def forget(self) -> None:
        """As when it is switched off and on again: it forwards nothing any more, and tells nobody."""
        with self._lock:
            self._mapped.clear()
            forward_ports(self._home.router, self._mapped)

    def _requests(self) -> type[BaseHTTPRequestHandler]:
        router = self

        class Handler(_Request):
            carry_out = staticmethod(router._carry_out)

        return Handler

    def _carry_out(self, client: str, action: str, arguments: dict[str, str]) -> dict[str, str]:
        refused: int | None = None
        try:
            with self._lock:
                return self._act(client, action, arguments)
        except _Refused as reason:
            refused = reason.code
            raise
        finally:
            self.asked.append(Asked(action, arguments, refused))

    def _act(self, client: str, action: str, arguments: dict[str, str]) -> dict[str, str]:
        if action not in _ACTIONS:
            raise _Refused(401, "Invalid Action")
        if set(arguments) != set(_ACTIONS[action][0]):
            raise _Refused(402, "Invalid Args")
        if action == "GetExternalIPAddress":
            return {"NewExternalIPAddress": self.address}
        outer = (_PROTOCOLS[arguments["NewProtocol"]], int(arguments["NewExternalPort"]))
        if action == "DeletePortMapping":
            if self._mapped.pop(outer, None) is None:
                raise _Refused(714, "NoSuchEntryInArray")
        else:
            if self.is_taken:
                raise _Refused(718, "ConflictInMappingEntry")
            if arguments["NewInternalClient"] != client or arguments["NewEnabled"] != "1" or arguments["NewRemoteHost"]:
                raise _Refused(606, "Action not authorized")
            self._mapped[outer] = (client, int(arguments["NewInternalPort"]))
        forward_ports(self._home.router, self._mapped)
        return {}


class _Searches(socketserver.ThreadingUDPServer):
    daemon_threads = True


class _Requests(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Search(socketserver.BaseRequestHandler):
    """One datagram to the group of the searched."""

    def handle(self) -> None:
        lines = self.request[0].decode(errors="replace").splitlines()
        fields = dict(line.lower().replace(" ", "").split(":", 1) for line in lines[1:] if ":" in line)
        if lines[:1] == ["M-SEARCH * HTTP/1.1"] and fields.get("man") == '"ssdp:discover"' and fields.get("st") == _DEVICE.lower():
            self.request[1].sendto(_ANSWER_TO_SEARCH.encode(), self.client_address)


class _Request(BaseHTTPRequestHandler):
    """One request over HTTP."""

    carry_out: Callable[[str, str, dict[str, str]], dict[str, str]]

    def do_GET(self) -> None:  # noqa: N802 - the library calls it so
        text = {"/device.xml": _description(), "/service.xml": _service()}.get(self.path)
        self._answer(200 if text else 404, text or "")

    def do_POST(self) -> None:  # noqa: N802 - the library calls it so
        envelope = ElementTree.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
        request = envelope.find("{http://schemas.xmlsoap.org/soap/envelope/}Body/*")
        service, _, action = "" if request is None else request.tag.lstrip("{").partition("}")
        if self.path != "/control" or service != _SERVICE or self.headers["SOAPAction"] != f'"{service}#{action}"':
            self._answer(404, "")
            return
        arguments = {each.tag: (each.text or "").strip() for each in request}
        try:
            results = self.carry_out(self.client_address[0], action, arguments)
        except _Refused as reason:
            told = f"<errorCode>{reason.code}</errorCode><errorDescription>{reason}</errorDescription>"
            error = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">{told}</UPnPError>'
            fault = f"<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>{error}</detail></s:Fault>"
            self._answer(500, _envelope(fault))
            return
        fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in results.items())
        self._answer(200, _envelope(f'<u:{action}Response xmlns:u="{_SERVICE}">{fields}</u:{action}Response>'))

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", 'text/xml; charset="utf-8"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_unused: object) -> None:
        """What is asked is in `Router.asked`."""
