"""``fastopt info``: versions, instruction sets, threads, OpenMP, BLAS and how they share the cores."""

from __future__ import annotations

import argparse

import fastopt

from .parsers import describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""
    describe(
        parser,
        "What fastopt found on this machine and what is in force: versions, instruction sets, threads, OpenMP, BLAS and how they "
        "share the cores. It is the text of fastopt.show_config().",
        ["fastopt info", "OMP_NUM_THREADS=4 fastopt info", "fastopt info | grep -i threads"],
    )


def main(args: argparse.Namespace) -> int:
    """Print the configuration."""
    print(fastopt.show_config())
    return 0
