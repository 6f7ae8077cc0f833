"""Calls upstreams. What comes back is always an Outcome: what happened, what it means for the money, whether to retry.

The errors of aiohttp end here. One session a process, kept for its whole life, bound to the event loop it was made in.
Redirects are not followed (a key must not travel), and answers are read up to a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import aiohttp

from routing_service.errors import ConfigurationError
from routing_service.settings import ModelSettings
from routing_service.upstream.outcome import Outcome, broken, read_answer, unsent


class AnswerMemory:
    """The bytes of answers that a pump is reading, or has read and not settled yet, bounded in sum.

    At the limit answers are read one after the other, each when what was read before it is settled; so the sum stays
    below the limit and one answer more. Belongs to one event loop.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading = 0
        self._unsettled = 0
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()

    @property
    def held(self) -> int:
        return self._reading + self._unsettled

    @property
    def full(self) -> bool:
        return self.held >= self._limit

    def hold(self, size: int) -> None:
        """An answer of that size was read and is to be settled."""
        self._unsettled += size

    def free(self, size: int) -> None:
        """It is settled."""
        self._unsettled -= size
        self._settled.set()

    async def read(self, parts: AsyncIterable[bytes], at_most: int) -> bytes:
        """The whole of an answer. ValueError if it is longer than `at_most` bytes."""
        taken: list[bytes] = []
        size, alone = 0, False
        try:
            async for part in parts:
                size += len(part)
                self._reading += len(part)
                if size > at_most:
                    raise ValueError("answer too large")
                taken.append(part)
                if self.full and not alone:
                    alone = await self._turn.acquire()
                    await self._until_settled()
            return b"".join(taken)
        finally:
            self._reading -= size
            if alone:
                self._turn.release()

    async def _until_settled(self) -> None:
        """Until there is room, or nothing left whose settling would make some."""
        while self.full and self._unsettled > 0:
            self._settled.clear()
            await self._settled.wait()


@dataclass(frozen=True, slots=True)
class _Target:
    """What all calls of a model have in common."""

    url: str = field(repr=False)  # may hold credentials, and so may the proxy
    headers: dict[str, str] = field(repr=False)
    timeout: aiohttp.ClientTimeout
    proxy: str | None = field(repr=False)

    @classmethod
    def of(cls, model: ModelSettings) -> _Target:
        url = str(model.base_url).rstrip("/") + "/chat/completions"
        timeout = aiohttp.ClientTimeout(
            total=model.timeout_s, sock_connect=model.connect_timeout_s, sock_read=model.read_timeout_s
        )
        return cls(url, _headers(model), timeout, proxy_of(model))


@dataclass(slots=True)
class Upstreams:
    """The process's HTTP client. Make it inside the event loop that will use it, once."""

    models: Mapping[str, ModelSettings]
    max_response_bytes: int
    _session: aiohttp.ClientSession = field(init=False)
    _targets: dict[str, _Target] = field(init=False)

    def __post_init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=15),
            auto_decompress=True,
        )
        self._targets = {name: _Target.of(model) for name, model in self.models.items()}

    async def close(self) -> None:
        await self._session.close()

    async def chat(self, model: str, body: bytes, memory: AnswerMemory, call_id: str) -> Outcome:
        """POST one chat body to the upstream of `model`; never raises but for cancellation.

        `call_id` goes with it as X-Client-Request-Id, by which a provider can say what became of a call.
        """
        settings, target = self.models[model], self._targets[model]
        try:
            async with self._session.post(
                target.url,
                data=body,
                headers=target.headers | {"X-Client-Request-Id": call_id},
                timeout=target.timeout,
                allow_redirects=False,
                proxy=target.proxy,
            ) as response:
                raw = await memory.read(response.content.iter_any(), self.max_response_bytes)
                return read_answer(response.status, response.headers, raw, settings)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return unsent(f"could not connect to {settings.origin}: {_name(error)}")
        except aiohttp.ClientHttpProxyError as error:  # the answer to CONNECT
            return unsent(f"the proxy does not connect to {settings.origin}: it answered {error.status}")
        except aiohttp.SocketTimeoutError:
            return broken("timeout", f"nothing came for {settings.read_timeout_s:g} s")
        except TimeoutError:
            return broken("timeout", f"no complete answer within {settings.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return broken("connection_error", f"the connection broke: {_name(error)}")
        except Exception as error:  # whatever an upstream sends: a call without an outcome would hang its request
            return broken("invalid_answer", f"the upstream's answer could not be read: {_name(error)}")


def _headers(model: ModelSettings) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "routebatch"}
    key = model.api_key()
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    return headers


def proxy_of(model: ModelSettings) -> str | None:
    """The proxy that the environment names for the model's upstream (`https_proxy`, `all_proxy`, `no_proxy`).

    None for an upstream on this machine: a proxy cannot reach our loopback. ConfigurationError for one that does not
    speak HTTP. Asked once: aiohttp would ask for every call, on two threads, and take a user's ~/.netrc for the
    upstream's key.
    """
    host, scheme = model.base_url.host or "", model.base_url.scheme
    if _is_loopback(host) or proxy_bypass(host):
        return None
    named = getproxies()
    proxy = named.get(scheme) or named.get("all")
    if not proxy:
        return None
    kind, separator, _ = proxy.partition("://")
    if separator and kind.lower() not in ("http", "https"):
        raise ConfigurationError(f"the environment names a proxy of kind {kind!r} for {scheme}; http(s) is supported")
    return proxy if separator else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(error: BaseException) -> str:
    """An error's kind and its system text; never the URL, which may hold credentials."""
    cause = getattr(error, "os_error", None) or error.__cause__
    return f"{type(error).__name__}{f' ({cause.strerror})' if isinstance(cause, OSError) and cause.strerror else ''}"
