"""The address and the key of an endpoint. The key is read from the environment, and written nowhere."""

from __future__ import annotations

import os

from vigc.platform.records import ConfigError


def clean_url(url: str) -> str:
    """The base address as requests use it.

    Raises:
        ConfigError: it is no address of a server.
    """
    base = url.rstrip("/").removesuffix("/chat/completions")
    scheme, separator, rest = base.partition("://")
    if not separator or scheme not in ("http", "https") or not rest:
        raise ConfigError(f"--model {url}: an endpoint is an address such as http://localhost:8000/v1.")
    return base


def read_key(key_env: str) -> str | None:
    """The key, from the environment of this process.

    Raises:
        ConfigError: the variable is not set, or holds what cannot be sent in a header.
    """
    if not key_env:
        return None
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise ConfigError(f"--api-key-env {key_env}: this environment variable is not set. Put the server's key there.")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"--api-key-env {key_env}: the key holds characters that cannot be sent in a header.")
    return key
