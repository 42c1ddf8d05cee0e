"""Continuous integration is not green because its machine lacks something."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """\
import pytest
{module}

@pytest.fixture(scope="session")
def browser():
    pytest.skip("no chromium")

def test_browser(browser): ...

@pytest.mark.skipif(True, reason="{reason}")
def test_mark(): ...

@pytest.mark.xfail
def test_known(): raise ValueError
"""
MISSING = "pytest.importorskip('nosuchmodule', reason='nosuchmodule is not there')"


@pytest.fixture
def outcomes(tmp_path):
    """Return a function that runs tests beside the plugin and counts what became of them."""

    def run(ci, module="", reason="no GPU"):
        file = tmp_path / "test_it.py"
        file.write_text(TESTS.format(module=module, reason=reason))
        plugins = ["-p", "allowed_skips", "-p", "no:cacheprovider"]
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "pytest", *plugins, "-rA", str(file)],
            env=os.environ | {"CI": ci, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        counted = re.findall(r"(\d+) (failed|skipped|xfailed|errors?)\b", ran.stdout.splitlines()[-1])
        return {name: int(number) for number, name in counted}, ran.stdout

    return run


def test_in_ci_what_is_missing_fails_and_what_is_allowed_does_not(outcomes):
    found, told = outcomes("true")
    assert found == {"error": 1, "skipped": 1, "xfailed": 1}
    assert "no chromium\nCI=true: install what is missing" in told
    found, told = outcomes("true", reason="no camera")
    assert "no camera\nCI=true" in told
    assert "skipped" not in found


def test_in_ci_a_file_that_is_skipped_as_a_whole_fails(outcomes):
    found, told = outcomes("true", MISSING)
    assert "nosuchmodule is not there\nCI=true" in told
    assert "skipped" not in found
    assert outcomes("true", MISSING.replace("is not there", "LiteRT is not installed"))[0] == {"skipped": 1}


def test_elsewhere_all_skips_are_skips(outcomes):
    assert outcomes("")[0] == {"skipped": 2, "xfailed": 1}
    assert outcomes("", MISSING)[0] == {"skipped": 1}
