"""Streams that end nothing: real pipes, terminals, full disks and narrow encodings."""

import errno
import os
import pty
import sys
from pathlib import Path

import pytest

from dlm_plugins.streams import SteadyStream, has_no_reader, steady_streams

LINE = "a ☃ in 49° 日本\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("latin-1", "a ? in 49° ??\n"), ("cp1252", "a ? in 49° ??\n"), ("ascii", "a ? in 49? ??\n"), ("utf-8", LINE)],
)
def test_characters_that_an_encoding_lacks_are_replaced(tmp_path: Path, encoding: str, expected: str) -> None:
    with (tmp_path / "out").open("w", encoding=encoding, newline="") as file:
        stream = SteadyStream(file)
        assert stream.write(LINE) == len(LINE)
        stream.write("\ud800\n")  # half a character: no encoding has it
        stream.flush()
    assert (tmp_path / "out").read_bytes() == (expected + "?\n").encode(encoding)
    assert (stream.encoding, stream.lost) == (encoding, None)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_without_a_reader_writing_goes_on(kind: str) -> None:
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        stream = SteadyStream(file)
        stream.write(LINE)
        stream.flush()
        assert (stream.isatty(), stream.has_no_reader) == (kind == "terminal", False)
        os.close(reader)
        for _ in range(3):
            stream.write(LINE * 1000)
            stream.flush()
        assert stream.lost is not None
        assert stream.lost.errno == (errno.EPIPE if kind == "pipe" else errno.EIO)
        assert (stream.isatty(), stream.has_no_reader) == (False, True)
        file.write(LINE)  # whoever goes around the stream is not struck either, nor the end of the process
        file.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_noted_and_may_have_room_again(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.symlink_to("/dev/full")
    with target.open("w", encoding="utf-8") as file:
        stream = SteadyStream(file)
        stream.write(LINE)
        stream.flush()
        assert stream.lost is not None
        assert (stream.lost.errno, stream.has_no_reader) == (errno.ENOSPC, False)
        with (tmp_path / "room").open("w") as room:
            os.dup2(room.fileno(), file.fileno())
        stream.write(LINE)
    assert (tmp_path / "room").read_text(encoding="utf-8") == LINE * 2


def test_the_streams_of_a_process_are_steady_for_the_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    with steady_streams() as (out, _):
        assert sys.stdout is out
        assert not has_no_reader()
        with steady_streams() as (inner, _):
            assert inner is out
    assert (sys.stdout, sys.stderr) == before
    monkeypatch.setattr(sys, "stdout", None)  # a process that was started without
    with steady_streams():
        print(LINE)
        assert not sys.stdout.isatty()
