import os
import pty
import subprocess
import sys

from dlm.data.tokenization import with_progress

SCRIPT = "from dlm.data.tokenization import with_progress; print(list(with_progress(range(3), 'Counting things', 3)))"


def test_nothing_is_shown_where_nobody_watches(capsys):
    assert list(with_progress(range(3), "Counting things")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_bar_is_shown_on_a_terminal_and_the_items_stay_the_same():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.PIPE, env=environment, text=True, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == "[0, 1, 2]\n"
    assert "Counting things" in shown
