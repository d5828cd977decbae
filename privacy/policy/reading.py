"""A policy from the YAML that a person wrote. Refusals name the key and the line.

Read with PyYAML's safe loader, made narrower: no aliases or anchors (a few lines of them can stand for
gigabytes), no tags, no key twice, no nesting beyond what a policy has, one document of at most
``LARGEST`` bytes. Plain words are read as in YAML 1.2: ``off`` is a word, only ``true`` and ``false`` are
truth values, and dates stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cloister.privacy.errors import PolicyError
from cloister.privacy.policy.terms import Policy

LARGEST = 1 << 16
"""Bytes of the longest policy that is read."""
_DEEPEST = 8
_BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float"))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Composes nodes; never constructs anything."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal("anchors and aliases are not read", event.start_mark.line)
        if getattr(event, "tag", None) is not None:
            raise _refusal("tags are not read", event.start_mark.line)
        if self._depth > _DEEPEST:
            raise _refusal("this is nested too deeply", event.start_mark.line)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver(_INT, re.compile(r"-?\d{1,15}\Z"), list("-0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"-?\d{1,15}(\.\d{0,20})?([eE][-+]?\d{1,3})?\Z"), list("-0123456789")
)


def read(data: bytes) -> Policy:
    """The policy that bytes of YAML hold.

    Raises:
        PolicyError: ``policy_malformed``, with the key and the line.
    """
    root = _compose(data)
    try:
        return Policy.of(_value(root))
    except ValidationError as error:
        raise _invalid(error, root) from error


def _compose(data: bytes) -> yaml.Node:
    if len(data) > LARGEST:
        raise _refusal(f"it has more than {LARGEST} bytes")
    try:
        root = _Loader(data.decode()).get_single_node()
    except UnicodeDecodeError as error:
        raise _refusal("it is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refusal(f"it is not YAML: {error.problem}", mark.line if mark else None) from error
    except yaml.YAMLError as error:
        raise _refusal("it holds characters that YAML does not allow") from error
    except RecursionError as error:
        raise _refusal("this is nested too deeply") from error
    if not isinstance(root, yaml.MappingNode):
        raise _refusal("it is empty, or no mapping of keys")
    return root


def _value(node: yaml.Node) -> Any:
    """The JSON value of a node."""
    if isinstance(node, yaml.MappingNode):
        return {key: _value(value) for key, value in _pairs(node)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(value) for value in node.value]
    if node.tag == _BOOL:
        return node.value == "true"
    kind = {_INT: int, _FLOAT: float}.get(node.tag, str)
    return kind(node.value)


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal("a key is a word", key.start_mark.line)
        if key.value in seen:
            raise _refusal(f"the key {_short(key.value)} stands twice", key.start_mark.line)
        seen.add(key.value)
        yield key.value, value


def _invalid(error: ValidationError, root: yaml.Node) -> PolicyError:
    """An unknown key first, then the fault that lies deepest: the alternative that nearly fitted."""
    faults = error.errors(include_url=False, include_input=False)
    found = max(faults, key=_telling)
    what = {"extra_forbidden": "there is no such key", "missing": "the key is missing"}
    said = what.get(found["type"], found["msg"][:1].lower() + found["msg"][1:])
    path, line = _place(root, found["loc"])
    if found["type"] == "missing":
        path = [*path, str(found["loc"][-1])]
    return _refusal(f"{_short('.'.join(path))}: {said}", line)


def _telling(fault: ErrorDetails) -> tuple[bool, int, bool]:
    return fault["type"] == "extra_forbidden", len(fault["loc"]), fault["type"] != "literal_error"


def _place(root: yaml.Node, loc: Sequence[int | str]) -> tuple[list[str], int]:
    """The keys that lead to a fault, as far as they are in the file, and the line of the last."""
    node, path, line = root, list[str](), root.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    node, line = value, key.start_mark.line
                    path.append(str(part))
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
            path.append(str(part + 1))
    return path, line


def _short(text: str) -> str:
    """What a person wrote, on one line and not for ever."""
    return "".join(one if one.isprintable() else "?" for one in text[:80])


def _refusal(what: str, line: int | None = None) -> PolicyError:
    place = "" if line is None else f" (line {line + 1})"
    return PolicyError(
        "policy_malformed",
        f"The policy cannot be used: {what}{place}.",
        "docs/policy.md lists every key; nothing is allowed until it is mended.",
    )
