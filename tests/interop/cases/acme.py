"""TLS with a certificate from an authority that speaks ACME."""

import http.client
import json
import socket
import ssl
import stat

from harness import javascript, pebble
from harness.contents import MIB, File
from harness.pinnace import Pinnace
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

_DOMAIN = "localhost"


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in with_ports]
    for each in with_ports:
        each.close()
    return ports


def _shown_certificate(pinnace: Pinnace, port: int, root: str) -> bytes:
    """Asks over TLS, trusting the authority alone; the certificate that was shown, or nothing while there is none."""
    assert pinnace.is_running(), "pinnace ended"
    context = ssl.create_default_context(cadata=root)
    connection = http.client.HTTPSConnection(_DOMAIN, port, timeout=10, context=context)
    try:
        connection.connect()
        certificate = connection.sock.getpeercert(binary_form=True)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.status == 200, f"{answer.status} {answer.read()!r}"
        assert answer.headers["Strict-Transport-Security"], f"no HSTS in {answer.headers}"
        return certificate
    except (ssl.SSLError, ConnectionError):
        return b""
    finally:
        connection.close()


def _warnings(pinnace: Pinnace) -> list[str]:
    return json.loads(pinnace.run_bytes("status", "--json"))["warnings"]


def _read_over_websocket(world: World, pinnace: Pinnace, root: str) -> str:
    """Helia, which trusts the authority alone, reads a file at the address that is announced for the domain."""
    packages, content = javascript.install(world.target), File("a file that is read over secure WebSocket", 3 * MIB)
    cid = content.add(world.origin)
    pin = json.loads(pinnace.run_bytes("pin", "add", cid, "--origin", world.origin.multiaddrs[0], "--json"))

    def is_pinned() -> bool:
        return json.loads(pinnace.run_bytes("pin", "show", pin["id"], "--json"))["status"] == "pinned"

    wait_until("the file to be pinned", is_pinned, 30)
    trusted = world.directory / "authority-of-the-domain.pem"
    trusted.write_text(root)
    address = pinnace.multiaddr("/tls/ws")
    assert f"/dns/{_DOMAIN}/" in address, address
    environment = {"ADDRESS": address, "ROOT": cid, "DIGEST": content.digest(), "NODE_EXTRA_CA_CERTS": str(trusted)}
    return packages.run("websocket.mjs", pinnace, "promises.mjs", **environment)


@case(seconds=300)
def acme_certificate(world: World) -> str:
    authority = pebble.build(world.target)
    https, acme, management = _free_ports(3)
    directory = world.directory / "pebble"
    settings = {
        "PINNACE_HTTP__TLS": "acme",
        "PINNACE_HTTP__ACME_DOMAINS": _DOMAIN,
        "PINNACE_HTTP__ACME_CONTACT": "you@example.org",
        "PINNACE_HTTP__ACME_DIRECTORY": f"https://localhost:{acme}/dir",
        # The system's trusted authorities, of which the one of Pebble's own server is none.
        "SSL_CERT_FILE": str(authority.trusted),
    }
    pinnace = world.new_pinnace("pinnace-with-acme", f"127.0.0.1:{https}", **settings)
    with authority.running(directory, acme, management, https):
        root = authority.root(management)
        with pinnace:
            assert pinnace.endpoint == f"https://{_DOMAIN}:{https}/api/psa/", pinnace.endpoint
            first = wait_until("the certificate", lambda: _shown_certificate(pinnace, https, root), 60)
            said = _read_over_websocket(world, pinnace, root)
            wait_until("the end of the warning", lambda: not any("certificate" in each for each in _warnings(pinnace)), 10)
            wait_until("a renewed certificate", lambda: _shown_certificate(pinnace, https, root) not in (b"", first), pebble.VALID_SECONDS)
            wait_until("both files", lambda: len(list((pinnace.data / "acme").iterdir())) == 2, 10)
    # With the authority gone, what was kept is all there is.
    with pinnace:
        again = wait_until("the kept certificate", lambda: _shown_certificate(pinnace, https, root), 20)
        assert again != first, "the first certificate is shown after a restart, and not the renewed one"
        kept = sorted((pinnace.data / "acme").iterdir())
        modes = [stat.S_IMODE(each.stat().st_mode) for each in kept]
        assert modes == [0o600, 0o600], f"{kept} have the modes {modes}"
    return f"from Pebble over TLS-ALPN-01, renewed and kept over a restart; Helia read {said}"
