"""Reading of a study's YAML: what cannot be read, and a key that is given twice, is an error that names its line."""

from pathlib import Path
from typing import Any

import yaml

from influence_assets.errors import InputError

# What PyYAML's constructors raise for a scalar that looks like a date, a number etc. and is none.
_NOT_BUILT = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


def read_mapping(path: Path, text: str) -> dict[Any, Any]:
    """Return the mapping that a YAML file consists of.

    Args:
        path: the file, for errors.
        text: its content.

    Raises:
        InputError: the text is not YAML or not a mapping, or a mapping in it has a key twice.
    """
    try:
        described = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except _TwiceError as error:
        remedy = "Keep one of them; the other would be ignored."
        raise InputError(str(path), str(error), remedy) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())  # the error quotes the file over several lines
        raise InputError(str(path), f"is not YAML ({reason})", "Correct the line that it names.") from error
    except RecursionError:
        remedy = "A study has sections with keys, and nothing deeper than lists in them."
        raise InputError(str(path), "is nested too deeply", remedy) from None
    if not isinstance(described, dict):
        raise InputError(str(path), "is not a mapping of keys", "Write one with `influence init DIR`.")
    return described


class _TwiceError(Exception):
    """Error for a key that a mapping has twice; YAML's own reader keeps the last one silently."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse keys that occur twice; keys that are merged in with `<<` are not in the node yet."""
        node = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in first_lines:
                    raise _TwiceError(f"`{key.value}` is given twice, on line {first_lines[name]} and on line {line}")
                first_lines[name] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  # PyYAML's
        """Name the line of what looks like a date, a number etc. and is none."""
        try:
            return super().construct_object(node, deep)
        except _NOT_BUILT as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{node.value!r} cannot be read as {kind}; put it in quotes if it is a text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
