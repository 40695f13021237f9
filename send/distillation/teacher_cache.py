"""What a teacher says about each row of a training set, on disk: computed once, looked up by row.

A folder of safetensors files of a thousand rows each, written one by one and each all at once, and
a JSON header that says of which teacher, tokenizer and rows, and how, they were made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from send.checkpoints.manifest import write_atomically

__all__ = ["ROWS_PER_FILE", "TeacherCache"]

HEADER = "teacher_cache.json"
ROWS_PER_FILE = 1000


class TeacherCache:
    """The k most probable tokens at each response token of each row, and their log-probabilities.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    identity : dict
        What the content depends on, in plain JSON.
    rows : int
        Number of rows of the training set.

    Raises
    ------
    ValueError
        If the folder holds a cache of another identity, or a header that cannot be read.

    Notes
    -----
    A response token takes ``6 k + 2`` bytes (k int32, k + 1 float16): 386 with k = 64, so a million
    take 0.39 GB, where the whole distribution over 128 000 tokens would take 256 GB in float16.
    A file that is missing, cut off, or of another cache counts as not yet computed.

    Examples
    --------
    >>> import tempfile
    >>> cache = TeacherCache(tempfile.mkdtemp(), {"k": 1}, rows=2)
    >>> cache.missing()
    [0]
    >>> cache.write(0, [1, 2], torch.tensor([[5], [6], [7]]), torch.zeros(3, 2))
    >>> cache.missing(), cache.targets([1])[0].tolist()
    ([], [[6], [7]])
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], rows: int) -> None:
        self.folder = Path(folder)
        self.rows = rows
        identity = {**identity, "rows_per_file": ROWS_PER_FILE}
        self._digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._files: dict[int, tuple[Any, list[int]]] = {}
        self._bind(identity)

    def _bind(self, identity: dict[str, Any]) -> None:
        header = self.folder / HEADER
        self.folder.mkdir(parents=True, exist_ok=True)
        if not header.is_file():
            write_atomically(header, json.dumps(identity, indent=1, sort_keys=True).encode())
        try:
            found = json.loads(header.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            msg = f"{header} is broken ({error}); remove {self.folder} to have it made anew."
            raise ValueError(msg) from error
        if found != identity:
            known = found if isinstance(found, dict) else {}
            other = [name for name, value in identity.items() if known.get(name) != value]
            msg = (
                f"{self.folder} was made with another {' and '.join(other) or 'version'}; "
                "pass another kd_cache, or remove that folder to have it made anew."
            )
            raise ValueError(msg)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}}  # each data loading process opens the files itself

    @property
    def files(self) -> int:
        """Number of files when all are there."""
        return -(-self.rows // ROWS_PER_FILE)

    def rows_of(self, number: int) -> range:
        """Return the rows that a file is of."""
        return range(number * ROWS_PER_FILE, min((number + 1) * ROWS_PER_FILE, self.rows))

    def missing(self) -> list[int]:
        """Return the numbers of the files that are still to be computed."""
        return [number for number in range(self.files) if not self._complete(number)]

    def write(
        self,
        number: int,
        lengths: Sequence[int],
        indices: torch.Tensor,
        log_probs: torch.Tensor,
    ) -> None:
        """Write a file, so that it is there as a whole or not at all.

        Parameters
        ----------
        number : int
            Of the file; its rows are those of `rows_of`.
        lengths : sequence of int
            Number of response tokens of each of them.
        indices : Tensor, shape (sum of lengths, k)
            As of `send.distillation.divergence.top_k`; kept as int32.
        log_probs : Tensor, shape (sum of lengths, k + 1 or k)
            Kept as float16.
        """
        content = {
            "ends": torch.tensor([0, *lengths]).cumsum(0),
            "indices": indices.int().contiguous(),
            "log_probs": log_probs.half().contiguous(),
        }
        write_atomically(self._path(number), save(content, metadata=self._label(number)))
        self._files.pop(number, None)

    def targets(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is known of some rows, one after the other.

        Parameters
        ----------
        rows : sequence of int
            In any order.

        Returns
        -------
        indices : Tensor of int32, shape (response tokens of these rows, k)
        log_probs : Tensor of float16, shape (response tokens of these rows, k + 1 or k)
        """
        parts = []
        for row in rows:
            file, ends = self._open(row // ROWS_PER_FILE)
            first, last = ends[row % ROWS_PER_FILE], ends[row % ROWS_PER_FILE + 1]
            parts.append([file.get_slice(n)[first:last] for n in ("indices", "log_probs")])
        indices, log_probs = zip(*parts, strict=True)
        return torch.cat(indices), torch.cat(log_probs)

    def _label(self, number: int) -> dict[str, str]:
        return {"cache": f"{self._digest}/{number}"}  # one entry: several have no fixed order

    def _path(self, number: int) -> Path:
        return self.folder / f"rows-{number:06d}.safetensors"

    def _open(self, number: int) -> tuple[Any, list[int]]:
        if number not in self._files:
            file: Any = safe_open(self._path(number), framework="pt")
            self._files[number] = file, file.get_tensor("ends").tolist()
        return self._files[number]

    def _complete(self, number: int) -> bool:
        try:
            with safe_open(self._path(number), framework="pt") as file:
                rows = file.get_slice("ends").get_shape()[0] - 1
                same: bool = file.metadata() == self._label(number)
        except (FileNotFoundError, SafetensorError):
            return False
        return same and rows == len(self.rows_of(number))
