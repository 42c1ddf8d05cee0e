"""Programs that want the same cores: training steps of one and of two processes, by how long threads spin.

    python benchmarks/thread_contention.py [--threads 2] [--seconds 8] [--spins default 0 1000 ...]

PyTorch's threads (libgomp's) go on looking for work for a while before they sleep; GOMP_SPINCOUNT says for
how many turns. Alone that saves the time of waking up; beside another program it takes cores from who has
work. For each value, SSDLite on MobileNetV3-Small trains on random images of 160x320 in one process, then
in two at once, each with so many threads. Printed are steps per second of a process, and of both relative
to one alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

DEFAULT = "default"


def steps_per_second(seconds: float, threads: int) -> float:
    """Train for a while, and count."""
    import torch

    from dettoolkit.config import load_recipe
    from dettoolkit.detection.build import build_network

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    recipe: Any = load_recipe("ssdlite_scenes").recipe
    network = build_network(recipe, num_classes=4).train().to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 160, 320).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(images)).backward()
        optimizer.step()

    for _ in range(3):
        step()
    print("ready", flush=True)
    sys.stdin.readline()  # all processes start together
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / spent


def together(processes: int, spin: str, options: argparse.Namespace) -> list[float]:
    """Return the steps per second of processes that run at once."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    if spin != DEFAULT:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--work", "--threads", str(options.threads)]
    command += ["--seconds", str(options.seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]  # type: ignore[call-overload]
    for each in running:
        each.stdout.readline()
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    return [float(each.communicate()[0]) for each in running]


def main() -> None:
    """Print a line for each value."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--spins", nargs="+", default=[DEFAULT, "0", "1000", "10000", "100000", "1000000"])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(steps_per_second(options.seconds, options.threads))
        return
    base = None
    for spin in options.spins:
        alone = statistics.mean(together(1, spin, options))
        both = statistics.mean(together(2, spin, options))
        base = base or alone
        print(
            f"GOMP_SPINCOUNT={spin:8} alone {alone:6.2f} steps/s ({alone / base:.2f} of the first)   "
            f"two at once {both:6.2f} each, {2 * both / alone:.2f} of one alone in all",
            flush=True,
        )


if __name__ == "__main__":
    main()
