"""The commented study file and the reference of all keys, both generated from the study's fields."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from influence_assets.study import Study


def commented(values: dict[str, Any]) -> str:
    """Return a study file that explains every key; keys without a value in `values` are commented out."""
    head = "# A study of influence-assets: which training data made a model say something.\n"
    head += "# Relative paths are relative to this file. Keys behind # have the value shown by default.\n"
    return head + "\n".join(_section(Study, values, 0)) + "\n"


def reference() -> str:
    """Return every key of a study as a Markdown table."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, field in _keys(Study, ""):
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(f"| `{key}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key that holds a value, as a path such as `curvature.seed`, with its field."""
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from _keys(section, f"{prefix}{name}.")


def _section(model: type[BaseModel], values: dict[str, Any] | None, depth: int) -> Iterator[str]:
    """Yield the lines of one section; keys without a value are comments, but not if `values` is None."""
    indent = "  " * depth
    for place, (name, field) in enumerate(model.model_fields.items()):
        section = _section_of(field)
        value = None if values is None else values.get(name)
        if depth == 0 and place and section is None:
            yield ""
        for line in textwrap.wrap(field.description or "", 100):
            yield f"{indent}# {line}"
        if section is not None:
            if depth == 0:
                yield f"\n# {' '.join((section.__doc__ or '').split())}"
            # An optional section that is left out is one comment, so that no key of it, uncommented alone, becomes one
            # of the section before.
            is_off = depth > 0 and value is None
            lines = [f"{name}:", *_section(section, None if is_off else value or {}, 1)]
            yield from (f"{indent}{'# ' if is_off else ''}{line}" for line in lines)
        elif value is not None:
            yield f"{indent}{name}: {_yaml(value)}"
        else:
            default = "…" if field.default is PydanticUndefined else _yaml(field.default)
            yield f"{indent}{'' if values is None else '# '}{name}: {default}"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key holds, or None if it holds a value."""
    options = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _yaml(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
