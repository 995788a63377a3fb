"""``fastopt info``: versions, instruction sets, threads, OpenMP, BLAS and how they share the cores."""

from __future__ import annotations

import argparse

import fastopt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""
    parser.description = "What fastopt found on this machine and what is in force: fastopt.show_config()."


def main(args: argparse.Namespace) -> int:
    """Print the configuration."""
    print(fastopt.show_config())
    return 0
