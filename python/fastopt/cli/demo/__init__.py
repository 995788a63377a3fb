"""``fastopt demo``: a race of three trainings on the digits, and pictures of what optimizers, penalties and dropout do."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from ..arguments import folder, image, not_negative, positive, probability, whole
from ..parsers import describe, subparsers_of, suggestion

# Behind the options of every experiment.
EXAMPLES = {
    "digits": [
        "fastopt demo",
        "fastopt demo --hidden 256 256 --batch-size 64 --output wide.png",
        "mpiexec -n 4 fastopt demo --mpi",
    ],
    "weight-decay": [
        "fastopt demo weight-decay",
        "fastopt demo weight-decay --decays 0.001 0.1 --iterations 3000",
        "tensorboard --logdir runs",
    ],
    "ravine": ["fastopt demo ravine", "fastopt demo ravine --steps 50 --output start.png"],
    "escape": ["fastopt demo escape", "fastopt demo escape --starts 1000 --seed 1", "fastopt demo escape --no-picture"],
    "regularize": ["fastopt demo regularize", "fastopt demo regularize --seed 3 --output again.svg"],
    "formats": ["fastopt demo formats", "fastopt demo formats --epochs 10 --steps 400 --seeds 3"],
    "dropout": ["fastopt demo dropout", "fastopt demo dropout --p 0.2 --seeds 1 --no-picture"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiments and their options."""
    describe(
        parser,
        "Experiments that show fastopt at work, each with a table and a picture. Without the name of one, it is the digits. They "
        "need the extra demo: pip install 'fastopt[demo]'",
        ["fastopt demo", "fastopt demo ravine --output ravine.png", "fastopt demo escape --seed 1 --no-picture"],
        "fastopt demo EXPERIMENT --help says more about an experiment.",
    )
    experiments = parser.add_subparsers(dest="experiment", metavar="experiment", required=True)

    digits = experiments.add_parser("digits", help="a network with BatchNorm, trained three times: a race")
    digits.description = "Train a network with BatchNorm on the handwritten digits: with NumPy as people first write it, with NumPy in place, and with fastopt."
    add = digits.add_argument
    add("--quick", action="store_true", help="a small network and few epochs: a second instead of a minute")
    add(
        "--hidden",
        type=positive,
        nargs="+",
        metavar="N",
        help="widths of the hidden layers (default: 1024 1024; with --quick or --mpi 128 128)",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images per step (default: 16; with --quick or --mpi 32)",
    )
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help="largest number of epochs (default: 20; with --quick 8, with --mpi 100)",
    )
    add(
        "--patience",
        type=positive,
        metavar="N",
        help="epochs without improvement before it stops (default: it does not; with --mpi 15)",
    )
    add("--lr", type=not_negative, default=1e-3, metavar="X", help="learning rate (default: 0.001)")
    add(
        "--weight-decay",
        type=not_negative,
        default=0.01,
        metavar="X",
        help="decay of the weight matrices (default: 0.01)",
    )
    add(
        "--mpi",
        action="store_true",
        help="train with fastopt on all processes of an MPI job, without a picture: mpiexec -n 4 fastopt demo --mpi",
    )
    add_common_arguments(digits, picture="demo.png")

    decay = experiments.add_parser("weight-decay", help="Adam without weight decay and with two strengths of it")
    decay.description = (
        "Fit y = 2·x₁ − x₂² + 1 at twenty points with Adam, without weight decay and with two strengths of it: the larger the "
        "decay, the more weights are near zero, and the worse is the fit. The decay is coupled, as in torch.optim.Adam."
    )
    add = decay.add_argument
    add("--iterations", type=positive, default=1000, metavar="N", help="steps of Adam (default: 1000)")
    add("--lr", type=not_negative, default=0.003, metavar="X", help="learning rate at the beginning (default: 0.003)")
    add(
        "--decays",
        type=not_negative,
        nargs=2,
        default=[0.01, 1.0],
        metavar="X",
        help="the two strengths (default: 0.01 1)",
    )
    add(
        "--logdir",
        type=folder,
        metavar="DIR",
        help="folder of the logs for TensorBoard (default: runs; with --no-picture no logs)",
    )
    add("--log-every", type=positive, default=10, metavar="N", help="iterations between records (default: 10)")
    add_common_arguments(decay, picture="weight_decay.png")

    ravine = experiments.add_parser("ravine", help="the paths of ten methods over contours, and their losses")
    ravine.description = "Go down a ravine, a saddle and Beale's function from one start, in ten ways."
    ravine.add_argument("--steps", type=positive, default=200, metavar="N", help="steps of each method (default: 200)")
    add_common_arguments(ravine, picture="ravine.png")

    escape = experiments.add_parser("escape", help="how to leave a saddle and a local minimum, in six ways")
    escape.description = (
        "Leave a saddle and a local minimum with momentum, single samples, noise with a temperature, and restarts, beside plain "
        "gradient descent. Find a place from its distances to seven beacons: how many random starts end there, and not at its mirror "
        "image, and what the eigenvalues of the Hessian are where gradient descent stops."
    )
    add = escape.add_argument
    add("--starts", type=positive, default=200, metavar="N", help="number of random starts (default: 200)")
    add("--steps", type=positive, default=400, metavar="N", help="steps from every start (default: 400)")
    add_common_arguments(escape, picture="escape.png")

    regularize = experiments.add_parser("regularize", help="L1, L2, elastic net and decoupled decay, side by side")
    regularize.description = "Sparse linear regression: how the weights go to zero as L1, L2 and weight decay grow."
    regularize.add_argument(
        "--steps", type=positive, default=3000, metavar="N", help="steps of each fit (default: 3000)"
    )
    add_common_arguments(regularize, picture="regularize.png")

    formats = experiments.add_parser("formats", help="8-bit and bfloat16 moments and weights, beside float32")
    formats.description = "Train the digits' network and a transformer with fewer bytes a parameter, beside float32."
    add = formats.add_argument
    add("--epochs", type=positive, default=30, metavar="N", help="epochs of the digits (default: 30)")
    add("--steps", type=positive, default=1200, metavar="N", help="steps of the transformer (default: 1200)")
    add("--seeds", type=positive, default=1, metavar="N", help="number of seeds, from --seed on (default: 1)")
    add_common_arguments(formats, picture="formats.png")

    dropout = experiments.add_parser("dropout", help="dropout before BatchNorm, behind it, and none")
    dropout.description = "Train the digits' network with dropout before BatchNorm, behind all of it, and without."
    add = dropout.add_argument
    add("--p", type=probability, default=0.5, metavar="X", help="probability that an element is dropped (default: 0.5)")
    add("--epochs", type=positive, default=40, metavar="N", help="epochs of each training (default: 40)")
    add("--seeds", type=positive, default=3, metavar="N", help="number of seeds, from --seed on (default: 3)")
    add_common_arguments(dropout, picture="dropout.png")

    for name, experiment in experiments.choices.items():
        describe(experiment, experiment.description or "", EXAMPLES[name])


def prepared(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The arguments with the name of the default experiment, if they have none."""
    experiments = subparsers_of(parser)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        return ["digits", *argv]
    if argv[0] not in experiments and not argv[0].startswith("-"):
        parser.error(f"there is no experiment {argv[0]!r}; {suggestion(argv[0], experiments)}")
    return list(argv)


def add_default(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the default experiment to those of the command, for completions."""
    for action in subparsers_of(parser)["digits"]._actions:
        if action.dest != "help":
            parser._add_action(action)


def add_common_arguments(parser: argparse.ArgumentParser, *, picture: str) -> None:
    """The options that every experiment has."""
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of all random numbers (default: 0)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--output", type=image, default=Path(picture), metavar="FILE", help=f"file of the picture (default: {picture})"
    )
    output.add_argument("--no-picture", dest="output", action="store_const", const=None, help="print the table only")


def main(args: argparse.Namespace) -> int:
    """Run the requested experiment."""
    name = args.experiment.replace("-", "_")
    if name == "digits":
        name = "data_parallel" if args.mpi else "race"
    experiment = importlib.import_module("." + name, __name__)
    return int(experiment.main(args))
