"""Wrong noise types are caught by the property they break."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from dlm_plugins import CorruptionRequest
from dlm_plugins.testing import check_component


def ordinary_ids(request: CorruptionRequest) -> Tensor:
    ids = torch.arange(request.vocabulary_size, device=request.input_ids.device)
    return ids[~torch.isin(ids, request.special_ids)]


def chosen(request: CorruptionRequest, ids: Tensor) -> Tensor:
    """(B, L) int64: one of ``ids`` for every position."""
    return ids[(request.draws.per_position("id") * len(ids)).long()]


@attrs.frozen(kw_only=True)
class Replace:
    """Any ordinary token: sound."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        return torch.where(request.corrupted, chosen(request, ordinary_ids(request)), request.input_ids)


@attrs.frozen(kw_only=True)
class Mask:
    """The mask: sound."""

    is_absorbing: ClassVar[bool] = True

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        return request.input_ids.masked_fill(request.corrupted, request.mask_id)


@attrs.frozen(kw_only=True)
class Mixed:
    """The mask or a replacement, and says so: sound."""

    may_write_mask: ClassVar[bool] = True

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        masks = request.draws.per_position("mix") < 0.8
        return Replace().corrupt(request).masked_fill(request.corrupted & masks, request.mask_id)


@attrs.frozen(kw_only=True)
class MixedWithoutSaying(Mixed):
    """Emits the mask without any claim."""

    may_write_mask: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class MixedCalledAbsorbing(Mixed):
    """Claims that only masks are written."""

    is_absorbing: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class WholeVocabulary:
    """Special tokens may come up."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        ids = torch.arange(request.vocabulary_size)
        return torch.where(request.corrupted, chosen(request, ids[ids != request.mask_id]), request.input_ids)


@attrs.frozen(kw_only=True)
class OneTooMany:
    """The id after the last one may come up."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        ids = torch.cat((ordinary_ids(request), torch.tensor([request.vocabulary_size])))
        return torch.where(request.corrupted, chosen(request, ids), request.input_ids)


@attrs.frozen(kw_only=True)
class RemovesOldMasks(Mask):
    """Mends masks that stood in the clean text."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        mended = torch.where(request.input_ids == request.mask_id, ordinary_ids(request)[0], request.input_ids)
        return mended.masked_fill(request.corrupted, request.mask_id)


@attrs.frozen(kw_only=True)
class ShufflesBatch:
    """Takes the replacement from the next row."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        return torch.where(request.corrupted, Replace().corrupt(request).roll(1, dims=0), request.input_ids)


@attrs.frozen(kw_only=True)
class GlobalGenerator:
    """Draws from torch's global generator."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        ids = ordinary_ids(request)
        return torch.where(request.corrupted, ids[torch.randint(len(ids), request.corrupted.shape)], request.input_ids)


@attrs.frozen(kw_only=True)
class InPlace(Mask):
    """Writes into the clean ids."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        return request.input_ids.masked_fill_(request.corrupted, request.mask_id)


@attrs.frozen(kw_only=True)
class Silent:
    """Leaves the text as it is, as if the special ids were the only reason to write."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        special = torch.isin(request.input_ids, request.special_ids) & request.corrupted
        return torch.where(special, ordinary_ids(request)[0], request.input_ids)


@attrs.frozen(kw_only=True)
class Int32(Mask):
    """Saves memory."""

    def corrupt(self, request: CorruptionRequest) -> Tensor:
        return Mask().corrupt(request).int()


WRONG = [
    (MixedWithoutSaying, "replacements_allowed"),
    (MixedCalledAbsorbing, "absorbing_claim"),
    (WholeVocabulary, "replacements_allowed"),
    (OneTooMany, "replacements_allowed"),
    (RemovesOldMasks, "clean_elsewhere"),
    (ShufflesBatch, "row_independent_of_batch"),
    (GlobalGenerator, "pure"),
    (InPlace, "pure"),
    (Silent, "changes_text"),
    (Int32, "shapes"),
]


@pytest.mark.parametrize(("cls", "name"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_wrong_noise_type_is_caught(refute: Callable[[str, type, str], str], cls: type, name: str) -> None:
    refute("noise_type", cls, name)


@pytest.mark.parametrize("cls", [Replace, Mask, Mixed])
def test_sound_noise_type_passes(cls: type) -> None:
    assert check_component("noise_type", cls) == []


def test_wrong_noise_type_fails_by_its_property_only() -> None:
    (message,) = check_component("noise_type", MixedWithoutSaying)
    assert "writes the mask" in message
