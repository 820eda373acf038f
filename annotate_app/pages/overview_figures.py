"""The numbers of the console's overview, read from the store in three queries, and what follows from them. No HTML here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from annotate_app.context import AppContext
from annotate_app.progress import JobProgress
from annotate_app.trust_estimates import share
from storage.campaign import Campaign
from storage.records import Policy, Round

HOURS_SHOWN = 24
PRESENT_FOR = timedelta(minutes=5)  # after a judgment or a new pair somebody counts as here
MIN_JUDGMENTS = 20  # of a round, by its defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One annotator's work; times in seconds."""

    name: str
    is_here: bool
    judgments: int
    last_hour: int
    skips: int
    median_seconds: float | None
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything the overview shows. Judgments are those made here, not imported ones; gold pairs are not counted."""

    campaign: Campaign
    serving: Policy | None
    prompts: int
    judgments: int
    imported: int
    last_hour: int
    verdicts: Mapping[str, int]
    median_seconds: float | None
    per_hour: Sequence[int]  # the last 24 hours, oldest first
    pairs_open: int
    judgments_wanted: int
    agreement: Mapping[str, float] | None  # share of pairs of people who say the same, and its interval; n is the pairs judged
    people: Sequence[Person]
    job: JobProgress | None  # what runs or stopped, else the newest round, else the newest job
    rounds_done: int
    since_last_round: int

    @property
    def first_shown_wins(self) -> dict[str, float] | None:
        """Share of decided verdicts for the response shown first, with its interval."""
        decided = self.verdicts.get("a", 0) + self.verdicts.get("b", 0)
        return share(self.verdicts.get("a", 0), decided)

    @property
    def hours_left(self) -> float | None:
        """Hours until the queue is empty at the pace of the last hour; None without one."""
        return self.judgments_wanted / self.last_hour if self.last_hour and self.judgments_wanted else None

    @property
    def cost(self) -> float | None:
        """What the judgments cost so far, in the campaign's currency; None where no price is set."""
        price = self.campaign.price_per_label
        return None if price is None else price * self.judgments

    @property
    def budget_left(self) -> int | None:
        """Labels that may still be made; None where no budget is set."""
        budget = self.campaign.budget_labels
        return None if budget is None else max(0, budget - self.judgments)


def read_figures(context: AppContext, now: datetime) -> Figures:
    """The figures as of ``now``."""
    store = context.store
    rounds = store.list_rounds()
    done = [r for r in rounds if r.kind == "round" and r.status == "done"]
    times = {"now": now, "hour_ago": now - timedelta(hours=1), "day_ago": now - timedelta(hours=HOURS_SHOWN)}
    times["last_round"] = done[0].created_at if done else datetime.fromtimestamp(0, UTC)
    rows = store.query(_WORK, times).to_pylist()
    total = next(row for row in rows if row["annotator_id"] is None)
    [queue] = store.query(_QUEUE).to_pylist()
    return Figures(
        campaign=store.campaign(),
        serving=store.serving_policy(),
        prompts=queue["prompts"],
        judgments=total["judgments"],
        imported=queue["imported"],
        last_hour=total["last_hour"],
        verdicts={name: total[name] for name in ("a", "b", "tie", "both_bad", "skip")},
        median_seconds=total["median_seconds"],
        per_hour=_by_hour(total["hours"]),
        pairs_open=queue["pairs_open"],
        judgments_wanted=int(queue["wanted"] or 0),
        agreement=_agreement(store.query(_AGREEMENT).to_pylist()[0]),
        people=_people(context, rows, now),
        job=_job(context, rounds),
        rounds_done=len(done),
        since_last_round=total["since_last_round"],
    )


def next_step(figures: Figures) -> str:
    """What a researcher does next, in one sentence."""
    job = figures.job
    if job is not None and job.status == "running":
        if job.kind == "generate" and not figures.judgments:
            return "The first responses are being sampled; labelling can start in a moment."
        return "Labelling goes on while it runs. Its report appears under Reports."
    if job is not None and job.status in ("failed", "interrupted", "cancelled") and job.fraction < 1:
        return "The newest job stopped. The tab Round says why; resume it there."
    if figures.budget_left == 0:
        spent = f"The budget of {figures.campaign.budget_labels:,} labels is spent, so no new pairs are handed out."
        return f"{spent} Start a round in the tab Round, or raise the budget under Campaign."
    if not figures.prompts:
        return "Import prompts in the tab Data: a file with one prompt in each line is enough."
    if not figures.pairs_open:
        return "No pair waits. Promote a policy, make more responses in the tab Round, or import prompts in Data."
    if not figures.judgments:
        return "Pairs wait to be judged. Invite annotators in the tab People, or label some yourself under Label pairs."
    if figures.rounds_done and figures.since_last_round < MIN_JUDGMENTS:
        return f"Label the new responses: {figures.since_last_round:,} judgments since the last round."
    if figures.since_last_round < MIN_JUDGMENTS:
        missing = MIN_JUDGMENTS - figures.since_last_round
        return f"Keep labelling: {missing} more judgment{'' if missing == 1 else 's'} and a round has enough to learn from."
    return f"{figures.since_last_round:,} new judgments: enough for a round. Start it in the tab Round."


