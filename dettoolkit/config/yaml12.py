"""YAML 1.2's core schema, read into values that know their line and written from plain values.

ruamel.yaml's composer reads the text into nodes; the values are made here. Its own loaders take 1_000 for a
number and 2020-01-01 for a date, stop at the first duplicate key, apply merge keys and construct from tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from dettoolkit.config.errors import Entry, Origin, Problem, Scalar, below, refusal

# https://yaml.org/spec/1.2.2/#103-core-schema
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_WORDS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.title(), word.upper())
}
_CORE = "tag:yaml.org,2002:"
_TAGS = {"?", *(_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))}
_MAX_CHARACTERS = 200_000
_MAX_DEPTH = 40
_MAX_VALUES = 20_000  # an alias counts with all that it stands for, so a few lines cannot fill the memory


def scalar_value(text: str) -> Scalar:
    """Return the value of an unquoted scalar by the core schema."""
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= 1000 else text
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return _WORDS.get(text, text)


class _Resolver(VersionedResolver):
    """Tag unquoted scalars '?', as the specification does, instead of guessing their types."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        unquoted = kind is ScalarNode and implicit[0]
        return Tag(suffix="?") if unquoted else super().resolve(kind, value, implicit)


def parse_yaml(text: str, origin_at: Callable[[int], Origin], path: str, problems: list[Problem]) -> Entry:
    """Build the tree of one YAML document, null where it is empty.

    `origin_at` gives the origin of a 1-based line; `path` is the key whose value the document is. Mistakes
    are added to `problems`. Raises RecipeError when the document cannot be read at all.
    """
    if len(text) > _MAX_CHARACTERS:
        raise refusal(origin_at(1), f"more than {_MAX_CHARACTERS} characters; this is not a recipe", path)
    if directive := re.search(r"^%YAML(?!\s+1\.2\s)", text, re.MULTILINE):
        line = text.count("\n", 0, directive.start()) + 1
        raise refusal(origin_at(line), "only YAML 1.2 is read; remove the %YAML line", path)
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.composer.warn_double_anchors = False
    try:
        root = yaml.compose(text)
    except RecursionError:
        raise refusal(origin_at(1), f"nested more than {_MAX_DEPTH} deep", path) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        raise refusal(origin_at(line), problem, path) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise refusal(origin_at(mark.line + 1 if mark else 1), syntax_text(error), path) from None
    if root is None:
        return Entry(None, origin_at(1))
    return _Builder(origin_at, problems).entry(root, path, root.start_mark.line + 1)


def syntax_text(error: MarkedYAMLError) -> str:
    """Describe a mistake that the parser has found, without its line, in a sentence."""
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return "not valid YAML: a tab in the indentation; YAML requires spaces"
    if "another document" in problem:
        return "a second YAML document; a file can have only one"
    if alias := re.search("undefined alias '(.*)'", problem):
        return f"the alias '*{alias[1]}' has no anchor '&{alias[1]}' before it"
    problem = problem.replace("'<stream end>'", "the end").replace("<block end>", "a key")
    started = error.context_mark
    since = f" ({error.context} that starts at line {started.line + 1})" if error.context and started else ""
    column = f", column {error.problem_mark.column + 1}" if error.problem_mark else ""
    return f"not valid YAML: {problem}{column}{since}"


@dataclass
class _Builder:
    """Build entries from nodes; mistakes are added to the problems."""

    origin_at: Callable[[int], Origin]
    problems: list[Problem]
    values: int = 0

    def entry(self, node: Node, path: str, line: int, depth: int = 0) -> Entry:
        """Build the entry of a node; `line` is its key's where it has one."""
        origin = self.origin_at(line)
        self.values += 1
        if self.values > _MAX_VALUES:
            raise refusal(origin, f"more than {_MAX_VALUES} values; this is not a recipe", path)
        if depth > _MAX_DEPTH:
            raise refusal(origin, f"nested more than {_MAX_DEPTH} deep", path)
        value: Scalar | list[Entry] | dict[str, Entry]
        if isinstance(node, ScalarNode):
            value = node.value if node.tag == _CORE + "str" else scalar_value(node.value)
        elif isinstance(node, MappingNode):
            value = self._mapping(node, path, depth + 1)
        else:
            value = [
                self.entry(item, f"{path}[{i}]", item.start_mark.line + 1, depth + 1)
                for i, item in enumerate(node.value)
            ]
        if node.tag in _TAGS:
            return Entry(value, origin)
        tag = str(node.tag).replace(_CORE, "!!")
        self.problems.append(Problem(origin, path, f"the tag '{tag}' is not allowed: a recipe is plain data"))
        return Entry(value, origin, guessed=True)

    def _mapping(self, node: MappingNode, path: str, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for name, value in node.value:
            plain = isinstance(name, ScalarNode)
            here, line = below(path, str(name.value)) if plain else path, name.start_mark.line + 1
            entry = self.entry(value, here, line, depth)
            if not plain:
                problem = "a key must be plain text"
            elif name.value in entries:
                first = entries[name.value].origin.line  # 0 in an override
                before = f"already on line {first}" if first else "twice in this override"
                problem = f"duplicate key: it is set {before}; keep one of the two"
            elif name.value == "<<" and name.tag == "?":
                problem = "merge keys are not YAML 1.2; write the keys out"
            else:
                entries[name.value] = entry
                continue
            self.problems.append(Problem(self.origin_at(line), here, problem))
        return entries


# Text that needs no quotes, also for YAML 1.1 readers, which take on for true and 1:30 for a number.
_PLAIN = re.compile(
    r"(?!(?i:y|n|yes|no|on|off)$)[A-Za-z_./~][\w./+~-]*(:[\w./+~-]+)*|[0-9]+-[A-Za-z]+", re.ASCII
)
# What YAML forbids or takes for a line break, beyond what JSON escapes.
_ESCAPED = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def write_flow(value: object) -> str:
    """Return a plain value on one line, as both YAML 1.2 and 1.1 read it back."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_flow(k)}: {write_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(write_flow(item) for item in value) + "]"
    if isinstance(value, float):
        text = re.sub("inf|nan", r".\g<0>", repr(value))
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, str) and _PLAIN.fullmatch(value) and scalar_value(value) == value:
        return value
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def write_lines(values: dict[str, object], indent: int = 0, path: str = "") -> Iterator[tuple[str, str]]:
    """Write a mapping in block style: pairs of a line and the dotted key of its value ('' for none)."""
    for key, value in values.items():
        here, start = below(path, key), f"{' ' * indent}{write_flow(key)}:"
        if isinstance(value, dict) and value:
            yield start, ""
            yield from write_lines(value, indent + 2, here)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield start, here
            yield from ((f"{' ' * indent}  - {write_flow(item)}", "") for item in value)
        else:
            yield f"{start} {write_flow(value)}", here
