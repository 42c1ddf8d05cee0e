"""The model card of a published folder: Markdown behind Hugging Face's YAML, of what was measured only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dettoolkit.config.yaml12 import write_lines
from dettoolkit.hub import FILES
from dettoolkit.manifest import Manifest
from dettoolkit.publishing.measured import Agreement, Measured, Scores
from dettoolkit.tasks import spec_for

OPEN_CLASSES = 100  # more of them are listed folded


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What only the publisher knows."""

    license: str  # of the weights: an identifier of the hub's list, such as "apache-2.0"
    data_license: str  # of the data that they were trained on
    dataset: str  # name of these data, on the hub if they are there


def write_card(
    manifest: Manifest, measured: Measured, terms: Terms, *, address: str, megabytes: float
) -> str:
    """Write the card of a model.

    Args:
        manifest: the model's.
        measured: what was measured of it.
        terms: licenses and data, as its publisher gives them.
        address: what users give to `load`.
        megabytes: size of the model's file.
    """
    front = "\n".join(line for line, _ in write_lines(_front_matter(manifest, measured, terms)))
    spec, model = spec_for(manifest), manifest.recipe["model"]
    backbone = model.get("backbone", {}).get("type", "")
    about = f"{spec.title}: a {spec.noun} of type {_code(model['type'])}"
    sections = [
        f"---\n{front}\n---\n",
        f"# {manifest.name}\n",
        f"{about}, {f'backbone {_code(backbone)}, ' if backbone else ''}made with dettoolkit.\n",
        _usage(address),
        *_scores(measured.scores),
        _classes(manifest.class_names),
        _sizes(manifest, measured, megabytes),
        *_exports(measured.exports),
        "## Licenses and data\n",
        f"- weights: {_line(terms.license)}",
        f"- trained on: {_line(terms.dataset)}",
        f"- license of these data: {_line(terms.data_license)}\n",
        "## Files\n",
        f"{', '.join(_code(name) for name in FILES)}. None of them can run code when it is read.\n",
        f"Made with {', '.join(f'{_line(name)} {_line(each)}' for name, each in manifest.versions.items())}.",
    ]
    return "\n".join(sections) + "\n"


def _front_matter(manifest: Manifest, measured: Measured, terms: Terms) -> dict[str, Any]:
    spec, model = spec_for(manifest), manifest.recipe["model"]
    tags = ["dettoolkit", model["type"], model.get("backbone", {}).get("type")]
    front: dict[str, Any] = {
        "license": terms.license.lower(),
        "library_name": "dettoolkit",
        "pipeline_tag": spec.pipeline_tag,
        "tags": [str(tag) for tag in dict.fromkeys(tags) if tag],
        "datasets": [terms.dataset],
    }
    scores = measured.scores
    if scores is None:
        return front
    result = {
        "task": {"type": spec.pipeline_tag},
        "dataset": {"name": scores.data, "type": terms.dataset},
        "metrics": [
            {"type": name, "value": round(value, 4), "name": name} for name, value in scores.numbers.items()
        ],
    }
    front["metrics"] = list(scores.numbers)
    front["model-index"] = [{"name": manifest.name, "results": [result]}]
    return front


def _usage(address: str) -> str:
    return f"""## Use

```python
from dettoolkit import load
model = load({json.dumps(address, ensure_ascii=False)})
print(model("photo.jpg"))
```

```sh
dettoolkit predict {address} photo.jpg
```
"""


def _scores(scores: Scores | None) -> Iterator[str]:
    yield "## Scores\n"
    if scores is None:
        yield "Not measured.\n"
        return
    yield f"Measured by {scores.by} on {_code(scores.data)}:\n"
    yield "| number | value |\n|---|---|"
    yield from (f"| {name} | {value:.4f} |" for name, value in scores.numbers.items())
    yield ""


def _classes(names: tuple[str, ...]) -> str:
    listed = ", ".join(_code(name) for name in names)
    if len(names) > OPEN_CLASSES:
        listed = f"<details><summary>{len(names)} classes</summary>\n\n{listed}\n\n</details>"
    return f"## Classes\n\n{len(names)}, by label: {listed}\n"


def _sizes(manifest: Manifest, measured: Measured, megabytes: float) -> str:
    height, width = measured.image_hw
    own = "" if manifest.input_hw is not None else "; images keep their own size, this one is an example"
    latency = measured.latency
    return f"""## Size and speed

| | |
|---|---|
| parameters | {measured.parameters / 1e6:.2f} million |
| file | {megabytes:.2f} MB |
| image (height x width) | {height} x {width}{own} |
| multiply-adds of one image | {measured.multiply_adds / 1e9:.3f} billion |
| latency of one image | {latency.median:.1f} ms (median; 10th to 90th percentile {latency.low:.1f} to \
{latency.high:.1f} ms) |
| measured with | PyTorch, network only, on {latency.threads} thread of {_line(latency.machine)} |
"""


def _exports(exports: list[Agreement]) -> Iterator[str]:
    yield "## Exported files\n"
    if not exports:
        yield "None was compared with PyTorch yet: `dettoolkit export` writes one only if it agrees.\n"
        return
    yield "Compared with PyTorch by `dettoolkit export`, which makes them; they are not in this folder.\n"
    for each in exports:
        verdict = "agrees" if not each.failures else "does not agree"
        errors = ", ".join(
            f"{name.replace('_', ' ')} {'not finite' if value is None else format(value, '.2g')} "
            f"(at most {each.tolerances[name]:g})"
            for name, value in each.errors.items()
            if name in each.tolerances
        )
        yield f"- {_code(each.file)} {verdict} on {each.images} images: {errors or 'judged by its score'}"
    yield ""


def _code(text: str) -> str:
    """Write text of others as code, so that nothing in it is Markdown or HTML."""
    return f"`{_line(text).replace('`', chr(39))}`"


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
