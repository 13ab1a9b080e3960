"""Only the client of the ledger makes holds, so whatever takes one knows that the ledger knows it (INV-7)."""

import ast
from pathlib import Path

SERVICES = Path(__file__).parents[4] / "services"


def called(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def test_only_the_client_of_the_ledger_makes_holds() -> None:
    makers = [path for path in sorted(SERVICES.rglob("*.py")) if "DispatchedHold" in called(path)]
    assert [path.relative_to(SERVICES).as_posix() for path in makers] == ["meshkit/calls/cost_holds.py"]
