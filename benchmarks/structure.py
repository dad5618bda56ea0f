"""Measures how code is built: sizes, functions, branches, `Any`, long lines, private and circular imports.

    python benchmarks/structure.py                          # src/haloformer
    python benchmarks/structure.py some/package --show 20   # another one, with its 20 longest functions

Only reads the files; nothing is imported. Branches of a function are counted as 1 for each `if`, loop,
comprehension and its conditions, `except`, `assert`, `case` and conditional expression, and for each further
operand of `and` and `or`; those of functions and classes within it belong to them.
"""

import argparse
import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "haloformer"
MAX_COLUMNS = 100
BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.comprehension,
    ast.Assert,
    ast.match_case,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A file, read and parsed."""

    name: str  # with dots, as it is imported
    path: Path  # relative to the package's folder
    lines: list[str]
    tree: ast.Module


@dataclass(frozen=True)
class Function:
    """A function's size."""

    place: str  # "training/engine.py:train"
    lines: int
    branches: int


def read_modules(folder: Path) -> list[Module]:
    """All Python files below a folder, which is taken as a package with the folder's name."""
    modules = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        text = path.read_text(encoding="utf-8")
        name = ".".join((folder.name, *relative.with_suffix("").parts)).removesuffix(".__init__")
        modules.append(Module(name, relative, text.splitlines(), ast.parse(text)))
    return modules


def count_branches(function: ast.AST) -> int:
    """The branches of a function without those of functions and classes defined in it."""
    count, waiting = 0, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        count += isinstance(node, BRANCHES)
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        if isinstance(node, ast.comprehension):
            count += len(node.ifs)
        waiting += ast.iter_child_nodes(node)
    return count


def functions(modules: list[Module]) -> list[Function]:
    """Every function and method, nested ones too."""
    return [
        Function(
            f"{module.path.as_posix()}:{node.name}",
            (node.end_lineno or node.lineno) - node.lineno + 1,
            count_branches(node),
        )
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, FUNCTIONS)
    ]


def _for_types_only(tree: ast.Module) -> set[int]:
    """The ids of the nodes below ``if TYPE_CHECKING:``."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def _imports_from(module: Module) -> Iterator[tuple[str, str]]:
    """(module, name) of each ``from … import …``, relative ones resolved, without those for types only."""
    package = module.name.split(".")
    if module.path.name != "__init__.py":
        package = package[:-1]
    skipped = _for_types_only(module.tree)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from ((origin, alias.name) for alias in node.names)


def private_imports(modules: list[Module]) -> list[str]:
    """Names with an underscore that a module takes from another one of the package."""
    package = modules[0].name.split(".")[0] if modules else ""
    return [
        f"{module.name} imports {name} of {origin}"
        for module in modules
        for origin, name in _imports_from(module)
        if origin.split(".")[0] == package and name.startswith("_") and not name.startswith("__")
    ]


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    """For each module the modules of the package that it imports anywhere in its code, itself excepted.

    The package's own ``__init__`` is left out: it exports lazily what the others define.
    """
    names = {module.name for module in modules if "." in module.name}
    graph: dict[str, set[str]] = {}
    for module in modules:
        if module.name in names:
            pairs = _imports_from(module)
            found = {f"{o}.{n}" if f"{o}.{n}" in names else o for o, n in pairs}
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
            graph[module.name] = (found & names) - {module.name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen.add(name)
                waiting += graph[name]
        reachable[start] = seen
    groups = {
        tuple(sorted(b for b in graph if b in reachable[a] and a in reachable[b]))
        for a in graph
        if a in reachable[a]
    }
    return sorted(map(list, groups))


def report(folder: Path, show: int) -> str:
    """All figures as lines of text."""
    modules = read_modules(folder)
    if not modules:
        raise SystemExit(f"{folder} holds no Python files")
    sizes = [len(module.lines) for module in modules]
    total = sum(sizes)
    found = functions(modules)
    lengths = sorted(f.lines for f in found) or [0]
    any_names = sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for module in modules
        for node in ast.walk(module.tree)
    )
    long_lines = sum(len(line) > MAX_COLUMNS for module in modules for line in module.lines)
    private, groups = private_imports(modules), circles(import_graph(modules))
    largest = max(modules, key=lambda module: len(module.lines))
    rows = [
        ("files", f"{len(modules)}"),
        ("lines", f"{total:,}"),
        ("median file", f"{statistics.median(sizes):.0f} lines"),
        ("largest file", f"{max(sizes):,} lines ({largest.path.as_posix()})"),
        ("functions", f"{len(found):,}"),
        ("median function", f"{statistics.median(lengths):.0f} lines"),
        ("99th percentile", f"{lengths[int(0.99 * (len(lengths) - 1))]} lines"),
        ("longest function", f"{lengths[-1]} lines"),
        ("functions > 80 lines", f"{sum(n > 80 for n in lengths)}"),
        ("functions > 10 branches", f"{sum(f.branches > 10 for f in found)}"),
        ("functions > 15 branches", f"{sum(f.branches > 15 for f in found)}"),
        ("`Any` per 1,000 lines", f"{1000 * any_names / max(total, 1):.1f} ({any_names})"),
        (
            f"lines > {MAX_COLUMNS} columns",
            f"{long_lines} ({100 * long_lines / max(total, 1):.1f} %)",
        ),
        ("private imports", f"{len(private)}"),
        ("circular imports", f"{len(groups)}"),
    ]
    lines = [f"{label:<24} {value}" for label, value in rows]
    lines += [f"  {line}" for line in private] + [f"  {', '.join(group)}" for group in groups]
    by_lines = sorted(found, key=lambda f: (-f.lines, f.place))[:show]
    by_branches = sorted(found, key=lambda f: (-f.branches, f.place))[:show]
    lines += ["", "longest functions", *(f"{f.lines:5} lines     {f.place}" for f in by_lines)]
    lines += ["", "most branches", *(f"{f.branches:5} branches  {f.place}" for f in by_branches)]
    return "\n".join(lines)


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    parser.add_argument("--show", type=int, default=10, help="how many functions of each list")
    options = parser.parse_args()
    print(report(options.folder, options.show))


if __name__ == "__main__":
    main()
