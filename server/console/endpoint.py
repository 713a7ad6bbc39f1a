"""The guarded endpoint as the playground asks it.

Over loopback with the key of whoever is logged in. The key of an admin or an auditor goes to no
other machine, not even over TLS: whoever holds that machine would hold it. There a client's key
is used, which is typed for one request and not kept.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from server.auth import KeyRing, Role
from server.console.api import refuse_errors
from server.console.errors import ApiRefused, EndpointSilent
from server.errors import Forbidden, KeysUnreadable
from server.settings import is_loopback

_SECONDS = 120.0


class GuardedEndpoint:
    """Asks the endpoint at `url`: with `authorization` if it is here, else with `client_key`."""

    def __init__(self, url: str, keyring: KeyRing, authorization: str, client_key: str) -> None:
        self._url, self._keyring = url, keyring
        self._authorization, self._client_key = authorization, client_key

    def __repr__(self) -> str:
        return f"GuardedEndpoint({self._url})"

    @property
    def is_here(self) -> bool:
        """Whether it is asked over loopback."""
        return is_loopback(httpx.URL(self._url).host)

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask it something.

        Raises:
            EndpointSilent: it does not answer.
            ApiRefused: it answers with an error, or no client's key was given.
            Forbidden: the key that was given is not a client's.
            KeysUnreadable: nobody can tell whose key it is.
        """
        headers = {"authorization": self._authorization if self.is_here else self._for_elsewhere()}
        # Loading certificates takes longer than asking: only where there is TLS.
        secure = self._url.startswith("https:")
        trusted = (
            ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        client = httpx.AsyncClient(
            base_url=self._url, trust_env=False, timeout=_SECONDS, verify=trusted
        )
        async with client:
            try:
                response = await client.request(method, path, json=body, headers=headers)
            except httpx.HTTPError:
                raise EndpointSilent("The guarded endpoint does not answer.") from None
        if response.status_code == 401:
            raise ApiRefused(403, "The guarded endpoint does not know this key.")
        refuse_errors(response)
        return response

    def _for_elsewhere(self) -> str:
        """The key that was typed, unless it opens more than a client's does."""
        if not self._client_key:
            raise ApiRefused(422, "Give a client's key for the guarded endpoint.")
        if not (self._client_key.isascii() and self._client_key.isprintable()):
            raise ApiRefused(403, "The guarded endpoint does not know this key.")
        authorization = f"Bearer {self._client_key}"
        # The endpoint's clients may have keys that are not known here.
        caller = self._keyring.identify(authorization)
        if caller is None and not self._keyring.readable:
            raise KeysUnreadable()
        if caller is not None and caller.role is not Role.CLIENT:
            raise Forbidden("Only a client's key is sent to another machine.")
        return authorization
