"""A processor without VNNI gives what one with it gives; and hiding instructions hides them, and nothing else.

Floats are the same to the last bit only while AVX-512 is not hidden as well, for its kernels add in another order.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import micro_bundle
import pytest

from dgemma.core.machine import cpu_flags

sys.path.insert(0, str(Path(__file__).parent))

import hide

HERE = Path(__file__).parent
MISSING = hide.obstacle() or (None if any("vnni" in flag for flag in cpu_flags()) else "this processor has no VNNI to hide")
needs_hiding = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
GROUPS = ["amx", "vnni"]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process without AMX and VNNI."""
    return hide.environment(GROUPS, tmp_path_factory.mktemp("hide"))


@pytest.fixture(scope="module")
def bundle() -> Path:
    return micro_bundle.bundle("onnx", "w8")


def run(env: dict[str, str] | None, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)


def answers(env: dict[str, str] | None, *arguments: str) -> dict[str, Any]:
    done = run(env, str(HERE / "answers.py"), *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_hiding
def test_answers_are_the_same_without_vnni(bundle: Path, hidden: dict[str, str]) -> None:
    here, there, control = answers(None, str(bundle)), answers(hidden, str(bundle)), answers(hidden, str(bundle), "--inexact")
    assert there["saturates"] and there["int8"] == "AVX2 without VNNI"
    assert there["answers"] == here["answers"]
    for way in ("host", "graph", "early_commit"):
        assert control["answers"][way] != here["answers"][way], f"{way}: the kernels did not saturate, so nothing was tried"


@needs_hiding
def test_the_processor_is_another_one_to_the_cache(hidden: dict[str, str]) -> None:
    program = "from dgemma.runtime import cache; print(cache.processor())"
    assert run(None, "-c", program).stdout != run(hidden, "-c", program).stdout != ""


@needs_hiding
def test_a_compiler_still_compiles(hidden: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "program.cpp"
    source.write_text("#include <vector>\nint main() { return std::vector<int>(0).size(); }\n")
    done = subprocess.run(["c++", "-o", str(tmp_path / "program"), str(source)], env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_hiding
@pytest.mark.parametrize("fork", ["", "if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"], ids=["", "fork"])
def test_threads_and_forks_lack_the_instructions_too(fork: str, hidden: dict[str, str]) -> None:
    thread = (
        "import os, sys, threading\n"
        "from dgemma.runtime.engines import exact_products\n"
        f"{fork}\n"
        "thread = threading.Thread(target=lambda: print(exact_products.saturates()))\n"
        "thread.start(), thread.join()\n"
    )
    assert run(None, "-c", thread).stdout == "False\n"
    assert run(hidden, "-c", thread).stdout == "True\n"


@needs_hiding
def test_a_crash_is_a_crash_and_handlers_get_it(hidden: dict[str, str]) -> None:
    crash = "import ctypes; ctypes.string_at(0)"
    plain, told = run(hidden, "-c", crash), run(hidden, "-X", "faulthandler", "-c", crash)
    assert plain.returncode == told.returncode == -signal.SIGSEGV
    assert not plain.stderr and "Segmentation fault" in told.stderr
    sent = run(hidden, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV); print('alive')")
    assert sent.returncode == -signal.SIGSEGV and not sent.stdout


@needs_hiding
def test_a_handler_that_comes_later_does_not_uncover_cpuid(hidden: dict[str, str]) -> None:
    """faulthandler's would take a CPUID for a crash."""
    assert run(hidden, "-X", "faulthandler", "-c", "import numpy").returncode == 0


@needs_hiding
def test_the_tool_ends_as_the_command_does() -> None:
    tool = [str(HERE / "hide.py"), "--hide", "vnni", "--"]
    assert run(None, *tool, "sh", "-c", "exit 7").returncode == 7
    assert run(None, *tool, "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_a_machine_that_cannot_hide_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hide.py", "--hide", "vnni", "--", "true"])
    monkeypatch.setattr(hide.platform, "machine", lambda: "aarch64")
    assert hide.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["hide.py", "--hide", "sse", "--", "true"])
    with pytest.raises(SystemExit, match="2"):
        hide.main()
    assert "sse is none of amx, vnni, avx512" in capsys.readouterr().err


def test_cpuinfo_loses_the_flags_of_a_group_and_nothing_else() -> None:
    flags = "fpu avx2 avx_vnni avx512f avx512_vnni amx_bf16 avx512_4vnniw amx_int8"
    text = f"processor\t: 0\nmodel name\t: vnni amx\nflags\t\t: {flags}\nbugs\t\t:\n\n" * 2
    assert hide.without(text, []) == text
    for group, left in {
        "amx": "fpu avx2 avx_vnni avx512f avx512_vnni avx512_4vnniw",
        "vnni": "fpu avx2 avx512f amx_bf16 amx_int8",
        "avx512": "fpu avx2 avx_vnni amx_bf16 amx_int8",
    }.items():
        assert [line.split() for line in hide.without(text, [group]).splitlines()] == [
            line.split() for line in text.replace(flags, left).splitlines()
        ]
