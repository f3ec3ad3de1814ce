"""Contract tests of remasking rules: masked positions only, quota, progress, independence of the batch."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.remasking import (
    FOLLOWS_PREDICTIONS,
    NEEDS_COMMITTED_PREDICTIONS,
    RESPECTS_QUOTA,
    TAKES_BACK,
    Decision,
    Remasker,
)
from dlm_plugins.testing.decoding_state import ReferenceState, decoding_states
from dlm_plugins.testing.property_tools import (
    contract_property,
    describe,
    for_all,
    require_equal,
    require_tensor,
    returned,
)
from dlm_plugins.testing.purity import require_device_kept, require_pure


def _states(remasker: Remasker) -> st.SearchStrategy[ReferenceState]:
    return decoding_states(predicts_committed=NEEDS_COMMITTED_PREDICTIONS.of(remasker))


def _decide(remasker: Remasker, state: ReferenceState) -> tuple[Tensor, Tensor]:
    """(commit, remask), both (B, K) bool."""
    decision = returned(remasker.decide(state), Decision, "decide")
    remask = torch.zeros_like(state.masked) if decision.remask is None else decision.remask
    return returned(decision.commit, Tensor, "decide, as commit,"), returned(remask, Tensor, "decide, as remask,")


@contract_property
def check_shapes(remasker: Remasker) -> None:
    """``commit`` and ``remask`` are (B, K) bool; ``remask`` may be None."""

    def body(state: ReferenceState) -> None:
        commit, remask = _decide(remasker, state)
        require_tensor(commit, "commit", state.masked.shape, torch.bool)
        require_tensor(remask, "remask", state.masked.shape, torch.bool)

    for_all(_states(remasker), body)


@contract_property
def check_commits_masked_only(remasker: Remasker) -> None:
    """Only masked positions are committed."""

    def body(state: ReferenceState) -> None:
        commit, _ = _decide(remasker, state)
        if (commit & ~state.masked).any():
            raise AssertionError(f"commits positions that are not masked: {describe(commit)}")

    for_all(_states(remasker), body)


@contract_property
def check_remasks_generated_only(remasker: Remasker) -> None:
    """Only positions committed earlier in the block go back to mask: not masked ones, not given ones."""

    def body(state: ReferenceState) -> None:
        _, remask = _decide(remasker, state)
        if (remask & ~state.generated).any():
            raise AssertionError(f"remasks positions that this block did not generate: {describe(remask)}")

    for_all(_states(remasker), body)


@contract_property
def check_respects_quota_claim(remasker: Remasker) -> None:
    """Where ``respects_quota`` is claimed, a row commits exactly min(quota, masked) positions and takes none back."""
    if not RESPECTS_QUOTA.of(remasker):
        return

    def body(state: ReferenceState) -> None:
        commit, remask = _decide(remasker, state)
        expected = torch.minimum(state.quota, state.masked.sum(1))
        require_equal(commit.sum(1), expected, "claims respects_quota, but commits another number of positions")
        if remask.any():
            raise AssertionError(f"claims respects_quota, but takes positions back: {describe(remask)}")

    for_all(_states(remasker), body, max_examples=30)


@contract_property
def check_progress(remasker: Remasker) -> None:
    """A row with masks and a quota of at least 1 commits something at every step."""

    def body(state: ReferenceState) -> None:
        commit, _ = _decide(remasker, state)
        stuck = state.masked.any(1) & (state.quota > 0) & ~commit.any(1)
        if stuck.any():
            raise AssertionError(f"commits nothing in rows {describe(stuck.nonzero()[:, 0])}, which hold masks")

    for_all(_states(remasker), body, max_examples=30)


@contract_property
def check_row_independent_of_batch(remasker: Remasker) -> None:
    """A row's decision is the same alone, in a batch and in another order."""

    def body(state: ReferenceState) -> None:
        num_rows = state.masked.shape[0]
        commit, remask = _decide(remasker, state)
        orders = [list(reversed(range(num_rows))), *([row] for row in range(num_rows))]
        for order in orders:
            found = _decide(remasker, state.take(order))
            require_equal(found[0], commit[order], f"commits others with rows {order} only, in this order")
            require_equal(found[1], remask[order], f"remasks others with rows {order} only, in this order")

    for_all(_states(remasker), body)


@contract_property
def check_ignores_unpredicted(remasker: Remasker) -> None:
    """Unless ``needs_committed_predictions`` is claimed, logits at committed positions do not matter."""
    if NEEDS_COMMITTED_PREDICTIONS.of(remasker):
        return

    def body(state: ReferenceState) -> None:
        commit, remask = _decide(remasker, state)
        elsewhere = torch.where(state.masked[..., None], state.all_logits, 3 * state.all_logits.flip(-1) + 1)
        found = _decide(remasker, attrs.evolve(state, all_logits=elsewhere))
        require_equal(found[0], commit, "commits others when the logits of committed positions change")
        require_equal(found[1], remask, "remasks others when the logits of committed positions change")

    for_all(_states(remasker), body)


@contract_property
def check_takes_back_claim(remasker: Remasker) -> None:
    """Unless ``takes_back`` is claimed, nothing that was committed goes back to mask."""
    if TAKES_BACK.of(remasker):
        return

    def body(state: ReferenceState) -> None:
        _, remask = _decide(remasker, state)
        if remask.any():
            raise AssertionError(f"takes positions back without the claim takes_back: {describe(remask)}")

    for_all(_states(remasker), body)


@contract_property
def check_follows_predictions_claim(remasker: Remasker) -> None:
    """Where ``follows_predictions`` is denied, other predictions lead to the same decision."""
    if FOLLOWS_PREDICTIONS.of(remasker):
        return

    def body(state: ReferenceState) -> None:
        commit, remask = _decide(remasker, state)
        found = _decide(remasker, attrs.evolve(state, all_logits=3 * state.all_logits.flip(-1) + 1))
        require_equal(found[0], commit, "denies follows_predictions, but commits others when the logits change")
        require_equal(found[1], remask, "denies follows_predictions, but remasks others when the logits change")

    for_all(_states(remasker), body)


@contract_property
def check_pure(remasker: Remasker) -> None:
    """Random numbers come from the state's draws only, and the state is left as it was."""
    for_all(_states(remasker), lambda state: require_pure(remasker.decide, state), max_examples=10)


@contract_property
def check_device_kept(remasker: Remasker) -> None:
    """The decision is where the state is."""
    for_all(
        _states(remasker),
        lambda state: require_device_kept(lambda: remasker.decide(state.to("meta"))),
        max_examples=3,
    )


PROPERTIES = (
    check_shapes,
    check_commits_masked_only,
    check_remasks_generated_only,
    check_respects_quota_claim,
    check_progress,
    check_row_independent_of_batch,
    check_ignores_unpredicted,
    check_takes_back_claim,
    check_follows_predictions_claim,
    check_pure,
    check_device_kept,
)
