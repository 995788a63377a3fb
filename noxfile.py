"""`nox` runs what CI runs; `nox -s bench` measures."""

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types."""
    session.install("--group", "lint")
    session.run(".ci/lint", external=True)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests, on every Python that is installed."""
    session.install(".[test]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python=False)
@nox.parametrize("isa", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def isas(session: nox.Session, isa: str) -> None:
    """The tests of the installed package with one instruction set."""
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs, env={"FASTOPT_ISA": isa})


@nox.session
def nightly(session: nox.Session) -> None:
    """The tests, with every case of those that are many and alike, and long random sequences of calls."""
    session.install(".[test]")
    session.run("pytest", "-n", "auto", *session.posargs, env={"FASTOPT_NIGHTLY": "1", "FASTOPT_EXAMPLES": "100"})


@nox.session
def sanitize(session: nox.Session) -> None:
    """The tests under AddressSanitizer and UBSan, on one instruction set: for the night."""
    session.install(
        "pybind11>=3.0", "cmake", "ninja", "ml_dtypes>=0.5", "numpy>=2.0", "safetensors>=0.4.5", "threadpoolctl>=3.5"
    )
    session.install("pytest>=8", "pytest-benchmark", "pytest-xdist>=3.6")
    session.run(".ci/sanitize", "nightly", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in build/site."""
    session.install(".[demo,sklearn]", "torch==2.13.0", "--group", "docs")
    session.run("python", "-m", "sphinx", "-W", "-q", "-d", "build/doctrees", "docs", "build/site")


@nox.session
def mpi(session: nox.Session) -> None:
    """The tests with several processes, with OpenMPI and with MPICH."""
    session.install(".[test]")
    session.run(".ci/mpi", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """fastopt beside NumPy, and beside torch if `--torch` is given."""
    arguments = [argument for argument in session.posargs if argument != "--torch"]
    session.install(".[bench]", *(["torch"] if "--torch" in session.posargs else []))
    session.run("fastopt", "bench", *arguments)


@nox.session
def clients(session: nox.Session) -> None:
    """Programs that nobody here wrote, under `fastopt run`, beside torch's own parts: for the night."""
    session.install(".", "torch==2.13.0", "stable-baselines3", "gymnasium", "transformers", "accelerate", "lightning")
    session.run("python", "bench/torch_clients.py", "--losses", "trainer", "lightning")
    session.run("python", "bench/torch_clients.py", *session.posargs)
