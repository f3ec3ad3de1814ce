"""Annealed confidence."""

import attrs
import torch

from dlm_plugins import Decision, DecodingState


@attrs.frozen(kw_only=True)
class AnnealedConfidence:
    """Keep the most confident predictions, with noise that fades: early steps explore, late ones are greedy.

    The sampling of MaskGIT (Chang et al. 2022, arXiv:2202.04200): Gumbel noise on the log-confidence, times a
    temperature that falls in a straight line to 0 at the last step of a block.
    """

    temperature: float = attrs.field(
        default=1.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Scale of the noise at the first step, at least 0; 0 is plain low confidence."},
    )

    def decide(self, state: DecodingState) -> Decision:
        """The quota's worth of masked positions with the highest noisy score."""
        remaining = 1 - (state.step + 1) / state.num_steps
        uniform = state.draws.per_position("gumbel").clamp(min=2.0**-25)
        noise = -torch.log(-torch.log(uniform))
        score = state.log_probability + self.temperature * remaining * noise  # (B, K)
        order = torch.argsort(score.masked_fill(~state.masked, -torch.inf), dim=1, descending=True, stable=True)
        rank = torch.argsort(order, dim=1)
        return Decision(commit=state.masked & (rank < state.quota[:, None]))
