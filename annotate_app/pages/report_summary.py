"""The head of a round's report: did it help, is it safe to promote, what to do next. Pure; a colleague reads only this."""

import math
from collections.abc import Mapping
from typing import Any

from annotate_app.gate import HumanGate
from annotate_app.pages.console_text import interval
from annotate_app.pages.report_facts import ReportFacts
from annotate_app.pages.report_parts import Answer, Tone
from storage.contract.settings import EvaluationSettings

WEAK_ACCURACY = 0.55  # a preference model that is right less often says little about any policy
TOO_MUCH = 1.1  # of the reachable step, as in the report's own sentences


def summarise(facts: ReportFacts) -> list[Answer]:
    """Three answers for a round, four where people compare its policy; one for a job that makes no policy."""
    if facts.kind != "round":
        return [_without_policy(facts)]
    voted = [_preferred(facts.gate)] if facts.gate else []
    return [_helped(facts), *voted, _safe(facts), _next(facts)]


def weak_model(report: Mapping[str, Any]) -> str | None:
    """Why the selected preference model can hardly be believed; None where it can, or was not measured."""
    preference = report.get("preference", {})
    scores = preference.get("models", {}).get(preference.get("selected"), {})
    accuracy, loss = scores.get("accuracy"), scores.get("log_loss")
    if accuracy is not None and accuracy < WEAK_ACCURACY:
        return f"the preference model is right in only {accuracy:.0%} of unseen judgments, and coin tosses in 50 %"
    if loss is not None and loss >= math.log(2):
        return (
            f"the preference model's log loss on unseen judgments is {loss:.2f}, no better than coin tosses ({math.log(2):.2f})"
        )
    return None


def _without_policy(facts: ReportFacts) -> Answer:
    evaluation = facts.report.get("evaluation", {})
    why = {
        "fit": "Preference models were fitted on the judgments so far; no policy was made.",
        "generate": f"{facts.parent} answered the training prompts; the responses wait in the queue.",
        "evaluate": f"{facts.parent} answered the held-out prompts.",
    }.get(facts.kind, "")
    kl = evaluation.get("kl_to_base_nats")
    if kl:
        why += f" It is {interval(kl, percent=False)} nats away from the base policy."
    return Answer(question="What was done?", short=f"{facts.kind.capitalize()} finished.", why=_capital(why), tone="open")


def _helped(facts: ReportFacts) -> Answer:
    question = "Did it help?"
    evaluation = facts.report.get("evaluation", {})
    rate = evaluation.get("win_rate_vs_parent")
    if not rate:
        return Answer(question=question, short="Not measured.", why="The report has no win rate against the parent.", tone="open")
    on = f" on {evaluation['num_prompts']} held-out prompts" if evaluation.get("num_prompts") else ""
    figures = f"the preference model expects it to win {interval(rate)} of comparisons with {facts.parent}, its parent,{on}"
    if rate["low"] is None:
        return Answer(
            question=question, short="Cannot be told.", why=f"{_capital(figures)}: one prompt has no interval.", tone="open"
        )
    if rate["high"] < 0.5:
        return Answer(question=question, short="No, it is worse.", why=f"{_capital(figures)}.", tone="bad")
    if rate["low"] <= 0.5:
        why = f"{_capital(figures)}. The interval holds 50 %, so it may be no better."
        return Answer(question=question, short="Not shown.", why=why, tone="open")
    return Answer(question=question, short="Yes.", why=f"{_capital(figures)}.{_if_only_length(evaluation)}", tone="good")


def _if_only_length(evaluation: Mapping[str, Any]) -> str:
    controlled = evaluation.get("length_controlled_vs_parent")
    if not _is_better(evaluation) or not controlled or controlled.get("low") is None or controlled["low"] > 0.5:
        return ""
    return f" At equal length that is {interval(controlled)}: the gain may be nothing but length."


def _preferred(gate: HumanGate) -> Answer:
    question = "Do people prefer it?"
    if gate.action == "hold":
        return Answer(question=question, short="Not decided.", why=gate.sentence, tone="open")
    won = gate.action == "promote"
    return Answer(question=question, short="Yes." if won else "No.", why=gate.sentence, tone="good" if won else "bad")


