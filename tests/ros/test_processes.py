"""Children are heard, watched, and ended in time, whatever they do with signals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from streampetr.processes import ProcessError, Processes, describe_status, stop_on_signals

STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); {more}print('up'); time.sleep(60)"
KIND = "import time\ntry:\n    print('up')\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('bye')"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_lines_carry_the_name_and_go_to_the_log(tmp_path: Path) -> None:
    out = io.StringIO()
    with Processes(out) as processes:
        child = processes.start(
            "talker", python("import sys; print('one'); print('two', file=sys.stderr)"), log=tmp_path / "log.txt"
        )
        assert child.wait(10.0) == 0
    assert sorted(out.getvalue().splitlines()) == ["[talker] one", "[talker] two"]
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["one", "two"]


def test_ctrl_c_is_the_first_thing_tried() -> None:
    with Processes(None) as processes:
        child = processes.start("kind", python(KIND))
        assert child.wait_for_line("up", 10.0)
    assert child.returncode == 0
    assert list(child.lines) == ["up", "bye"]


@pytest.mark.parametrize(
    ("more", "status"),
    [("", -signal.SIGTERM), ("signal.signal(signal.SIGTERM, signal.SIG_IGN); ", -signal.SIGKILL)],
)
def test_those_who_do_not_listen_end_in_time_too(more: str, status: int) -> None:
    with Processes(None) as processes:
        children = [processes.start(f"deaf{i}", python(STUBBORN.format(more=more))) for i in range(3)]
        for child in children:
            assert child.wait_for_line("up", 10.0)
        begin = time.monotonic()
        processes.stop(2.0)
        assert time.monotonic() - begin < 2.5
    assert [child.returncode for child in children] == [status] * 3


def test_a_failed_child_is_named_with_its_last_words() -> None:
    with Processes(None) as processes:
        child = processes.start("perception_node", python("print('no such checkpoint'); raise SystemExit(3)"))
        child.wait(10.0)
        with pytest.raises(ProcessError, match=r"perception_node ended with status 3(.|\n)*no such checkpoint"):
            processes.check()


def test_waiting_ends_early_when_another_child_fails() -> None:
    with Processes(None) as processes:
        waiting = processes.start("replay", python(KIND))
        processes.start("node", python("raise SystemExit(4)"))
        begin = time.monotonic()
        with pytest.raises(ProcessError, match="node ended with status 4"):
            processes.wait(waiting, 30.0)
        assert time.monotonic() - begin < 10.0


def test_waiting_is_bounded() -> None:
    with Processes(None) as processes, pytest.raises(ProcessError, match=r"slow: not done after 0.3 s"):
        processes.wait(processes.start("slow", python(KIND)), 0.3)


def test_wait_for_line_ends_with_the_child() -> None:
    with Processes(None) as processes:
        child = processes.start("short", python("print('something else')"))
        begin = time.monotonic()
        assert not child.wait_for_line("ready", 30.0)
        assert time.monotonic() - begin < 10.0


def test_unknown_program_is_one_clear_error() -> None:
    with Processes(None) as processes, pytest.raises(ProcessError, match="cannot start 'no_such_program'"):
        processes.start("x", ["no_such_program"])


def test_children_end_when_their_parent_is_killed() -> None:
    code = textwrap.dedent(
        f"""
        import sys, time
        from streampetr.processes import Processes
        child = Processes(None).start("grandchild", [sys.executable, "-c", {KIND!r}])
        child.wait_for_line("up", 10)
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5.0
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_first_signal_asks_the_second_insists() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_statuses_in_words() -> None:
    assert describe_status(-9) == "was ended by SIGKILL"
    assert describe_status(3) == "ended with status 3"
