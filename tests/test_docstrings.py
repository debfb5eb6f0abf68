"""Everything public says what it is."""

import ast
from pathlib import Path

import fastcomb

PACKAGE = Path(fastcomb.__file__).parent
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(node, outer=""):
    """Dotted name and node of all public classes, functions and methods, of which none is in a function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, DEFINITIONS):
            yield from definitions(child, outer)  # such as those under an "if"
        elif not child.name.startswith("_"):
            yield outer + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{outer}{child.name}.")


def documented(node):
    """Whether there is a docstring, or a class body assigns ``__doc__``."""
    targets = [target for line in node.body if isinstance(line, ast.Assign) for target in line.targets]
    assigned = any(isinstance(target, ast.Name) and target.id == "__doc__" for target in targets)
    return bool(ast.get_docstring(node)) or (isinstance(node, ast.ClassDef) and assigned)


def test_every_public_definition_has_a_docstring():
    found, missing = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, node in definitions(ast.parse(path.read_text("utf-8"))):
            found += 1
            if not documented(node):
                missing.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno} {name}")
    assert found > 1000
    assert not missing, "without a docstring:\n" + "\n".join(missing)
