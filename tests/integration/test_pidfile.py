"""Who runs in a folder: the lock is the truth, whatever the file says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailapp.errors import OfAnotherUser, PidFileUnusable, RunsAlready
from mailapp.pidfile import PidFile
from tests.waiting import wait_until

HOLD = """
import sys
from pathlib import Path
from mailapp.pidfile import PidFile
with PidFile(Path(sys.argv[1])).held() as lock:
    print("held", flush=True)
    sys.stdin.read()
"""
# As `HOLD`, with a child that lives until the input of both ends.
HOLD_WITH_CHILD = """
import subprocess, sys
from pathlib import Path
from mailapp.pidfile import PidFile
with PidFile(Path(sys.argv[1])).held() as lock:
    child = subprocess.Popen(["cat"], pass_fds=[lock], stdout=subprocess.DEVNULL)
    print("held", flush=True)
    child.wait()
"""


@pytest.fixture
def pid_file(tmp_path: Path) -> PidFile:
    return PidFile(tmp_path / "run" / "runmail.pid")


class Holder:
    """A process of its own that holds a pid file."""

    def __init__(self, pid_file: PidFile, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(pid_file.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "lamson_project.settings"},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, and a child of its, which reads the same input."""
        with self.process:
            pass


@pytest.fixture
def holder(pid_file: PidFile) -> Iterator[Holder]:
    made = Holder(pid_file, HOLD)
    yield made
    made.close()


@pytest.fixture
def parent(pid_file: PidFile) -> Iterator[Holder]:
    made = Holder(pid_file, HOLD_WITH_CHILD)
    yield made
    made.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that each user can look into, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_nobody_runs_where_there_is_no_file(tmp_path):
    pid_file = PidFile(tmp_path / "run" / "runmail.pid")

    assert pid_file.pid() is None
    assert pid_file.left_by() is None
    assert pid_file.send(signal.SIGTERM) is None
    assert pid_file.is_over(None)


def test_file_names_its_process_as_long_as_that_holds_it(pid_file):
    with pid_file.held():
        assert pid_file.path.read_text() == f"{os.getpid()}\n"
        assert pid_file.pid() == os.getpid()
        assert not pid_file.is_over(os.getpid())

    assert not pid_file.path.exists()
    assert pid_file.is_over(os.getpid())


def test_second_process_is_refused_by_the_id_of_the_first(pid_file, holder):
    with pytest.raises(RunsAlready, match=f"process {holder.process.pid} holds"), pid_file.held():
        pass

    assert pid_file.pid() == holder.process.pid


def test_signal_ends_the_process_that_holds_the_file(pid_file, holder):
    assert pid_file.send(signal.SIGTERM) == holder.process.pid

    assert holder.process.wait() == -signal.SIGTERM
    assert pid_file.is_over(holder.process.pid)


def test_file_of_a_killed_process_is_stale_and_may_be_taken(pid_file, holder):
    holder.kill()

    assert pid_file.pid() is None
    assert pid_file.left_by() == holder.process.pid
    with pid_file.held():
        assert pid_file.pid() == os.getpid()


def test_process_that_got_the_id_of_a_killed_one_is_not_signalled(pid_file, holder):
    holder.kill()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        pid_file.path.write_text(f"{stranger.pid}\n")

        assert pid_file.send(signal.SIGKILL) is None

        assert stranger.poll() is None
        stranger.communicate()
        assert stranger.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_process_of_another_user_is_named_and_goes_on(open_folder):
    pid_file = PidFile(open_folder / "runmail.pid")
    with contextlib.closing(Holder(pid_file, HOLD)) as holder:
        named = f"process {holder.process.pid}, which holds {pid_file.path}"

        with _another_user(), pytest.raises(OfAnotherUser, match=named):
            pid_file.send(signal.SIGKILL)

        assert holder.process.poll() is None


@pytest.mark.parametrize("text", ["", "abc", "12 13"])
def test_file_that_names_nobody_is_no_matter(pid_file, text):
    pid_file.path.parent.mkdir()
    pid_file.path.write_text(text)

    assert pid_file.left_by() is None
    with pid_file.held():
        assert pid_file.pid() == os.getpid()


def test_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "run").touch()
    pid_file = PidFile(tmp_path / "run" / "runmail.pid")

    with pytest.raises(PidFileUnusable, match=r"run/runmail\.pid: "):
        pid_file.pid()
    with pytest.raises(PidFileUnusable), pid_file.held():
        pass


def test_children_of_a_killed_process_are_waited_for(pid_file, parent, together):
    parent.kill()
    assert not pid_file.is_over(None)

    assert parent.process.stdin is not None
    input_of_child = parent.process.stdin

    def take() -> bool:
        with pid_file.held():
            return input_of_child.closed

    def end_the_child() -> None:
        wait_until(lambda: pid_file.pid() == os.getpid())  # it waits by now
        input_of_child.close()

    had_ended, _ = together(take, end_the_child)

    assert had_ended
    assert pid_file.is_over(None)


def test_children_that_do_not_end_keep_others_out(pid_file, parent, settings):
    settings.MAIL = {**settings.MAIL, "DRAIN_SECONDS": 1e-9}
    parent.kill()

    with pytest.raises(RunsAlready, match="a killed runmail had started"), pid_file.held():
        pass


def test_of_many_who_take_it_at_once_one_has_it(pid_file, together):
    def take() -> str:
        try:
            with pid_file.held():
                wait_until(lambda: len(refused) == 4)
                return "held"
        except RunsAlready:
            refused.append(1)
            return "refused"

    refused: list[int] = []

    ends = together(*[take] * 5)

    assert sorted(ends) == ["held", *["refused"] * 4]


@contextlib.contextmanager
def _another_user() -> Iterator[None]:
    nobody = 65534
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