def _job(context: AppContext, rounds: Sequence[Round]) -> JobProgress | None:
    if not rounds:
        return None
    if rounds[0].status != "done":
        return context.rounds.progress(rounds[0].number)
    last_round = next((r for r in rounds if r.kind == "round"), rounds[0])
    job, serving = context.rounds.progress(last_round.number), context.store.serving_policy()
    if serving is not None and serving.id == last_round.new_policy_id:  # promoted since: its message says what was then
        return replace(job, message=f"Its policy {serving.number} serves.")
    return job


def _by_hour(hours: Sequence[int] | None) -> list[int]:
    """Counts of the last 24 hours from the age of each judgment in whole hours."""
    counts = [0] * HOURS_SHOWN
    for age in hours or []:
        if 0 <= age < HOURS_SHOWN:
            counts[HOURS_SHOWN - 1 - age] += 1
    return counts


def _agreement(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Pairs of people within one task depend on each other, so the interval counts tasks."""
    return None if not row["pairs"] else share(row["agreeing"] * row["pairs"], row["pairs"])


def _people(context: AppContext, rows: Sequence[Mapping[str, Any]], now: datetime) -> list[Person]:
    names: dict[str, str] = {
        a.id: a.handle if a.kind == "human" else f"{a.handle} ({a.kind})" for a in context.store.list_annotators()
    }
    people = [
        Person(
            name=names[row["annotator_id"]],
            is_here=now - max(filter(None, (row["last_at"], row["leased_at"]))) < PRESENT_FOR,
            judgments=row["judgments"],
            last_hour=row["last_hour"],
            skips=row["skip"],
            median_seconds=row["median_seconds"],
            last_at=row["last_at"],
        )
        for row in rows
        if row["annotator_id"] is not None
    ]
    people = [person for person in people if person.is_here or person.last_at]
    return sorted(people, key=lambda person: (not person.is_here, -person.judgments, person.name))


# One row for each annotator who was handed a pair, and one of all with annotator_id NULL. Sides and times of imported
# judgments are not ours.
_WORK = """
    WITH ours AS (
        SELECT standing.annotator_id, verdict, submitted_at, shown_at, NULL AS issued_at FROM standing
        SEMI JOIN (SELECT id FROM annotators WHERE kind <> 'imported') AS here ON here.id = standing.annotator_id
        SEMI JOIN (SELECT id FROM tasks WHERE purpose <> 'gold') AS real ON real.id = standing.task_id),
    handed AS (SELECT annotator_id, NULL, NULL, NULL, max(issued_at) FROM leases GROUP BY annotator_id),
    every AS (SELECT * FROM ours UNION ALL SELECT * FROM handed)
    SELECT annotator_id,
           count(*) FILTER (verdict <> 'skip') AS judgments,
           count(*) FILTER (verdict = 'a') AS a, count(*) FILTER (verdict = 'b') AS b, count(*) FILTER (verdict = 'tie') AS tie,
           count(*) FILTER (verdict = 'both_bad') AS both_bad, count(*) FILTER (verdict = 'skip') AS skip,
           count(*) FILTER (verdict <> 'skip' AND submitted_at > $hour_ago) AS last_hour,
           count(*) FILTER (verdict <> 'skip' AND submitted_at > $last_round) AS since_last_round,
           median(epoch(submitted_at) - epoch(shown_at)) AS median_seconds,
           list(CAST(floor((epoch($now) - epoch(submitted_at)) / 3600) AS INTEGER))
               FILTER (verdict <> 'skip' AND submitted_at > $day_ago) AS hours,
           max(submitted_at) AS last_at, max(issued_at) AS leased_at
    FROM every GROUP BY GROUPING SETS ((annotator_id), ())
"""
_QUEUE = """
    SELECT (SELECT count(*) FROM prompts) AS prompts,
           (SELECT count(*) FROM standing JOIN annotators ON annotators.id = annotator_id AND kind = 'imported') AS imported,
           count(*) AS pairs_open, sum(wanted - num_made) AS wanted
    FROM task_status WHERE NOT closed AND num_made < wanted AND purpose <> 'gold'
"""
# A verdict is compared as the response it favours, because each person sees the sides in their own order.
_AGREEMENT = """
    WITH said AS (
        SELECT concat_ws(' ', task_id, least(response_a_id, response_b_id), greatest(response_a_id, response_b_id)) AS pair,
               annotator_id,
               CASE verdict WHEN 'a' THEN response_a_id WHEN 'b' THEN response_b_id ELSE verdict END AS answer
        FROM judged_pairs WHERE verdict <> 'skip')
    SELECT count(DISTINCT x.pair) AS pairs, avg(CAST(x.answer = y.answer AS INTEGER)) AS agreeing
    FROM said x JOIN said y ON x.pair = y.pair AND x.annotator_id < y.annotator_id
"""
