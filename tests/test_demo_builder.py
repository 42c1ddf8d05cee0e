"""The demo's folder, its runtime's files, the server and the command; the page itself: test_demo_page.py."""

import hashlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from demo_models import (
    CLASSIFIER_CLASSES,
    COLORS,
    DETECTOR_CLASSES,
    SEGMENTER_CLASSES,
    write_classifier,
    write_detector,
    write_joint,
    write_segmenter,
)
from PIL import Image

from dettoolkit.cli.demo import export_demo
from dettoolkit.demo import builder, ort_web
from dettoolkit.demo import server as server_module
from dettoolkit.demo.builder import LARGEST_SIDE, build_demo, choose_samples
from dettoolkit.demo.server import address, make_server
from dettoolkit.drawing.boxes import class_color
from dettoolkit.tasks import TASKS

PAGE = Path(ort_web.__file__).parent / "page"


@pytest.fixture
def runtime(tmp_path, monkeypatch) -> Path:
    """Return a folder with small files in the place of ONNX Runtime Web's."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in ort_web.SHA256:
        (folder / name).write_text(f"stand-in for {name}")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ort_web.SHA256}
    monkeypatch.setattr(ort_web, "SHA256", digests)
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    pytest.importorskip("onnx", reason="the models of these tests are written with onnx")
    pytest.importorskip("onnxruntime", reason="a model's description is read with onnxruntime")
    return write_segmenter(tmp_path / "segmenter.onnx")


def picture(path: Path, width: int = 40, height: int = 30, **save) -> Path:
    rng = np.random.default_rng(width)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path, **save)
    return path


def build(model, out, runtime, samples=(), title=None):
    return build_demo(model, out, samples=samples, runtime=runtime, title=title)


def test_a_demo_holds_the_page_the_model_and_its_description(tmp_path, model, runtime):
    out = tmp_path / "deep" / "demo"
    build(model, out, runtime, [picture(tmp_path / "a.png")], title="Colors & <b>more</b>")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    wanted = {path.name for path in PAGE.iterdir() if path.is_file()}
    wanted |= {f"ort/{name}" for name in ort_web.SHA256} | {
        "demo.json",
        "model.onnx",
        "samples/1.jpg",
        "ort/LICENSE.txt",
    }
    assert names == wanted
    assert (out / "model.onnx").read_bytes() == model.read_bytes()
    demo = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert demo["title"] == "Colors & <b>more</b>"
    assert (demo["task"], demo["script"]) == ("segmentation", "segmentation.js")
    assert demo["classes"] == [
        {"name": name, "color": list(color)} for name, color in zip(SEGMENTER_CLASSES, COLORS, strict=True)
    ]
    assert demo["samples"] == [{"file": "samples/1.jpg", "name": "Sample 1", "width": 40, "height": 30}]
    for backend in ("webgpu", "wasm"):
        assert (out / demo["runtime"][backend]["module"]).is_file()
        assert (out / demo["runtime"][backend]["wasm"]).stat().st_size == demo["runtime"][backend]["bytes"]
    assert demo["model"] == {"file": "model.onnx", "bytes": model.stat().st_size}
    if os.name == "posix":
        assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(
            out.parent.stat().st_mode
        )  # others may serve it
    assert list(out.parent.iterdir()) == [out]


def test_a_detector_brings_its_scores_and_the_colors_of_all_our_pictures(tmp_path, model, runtime):
    build(write_detector(tmp_path / "detector.onnx"), tmp_path / "demo", runtime)
    demo = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert (demo["lowest_score"], demo["shown_score"], demo["samples"]) == (0.05, 0.4, [])
    assert [tuple(each["color"]) for each in demo["classes"]] == [class_color(0), class_color(1)]


def test_a_joint_model_brings_both_and_the_agreement_of_the_worse(tmp_path, model, runtime):
    parity = {"errors": {"detections": 0.02, "shown_detections": 0.9, "pixels": 0.001, "worst_class": 0.9}}
    build(write_joint(tmp_path / "joint.onnx", parity=parity), tmp_path / "demo", runtime)
    demo = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert (demo["script"], demo["boxed_classes"]) == ("joint.js", 2)
    assert (demo["lowest_score"], demo["shown_score"]) == (0.05, 0.4)
    names = [f"detection/{name}" for name in DETECTOR_CLASSES]
    names += [f"segmentation/{name}" for name in SEGMENTER_CLASSES]
    assert [each["name"] for each in demo["classes"]] == names
    colors = [class_color(0), class_color(1), *COLORS]
    assert [tuple(each["color"]) for each in demo["classes"]] == colors
    assert ["Agreement with PyTorch", "98.00%"] in demo["facts"]


def test_a_classifier_has_its_own_script(tmp_path, model, runtime):
    build(write_classifier(tmp_path / "classifier.onnx"), tmp_path / "demo", runtime)
    demo = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert (demo["title"], demo["script"]) == ("Image classification in your browser", "classification.js")
    assert tuple(each["name"] for each in demo["classes"]) == CLASSIFIER_CLASSES
    assert (tmp_path / "demo" / demo["script"]).is_file()


@pytest.mark.parametrize(
    ("write", "errors", "fact"),
    [
        (write_segmenter, {"pixels": 0.0123, "worst_class": 0.5}, ["Agreement with PyTorch", "98.77%"]),
        (
            write_detector,
            {"detections": 0.0, "shown_detections": None},
            ["Agreement with PyTorch", "100.00%"],
        ),
        (write_classifier, {"top1": 0.25}, ["Agreement with PyTorch", "75.00%"]),
        (write_detector, {"detections": None}, ["Runtime", "ONNX Runtime Web 1.30.0"]),  # nothing to compare
    ],
)
def test_the_page_says_what_the_export_measured(tmp_path, model, runtime, write, errors, fact):
    other = write(tmp_path / "other.onnx", parity={"errors": errors})
    build(other, tmp_path / "demo", runtime)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["facts"][-1] == fact


def test_samples_are_upright_bounded_and_say_nothing_of_their_maker(tmp_path, model, runtime):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Maker of the camera", {1: "N", 2: (48.0, 8.0, 15.0)}
    large = picture(tmp_path / "large.jpg", 3000, 1500, exif=exif, quality=30)
    assert b"Maker of the camera" in large.read_bytes()
    build(model, tmp_path / "demo", runtime, [large])
    written = tmp_path / "demo" / "samples" / "1.jpg"
    with Image.open(written) as image:
        assert image.size == (LARGEST_SIDE // 2, LARGEST_SIDE)  # turned by a quarter
        assert not image.getexif()
    assert b"Maker of the camera" not in written.read_bytes()


def test_nothing_is_left_when_a_sample_cannot_be_read(tmp_path, model, runtime):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    samples = [picture(tmp_path / "a.png"), tmp_path / "broken.jpg"]
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        build(model, tmp_path / "out" / "demo", runtime, samples)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path, model, runtime):
    out = tmp_path / "demo"
    out.mkdir()
    build(model, out, runtime)  # an empty folder is free
    before = (out / "demo.json").read_bytes()
    with pytest.raises(FileExistsError, match="already exists and is not overwritten"):
        build(model, out, runtime, title="another")
    assert (out / "demo.json").read_bytes() == before


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"preprocessing": False}, "--preprocessing --postprocessing"),
        ({"postprocessing": False}, "--preprocessing --postprocessing"),
        ({"batch": 4}, "batch size 4, but the page uses 1"),
    ],
)
def test_a_model_that_the_page_cannot_run_is_refused(tmp_path, model, runtime, facts, message):
    other = write_segmenter(tmp_path / "other.onnx", **facts)
    with pytest.raises(ValueError, match=message):
        build(other, tmp_path / "demo", runtime)
    assert not (tmp_path / "demo").exists()


def test_a_task_without_a_script_on_the_page_is_refused(tmp_path, model, runtime, monkeypatch):
    monkeypatch.setattr(builder, "FILES", tmp_path)
    with pytest.raises(ValueError, match=r"segmenter\.onnx: .* segmentation\.js is missing"):
        build(model, tmp_path / "demo", runtime)


def test_samples_are_spread_evenly(tmp_path):
    folder = tmp_path / "figures"
    (folder / "sub").mkdir(parents=True)
    for number in range(1, 12):
        (folder / "sub" / f"{number}.jpg").write_bytes(b"")
    chosen = choose_samples(folder, 4)
    assert [path.name for path in chosen] == ["1.jpg", "3.jpg", "6.jpg", "9.jpg"]  # by number, not by letter
    assert len(choose_samples(folder, 50)) == 11
    assert choose_samples(folder / "sub" / "7.jpg", 3) == [folder / "sub" / "7.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no images"):
        choose_samples(tmp_path / "empty", 3)


def test_the_page_makes_no_external_requests_and_lacks_no_file():
    texts = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    allowed = {"http://localhost:8000", "http://www.w3.org/2000/svg"}  # a hint for people, and a name space
    for name, text in texts.items():
        found = set(re.findall(r"(?:https?:)?//[\w-]+[.:]\w[\w./:-]*", text)) - allowed
        assert not found, f"{name}: {found}"
    assert "default-src 'self'" in texts["index.html"]
    named = set(re.findall(r'(?:src|href)="([^"]+)"', texts["index.html"]))
    for name, text in texts.items():
        if name.endswith(".js"):
            named |= set(re.findall(r'(?:from |URL\()"(?:\./)?([\w.]+)"', text))
    named |= {f"{spec.name}.js" for spec in TASKS}  # those that demo.json names
    assert named == texts.keys() - {"index.html"}


def test_every_id_that_the_scripts_use_is_in_the_page():
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r'(?:\$|getElementById)\("([^"]+)"\)', text))
        assert used <= set(ids), f"{path.name}: {used - set(ids)}"
    for target in re.findall(r'(?:for|aria-labeledby|aria-describedby)="([^"]+)"', html):
        assert set(target.split()) <= set(ids)


# ---- ONNX Runtime Web


def test_other_files_than_those_tried_are_refused(tmp_path, runtime):
    assert set(ort_web.read_files(runtime)) == set(ort_web.SHA256)
    (tmp_path / "other" / "dist").mkdir(parents=True)
    for path in runtime.iterdir():
        (tmp_path / "other" / "dist" / path.name).write_bytes(path.read_bytes())
    assert ort_web.read_files(tmp_path / "other") == ort_web.read_files(runtime)
    (tmp_path / "other" / "dist" / "ort-wasm-simd-threaded.wasm").write_text("changed")
    with pytest.raises(ort_web.RuntimeFilesError, match=r"simd-threaded\.wasm is not from onnxruntime-web"):
        ort_web.read_files(tmp_path / "other")
    (tmp_path / "other" / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(ort_web.RuntimeFilesError, match=r"lacks ort-wasm-simd-threaded\.wasm"):
        ort_web.read_files(tmp_path / "other")
    with pytest.raises(ort_web.RuntimeFilesError, match="not contain an unpacked onnxruntime-web"):
        ort_web.read_files(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"does not exist: use the archive onnxruntime-web-1\.30\.0\.tgz"
    ):
        ort_web.read_files(tmp_path / "nowhere")
    (tmp_path / "archive.tgz").write_bytes(b"another archive")
    with pytest.raises(ort_web.RuntimeFilesError, match="SHA-512 mismatch"):
        ort_web.read_files(tmp_path / "archive.tgz")


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for npm is a shell script")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "npm is not installed: install Node.js, or run npm pack onnxruntime-web"),
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", r"could not download .*npm error code ENOTFOUND"),
        ("exit 0", "no reason given"),
    ],
)
def test_npm_that_cannot_fetch_is_told(tmp_path, monkeypatch, script, message):
    stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(ort_web.RuntimeFilesError, match=message):
        ort_web.read_files(None)
    kept = tmp_path / "cache" / "dettoolkit"
    assert not kept.exists() or not list(kept.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for npm is a shell script")
def test_npm_fetches_once(tmp_path, monkeypatch):
    script = 'echo "$@" >> "$LOG"; echo archive > "$4/onnxruntime-web-1.30.0.tgz"'
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    stand_in(tmp_path, monkeypatch, script)
    archive = tmp_path / "cache" / "dettoolkit" / "onnxruntime-web-1.30.0.tgz"
    assert ort_web.fetch() == ort_web.fetch() == archive
    (called,) = (tmp_path / "log").read_text().splitlines()
    assert called.startswith("pack onnxruntime-web@1.30.0 --pack-destination ")


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """Put a shell script in the place of npm, or nothing."""
    (tmp_path / "bin").mkdir()
    if script is not None:
        (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# ---- the server and the command


@pytest.fixture
def demo(tmp_path, model, runtime) -> Path:
    build(model, tmp_path / "demo", runtime)
    return tmp_path / "demo"


def test_the_server_gives_threads_and_serves_this_computer_only(demo):
    with make_server(demo, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        for name, kind in (
            ("", "text/html"),
            ("app.js", "text/javascript"),
            ("ort/ort.wasm.bundle.min.mjs", "text/javascript"),
            ("ort/ort-wasm-simd-threaded.wasm", "application/wasm"),
            ("model.onnx", "application/octet-stream"),
        ):
            with urllib.request.urlopen(address(server) + name, timeout=10) as response:
                assert response.headers.get_content_type() == kind
                assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
                assert response.read() == (demo / (name or "index.html")).read_bytes()
        port = server.server_address[1]
        with pytest.raises(ValueError, match=rf"port {port} cannot be used .*--port {port + 1}"):
            make_server(demo, port)
        server.shutdown()


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Serve a folder, with two seconds' patience for clients."""
    monkeypatch.setattr(server_module, "SECONDS", 2.0)
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("index.html", "demo.json"):
        (folder / name).write_text("{}")
    (folder / "large").write_bytes(bytes(8_000_000))
    with make_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def drip(client):
    """Send a byte of a request now and then, as long as anybody listens."""
    try:
        for byte in b"GET /" + b"a" * 500:
            client.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        return
    raise AssertionError("the server listened all the time")


