"""A rule's roles in one job: which policies of its lineage are the parent, the reference, the one before the parent."""

from online_learner.jobs import Job
from online_learner.responses import momentum_of
from online_learner.update_rule import RoleCoefficients, mix_anchors


def anchor_mixture(job: Job, role_coefficients: RoleCoefficients, *, drop_small: bool, new: bool = False) -> dict[str, float]:
    """Coefficients over policy ids; ``new``: the policy that the job makes has a role too.

    The policy before the parent counts only where the parent's responses were sampled ahead of it: a lineage that takes up
    momentum has not moved yet.
    """
    lineage = job.lineage
    parents = (row for row in job.responses.values() if row["policy_id"] == lineage["parent"])
    return mix_anchors(
        role_coefficients,
        lineage["auxiliary"],
        lineage["parent"],
        lineage["reference"],
        previous_id=lineage.get("previous") if any(momentum_of(row) for row in parents) else None,
        policy_id=lineage["new_policy"] if new else None,
        drop_small=drop_small,
    )
