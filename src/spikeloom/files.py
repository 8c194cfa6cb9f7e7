"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["whole_file", "write_text"]

SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary neighbour that takes the place of ``path`` only if the block succeeds.

    An interrupted or failing block leaves no new file behind, and an older one as it was. The new
    file is on the disk before the older one goes. It has the owner and the permissions of the one
    it replaces, or else those that any new file gets. A symbolic link stays, and the file that it
    leads to is replaced; other hard links to that file keep the old content.

    Args:
        path: Where the file shall be.

    Yields:
        The temporary path to write to; it has the suffix of the file and lies in its folder.

    Raises:
        FileNotFoundError: If the folder of ``path`` does not exist.
        TypeError: If ``path`` is neither a string nor a Path.
        ValueError: If ``path`` is empty.
        IsADirectoryError: If ``path`` is a folder, or ends like the name of one.
        FileExistsError: If ``path`` is no regular file but a device, a FIFO or a socket.
        PermissionError: If the file is read-only, for root too, if its owner cannot be kept, or if
            the folder takes no new file.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "answer.txt") as temporary:
        ...     _ = temporary.write_text("42")
        >>> [file.name for file in folder.iterdir()]
        ['answer.txt']
    """
    old = _checked(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        problem = "is no folder" if target.parent.exists() else "does not exist; make it first"
        raise FileNotFoundError(f"path: the folder {target.parent} {problem}")
    # A name may have 255 bytes in all.
    name = f".{target.stem[:40]}-{secrets.token_hex(8)}{target.suffix}"
    temporary = target.with_name(name)
    try:
        _make(temporary, path, old)
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        # The file is in its place; not every file system lets a folder be flushed.
        with suppress(OSError):
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: Where the file shall be, as for :func:`whole_file`.
        text: What it shall hold.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _checked(path: str | os.PathLike[str]) -> os.stat_result | None:
    """What is known of the file that is there, links followed; None if there is none."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise TypeError(f"path: must be a string or a Path, got {path!r}")
    if not name:
        raise ValueError("path: is empty; name a file")
    if name.endswith(os.sep):
        raise IsADirectoryError(f"path: {name} names a folder; name the file in it")
    try:
        old = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(f"path: {path} is a folder; name the file in it")
    if not stat.S_ISREG(old.st_mode):
        kind = SPECIAL.get(stat.S_IFMT(old.st_mode), "something special")
        raise FileExistsError(f"path: {path} is {kind}, no regular file; name another path")
    # What root may open is no reason to overwrite what was protected.
    if not (old.st_mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(f"path: {path} is read-only; chmod u+w it, or name another path")
    return old


def _make(temporary: Path, path: str | os.PathLike[str], old: os.stat_result | None) -> None:
    """Make the temporary file with the owner and permissions that the file shall have."""
    try:
        # By the process's umask if it is new; private until it has the old one's permissions.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666 if old is None else 0o600)
    except PermissionError as error:
        raise PermissionError(
            f"path: the folder {temporary.parent} takes no new file, which is needed to replace "
            f"{path} at once; make the folder writable, or name another path"
        ) from error
    try:
        if old is not None:
            _take_over(handle, path, old)
    finally:
        os.close(handle)


def _take_over(handle: int, path: str | os.PathLike[str], old: os.stat_result) -> None:
    """Give a new file the owner and the permissions of an old one."""
    mine = os.fstat(handle)
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise PermissionError(
                f"path: {path} belongs to another user or group ({old.st_uid}:{old.st_gid}), which "
                f"a new file cannot be given to; remove it first, or name another path"
            ) from error
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
