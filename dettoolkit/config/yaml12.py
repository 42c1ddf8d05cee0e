"""YAML 1.2's core schema, read into values that know their place and written from plain values.

ruamel.yaml scans and parses; the values are made here, from its events, because of what no loader of it
gives at once: a line for every value, duplicate keys with both lines, nothing but the core schema's types
(`1e-3` is a number, `on` is text) and no tag that constructs anything.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

from dettoolkit.config.entries import Entry, Scalar
from dettoolkit.config.errors import Origin, Problem, show_value

# https://yaml.org/spec/1.2.2/#103-core-schema
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_CORE = "tag:yaml.org,2002:"
_CORE_TAGS = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_MAX_DEPTH = 40
_MAX_VALUES = 20_000  # an alias counts with all that it stands for, so a few lines cannot fill the memory


def scalar_value(text: str) -> Scalar:
    """Resolve an unquoted scalar by the core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= 1000 else text
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def parse_yaml(text: str, origin_at: Callable[[int], Origin]) -> tuple[Entry | None, list[Problem]]:
    """Read one YAML document.

    Gives the tree (None for a document without content, or one that cannot be read) and the mistakes found;
    `origin_at` tells the origin of a 1-based line.
    """
    builder = _Builder(text, origin_at)
    try:
        return builder.document(), builder.problems
    except _UnreadableError:
        return None, builder.problems
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        builder.report(
            line, "", f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        )
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        builder.report(mark.line + 1 if mark else 1, "", _syntax_text(error))
    except YAMLError as error:
        builder.report(1, "", f"not valid YAML: {' '.join(str(error).split())}")
    return None, builder.problems


def _syntax_text(error: MarkedYAMLError) -> str:
    problem = (
        str(error.problem or error.context)
        .replace("'<stream end>'", "the end")
        .replace("<block end>", "a key")
    )
    if "'\\t'" in problem:
        return "not valid YAML: a tab in the indentation; YAML wants spaces"
    started = error.context_mark
    since = f" ({error.context} that starts at line {started.line + 1})" if error.context and started else ""
    column = f", column {error.problem_mark.column + 1}" if error.problem_mark else ""
    return f"not valid YAML: {problem}{column}{since}"


class _UnreadableError(Exception):
    """The rest of the document makes no sense; the problem is in the builder's list."""