def sip(client):
    """Ask for a large file, and read a little of it now and then."""
    client.sendall(b"GET /large HTTP/1.0\r\n\r\n")
    with suppress(OSError):
        while client.recv(2000):
            time.sleep(0.02)


def handling():
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


@pytest.mark.parametrize("slow", [drip, sip, lambda client: client.recv(1)], ids=["drip", "sip", "silent"])
def test_slow_clients_hold_no_thread(serving, slow, capfd):
    clients = [socket.create_connection(serving.server_address[:2], timeout=20) for _ in range(8)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    threads = [threading.Thread(target=slow, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    with urllib.request.urlopen(address(serving) + "large", timeout=10) as response:  # others are served
        assert len(response.read()) == 8_000_000
    end = time.monotonic() + 15
    while (at_work := handling()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not at_work
    for client in clients:
        client.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/%00", 404),
        ("/a%00.js", 404),
        ("/" + "a" * 5000, 404),
        ("/%ff%fe", 404),
        ("/../../../../etc/passwd", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/" + "a" * 70_000, 414),
    ],
    ids=["null", "null in a name", "long", "no text", "above", "above, quoted", "too long"],
)
def test_odd_addresses_are_answered(serving, path, status, capfd):
    with socket.create_connection(serving.server_address[:2], timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = client.recv(1000).decode()
    assert answer.startswith(f"HTTP/1.0 {status} ")
    assert capfd.readouterr().err == ""


def test_a_client_that_goes_away_is_no_defect(serving, capfd):
    for sent in (b"", b"GE", b"GET /large HTTP/1.0\r\n\r\n"):
        client = socket.create_connection(serving.server_address[:2], timeout=20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.sendall(sent)
        client.close()
    time.sleep(0.3)
    with urllib.request.urlopen(address(serving), timeout=10) as response:
        assert response.read() == b"{}"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("port", ["99999", "-1", "65536", "1e3", "", "9" * 400])
def test_a_port_that_cannot_be_is_refused_before_any_work(tmp_path, monkeypatch, capsys, port):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        export_demo(["run", "--out", "demo", "--serve", "--port", port])
    assert "a port, 0 to 65535" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_the_server_refuses_a_port_that_cannot_be(demo, port):
    with pytest.raises(ValueError, match=r"port .* cannot be used"):
        make_server(demo, port)


def test_only_a_demo_is_served(tmp_path):
    with pytest.raises(ValueError, match="contains no demo"):
        make_server(tmp_path, 0)


def test_the_command_makes_a_demo_of_an_exported_file(tmp_path, model, runtime, capsys):
    (tmp_path / "figures").mkdir()
    for width in (20, 21, 22):
        picture(tmp_path / "figures" / f"{width}.png", width)
    arguments = [str(model), "--out", str(tmp_path / "demo"), "--ort-web", str(runtime)]
    assert export_demo(arguments) == 2
    assert "folder with --images, or use --samples 0" in capsys.readouterr().err
    assert export_demo([*arguments, "--images", str(tmp_path / "figures"), "--samples", "2"]) == 0
    assert ": dettoolkit export-demo --serve" in capsys.readouterr().out
    described = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert [each["width"] for each in described["samples"]] == [20, 21]
    assert export_demo([*arguments, "--samples", "0"]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a run and --out DIR for a new demo"),
        (["run"], "output folder: --out DIR"),
        (["--serve"], "demo folder: --serve DIR"),
        (["--serve", "nowhere"], "nowhere contains no demo"),
        (["nowhere.onnx", "--out", "demo", "--ort-web", "none.tgz"], "none.tgz does not exist"),
    ],
)
def test_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert export_demo(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_cannot_be_exported_otherwise(tmp_path, model, runtime, capsys):
    arguments = [str(model), "--out", str(tmp_path / "demo"), "--ort-web", str(runtime), "--int8"]
    assert export_demo(arguments) == 2
    assert "already exported: key=value, --int8 and --size" in capsys.readouterr().err


def test_the_tool_serves_until_it_is_interrupted(demo, repository):
    command = [
        sys.executable,
        str(repository / "tools" / "export_demo.py"),
        "--serve",
        str(demo),
        "--port",
        "0",
    ]
    # Where the tests run in the background, their children ignore Ctrl-C.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=listens) as process:
        line = process.stdout.readline()
        found = re.search(r"http://localhost:\d+/", line)
        assert found, line
        with urllib.request.urlopen(found[0], timeout=10) as response:
            assert b"<!doctype html>" in response.read()
        process.send_signal(2)
        assert process.wait(timeout=120) == 0
