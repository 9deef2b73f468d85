"""Attack dpcl: python -m tests.attack --help. The short form runs in tests/attack/test_attack.py.

Every attack must end with correct output, or with one sentence and status 2, and leave neither a
partial file under a final name nor a temporary file. docs/reliability.md has the figures of the
long form.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.attack import commands, files

ATTACKS = {
    "recordings": (files.attack_recordings, 1000, 5),
    "documents": (files.attack_documents, 1000, 15),
    "lines": (commands.attack_command_lines, 1000, 6),
    "streams": (commands.attack_streams, 26, 2),
    "disks": (commands.attack_disks, 60, 1),
    "kills": (commands.attack_kills, 200, 2),
}  # function, and number of attacks (of each container, of each document) in both forms


def main() -> int:
    """Run the attacks; 1 if any of them ended as it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--only", default=",".join(ATTACKS), help="kinds of attacks, as a,b")
    parser.add_argument("--short", action="store_true", help="some seconds instead of an hour")
    parser.add_argument("--number", type=int, help="number of attacks of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # Forks of one process: torch is loaded once, and must have no threads of its own.
    torch.set_num_threads(1)
    import dpcl.apps.files
    import dpcl.recordings.separate
    import dpcl.recordings.stream  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    inputs = folder / "inputs"
    inputs.mkdir()
    commands.prepare(inputs)
    shutil.copy(inputs / "tiny.safetensors", folder)
    failed = 0
    for name in given.only.split(","):
        attack, long, short = ATTACKS[name]
        begun = time.monotonic()
        for tally in attack(folder, given.number or (short if given.short else long), given.seed):
            print(tally, flush=True)
            failed += len(tally.complaints)
        print(f"  {name}: {time.monotonic() - begun:.0f} s", flush=True)
    if not failed:
        shutil.rmtree(folder)
    print(f"{failed} complaints" + (f"; files in {folder}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