def _safe(facts: ReportFacts) -> Answer:
    question, report = "Is it safe to promote?", facts.report
    evaluation = report.get("evaluation", {})
    if report.get("status") == "failed":
        reasons = " ".join(report.get("reasons", [])) or "The report gives no reason."
        return Answer(question=question, short="No, a limit was left.", why=reasons, tone="bad")
    if _is_worse(evaluation):
        return Answer(question=question, short="No.", why="It loses to the policy that it came from.", tone="bad")
    doubts = _doubts(report)
    if doubts:
        return Answer(question=question, short="With care.", why=f"Its limits hold, but {'; '.join(doubts)}.", tone="open")
    stronger = "what people prefer" if facts.gate else "a blind comparison by people"
    why = f"{_limits_kept(facts)} This is the preference model's view: {stronger} is the stronger evidence."
    return Answer(question=question, short="Yes, its limits hold.", why=why, tone="good")


def _is_worse(evaluation: Mapping[str, Any]) -> bool:
    high = (evaluation.get("win_rate_vs_parent") or {}).get("high")
    return high is not None and high < 0.5


def _is_better(evaluation: Mapping[str, Any]) -> bool:
    low = (evaluation.get("win_rate_vs_parent") or {}).get("low")
    return low is not None and low > 0.5


def _doubts(report: Mapping[str, Any]) -> list[str]:
    found = [weak_model(report)]
    if (report.get("update", {}).get("achieved_fraction") or 0) > TOO_MUCH:
        found.append("the fit went further than the step that was asked for, so it may be over-fitted")
    if (report.get("update", {}).get("heldout_r2") or 0) < 0:
        found.append("on prompts it never saw the fit is worse than not moving at all")
    if _if_only_length(report.get("evaluation", {})):
        found.append("at equal length its gain is not shown")
    return [doubt for doubt in found if doubt]


def _limits_kept(facts: ReportFacts) -> str:
    evaluation = facts.report.get("evaluation", {})
    limits = EvaluationSettings.model_validate(facts.settings.get("evaluation", {}))
    said = []
    kl, quality = evaluation.get("kl_to_parent_nats"), evaluation.get("text_quality")
    if kl:
        said.append(f"it moved {kl['mean']:.2f} nats from its parent (limit {limits.max_kl_to_parent_nats:g})")
    if quality is not None:
        said.append(f"{quality:.0%} of its responses are whole, known sentences (limit {limits.min_text_quality:.0%})")
    return _capital(" and ".join(said)) + "." if said else ""


def _next(facts: ReportFacts) -> Answer:
    short, why, tone = _what_next(facts)
    return Answer(question="What next?", short=short, why=why, tone=tone)


def _what_next(facts: ReportFacts) -> tuple[str, str, Tone]:
    report = facts.report
    weak = weak_model(report)
    if report.get("status") == "failed":
        return "Change the settings.", "Leave this policy unpromoted, do what the line above says and run the round again.", "bad"
    if weak:
        return "Collect more judgments.", f"{_capital(weak)}. Label more pairs before the next round.", "open"
    if facts.people_vote and facts.gate and facts.gate.action == "hold" and facts.made_status == "candidate":
        return "Wait for people's votes.", "They compare its responses with the serving policy's, among other pairs.", "open"
    if facts.gate and facts.gate.action == "promote" and facts.made_status == "candidate":
        return "Promote it.", "People prefer it. Its responses are the next pairs to label.", "good"
    if facts.gate and facts.gate.action == "reject":
        return (
            "Keep the parent.",
            "People prefer that one. Lower the step size or label more pairs, and run it again.",
            "bad",
        )
    if _is_worse(report.get("evaluation", {})):
        return "Keep the parent.", "Lower the step size or the learning rate, or label more pairs, and run it again.", "bad"
    if facts.made_status == "serving":
        return "Label its responses.", "It serves already; its responses are in the queue. Then run the next round.", "good"
    if facts.made_status == "retired":
        return "Nothing.", "Another policy serves by now. Under Policies this one can be promoted again.", "open"
    if _is_better(report.get("evaluation", {})):
        return "Promote it.", "Under Policies; its responses are the next pairs to label. Rolling back is one click.", "good"
    return "Label more pairs.", "Near ties tell most. Then run the round again, or let people compare the two policies.", "open"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
