# SPDX-License-Identifier: LGPL-2.1-or-later
"""MD5 and SHA-256 of short texts.

hashlib maps the whole of OpenSSL, 4 MB, into every process that imports it.
Python's own functions do as well, where the distribution has left them in;
Debian has, Fedora has not.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import md5, sha256
else:
    try:
        from _md5 import md5
    except ImportError:
        from hashlib import md5
    try:
        from _sha2 import sha256  # from Python 3.12 on
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

__all__ = ["md5_hex", "sha256_hex"]


def md5_hex(data: bytes) -> str:
    """32 hex digits; for names, not for security."""
    return md5(data, usedforsecurity=False).hexdigest()


def sha256_hex(data: bytes) -> str:
    """64 hex digits."""
    return sha256(data, usedforsecurity=False).hexdigest()
