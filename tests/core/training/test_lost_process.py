"""What is said where processes cannot reach each other, from what torch raises."""

import pytest
from torch import distributed

from dlm.training.processes import lost_process

NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, {kind}, NCCL version 2.28.9\n{words}"
DUPLICATE = (
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 40000"
)
NO_ROUTE = (
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. \n"
    "Last error:\nsocketStartConnect: Connect to 192.168.19.14<52822> failed : No route to host"
)
RESET = (
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
    "Last error:\nsocketProgressOpt: Call to recv from 172.16.0.3<33759> failed : Connection reset by peer"
)


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("invalid usage", DUPLICATE, "NCCL failed: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device"),
        ("unhandled system error", NO_ROUTE, "NCCL failed: socketStartConnect: Connect to 192.168.19.14<52822> failed"),
        ("remote process exited", RESET, "another process is gone (socketProgressOpt: Call to recv from 172.16.0.3"),
        ("internal error", "ncclInternalError: Internal check failed.\nLast error:\n", "NCCL failed: NCCL error in"),
    ],
)
def test_what_nccl_says_last_is_told_and_only_a_process_that_is_gone_is_called_so(
    kind: str, words: str, told: str
) -> None:
    failure = lost_process(distributed.DistBackendError(NCCL.format(kind=kind, words=words)), "the loss of step 3")
    assert failure is not None
    assert f"waited for the loss of step 3, and {told}" in str(failure)
    assert ("another process is gone" in str(failure)) == (words == RESET)
    assert "\n" not in str(failure)


def test_a_broken_connection_of_gloo_is_a_process_that_is_gone() -> None:
    said = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2389. More"
    failure = lost_process(RuntimeError(said))
    assert failure is not None
    assert "another process is gone (Connection closed by peer [127.0.0.1]:2389)" in str(failure)


def test_other_errors_are_left_as_they_are() -> None:
    assert lost_process(RuntimeError("shape mismatch")) is None
