"""The reader of recipes under random input: a recipe or a RecipeError, in bounded time and memory."""

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dettoolkit.config import RecipeError, load_recipe, shipped_folder
from dettoolkit.config.recipe import any_recipe
from dettoolkit.config.schema import key_paths

SHIPPED = {path.stem: path.read_bytes() for path in sorted(shipped_folder().rglob("*.yaml"))}
PATHS = sorted({path for paths in key_paths(any_recipe()).values() for path in paths})
TOKENS = [
    *(
        b": ",
        b"\n",
        b"\n  ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"&a ",
        b"*a",
        b"!",
        b"!!str ",
        b"'",
        b'"',
        b"- ",
        b"\t",
    ),
    *(b"? ", b"|\n", b">", b"%YAML 1.1\n", b"---\n", b"...\n", b"<<: ", b"#", b"~", b"1e400", b"-1", b"\x00"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", "\u2028".encode(), b"9" * 400, b"[" * 60, b"{a: " * 60),
]
MAX_MEMORY = 100_000 * (1024 if sys.platform == "darwin" else 1)  # ru_maxrss is in KB, on macOS in bytes
fuzzed = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "lr", "x", ""]), inner)
    ),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a shipped recipe or overlay with a few bytes cut out, put in or moved."""
    content = bytearray(draw(st.sampled_from(list(SHIPPED.values()))))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        end = at + draw(st.sampled_from([0, 0, 1, 2, 40]))
        content[at:end] = draw(st.sampled_from([b"", *TOKENS]) | st.binary(max_size=4))
    return bytes(content)


def read(path: Path, content: bytes, extras: list[str]) -> None:
    """Read a file and merge overrides over it, within the bound of memory."""
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(RecipeError):
        load_recipe(str(path), extras)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_MEMORY, len(content)


@given(content=st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join))
@fuzzed
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    read(tmp_path / "r.yaml", content, [])


@given(values=st.dictionaries(st.sampled_from(["model", "data", "optim", "trainer", "z"]), plain))
@fuzzed
def test_random_trees(tmp_path: Path, values: dict[str, Any]) -> None:
    read(tmp_path / "r.yaml", json.dumps(values).encode(), [])  # JSON is YAML, but for NaN and the like


@given(content=mutated())
@fuzzed
def test_mutated_recipes(tmp_path: Path, content: bytes) -> None:
    read(tmp_path / "r.yaml", content, [])


@given(
    name=st.sampled_from(sorted(name for name in SHIPPED if name.startswith(("ssd", "lraspp", "imagenet")))),
    extras=st.lists(
        st.tuples(st.sampled_from([*PATHS, "z", "", ".", "a b"]), plain.map(json.dumps) | st.text(max_size=9))
        .map("=".join)
        .filter(lambda text: "\0" not in text),  # no command line has one
        max_size=4,
    ),
)
@fuzzed
def test_random_overrides(tmp_path: Path, name: str, extras: list[str]) -> None:
    read(tmp_path / "r.yaml", SHIPPED[name], extras)


def test_a_bomb_of_aliases_stays_small(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    read(tmp_path / "r.yaml", "\n".join(lines).encode(), [])
