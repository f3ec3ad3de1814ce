"""Where hypothesis keeps its notes while a command runs properties."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis.configuration import set_hypothesis_home_dir, storage_directory


@contextmanager
def scratch_storage() -> Iterator[None]:
    """Keep hypothesis from leaving a ``.hypothesis`` folder where the user happens to be."""
    before = storage_directory(intent_to_write=False).path
    with tempfile.TemporaryDirectory(prefix="dlm-check-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(before)
