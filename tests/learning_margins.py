"""How far every test that wants something learnt is from failing, whatever the order of summation.

By hand: `.venv/bin/python tests/learning_margins.py` runs those tests (pytest's marker `learnt`) over seeds,
threads and instruction sets, an hour and more, and prints each figure's worst value beside what is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEED = int(os.environ.get("DETTOOLKIT_TEST_SEED", "0"))  # of every training that is to learn something
FIGURES = "DETTOOLKIT_TEST_FIGURES"  # file that collects what at_least is given

# Each adds up in another order, as another CPU does.
CPUS = {
    "as it is": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX512_CORE": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX512_CORE_VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "ATen avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "ATen default": {"ATEN_CPU_CAPABILITY": "default"},
    "no oneDNN": {},
}
PYTEST = """\
import sys, pytest, torch
torch.backends.mkldnn.enabled = sys.argv[1] != "no oneDNN"
sys.exit(pytest.main(["-m", "learnt", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def at_least(what: str, value: float, wanted: float) -> None:
    """Assert that a figure of what was learnt is `wanted` or more."""
    if FIGURES in os.environ:
        with open(os.environ[FIGURES], "a") as file:
            file.write(json.dumps([what, float(value), float(wanted)]) + "\n")
    assert value >= wanted, f"{what}: {value:.3f}, and {wanted:.3f} or more is wanted"


def run(cpu: str, threads: int, seed: int, options: list[str]) -> tuple[list[list[object]], str]:
    """Run the tests once: the figures, and what pytest says of failures."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        ours = {FIGURES: str(figures), "DETTOOLKIT_TEST_SEED": str(seed), "OMP_NUM_THREADS": str(threads)}
        tests = Path(__file__).parent.glob("test_*.py")
        files = [str(path) for path in tests if "pytest.mark.learnt" in path.read_text()]
        options = [f"--basetemp={folder}/tests", "-q", "-rf", *options, *files]
        command = [sys.executable, "-P", "-c", PYTEST, cpu, *options]
        ran = subprocess.run(command, env=os.environ | ours | CPUS[cpu], capture_output=True, text=True)
        lines = figures.read_text().splitlines() if figures.exists() else []
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if ran.returncode and not failed:
        failed = [ran.stdout[-1000:] + ran.stderr[-1000:]]
    return [json.loads(line) for line in lines], "\n".join(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpus", nargs="+", choices=CPUS, default=["as it is", "AVX2"])
    parser.add_argument("options", nargs="*", help="options for pytest, after --")
    given = parser.parse_args()
    worst: dict[str, tuple[float, float, str]] = {}
    failures = 0
    for cpu in given.cpus:
        for threads in given.threads:
            for seed in range(given.seeds):
                where, started = f"{cpu}, {threads} threads, seed {seed}", time.time()
                figures, failed = run(cpu, threads, seed, given.options)
                failures += bool(failed)
                for what, value, wanted in figures:
                    worst[what] = min(worst.get(what, (value, wanted, where)), (value, wanted, where))
                print(f"{where}: {failed or 'passed'} ({time.time() - started:.0f} s)", flush=True)
    print("\n| figure | worst | wanted | where |\n|---|---:|---:|---|")
    for what, (value, wanted, where) in sorted(worst.items()):
        print(f"| {what} | {value:.3f} | {wanted:.3f} | {where} |")
    print(f"\nruns with a failure: {failures}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
