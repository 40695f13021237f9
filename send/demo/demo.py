"""The demonstration: a spectrum against exact values, then SenD against plain fine-tuning.

Nothing is downloaded. What is printed was measured on the spot, whichever side it favours; one run
of a small model shows how things work, and proves nothing about SenD.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from send.demo.language import language
from send.demo.spectra import spectra

__all__ = ["run"]


def run(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run both parts of the demonstration; write pictures, numbers and models.

    Parameters
    ----------
    folder : Path
        Gets ``spectra.png``, ``training.png``, ``sensitivity.png``, ``demo.json``,
        ``answers.jsonl``, and the models ``pretrained``, ``plain`` and ``SenD``.
    seed : int
        Of everything.

    Returns
    -------
    dict
        What ``demo.json`` holds.
    """
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "seed": seed,
        "spectra": spectra(folder, seed=seed),
        "language": language(folder, seed=seed),
    }
    report["seconds"] = time.perf_counter() - started
    (folder / "demo.json").write_text(json.dumps(report, indent=1))
    print(f"\n{report['seconds']:.0f} s in all. Pictures, numbers and models are in {folder}/")
    return report
