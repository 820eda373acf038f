"""Labels that an ensemble votes against are turned or softened, and margins follow its votes (reward voting, arXiv:2401.06080).

The strength of a label is the mean over heads of the logit by which they side with it; their spread says how sure they are.
Heads vote only on prompts that they were not fitted on. It pays where many labels are wrong and nobody knows whose; where
annotators are known, their flip rates do the same with less harm to labels that are right and rare.
A margin asks for more where the vote for a label is strong: -log sigma(d - mu), d the logit of the label and mu its strength
(section 2.4.2, Eq. 6, which prints mu outside the logarithm, where it would do nothing). As d and mu change their signs with
the label, this is the ordinary likelihood of the logit minus the mean vote v: where a wins with probability p the fit is
v + logit p, twice the truth for a vote that is right. The temperature takes the factor back; what remains is that the second
fit learns what the vote has wrong.
Differs from the paper, whose reward models train on the same data in another order and vote on what they were trained on.
Shapes: H heads, M fits, n judgments.
"""

import torch
from torch import Tensor

from online_learner.preference_models.likelihood import Observations

LABEL_MAPS = ("none", "flip", "soften", "margin", "flip_margin", "soften_margin")
FLIPPED_SHARE = 0.2  # of all labels, those of the lowest strength, where the heads do side against them
SMOOTHING = 0.4  # probability that a softened label counts as its opposite


def label_strengths(logits: Tensor, verdict: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over heads, (n,) each, of how far they side with the label; 0 for ties. logits (H, n)."""
    sided = logits * verdict
    return sided.mean(0), sided.std(0)


def mapped_answers(
    kind: str, data: Observations, strength: Tensor, num_fits: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(M, n) indices ``low`` and ``high`` of the answers that ``kind`` of LABEL_MAPS, but "none", makes of the recorded ones.

    flip turns the lowest fifth in every fit; soften turns each label that the heads vote against in a random share of the fits,
    which is label smoothing in the mean over fits.
    """
    against = strength < 0
    if kind == "margin":
        turned = torch.zeros_like(against).expand(num_fits, -1)
    elif kind.startswith("flip"):
        lowest = strength <= strength.quantile(FLIPPED_SHARE)
        turned = (against & lowest).expand(num_fits, -1)
    else:
        turned = against & (torch.rand(num_fits, len(data), generator=generator) < SMOOTHING)
    last = 2 * max(len(data.strengths), 1) + 1  # of the vector of thresholds, which is symmetric
    return torch.where(turned, last - data.high, data.low), torch.where(turned, last - data.low, data.high)


def vote_margins(kind: str, logits: Tensor, verdict: Tensor) -> Tensor | None:
    """(n,): the mean vote, logits (H, n) for the first response, which a fit with margins starts from; 0 for ties."""
    return logits.mean(0) * verdict.abs() if kind.endswith("margin") else None
