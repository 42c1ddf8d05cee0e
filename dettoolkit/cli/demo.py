"""`dettoolkit export-demo`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.cli.arguments import OVERRIDES, adder, chosen_recipe, command_parser, run
from dettoolkit.cli.failures import quiet

if TYPE_CHECKING:
    from dettoolkit.config import Recipe

USAGE = """%(prog)s RUN | CHECKPOINT | FILE.onnx [key=value ...] --out DIR [options]
       %(prog)s --serve DIR"""
DESCRIPTION = """Create a folder with a web page that runs a model in the browser. Any static file
server can host it; the page makes no external requests."""
EXAMPLES = """examples:
  dettoolkit export-demo runs/lraspp_scenes/2026-01-31_12-00-00 --out demo
  dettoolkit export-demo --serve demo
  dettoolkit export-demo model.onnx --out demo --images my_images --serve"""
MODEL_HELP = """run folder or checkpoint to export, or an ONNX file exported with
--preprocessing --postprocessing"""
IMAGES_HELP = """sample images, also used to verify the export: a folder, a pattern or a file
(default: the run's validation set)"""
SIZE_HELP = """input size, for a segmenter that keeps image sizes
(default: size of the first image)"""
ORT_WEB_HELP = "archive or folder of the npm package onnxruntime-web (default: downloaded once by npm)"
SERVE_HELP = "serve the page on this computer until Ctrl-C, with the headers that multithreading needs"


def export_demo(argv: Sequence[str] | None = None) -> int:
    """Create a page that runs a model in the browser, or serve one."""
    parser = command_parser("export-demo", usage=USAGE, description=DESCRIPTION, epilog=EXAMPLES)
    add = adder(parser)
    add("model", "RUN", MODEL_HELP, nargs="?", type=Path)
    add("extras", "extras", OVERRIDES, nargs="*")
    add("--out", "DIR", "folder to write; it must not exist yet", type=Path)
    add("--images", "PATH", IMAGES_HELP, type=Path)
    add("--samples", "N", "number of sample images on the page (default: 6)", type=_count, default=6)
    add("--title", "TITLE", "heading of the page")
    add("--int8", None, "quantize the model to 8 bits")
    add("--size", ("H", "W"), SIZE_HELP, nargs=2, type=int)
    add("--ort-web", "PATH", ORT_WEB_HELP, type=Path)
    add("--serve", "DIR", SERVE_HELP, nargs="?", const=True)
    add("--port", "PORT", "port for --serve (default: 8000)", type=_port, default=8000)
    return run(parser, argv, _export_demo)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of images, 0 or more, got '{text}'")
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got '{text:.20}'")
    return int(text)


def _export_demo(options: argparse.Namespace) -> int:
    served = Path(options.serve) if isinstance(options.serve, str) else options.out
    if options.model is not None:
        if options.out is None:
            raise ValueError("specify the output folder: --out DIR")
        _make(options)
        served = options.out
    elif options.serve is None:
        raise ValueError("specify a run and --out DIR for a new demo, or --serve DIR for an existing one")
    elif served is None:
        raise ValueError("specify the demo folder: --serve DIR")
    if options.serve is None:
        return 0
    from dettoolkit.demo.server import address, make_server

    with make_server(served, options.port) as server:
        print(f"serving {served} at {address(server)} (press Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _make(options: argparse.Namespace) -> None:
    from dettoolkit.demo.builder import build_demo, check_model, choose_samples
    from dettoolkit.demo.ort_web import read_files
    from dettoolkit.destinations import check_free
    from dettoolkit.loading import read_manifest
    from dettoolkit.tasks import spec_of

    check_free(options.out)
    quiet()
    model: Path = options.model
    exported = model.suffix.lower() == ".onnx"
    recipe = None if exported else chosen_recipe(model, options.extras)
    if exported and (options.extras or options.int8 or options.size):
        raise ValueError(f"{model} is already exported: key=value, --int8 and --size apply only to a run")
    read_files(options.ort_web)  # before the export, which takes longer
    with tempfile.TemporaryDirectory() as folder:
        images = options.images
        if recipe is not None:
            model = _export(options, recipe, Path(folder) / "model.onnx")
            images = images or spec_of(recipe).sample_folder(recipe)
        manifest = read_manifest(model)
        check_model(model, manifest)
        if images is None and options.samples:
            raise ValueError(
                f"{model} has no information about images: specify a folder with --images, or use --samples 0"
            )
        samples = choose_samples(images, options.samples) if options.samples else []
        build_demo(model, options.out, samples=samples, runtime=options.ort_web, title=options.title)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"demo: {options.out} ({size / 1e6:.0f} MB; browsers download only the part they need)")
    if options.serve is None:
        print(f"to view it: dettoolkit export-demo --serve {options.out}")


def _export(options: argparse.Namespace, recipe: Recipe, out: Path) -> Path:
    from dettoolkit.export.command import export
    from dettoolkit.export.request import Request

    request = Request(
        format="onnx",
        batch=1,
        precision="int8" if options.int8 else "float32",
        preprocessing=True,
        postprocessing=True,
        input_hw=tuple(options.size) if options.size else None,
        images=options.images,
    )
    done = export(options.model, out, request, recipe=recipe)
    print(f"{done.report.table()}\n")
    return done.path
