"""Programs that nobody here wrote, with torch's own parts and under ``fastopt run``, in turns: python bench/torch_clients.py [NAME ...]

Needs ``pip install stable-baselines3 gymnasium transformers accelerate lightning``.  Each process reports the seconds of its training;
the table has medians and their ratio.  With ``--losses`` the last losses without dropout are compared instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

CLIENTS = {
    "ppo": ("sb3.py", "ppo", "8192"),
    "sac": ("sb3.py", "sac", "1500"),
    "dqn": ("sb3.py", "dqn", "3000"),
    "trainer": ("trainer.py", "30"),
    "lightning": ("lightning_module.py", "200"),
}
FOLDER = Path(__file__).with_name("clients")


def run(name: str, fast: bool, *more: str) -> tuple[dict[str, float], str]:
    script, *arguments = CLIENTS[name]
    command = [sys.executable, *(["-m", "fastopt", "run"] if fast else []), str(FOLDER / script), *arguments, *more]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    words = next(line for line in done.stdout.splitlines() if line.startswith("seconds")).split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True)), done.stderr.splitlines()[
        -1
    ] if done.stderr else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*CLIENTS], metavar="NAME", help=", ".join(CLIENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        if args.losses:
            losses = [run(name, fast, "nodrop")[0].get("loss") for fast in (False, True)]
            print(f"{name:10} loss {losses[0]} torch, {losses[1]} fastopt")
            continue
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(args.rounds):
            for fast in (False, True):
                found, line = run(name, fast)
                times[fast].append(found["seconds"])
        theirs, ours = (statistics.median(times[fast]) for fast in (False, True))
        print(
            f"{name:10} torch {theirs:7.2f} s, fastopt {ours:7.2f} s, {theirs / ours:.2f} times as fast | {line}",
            flush=True,
        )


if __name__ == "__main__":
    main()