class _Builder:
    """Turn parser events into entries."""

    def __init__(self, text: str, origin_at: Callable[[int], Origin]) -> None:
        self.problems: list[Problem] = []
        self._origin_at = origin_at
        self._events: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(io.StringIO(text)))
        self._anchors: dict[str, tuple[Entry, int]] = {}
        self._values = 0

    def report(self, line: int, path: str, text: str) -> None:
        self.problems.append(Problem(self._origin_at(line), path, text))

    def document(self) -> Entry | None:
        """Read all events; None when there is no document or only a null."""
        root: Entry | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, StreamStartEvent | DocumentEndEvent | StreamEndEvent):
                continue
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail(event, "", "a second document; a file holds one")
                if event.version not in (None, (1, 2)):
                    self.report(_line(event), "", "only YAML 1.2 is read; remove the %YAML line")
                continue
            root = self._entry(event, "", None, 0)
        return None if root is None or (root.value is None and not root.guessed) else root

    def _fail(self, event: Event, path: str, text: str) -> NoReturn:
        self.report(_line(event), path, text)
        raise _UnreadableError

    def _entry(self, event: Event, path: str, line: int | None, depth: int) -> Entry:
        """Read the node that starts with `event`; `line` is its key's where it has one."""
        origin = self._origin_at(line or _line(event))
        if isinstance(event, AliasEvent):
            return self._alias(event, path, origin)
        before = self._values
        self._count(event, path, 1)
        if depth > _MAX_DEPTH:
            self._fail(event, path, f"nested more than {_MAX_DEPTH} deep")
        if not isinstance(event, ScalarEvent | CollectionStartEvent):
            self._fail(event, path, "not valid YAML: a value is missing")
        tag = event.tag or ""
        guessed = bool(tag) and tag != "!" and tag not in _CORE_TAGS
        if guessed:
            short = tag.replace(_CORE, "!!")
            self.report(_line(event), path, f"the tag '{short}' is not allowed: a recipe is plain data")
        if isinstance(event, ScalarEvent):
            value: Scalar | list[Entry] | dict[str, Entry] = _scalar(event)
        elif isinstance(event, MappingStartEvent):
            value = self._mapping(path, depth)
        else:
            value = self._sequence(path, depth)
        entry = Entry(value, origin, guessed=guessed)
        if event.anchor is not None:
            self._anchors[event.anchor] = (entry, self._values - before)
        return entry

    def _alias(self, event: AliasEvent, path: str, origin: Origin) -> Entry:
        if event.anchor not in self._anchors:
            self._fail(event, path, f"the alias '*{event.anchor}' has no anchor '&{event.anchor}' before it")
        entry, values = self._anchors[event.anchor]
        self._count(event, path, values)
        return Entry(entry.value, origin, guessed=entry.guessed)

    def _count(self, event: Event, path: str, values: int) -> None:
        self._values += values
        if self._values > _MAX_VALUES:
            self._fail(event, path, f"more than {_MAX_VALUES} values; this is no recipe")

    def _sequence(self, path: str, depth: int) -> list[Entry]:
        items: list[Entry] = []
        while not isinstance(event := next(self._events), CollectionEndEvent):
            items.append(self._entry(event, f"{path}[{len(items)}]", None, depth + 1))
        return items

    def _mapping(self, path: str, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), CollectionEndEvent):
            if not isinstance(event, ScalarEvent):
                self._fail(event, path, "a key must be plain text")
            key, line = str(event.value), _line(event)
            here = f"{path}.{key}" if path else key
            entry = self._entry(next(self._events), here, line, depth + 1)
            if key in entries:
                first = entries[key].origin.line  # 0 in an override
                before = f"at line {first} already" if first else "twice in this override"
                self.report(line, here, f"duplicate key: it is set {before}; keep one of the two")
            elif key == "<<" and event.implicit[0]:
                self.report(line, here, "merge keys are not YAML 1.2; write the keys out")
            else:
                entries[key] = entry
        return entries


def _scalar(event: ScalarEvent) -> Scalar:
    quoted = event.tag is None and not event.implicit[0]
    return str(event.value) if quoted or event.tag in ("!", _CORE + "str") else scalar_value(str(event.value))


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


# Text that needs no quotes, also for YAML 1.1 readers, which take on for true and 1:30 for a number.
_PLAIN = re.compile(r"[A-Za-z_./~][A-Za-z0-9_./+~-]*(:[A-Za-z0-9_./+~-]+)*|[0-9]+-[A-Za-z]+")
_YAML11_WORDS = frozenset({"y", "n", "yes", "no", "on", "off"})


def write_scalar(value: object) -> str:
    """Write a scalar so that both YAML 1.2 and 1.1 read it back as it is."""
    if isinstance(value, str):
        plain = (
            _PLAIN.fullmatch(value) and scalar_value(value) == value and value.lower() not in _YAML11_WORDS
        )
        return value if plain else _quoted(value)
    if isinstance(value, float):
        text = repr(value)
        if "inf" in text or "nan" in text:
            return text.replace("inf", ".inf").replace("nan", ".nan")
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    raise TypeError(
        f"wanted text, a number, true, false or null for YAML, got {type(value).__name__} {show_value(value)}"
    )


def _quoted(text: str) -> str:
    """Quote as JSON, which is YAML; what YAML takes for a line break or forbids is escaped too."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(
        r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]", lambda c: f"\\u{ord(c[0]):04x}", quoted
    )


def write_flow(value: object) -> str:
    """Write any plain value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_scalar(k)}: {write_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(write_flow(item) for item in value) + "]"
    return write_scalar(value)


def write_lines(values: dict[str, object], indent: int = 0, path: str = "") -> Iterator[tuple[str, str]]:
    """Write a mapping in block style: pairs of a line and the dotted key of its value ('' for none).

    A list of mappings has a line for each of them.
    """
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        start = f"{' ' * indent}{write_scalar(key)}:"
        if isinstance(value, dict) and value:
            yield start, ""
            yield from write_lines(value, indent + 2, here)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield start, here
            for item in value:
                yield f"{' ' * indent}  - {write_flow(item)}", ""
        else:
            yield f"{start} {write_flow(value)}", here
