"""The architecture's rules, checked on the code itself."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fedsim", "strategies", "clients", "deploy", "tests", "benchmarks", "examples")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
)

# Low to high: a module may import its own level and below. First match wins.
LEVELS = [
    ("fedsim.clients.app", 7),
    ("fedsim.clients._block", 7),
    ("fedsim.clients._secure_sum", 7),
    ("fedsim.clients._ckks", 7),
    ("fedsim.clients._cut", 7),
    ("fedsim.clients._pins", 7),
    ("fedsim.core", 0),
    ("fedsim.rng", 0),
    ("fedsim.errors", 0),
    ("fedsim.registry", 0),
    ("fedsim.crypto", 0),
    ("fedsim.certificates", 0),
    ("fedsim.files", 1),
    ("fedsim.chain", 1),
    ("fedsim.fields", 1),
    ("fedsim.sealing", 1),
    ("fedsim.keys", 2),
    ("fedsim.exact", 1),
    ("fedsim.sampling", 1),
    ("fedsim.counter", 1),
    ("fedsim.dropout", 1),
    ("fedsim.data", 1),
    ("fedsim.models", 2),
    ("fedsim.optimizers", 2),
    ("fedsim.schedules", 2),
    ("fedsim.transforms", 2),
    ("fedsim.attacks", 2),
    ("fedsim.selection", 2),
    ("fedsim.choosing", 6),
    ("fedsim.adversaries", 5),
    ("fedsim.attacked", 6),
    ("fedsim.root", 5),
    ("fedsim.losses", 0),
    ("fedsim.metrics", 2),
    ("fedsim.outer", 2),
    ("fedsim.training", 2),
    ("fedsim.privacy", 2),
    ("fedsim.anonymize", 2),
    ("fedsim.secagg", 2),
    ("fedsim.vectorized", 3),
    ("fedsim.client_table", 2),
    ("fedsim.messages", 2),
    ("fedsim.envelope", 2),
    ("fedsim.coding", 2),
    ("fedsim.secure_messages", 2),
    ("fedsim.ckks_messages", 2),
    ("fedsim.carrier", 2),
    ("fedsim.agreement", 5),
    ("fedsim.anonymized_facts", 5),
    ("fedsim.cut_messages", 2),
    ("fedsim.cut_rounds", 6),
    ("fedsim.environment", 2),
    ("fedsim.products", 2),
    ("fedsim.strategies", 3),
    ("fedsim.clients", 3),
    ("fedsim.config", 4),
    ("fedsim.anonymized", 5),
    ("fedsim.anonymized_own", 5),
    ("fedsim.federation", 5),
    ("fedsim.events", 5),
    ("fedsim.devices", 2),
    ("fedsim.clock", 3),
    ("fedsim.work", 3),
    ("fedsim.timing", 6),
    ("fedsim.asynchronous", 6),
    ("fedsim.arrivals", 3),
    ("fedsim.answers", 6),
    ("fedsim.evaluating", 6),
    ("fedsim.rounds", 6),
    ("fedsim.ring", 6),
    ("fedsim.sending", 6),
    ("fedsim.secure_rounds", 6),
    ("fedsim.tiers", 6),
    ("fedsim.spending", 6),
    ("fedsim.user_level", 5),
    ("fedsim.distributed", 5),
    ("fedsim.node", 8),
    ("fedsim.engine", 8),
    ("fedsim.run_files", 8),
    ("fedsim.store", 9),
    ("fedsim.report", 9),
    ("fedsim.deployment", 9),
    ("fedsim.comparison", 9),
    ("fedsim.doctor", 9),
    ("fedsim.privacy_check", 10),
    ("fedsim.session", 10),
    ("fedsim.deploy", 10),
    ("fedsim.ahead", 9),
    ("fedsim.api", 10),
    ("fedsim.cli", 11),
    ("fedsim.sweep", 10),
    ("fedsim.reproduce", 11),
    ("fedsim.testing", 11),
    ("fedsim.__main__", 12),
    ("fedsim", 10),
]
# Who may import what; everything else may not.
ONLY = {
    "flwr": ("fedsim.engine", "fedsim.messages", "fedsim.answers", "fedsim.clients.app",
             "fedsim.asynchronous", "fedsim.envelope", "fedsim.client_table",
             "fedsim.clients._block", "fedsim.clients._secure_sum", "fedsim.strategies.flower",
             "fedsim.clients._ckks", "fedsim.ckks_messages", "fedsim.clients._cut",
             "fedsim.cut_messages", "fedsim.cut_rounds",
             "fedsim.deployment", "fedsim.carrier", "fedsim.secure_messages",
             "fedsim.secure_rounds", "fedsim.session", "fedsim.api", "fedsim.deploy",
             "fedsim.node.app", "fedsim.testing"),
    "ray": ("fedsim.engine",),
    "opacus": ("fedsim.privacy",),
    "tenseal": ("fedsim.secagg.ckks",),
    "cryptography": ("fedsim.crypto", "fedsim.certificates"),
    "sqlalchemy": ("fedsim.store", "fedsim.data._query"),
    "typer": ("fedsim.cli",),
    "matplotlib": ("fedsim.report",),
    "pytest": ("fedsim.testing",),
}  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("strategies", "clients"):
        parts = ("fedsim", *parts)
    return ".".join(part for part in parts if part != "__init__")


def level(module: str) -> int:
    return next(n for name, n in LEVELS if module == name or module.startswith(f"{name}."))


@functools.cache
def imports(path: Path) -> list[str]:
    """Every module a file imports, at its top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            if node.module == "fedsim" or node.module.startswith("fedsim."):
                found += [
                    f"{node.module}.{a.name}" for a in node.names if is_module(node.module, a.name)
                ]
    return found


