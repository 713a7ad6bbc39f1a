"""What a key looks like, and what is kept of it.

A key is 256 random bits, so there is nothing to guess and nothing to stretch: one SHA-256 is as
hard to invert as the key is to find, where a slow hash (scrypt, Argon2) would only cost every
request milliseconds. The slow hashes protect secrets that people choose.
"""

from __future__ import annotations

import hashlib
import secrets

KEY_PREFIX = "lg-"
# Shown in lists to tell keys apart: 36 of the 256 bits.
SHOWN_CHARS = len(KEY_PREFIX) + 6


def new_key() -> str:
    """A fresh key: `lg-` and 43 characters of A-Z, a-z, 0-9, `-` and `_`."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """What is kept of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
