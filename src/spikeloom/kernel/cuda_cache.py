"""Compiled CUDA kernels on the disk, so that a process does not compile what another one has.

A file is written under a name of its own and then renamed, so processes may share a folder. It ends
with a digest of what it holds; one that is damaged is taken for missing. Nothing here raises: a
folder that cannot be written only costs the time to compile again.

The environment variable SPIKELOOM_CACHE names the folder; empty, it switches the cache off.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from struct import Struct

# Files that are kept; those used longest ago go first.
KEPT = 2000
_HEAD = Struct("<II")
_DIGEST = hashlib.sha256().digest_size

Entry = tuple[bytes, int, int]


def folder() -> Path | None:
    """Where kernels are kept; None if the cache is off."""
    named = os.environ.get("SPIKELOOM_CACHE")
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spikeloom" / "cuda"


def read(key: str) -> Entry | None:
    """The code, registers and local bytes that were written for this key; None if there are none.

    Args:
        key: Everything that the code depends on.
    """
    with suppress(OSError, RuntimeError):  # without a home directory it is a RuntimeError
        if path := _path(key):
            content = path.read_bytes()
            body, digest = content[:-_DIGEST], content[-_DIGEST:]
            if len(body) > _HEAD.size and hashlib.sha256(body).digest() == digest:
                os.utime(path)  # it was used
                return body[_HEAD.size :], *_HEAD.unpack_from(body)
    return None


def write(key: str, entry: Entry) -> None:
    """Keep an entry, and remove the oldest ones beyond the limit.

    Args:
        key: Everything that the code depends on.
        entry: The code, registers and local bytes.
    """
    with suppress(OSError, RuntimeError):
        if path := _path(key):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            code, *numbers = entry
            body = _HEAD.pack(*numbers) + code
            temporary = path.with_name(f".{secrets.token_hex(8)}")
            try:
                temporary.write_bytes(body + hashlib.sha256(body).digest())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _trim(path.parent)


def _path(key: str) -> Path | None:
    where = folder()
    return where and where / f"{hashlib.sha256(key.encode()).hexdigest()}.bin"


def _trim(where: Path) -> None:
    found = list(where.glob("*.bin"))
    if len(found) > KEPT:
        found.sort(key=lambda path: path.stat().st_mtime)
        # Some more than needed, so that not every write has to look.
        for path in found[: len(found) - KEPT + KEPT // 10]:
            path.unlink(missing_ok=True)
