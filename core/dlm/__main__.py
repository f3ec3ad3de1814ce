"""``python -m dlm`` is the ``dlm`` command, so that launchers such as ``accelerate launch -m dlm`` work."""

from dlm_cli.main import main

main()
