"""The project's own source as house tests see it: files, modules, imports, names."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("broker", "agents", "store", "certs", "bench")


@functools.cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Python files of the given folders (default: the packages), in order."""
    found: list[Path] = []
    for folder in folders or PACKAGES:
        found += (ROOT / folder).rglob("*.py")
    return tuple(sorted(found))


@functools.cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(), str(path))


def relative(path: Path) -> str:
    """The path from the root of the project."""
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    """The dotted name of a file of a package."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, with the line; `from a import b` gives a and a.b."""
    package = (
        module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    )
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = ROOT.joinpath(*base.split("."), alias.name)
                is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
                yield (f"{base}.{alias.name}" if is_module else base), node.lineno


def markdown_files() -> list[Path]:
    """The prose of the project."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for package in PACKAGES:
        found += (ROOT / package).rglob("*.md")
    return sorted(found)