def is_module(package: str, name: str) -> bool:
    base = ROOT.joinpath(*package.split("."), name)
    return base.with_suffix(".py").exists() or base.is_dir()


PRODUCT = [path for path in SOURCES if module_of(path).startswith("fedsim")]


@pytest.mark.parametrize("path", PRODUCT, ids=module_of)
def test_imports_point_one_way(path):
    own = level(module_of(path))
    for name in imports(path):
        if name.startswith("fedsim.") and name != "fedsim.__version__":
            assert level(name) <= own, f"{module_of(path)} (level {own}) imports {name}"


@pytest.mark.parametrize("path", PRODUCT, ids=module_of)
def test_each_library_has_its_place(path):
    for name in imports(path):
        allowed = ONLY.get(name.split(".")[0])
        if allowed is not None:
            assert module_of(path).startswith(allowed), f"{module_of(path)} imports {name}"


def test_top_level_folders_are_imported_through_the_package_only():
    for path in SOURCES:
        names = {name.split(".")[0] for name in imports(path)}
        assert not names & {"strategies", "clients"}, path
    links = {name: (ROOT / "fedsim" / name).readlink() for name in ("strategies", "clients")}
    assert links == {name: Path("..") / name for name in links}


def docstrings(nodes: list[ast.AST]) -> list[range]:
    """The lines of docstrings."""
    found = []
    for node in nodes:
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
            and isinstance(node.body[0].value, ast.Constant)
            and isinstance(node.body[0].value.value, str)
        ):
            found.append(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def code_lines(lines: range, without: list[range]) -> int:
    """How many lines of a file or function are not docstring."""
    return len(lines) - sum(len(own) for own in without if own.start in lines)


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * (len(values) - 1))]


def test_files_and_functions_stay_small():
    files, functions = {}, {}
    for path in SOURCES:
        text = path.read_text()
        nodes = list(ast.walk(ast.parse(text)))
        without = docstrings(nodes)
        files[path] = code_lines(range(1, len(text.splitlines()) + 1), without)
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = range(node.lineno, node.end_lineno + 1)
                functions[f"{path}:{node.name}"] = code_lines(lines, without)
    assert {k: v for k, v in files.items() if v > 600} == {}
    assert {k: v for k, v in functions.items() if v > 80} == {}
    assert percentile(list(files.values()), 0.95) <= 400
    assert percentile(list(functions.values()), 0.95) <= 40


def test_classes_and_signatures_stay_small():
    large, long = [], []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                public = [
                    n for n in node.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"
                ]
                if len(public) > 14:
                    large.append(f"{path}:{node.name}")
            if (
                isinstance(node, ast.FunctionDef)
                and len(node.args.posonlyargs + node.args.args) > 7
            ):
                long.append(f"{path}:{node.name}")
    assert large == []
    assert long == []


def test_help_imports_nothing_heavy():
    heavy = ("torch", "ray", "flwr", "pandas", "sklearn", "numpy")
    code = f"import sys, fedsim.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_names_a_machine():
    pattern = re.compile(
        r"/(work|root|home)/(?!ubuntu/)[a-z]", re.IGNORECASE
    )  # clouds have that one
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if (
            path.is_file()
            and not path.is_symlink()
            and path.suffix in (".py", ".md", ".toml", ".txt", "")
        ):
            assert not pattern.search(path.read_text(errors="replace")), name
