"""What a report says beside scores: data, exported files, and how the run was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dettoolkit.config.yaml12 import write_lines
from dettoolkit.doctor.diagnosis import DOCTOR
from dettoolkit.pages.parts import Block, Facts, Listing, Section, Table
from dettoolkit.reporting.scored_folder import ScoredFolder, read_json

EXAMPLES = 3  # of each kind of problem


def origin_sections(folder: ScoredFolder) -> list[Section]:
    """Return the parts about data, exported files and origin."""
    return [
        Section(title="Data", blocks=[*_findings(folder), *_problems(folder)]),
        Section(title="Exported files", blocks=list(_gates(folder))),
        Section(title="How it was made", blocks=list(_origin(folder))),
    ]


def _findings(folder: ScoredFolder) -> Iterator[Block]:
    """Yield what the doctor found: when training started, or later by `doctor --json`."""
    content = folder.json(DOCTOR)
    if not isinstance(content, dict) or not isinstance(content.get("findings"), list):
        return
    rows = [
        [str(each.get(key) or "") for key in ("severity", "id", "split", "text", "remedy")]
        for each in content["findings"]
        if isinstance(each, dict)
    ]
    columns = ["severity", "check", "split", "what", "what to do"]
    note = "" if content.get("every_image_read") else "Only names and headers were read."
    yield Table(title="What the doctor found", note=note, columns=columns, rows=rows)


def _problems(folder: ScoredFolder) -> Iterator[Block]:
    """Yield what reading the data has shown."""
    content = folder.json("data_report.json")
    if not isinstance(content, dict):
        return
    rows = []
    for split, report in content.items():
        if isinstance(report, dict):
            for kind, count in report["counts"].items():
                cases = [each for each in report["problems"] if each["kind"] == kind][:EXAMPLES]
                rows.append([split, kind, count, "; ".join(map(_case, cases))])
        elif report:
            rows.append(["", split, len(report), "; ".join(report[:EXAMPLES])])
    if rows:
        columns = ["split", "problem", "cases", "the first of them"]
        yield Table(
            title="Problems met while reading",
            note="All of them are in data_report.json.",
            columns=columns,
            rows=rows,
        )


def _case(problem: Mapping[str, Any]) -> str:
    image = problem["image_id"]
    return f"image {image}: {problem['text']}" if image is not None else str(problem["text"])


def _gates(folder: ScoredFolder) -> Iterator[Block]:
    """Yield the comparison of each exported file with PyTorch."""
    for path in sorted({path for each in folder.folders for path in each.glob("*.report.json")}):
        content = read_json(path)
        if not isinstance(content, dict) or "tolerances" not in content:
            continue
        failures = content.get("failures", [])
        rows: list[tuple[str, str]] = [
            (
                "verdict",
                "too far from PyTorch: " + "; ".join(failures) if failures else "agrees with PyTorch",
            ),
            ("compared on", f"{content.get('images')} images"),
        ]
        for name, value in content.get("errors", {}).items():
            limit = content["tolerances"].get(name)
            allowed = "not judged" if limit is None else f"at most {limit:g}"
            rows.append((name.replace("_", " "), f"{'–' if value is None else f'{value:.3g}'} ({allowed})"))
        for key, form in (("scores", "{:.4f}"), ("milliseconds", "{:.1f} ms")):
            pair = content.get(key) or {}
            if all(isinstance(pair.get(side), int | float) for side in ("pytorch", "exported")):
                name = content.get("monitor", key) if key == "scores" else "time per image"
                rows.append(
                    (name, f"{form.format(pair['exported'])} (PyTorch {form.format(pair['pytorch'])})")
                )
        if isinstance(size := content.get("bytes"), int):
            rows.append(("size", f"{size / 1e6:.2f} MB"))
        yield Facts(title=path.name.removesuffix(".report.json"), rows=rows)


def _origin(folder: ScoredFolder) -> Iterator[Block]:
    about = folder.about
    rows = [(name, str(value)) for name, value in about["environment"].items()]
    yield Facts(title="Environment", rows=[("finished", about["time"]), *rows])
    yield Listing(title="Command", text=about["command"] or about["repeat"])
    origins = about["provenance"]
    lines = list(write_lines(about["recipe"]))
    width = max((len(line) for line, key in lines if key in origins), default=0)
    text = (f"{line:<{width}}  # {origins[key]}" if key in origins else line for line, key in lines)
    note = "Behind each value stands where it comes from." if origins else ""
    yield Listing(title="Recipe", note=note, folded=True, text="\n".join(text))
