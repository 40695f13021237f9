"""What a complete checkpoint folder holds: each file's size and fingerprint.

`Trainer` writes a checkpoint file by file, so that a killed process or a full disk leaves a folder
that looks like one. A list made when all was written, and flushed, tells the two apart.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import TypeAlias

__all__ = ["Manifest", "fault_of", "flush", "flush_names", "manifest", "sync", "write_atomically"]

Manifest: TypeAlias = dict[str, tuple[int, str]]
"""From the path of a file in the folder to its size in bytes and its fingerprint."""

BLOCK, BLOCKS = 2**16, 64


def manifest(folder: Path, *, without: str) -> Manifest:
    """Return the size and the fingerprint of each file in a folder.

    Parameters
    ----------
    folder : Path
        A checkpoint folder. Texts about it (``*.md``) and hidden files are passed over.
    without : str
        The name of the file that the list itself goes into.

    Returns
    -------
    dict from str to (int, str)

    Notes
    -----
    A fingerprint is SHA-256 of at most 64 blocks of 64 KiB, evenly spread: the whole of a file up
    to 4 MiB, and of a larger one enough to notice that it is another one, or was cut off, at a cost
    that does not grow with the model. It does not notice a single flipped bit.
    """
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        path.as_posix(): (file.stat().st_size, _fingerprint(file))
        for file in files
        if (path := file.relative_to(folder)).suffix != ".md"
        and not any(part.startswith(".") for part in path.parts)
        and not path.name.startswith(without)
    }


def fault_of(folder: Path, expected: Manifest) -> str | None:
    """Return what is wrong with the files of a folder, None if nothing is.

    Parameters
    ----------
    folder : Path
        A checkpoint folder.
    expected : dict from str to (int, str)
        As from `manifest`.

    Returns
    -------
    str or None
    """
    for name, (size, fingerprint) in expected.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return f"its list names {name!r}, which is outside of it"
        file = folder / path
        if not file.is_file():
            return f"{name} is missing"
        found = file.stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        if _fingerprint(file) != fingerprint:
            return f"{name} is not the file that was saved with it"
    return None


def flush(folder: Path) -> None:
    """Wait until the files of a folder are on the disk, not just on their way to it.

    Parameters
    ----------
    folder : Path
        Any folder.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("r+b") as content:
                sync(content.fileno())
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Wait until the names of the files in a folder are on the disk, where the system has that.

    Parameters
    ----------
    folder : Path
        Any folder.
    """
    if os.name == "posix":
        names = os.open(folder, os.O_RDONLY)
        try:
            sync(names)
        finally:
            os.close(names)


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk, where its file system knows of such a thing.

    Parameters
    ----------
    descriptor : int
        Of the file.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole, or as it was before.

    Parameters
    ----------
    file : Path
        In a folder that exists.
    content : bytes
        All of it.
    """
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as target:
            target.write(content)
            target.flush()
            sync(target.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    flush_names(file.parent)


def _fingerprint(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as content:
        if size <= BLOCK * BLOCKS:
            digest.update(content.read())
        else:
            for block in range(BLOCKS):
                content.seek((size - BLOCK) * block // (BLOCKS - 1))
                digest.update(content.read(BLOCK))
    return digest.hexdigest()
