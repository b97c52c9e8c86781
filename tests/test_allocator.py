"""Freed memory is kept: what a tensor held before costs no new pages; and which commands ask for it."""

import subprocess
import sys

import pytest

from mask2former import cli

FAULTS = """
import resource, sys, torch
from mask2former.allocator import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    print("not here")
    sys.exit()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def once():
    before = faults()
    torch.empty(2**24).fill_(1)  # 64 MiB
    return faults() - before
print([once() for _ in range(20)][-1])  # the first few still make the heap grow
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_is_kept():
    kept, usual = (
        subprocess.run([sys.executable, "-c", FAULTS, *how], capture_output=True, text=True, check=True).stdout.strip()
        for how in (["keep"], [])
    )
    if kept == "not here":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < 10 < int(usual)  # 16384 pages a tensor, fewer where the system gives huge ones


def test_commands_ask_for_it_unless_memory_is_short(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: asked.append(True))
    for arguments, expected in (
        (["predict", "no.jpg", "--device", "cpu"], 1),
        (["predict", "no.jpg", "--device", "cpu", "--memory", "4GB"], 0),
        (["models"], 0),
    ):
        asked.clear()
        cli.main(arguments)
        assert len(asked) == expected, arguments


def test_an_interrupted_command_says_so_without_a_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "keep_freed_memory", interrupted)
    assert cli.main(["predict", "no.jpg", "--device", "cpu"]) == 130
    assert capsys.readouterr().err == "mask2former: interrupted\n"
