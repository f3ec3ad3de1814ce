"""Contract tests of losses that hold on average over masks and times, judged by z-tests."""

import math

import torch

from dlm_plugins.loss import IS_LIKELIHOOD_WEIGHTED, Loss
from dlm_plugins.testing.loss_rows import NUM_LOGITS, score, uniform_rows
from dlm_plugins.testing.property_tools import contract_property, describe
from dlm_plugins.testing.z_test import threshold, z_of_mean

_NUM_BATCHES = 64
_NUM_ROWS = 512
_LENGTH = 9


@contract_property
def check_mean_over_masks(loss: Loss) -> None:
    """Predictions uniform over V ids cost ln V on average over masks and uniform times: the weights undo the mask rate.

    Tried under p(t) = 1 - (1 - t)^2 in pre-training and in fine-tuning, unless ``is_likelihood_weighted`` is False.
    """
    if not IS_LIKELIHOOD_WEIGHTED.of(loss):
        return
    expected, limit = math.log(NUM_LOGITS), threshold(2)
    for mode, answers in (("pre-training", False), ("fine-tuning", True)):
        totals, normalisers = [], []
        for seed in range(_NUM_BATCHES):
            output = score(loss, uniform_rows(answers=answers, num_rows=_NUM_ROWS, length=_LENGTH, seed=seed).view())
            totals.append(output.total.detach().double())
            normalisers.append(output.normaliser.detach().double())
        total, normaliser = torch.stack(totals), torch.stack(normalisers)
        z = z_of_mean(total - expected * normaliser).item()
        if not abs(z) < limit:
            found = (total.sum() / normaliser.sum()).item()
            raise AssertionError(
                f"in {mode}, uniform predictions over {NUM_LOGITS} ids cost {found:.4f} on average over masks instead "
                f"of ln {NUM_LOGITS} = {expected:.4f} (z = {z:.1f}); set is_likelihood_weighted = False if meant"
            )


@contract_property
def check_positions_weigh_alike(loss: Loss) -> None:
    """In pre-training every position weighs the same on average over masks.

    Unless ``is_likelihood_weighted`` is False.
    """
    if not IS_LIKELIHOOD_WEIGHTED.of(loss):
        return
    weights = []
    for seed in range(_NUM_BATCHES):
        rows = uniform_rows(answers=False, num_rows=_NUM_ROWS, length=_LENGTH, seed=seed)
        view = rows.view()
        (gradient,) = torch.autograd.grad(score(loss, view).total, view.all_logits)
        # Where all logits are equal, the slope of the clean id's logit is the position's weight, up to one constant.
        weights.append(gradient.gather(2, rows.clean_ids[..., None])[..., 0].sum(0))
    weight = torch.stack(weights)
    z = z_of_mean(weight - weight.mean(1, keepdim=True))
    if not (z.abs() < threshold(_LENGTH)).all():
        shares = describe(weight.mean(0) / weight.mean())
        raise AssertionError(f"positions weigh {shares} on average over masks (|z| up to {z.abs().max():.1f})")
