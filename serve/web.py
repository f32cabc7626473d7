"""Fetches images from addresses that clients send, without giving clients access to this machine's network (SSRF).

A host must be allowed, and every address it resolves to must be public. The connection goes to exactly the addresses
that were checked, so a name that resolves to another address a moment later gains nothing. Every redirect is checked
in the same way. Proxies from the environment are not used, because they would resolve names themselves.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from vigc import __version__
from vigc.serve.errors import ApiError, wrong

MAX_REDIRECTS = 3
MAX_URL_CHARS = 2048
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # host, port -> addresses


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet; an IPv4 address inside an IPv6 one is looked at."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
        elif found.teredo is not None or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class WebImages:
    """Fetches images.

    Args:
        allow_hosts: see ServeSettings.
        resolve, is_public: for tests.
    """

    def __init__(
        self,
        allow_hosts: Sequence[str],
        *,
        max_bytes: int,
        timeout_s: float,
        resolve: Resolve = resolve,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self._allowed = [_Pattern(host) for host in allow_hosts]
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._resolve, self._is_public = resolve, is_public

    async def fetch(self, url: str) -> bytes:
        """
        Raises:
            ApiError: the address is not allowed, or gives no bytes in time, or too many.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(url)
        except TimeoutError as error:
            raise _refused(f"The image did not come within {self._timeout_s:g} s.", "image_url_timeout") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The name of the error alone: its text may tell of the network here.
            raise _refused(f"The image could not be fetched ({type(error).__name__}).", "image_url_failed") from error

    async def _fetch(self, url: str) -> bytes:
        connector = aiohttp.TCPConnector(
            resolver=_Checked(self._addresses), socket_factory=self._socket, use_dns_cache=False, force_close=True
        )
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"vigc/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"},
        ) as session:
            for _ in range(MAX_REDIRECTS + 1):
                address = self._checked(url)
                async with session.get(address, allow_redirects=False) as response:
                    if response.status in _REDIRECTS and (target := response.headers.get("Location")):
                        url = str(address.join(URL(target)))
                        continue
                    if response.status != 200:
                        raise _refused(f"The image's server answers {response.status}.", "image_url_failed")
                    return await self._body(response)
        raise _refused(f"The address leads on more than {MAX_REDIRECTS} times.", "image_url_failed")

    def _checked(self, url: str) -> URL:
        """The parsed address. The HTTP client gets this same object, so that it asks for what was checked."""
        if len(url) > MAX_URL_CHARS:
            raise _refused(f"The address has more than {MAX_URL_CHARS} characters.", "image_url_invalid")
        address = URL(url)
        host, port = address.raw_host, address.port
        if address.scheme not in _PORTS or not host or port is None or address.user is not None:
            raise _refused("The address must be http(s)://host/… without a user's name.", "image_url_invalid")
        is_usual = port == _PORTS[address.scheme]
        if not any(pattern.allows(host, port, is_usual) for pattern in self._allowed):
            remedy = "Its operator can allow it with --allow-hosts." if self._allowed else "This service fetches none."
            raise _refused(f"Images are not fetched from {host}. {remedy}", "image_url_not_allowed")
        if _is_address(host):  # else it is checked where it is resolved
            self._all_public([host])
        return address

    def _socket(self, where: AddrInfoType) -> socket.socket:
        """Called for every connection with the address that it goes to: the last check."""
        family, kind, protocol, _, target = where
        if not self._is_public(str(target[0])):
            raise OSError("not an address of the internet")
        return socket.socket(family, kind, protocol)

    async def _addresses(self, host: str, port: int) -> list[str]:
        return self._all_public(await self._resolve(host, port))

    def _all_public(self, addresses: Sequence[str]) -> list[str]:
        if not addresses or not all(map(self._is_public, addresses)):
            raise _refused("The address does not lead to the public internet.", "image_url_not_allowed")
        return list(addresses)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ApiError:
        return _refused(f"The image has more than {self._max_bytes} bytes.", "too_large")


class _Pattern:
    """One entry of allow_hosts."""

    def __init__(self, text: str) -> None:
        host, colon, port = text.rpartition(":")
        has_port = bool(colon) and port.isdecimal()
        self._host = (host if has_port else text).strip("[]").rstrip(".").lower()
        self._port = int(port) if has_port else None

    def allows(self, host: str, port: int, is_usual_port: bool) -> bool:
        if port != self._port if self._port is not None else not is_usual_port:
            return False
        name = host.rstrip(".").lower()
        if self._host.startswith("*."):
            return name.endswith(self._host[1:])
        return self._host in ("*", name)


class _Checked(AbstractResolver):
    """Gives the connector the checked addresses and no others."""

    def __init__(self, addresses: Callable[[str, int], Awaitable[list[str]]]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._addresses(host, port)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _refused(message: str, code: str) -> ApiError:
    return wrong(message, "image", code)
