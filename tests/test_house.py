"""Which parts may import which (CONTRIBUTING.md), and whether the tables of these tests are complete."""

from __future__ import annotations

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import images
import numpy as np
import pytest
from tables import FORMATS, NORMS, RULES, STEPS, SURROUNDINGS, VALUES
from tools import Each

import fastopt
from fastopt import functional, nn, optim, reference
from fastopt._rules import AROUND, Around

ROOT = Path(__file__).parents[1]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python" / "fastopt"
CPP = sorted(path for path in CSRC.rglob("*") if path.suffix in (".hpp", ".cpp"))
PYTHON = sorted(path for path in PACKAGE.rglob("*.py"))

LONGEST = 500  # lines of a file
DEPENDENCIES = {"ml_dtypes", "numpy", "safetensors", "threadpoolctl"}  # in pyproject.toml
GENERATED = {"python/fastopt/functional/_updates.py", "python/fastopt/torch/optim/_classes.py"}

# The other parts that a part may import.
CPP_KNOWS = {
    "core": set(),
    "optim": {"core"},
    "norm": {"core"},
    "nn": {"core"},
    "regularize": {"core"},
    "library": {"core", "nn", "norm", "optim", "regularize"},
    "bind": {"core", "library", "nn", "norm", "optim", "regularize"},
    "cpu.cpp": set(),
}
PUBLIC = {"functional", "nn", "optim", "reference", "schedules", *fastopt.__all__}
PYTHON_KNOWS = {
    "_version": set(),
    "_blas": set(),
    "_cores": set(),
    "_core": {"_blas", "_cores", "_cpu", "_kernels"},
    "_threads": {"_blas", "_check", "_core", "_cores"},
    "_memory": {"_check", "_core"},
    "_config": {"_blas", "_core", "_memory", "_threads", "_version"},
    "_check": set(),
    "_foreign": set(),
    "_words": {"_foreign"},
    "_commit": set(),
    "_files": set(),
    "_plain": set(),
    "_targets": set(),
    "_generators": {"_check", "_commit", "_plain"},
    "_run": {"_check", "_files", "_generators", "_plain", "_targets", "nn", "optim", "schedules"},
    "_rules": {"_check", "_core"},
    "_sparse": {"_check", "_core"},
    "functional": {"_check", "_core", "_rules", "_sparse", "optim", "_words"},  # it makes functions from its classes
    "nn": {"_check", "_commit", "_core", "functional", "_words"},
    "optim": {"_check", "_commit", "_core", "_files", "_rules", "_words"},
    "reference": set(),
    "schedules": {"_check", "_words"},
    "torch": PUBLIC,
    "sklearn": PUBLIC,
    # Its errors speak the package's dialect, its layer commits and its checkpoints are written as the package's own.
    "distributed": PUBLIC | {"_check", "_commit", "_core", "_files", "_words"},
    "cli": PUBLIC | {"distributed", "sklearn", "torch"},
    "__init__": PUBLIC | {"_config", "_core", "_memory", "_run", "_sparse", "_threads", "_version"},
    "__main__": {"cli"},
}
# The only files with an optimizer's name, besides its header and the file of its class.
BINDINGS = "csrc/optim/rules.cpp"
INTRINSICS = {"csrc/core/simd.hpp", "csrc/core/threads/environment.hpp"}
EXPORTS = {"python/fastopt/optim/__init__.py", "python/fastopt/reference/__init__.py"}
REFERENCE = "python/fastopt/reference/rules/"
USERS = {
    "python/fastopt/optim/accumulate.py": {"sgd"},  # adds gradients with it
    "csrc/bind/optim.cpp": {"sgd"},  # takes sums of squares with it
    "csrc/core/threads/team.hpp": {"adopt"},  # the verb: it adopts a number of threads
    "python/fastopt/optim/rules/muon.py": {"sgd"},  # takes its step with it
    "python/fastopt/optim/rules/switch.py": {"adam", "sgd", "sgd_momentum"},  # switches from one to the other
    "python/fastopt/_foreign.py": {
        "SGD",
        "LARS",
        "Muon",
        "Adam",
        "AdamW",
        "NAdam",
        "RAdam",
        "amsgrad",
    },  # errors that lead to them
    "python/fastopt/sklearn/_step.py": {"Adam", "SGD"},  # the two that scikit-learn has
    "python/fastopt/torch/_differences.py": {
        "SGD",
        "Muon",
        "Adagrad",
        "Adafactor",
        "Adam",
        "AdamW",
        "RMSprop",
        "LAMB",
        "LARS",
    },
    "python/fastopt/torch/optim/_sparse_adam.py": {"Adam"},  # which it is, for sparse gradients only
}
# Functions that are tested outside the tables, and layers that do not have the name of their function.
OTHERS = {"batch_norm_stats", "batch_norm_backward_stats", "combine_stats", "fold_batch_norm"}
CLIPS = {"clip_grad_norm", "clip_grad_value"}  # in test_clip.py
# In test_loops.py.
LOOPS = {"erf", "exp", "sigmoid", "tanh", "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "mse_loss"}
LOOPS |= {name + end for name in ("activate", "linear", "log_softmax", "softmax") for end in ("", "_backward")}
LAYERS = {"GELU", "Linear", "ReLU", "Sequential", "SiLU", "Sigmoid", "Tanh"}
LINEAR = {"CosineLinear": "CosineNorm", "WeightNormLinear": "WeightNorm"}
EXCEPTIONS = {
    "cli/bench/floors.py": {"_core"},  # the kernel that computes nothing is for benchmarks only
    "sklearn/_switch.py": {"_words"},  # its errors say how it is called
    "torch/_generate.py": {"_rules"},  # the types of the hyperparameters that every rule has
    "torch/optim/_part.py": {"_core"},  # DLPack's C functions
    "torch/optim/optimizer.py": {"_words"},  # its errors lead from torch's words to ours
    "torch/_accelerate.py": {"_words"},  # the same
    "torch/nn/_modules.py": {"_words"},  # the same
    "torch/nn/_replacement.py": {"_words"},  # the same
    "torch/utils.py": {"_core"},  # the same
}

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    return ".".join(("fastopt", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in (*PACKAGE.rglob("*.pyi"), *PYTHON)}


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that a Python file imports anywhere, and of the names that it imports from our
    packages.
    """
    package = module_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            is_package = base in MODULES and MODULES[base].name == "__init__.py"
            yield from (f"{base}.{alias.name}" for alias in node.names) if is_package else (base,)


def circles(graph: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Groups of modules that import one another, directly or indirectly; cycles that share a module form one group."""
    reached: dict[str, set[str]] = {}
    for module in graph:
        found, waiting = set[str](), [*graph[module]]
        while waiting:
            if (one := waiting.pop()) not in found:
                found.add(one)
                waiting += graph.get(one, ())
        reached[module] = found
    in_circles = {module for module in graph if module in reached[module]}
    every = [{other for other in in_circles if other in reached[one] and one in reached[other]} for one in in_circles]
    return [circle for i, circle in enumerate(every) if circle not in every[:i]]


def known(path: Path) -> set[str]:
    """The parts of fastopt that a Python file imports."""
    names = {module.split(".")[1] for module in imports(path) if module.startswith("fastopt.")}
    return names - {part_of(path, PACKAGE)}


def test_cpp_knows_only_whom_it_may(each: Each) -> None:
    for path in each(CPP):
        part = part_of(path, CSRC)
        included = re.findall(r'#include "([^"/]+)/', path.read_text())
        assert set(included) <= CPP_KNOWS[part] | {part}


def test_python_and_intrinsics_stay_where_they_belong(each: Each) -> None:
    for path in each(CPP):
        part, text = part_of(path, CSRC), path.read_text()
        assert ("pybind11" in text) <= (part in ("bind", "cpu.cpp"))
        has_intrinsics = re.search(r"\b_mm\w*|\b\w+mmintrin\.h|\b__m\d+|\basm\b|vector_size", text)
        assert bool(has_intrinsics) <= (name_of(path) in INTRINSICS)


def test_the_lock_of_python_is_released_in_one_way(each: Each) -> None:
    """Daemon threads that take it again while the process ends are in nobody's way then."""
    for path in each(CPP):
        assert "gil_scoped_release" not in path.read_text("utf-8")


def included(path: Path) -> set[str]:
    """All headers of ours that a file includes, directly or indirectly."""
    found, waiting = set[str](), [path]
    while waiting:
        for name in re.findall(r'#include "([^"]+)"', waiting.pop().read_text()):
            if name not in found:
                found.add(name)
                waiting.append(CSRC / name)
    return found


def test_the_bindings_know_no_vectors(each: Each) -> None:
    """They are compiled once, for any processor: their includes must not depend on the instruction set."""
    for path in each(path for path in CPP if part_of(path, CSRC) == "bind"):
        assert not included(path) & {"core/simd.hpp", "core/codec/half.hpp"}


def test_there_is_one_team_of_threads(each: Each) -> None:
    """Threads, forks and kept memory are the extension module's.  A library of kernels that included their headers would
    have a state of its own, and the bindings have no library's pointers.
    """
    state = {f"core/threads/{name}.hpp" for name in ("cores", "fork", "lend", "team")} | {"core/blocks.hpp"}
    for path in each(path for path in CPP if path.suffix == ".cpp"):
        if part_of(path, CSRC) == "bind":
            assert "core/threads/parallel.hpp" not in included(path)
        else:
            assert not included(path) & state
    assert "core/threads/team.hpp" in included(CSRC / "bind" / "threads.cpp")


def test_python_knows_only_whom_it_may(each: Each) -> None:
    for path in each(PYTHON):
        allowed = PYTHON_KNOWS[part_of(path, PACKAGE)] | EXCEPTIONS.get(path.relative_to(PACKAGE).as_posix(), set())
        assert known(path) <= allowed


def test_no_modules_import_one_another() -> None:
    """Imports at the head of a file, in functions and for types only all count."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = {name if name in MODULES else name.rpartition(".")[0] for name in imports(path)}
        graph[module] = names & MODULES.keys() - {module}
    assert circles(graph) == []


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["a"], "e": ["f"], "f": ["e"]}) in (
        [{"a", "b", "d"}, {"e", "f"}],
        [{"e", "f"}, {"a", "b", "d"}],
    )
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_file_is_longer_than_it_can_be_read() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in (*CPP, *PYTHON)}
    assert {name: n for name, n in lines.items() if n > LONGEST and name not in GENERATED} == {}


def test_import_takes_no_extra_and_no_subpackage() -> None:
    """``import fastopt`` loads only the dependencies in pyproject.toml, and subpackages only when they are used."""
    code = "import sys; before = {*sys.modules}; import fastopt; print(*{*sys.modules} - before)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"fastopt", "numpy"} <= {*loaded}
    assert {name.split(".")[0] for name in loaded} - sys.stdlib_module_names <= {"fastopt", *DEPENDENCIES}
    assert not {name.split(".")[1] for name in loaded if name.startswith("fastopt.")} & PUBLIC


def test_reference_knows_numpy_only(each: Each) -> None:
    for path in each([path for path in PYTHON if part_of(path, PACKAGE) == "reference"]):
        outside = {module.split(".")[0] for module in imports(path)}
        assert outside <= {"numpy", "fastopt", *sys.stdlib_module_names}


def test_only_core_names_an_instruction_set(each: Each) -> None:
    for path in each(PYTHON):
        named = re.findall(
            r"x86-64-v\d|\b_kernels_\w+|\bavx\w*|\bsse[234]\w*|\bneon\b", path.read_text(), re.IGNORECASE
        )
        assert bool(named) <= (path.name == "_core.py")


def test_the_rules_above_notice() -> None:
    """The imports on which they depend are really found."""
    assert known(PACKAGE / "functional" / "_update.py") >= {"_core", "_rules", "optim"}
    assert known(PACKAGE / "optim" / "optimizer.py") >= {"_core", "_rules"}
    assert "numpy" in set(imports(PACKAGE / "reference" / "rows.py"))
    assert "fastopt.optim.rules.adam" in set(imports(PACKAGE / "optim" / "__init__.py"))
    assert "fastopt.optim.parameters" in set(imports(PACKAGE / "optim" / "rules" / "adam.py"))
    assert "fastopt._cpu" in set(imports(PACKAGE / "_core.py"))
    assert len(CPP) > 10


def test_the_types_of_what_every_rule_has_name_all_of_it() -> None:
    assert AROUND.keys() == Around.__annotations__.keys()


def test_tables_are_complete() -> None:
    calls = [norm.call(np.random.default_rng(0), "float32", 2, 2) for norm in NORMS.values()]
    dropouts = {name for name in functional.__all__ if name.endswith("dropout")}  # in test_dropout.py
    functions = {
        *RULES,
        *OTHERS,
        *CLIPS,
        *LOOPS,
        *images.FUNCTIONS,
        *dropouts,
        *(f"{name}_backward" for name in dropouts),
    }
    functions = functions.union(*(call.functions for call in calls))
    assert functions == set(functional.__all__) - {"Outcome"} == set(reference.__all__)
    classes = {one for one in map(vars(optim).get, optim.__all__) if isinstance(one, type)}
    assert {optim.Optimizer, optim.StepInfo} < classes
    optimizers = {one for one in classes if issubclass(one, optim.Optimizer) and one is not optim.Optimizer}
    assert {rule.optimizer for rule in RULES.values()} == {one for one in optimizers if one.function is not None}
    layers = {LINEAR.get(name, name) for name in nn.__all__} - {"Layer", "update_bn", *LAYERS, *images.LAYERS}
    of_layers = {call.norm for call in calls} - {"batch_norm_apply"} | dropouts
    assert {name.lower() for name in layers} == {name.replace("_", "") for name in of_layers}


@pytest.mark.parametrize("norm", sorted({norm.norm for norm in NORMS.values()}))
def test_table_tries_every_option_of_a_norm(norm: str) -> None:
    """Every argument of a function, except required arrays, occurs with more than one value."""
    every = [one for one in NORMS.values() if one.norm == norm]
    calls = [
        one.call(np.random.default_rng(0), "float32", 12, 6, **options) for one in every for options in one.options
    ]
    for function in calls[0].functions:
        for name, one in inspect.signature(getattr(functional, function)).parameters.items():
            if name != "out" and one.default is not one.empty:
                tried = {
                    "given" if isinstance(value, np.ndarray) else repr(value)
                    for value in (call.arguments.get(name, one.default) for call in calls)
                }
                assert len(tried) > 1, name


@pytest.mark.parametrize("rule", RULES)
def test_table_tries_every_option(rule: str) -> None:
    """Every argument of an optimizer's constructor, its step and its function occurs with more than one value."""
    step = {*inspect.signature(optim.Optimizer.step).parameters} - {"self", "grads", "unknown"}
    options = {*RULES[rule].own, *AROUND, *step}
    refused = options - {*RULES[rule].own}.union(*RULES[rule].surroundings.values())
    taken = {*inspect.signature(getattr(functional, rule)).parameters}
    arrays = {f"{name}s" for name in RULES[rule].states(RULES[rule].fullest)}
    assert not {name for name in options - taken if f"{name.removesuffix('s')}_limits" not in taken}
    assert {*RULES[rule].optimizer([]).defaults} == options - step
    assert arrays <= taken

    rng = np.random.default_rng(0)
    samples = [RULES[rule].sample(rng, step=True) for _ in range(300)]
    assert not {name for name in options - refused if len({repr(one.get(name)) for one in samples}) < 2}


def test_rules_bear_what_surrounds_them() -> None:
    """Every rule takes all options, except the rules that are listed here."""
    every = {*SURROUNDINGS, *STEPS}
    refused = {name: some for name, rule in RULES.items() if (some := every - {*rule.surroundings})}
    acting_on_y_only = {"decoupled_weight_decay", "fixed_decay", "proximal_l1", "proximal_l1_lr", "l2_init_decoupled"}
    without_a_rate = {name: {"proximal_l1"} for name in ("lion", "rprop", "muon")}
    assert refused == {
        "schedule_free_sgd": acting_on_y_only,
        "schedule_free_adamw": acting_on_y_only,
        **without_a_rate,
    }


def test_there_is_nothing_in_the_tables_that_no_rule_has() -> None:
    """This keeps the tables short."""
    assert set(VALUES) <= {name for rule in RULES.values() for name in rule.own}
    around = [*SURROUNDINGS.values(), *(options for _, options in FORMATS.values())]
    assert {name for options in around for name in options} == {"weight_decay", *AROUND}
    for name, values in VALUES.items():
        tried = [one[name] for rule in RULES.values() for one in rule.combinations if name in one]
        assert all(value in tried for value in values)


# The four places


def words(path: Path) -> set[str]:
    """All words of a file that are not in comments or docstrings."""
    text = path.read_text()
    if path.suffix != ".py":
        return set(re.findall(r"\w+", re.sub(r"//[^\n]*", "", text)))
    tree = ast.parse(text)
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    found: set[str] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME or (token.type == tokenize.STRING and token.start[0] not in docstrings):
            found.update(re.findall(r"\w+", token.string))
    return found


@pytest.fixture(scope="module")
def places() -> dict[str, set[str]]:
    """The words of every file, without the command line, which is only a user, and without generated files."""
    return {
        name_of(path): words(path)
        for path in [*CPP, *PYTHON]
        if part_of(path, PACKAGE if path in PYTHON else CSRC) != "cli" and name_of(path) not in GENERATED
    }


@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_is_in_four_places(rule: str, places: dict[str, set[str]]) -> None:
    """These are the header and the bindings, the class, and the reference, each with its export, and no other file."""
    optimizer = RULES[rule].optimizer
    its_file = f"python/fastopt/optim/rules/{Path(inspect.getfile(optimizer.__init__)).name}"

    def files_with(names: set[str]) -> set[str]:
        return {file for file, found in places.items() if found & names and not found & names <= USERS.get(file, set())}

    named = files_with({rule, optimizer.__name__})
    headers = {file for file in named if file.startswith("csrc/optim/")} - {BINDINGS}
    references = {file for file in named if file.startswith(REFERENCE)}
    assert named - headers - references - {BINDINGS} == {its_file, *EXPORTS}
    of_kernels = {file for file in files_with(set(optimizer.kernels)) - EXPORTS if not file.startswith(REFERENCE)}
    assert {BINDINGS} <= of_kernels
    assert all(file == its_file or file.startswith("csrc/optim/") for file in of_kernels)
    assert not {"csrc/optim/around.hpp", "csrc/optim/loop.hpp", "csrc/optim/rule.hpp"} & (named | of_kernels)
    assert len(headers) <= 2
    assert len(references) == 1


def test_the_stub_names_what_the_kernels_have() -> None:
    tree = ast.parse((PACKAGE / "_kernels.pyi").read_text())
    stubbed = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stubbed |= {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert stubbed == {name for name in dir(fastopt._core.kernels) if not name.startswith("_")}
