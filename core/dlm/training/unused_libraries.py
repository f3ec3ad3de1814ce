"""bitsandbytes stays out of a run that does not use it: peft would import it, and transformers imports peft."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """What is imported or asked meanwhile finds no bitsandbytes, unless something has imported it already.

    Its import takes a second, and warns of kernels that nobody asked for. Whoever wants it (an 8-bit optimizer) imports
    it by itself.
    """
    name = "bitsandbytes"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # so Python notes that a module is not there
    try:
        yield
    finally:
        del sys.modules[name]
        if "peft.import_utils" in sys.modules:
            from peft.import_utils import is_bnb_4bit_available, is_bnb_available

            is_bnb_available.cache_clear()
            is_bnb_4bit_available.cache_clear()
