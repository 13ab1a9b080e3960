"""Fills in the templates of Envoy's configuration, `deploy/envoy/*.j2`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES: Final = Path(__file__).parents[2] / "deploy" / "envoy"
#: libyaml where it is installed: the routes alone are half a megabyte, which take plain Python two seconds.
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def environment() -> Environment:
    """Knows all templates; one that names a value which nobody gives is refused."""
    return Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, autoescape=False)  # noqa: S701  # YAML, not HTML


def part(templates: Environment, name: str, values: Mapping[str, Any]) -> Any:
    """Fills in one template and reads the YAML, so that a template can stand inside another as plain JSON."""
    return yaml.load(templates.get_template(f"{name}.yaml.j2").render(values), Loader=_Loader)  # noqa: S506  # a safe one
