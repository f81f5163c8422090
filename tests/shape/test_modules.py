"""How the four packages are cut: layers, sizes, names, docstrings, and what an import may load."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("query", "federation", "engine", "peers")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MODULE_LINES_MAX = 420
FUNCTION_LINES_MAX = 70
DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc"}
EMPTY_WORDS = ("Manager", "Handler", "Service", "Processor")

# What takes long or much memory to import, and the modules whose business it is. Only these may import it when they
# are imported themselves; whoever uses them imports them where the work is done.
LSP = {f"peers.lsp.{name}" for name in ("answers", "positions", "protocol", "running", "scripts", "server")}
HEAVY = {
    "onnxruntime": set[str](),
    "onnx": set[str](),
    "zeroconf": set[str](),
    "oras": {"peers.oci_registry"},
    "requests": {"peers.oci_registry", "peers.oci_sessions"},
    "cryptography": {"federation.certificates"},
    "sqlite_utils": set[str](),
    "packaging": set[str](),
    "pyarrow": set[str](),
    "prometheus_client": set[str](),
    "datasketches": set[str](),
    "opentelemetry": set[str](),
    "lark": {"query.build_tables", "query.lexing", "query.parsing"},
    "prompt_toolkit": {"peers.repl.prompting"},
    "rich": set[str](),
    "plotext": set[str](),
    "pygls": LSP,
    "lsprotocol": LSP,
}

# Whoever supervises tasks or requests, where every exception ends and is logged once.
SUPERVISORS = {
    "peers.answers",  # the edge of a request: logged, answered as an error of ours
    "peers.face_errors",  # the same in the form of the inference API
    "peers.registry_answers",  # the same in the form of a registry
    "peers.evaluating",  # supervises one statement: logged, told as an error of ours, settled in its ledger
    "peers.edge_actions",  # supervises one action of an edge: logged, ends as a failure, other models go on
    "engine.inference_log",  # supervises the thread that writes: logged and counted, other rows are written
    "peers.cli.console",  # the edge of a command: told with its trace, an exit status
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """Top-level packages that executing ``body`` imports; what stands in functions or for type checkers is not."""
    for node in body:
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split(".")[0]
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                yield from imported_at_once(orelse)
            case ast.If(body=inner, orelse=orelse) | ast.Try(body=inner, orelse=orelse):
                yield from imported_at_once(inner + orelse)
            case ast.With(body=inner) | ast.ClassDef(body=inner):
                yield from imported_at_once(inner)


def test_each_package_imports_only_what_is_below_it() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_holds_one_idea(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= MODULE_LINES_MAX, f"{name_of(path)} has {lines} lines"
    tree = tree_of(path)
    assert {f.name: lines_of(f) for f in functions(tree) if lines_of(f) > FUNCTION_LINES_MAX} == {}
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it owns"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_a_thing_decides(path: Path) -> None:
    assert not DRAWERS & set(name_of(path).split("."))
    classes = [node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if name.endswith(EMPTY_WORDS)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_nothing_heavy_at_once(path: Path) -> None:
    name = name_of(path)
    loaded = set(imported_at_once(tree_of(path).body))
    assert {library for library in loaded & HEAVY.keys() if name not in HEAVY[library]} == set()


@pytest.mark.parametrize("module", [*PACKAGES, "peers.client", "peers.cli", "peers.edge_peer", "peers.nameserver_peer"])
def test_importing_a_face_loads_nothing_heavy(module: str) -> None:
    """Neither do the two peers that stay: what is heavy comes with the first model, the first query, the first push."""
    heavy = [*HEAVY, "numpy", "aiohttp"] if module in (*PACKAGES, "peers.cli") else [*HEAVY, "numpy"]
    program = f"import {module}, json, sys; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_model_runtime_keeps_to_itself(tmp_path: Path) -> None:
    """Imported as it is, onnxruntime opens a telemetry log in the temporary folder."""
    program = "from engine.sessions import load_runtime; load_runtime()"
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, check=True, timeout=60
    )
    assert list(tmp_path.iterdir()) == []


def test_only_named_places_catch_everything() -> None:
    """``except Exception`` belongs to whoever supervises tasks and to the edge of a command."""
    found = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id == "Exception"
    }
    assert found == SUPERVISORS
