"""Calls upstreams. What comes back is always an Outcome: what happened, what it means for the money, whether to retry.

The errors of aiohttp end here. One session a process, kept for its whole life, bound to the event loop it was made in.
Redirects are not followed (a key must not travel), and answers are read up to a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from routing_service.outcomes import Outcome, broken, read_answer, unsent
from routing_service.settings import ModelSettings


@dataclass(slots=True)
class Upstreams:
    """The process's HTTP client. Make it inside the event loop that will use it, once."""

    models: Mapping[str, ModelSettings]
    max_response_bytes: int
    _session: aiohttp.ClientSession = field(init=False)
    _headers: dict[str, dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=15),
            trust_env=True,
            auto_decompress=True,
        )
        self._headers = {name: _headers(model) for name, model in self.models.items()}

    async def close(self) -> None:
        await self._session.close()

    async def chat(self, model: str, body: bytes) -> Outcome:
        """POST one chat body to the upstream of `model`; never raises but for cancellation."""
        settings = self.models[model]
        timeout = aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.connect_timeout_s)
        url = str(settings.base_url).rstrip("/") + "/chat/completions"
        try:
            async with self._session.post(
                url, data=body, headers=self._headers[model], timeout=timeout, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                return read_answer(response.status, response.headers, raw, settings)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return unsent(f"could not connect to {settings.origin}: {_name(error)}")
        except TimeoutError:
            return broken("timeout", f"no complete answer within {settings.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return broken("connection_error", f"the connection broke: {_name(error)}")
        except Exception as error:  # whatever an upstream sends: a call without an outcome would hang its request
            return broken("invalid_answer", f"the upstream's answer could not be read: {_name(error)}")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > self.max_response_bytes:
                raise ValueError("answer too large")
            parts.append(part)
        return b"".join(parts)


def _headers(model: ModelSettings) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "routebatch"}
    key = model.api_key()
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    return headers


def _name(error: BaseException) -> str:
    """An error's kind and its system text; never the URL, which may hold credentials."""
    cause = getattr(error, "os_error", None) or error.__cause__
    return f"{type(error).__name__}{f' ({cause.strerror})' if isinstance(cause, OSError) and cause.strerror else ''}"
