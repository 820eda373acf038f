"""The page on which a researcher sets a campaign up: prompts, what annotators are asked, training, money, the round's rule. Pure.

static/campaign.js sends the form to PUT /api/v1/campaign and files to the import routes; without it nothing is sent.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from annotate_app.pages.browse_html import page
from annotate_app.pair_selection import MIX, SELECTIONS
from annotate_app.render import render_markdown, show_controls
from storage.campaign import MAX_RESPONSES, Campaign

LANGUAGES = (("", "the annotator's browser decides"), ("en", "English"), ("de", "Deutsch"), ("es", "Español"))
GATES = (
    ("model", "the preference model expects it to win"),
    ("human", "people prefer it in blind comparisons"),
    ("manual", "a researcher says so"),
)
SETTINGS = ("step_size", "kl_coef", "beta", "momentum", "flip_rate", "margin_coef", "extra_coef", "main_weight")


def campaign_page(
    campaign: Campaign,
    *,
    prompts: Mapping[str, int],
    training_pairs: int,
    rules: Sequence[Mapping[str, Any]],
    settings_words: Mapping[str, str],
) -> str:
    """prompts: number by split. rules: as the learner lists them. settings_words: what each setting of a rule means."""
    body = (
        "<p>What is set here counts from the next pair on. Everything may stay as it is: then one key is one decision.</p>"
        f"{_prompts(prompts, training_pairs)}"
        '<form id="campaign" class="setup">'
        f"{_asked(campaign)}{_training(campaign, training_pairs)}{_work(campaign)}{_promotion(campaign)}"
        f"{_round(campaign, rules, settings_words)}"
        '<div class="act save"><button>Save the campaign</button><p id="saved" role="status"></p></div></form>'
        '<script type="module" src="/ui/campaign.js"></script>'
    )
    return page("Campaign", body, "/console/campaign")


def _prompts(prompts: Mapping[str, int], training_pairs: int) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in prompts.items()) or "none yet"
    what = '<option value="prompts">prompts</option><option value="training">training pairs</option>'
    bad = '<option value="false">refuse the file</option><option value="true">leave them out</option>'
    return (
        f'<section id="prompts"><h2>Prompts and training pairs</h2><p>There are {counts}; {training_pairs:,} training pairs. '
        "Prompts of the split train are asked and labelled, those of heldout measure a policy. A column or key "
        "<code>split</code> says which; without it every fourth is held out.</p>"
        '<form id="upload" class="filters">'
        '<label class="wide">File<input type="file" name="file" accept=".jsonl,.json,.csv,.txt,.parquet"></label>'
        f'<label>holds<select name="what">{what}</select></label><label>bad rows<select name="skip">{bad}</select></label>'
        '<div class="act"><button>Import</button></div></form><p id="uploaded" role="status"></p>'
        '<pre id="preview" tabindex="0" role="group" aria-label="Beginning of the file" hidden></pre></section>'
    )


def _asked(campaign: Campaign) -> str:
    fields = [
        _area("aspects", "Aspects, one on each line", "\n".join(campaign.aspects), "Each gets a row: A, same, B."),
        _area("reason_tags", "Reason tags, one on each line", "\n".join(campaign.reason_tags), "Chips that go with a verdict."),
        _number("min_rationale", "Shortest reason, characters", campaign.min_rationale, "0: a reason is optional.", least=0),
        _tick(
            "ask_strength",
            "Ask on a scale of seven",
            campaign.ask_strength,
            "A much … tie … B much; otherwise strength is optional.",
        ),
        _tick(
            "allow_edits",
            "Let annotators edit the better response",
            campaign.allow_edits,
            "Edits are exported as demonstrations.",
        ),
        _choice("language", "Language of the page", LANGUAGES, campaign.language or ""),
    ]
    guidelines = _area(
        "guidelines", "Guidelines, Markdown", campaign.guidelines or "", "Empty: guidelines.md of the data directory, else ours."
    )
    shown = f"<details><summary>As annotators see them</summary>{render_markdown(campaign.guidelines or '')}</details>"
    return f'<section><h2>What annotators are asked</h2><div class="grid">{"".join(fields)}</div>{guidelines}{shown}</section>'


def _training(campaign: Campaign, training_pairs: int) -> str:
    mark = "" if campaign.pass_mark is None else f"{campaign.pass_mark:g}"
    fields = [
        _number(
            "num_training", "Training pairs before real work", campaign.num_training, f"There are {training_pairs}.", least=0
        ),
        _input("pass_mark", "Share that must be right", mark, "Such as 0.8; empty: no training round."),
    ]
    return f'<section><h2>Training round</h2><div class="grid">{"".join(fields)}</div></section>'


def _work(campaign: Campaign) -> str:
    fields = [
        _number("overlap", "Judgments per pair", campaign.overlap, "By different people; 2 or more measure agreement.", least=1),
        _number("overlap_max", "Where people disagree", campaign.overlap_max, "Ask up to so many. Empty: nobody more.", least=3),
        _input("check_share", "Share of silent checks", campaign.check_share, "0.05: every twentieth; unanimous pairs."),
        _number(
            "responses_per_prompt", "Responses judged at once", campaign.responses_per_prompt,
            f"2: pairs; 3 to {MAX_RESPONSES}: rankings.", least=2,
        ),
        _number("break_minutes", "Remind of a break after, minutes", campaign.break_minutes, "Empty: never.", least=1),
        _input("price_per_label", "Price of a judgment", campaign.price_per_label, "Empty: no cost is shown."),
        _input("currency", "Currency", campaign.currency, ""),
        _number("budget_labels", "Budget, judgments", campaign.budget_labels, "Reached: no new pairs are handed out.", least=0),
    ]  # fmt: skip
    pairs = list(SELECTIONS.items())
    fields.insert(2, _choice("selection", "Which pairs to label next", pairs, campaign.round.get("selection", MIX)))
    return f'<section><h2>Work and money</h2><div class="grid">{"".join(fields)}</div></section>'


def _promotion(campaign: Campaign) -> str:
    fields = [
        _choice("gate", "A new policy serves when", GATES, campaign.gate),
        _input(
            "gate_share", "Share of pairs that compare policies", campaign.gate_share,
            "0.2: every fifth pair is of a new policy and the serving one, unmarked. 0: none.",
        ),
        _input("gate_threshold", "Win rate to pass", campaign.gate_threshold, "Its lower bound has to; 0.5 is even."),
        _number("gate_votes", "Most votes of a comparison", campaign.gate_votes, "At .60 half are decided by 126.", least=20),
        _tick("gate_trains", "These votes teach the model too", campaign.gate_trains, "It then has seen what it is judged by."),
    ]  # fmt: skip
    starts = [
        _input("round_every_labels", "A round after new labels", campaign.round_every_labels, "Decided ones. Empty: not so."),
        _input("round_every_hours", "A round every so many hours", campaign.round_every_hours, "If there are new labels."),
        _input(
            "round_below_bits", "A round when pairs tell less than, bits", campaign.round_below_bits,
            "Such as 0.01: the preference model then hardly disagrees with itself about the waiting pairs.",
        ),
        _input(
            "refit_every_labels", "Choose pairs anew after new labels", campaign.refit_every_labels,
            "The model that chooses them is fitted in between. Empty: with rounds only.",
        ),
    ]  # fmt: skip
    return (
        f'<section><h2>Which policy serves</h2><div class="grid">{"".join(fields)}</div></section>'
        "<section><h2>Rounds that begin by themselves</h2><p class='small'>All empty: rounds are started by hand.</p>"
        f'<div class="grid">{"".join(starts)}</div></section>'
    )


def _round(campaign: Campaign, rules: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    update = campaign.round.get("update", {})
    chosen = update.get("rule", "onpo_ref")
    rule = _choice("rule", "Update rule", [(r["name"], r["name"]) for r in rules], chosen)
    reads = {r["name"]: " ".join(r["settings"]) for r in rules}
    fields = "".join(
        _input(name, name, update.get(name, "auto"), words.get(name, ""), data="setting")
        for name in SETTINGS
        if any(name in r["settings"] for r in rules)
    )
    about = "".join(
        f'<div data-rule="{escape(r["name"])}" data-reads="{escape(reads[r["name"]])}"{"" if r["name"] == chosen else " hidden"}>'
        f"<p>{_text(r['summary'])} <span class='small'>{_text(r['source'])}</span></p>{_needs(r)}</div>"
        for r in rules
    )
    return (
        f'<section><h2>What a round does</h2><div class="grid">{rule}</div>{about}<div class="grid" id="settings">{fields}</div>'
        "<p class='small'>auto is picked from the data and said in the report.</p></section>"
    )


def _needs(rule: Mapping[str, Any]) -> str:
    needs = "; ".join(rule.get("needs", {}).values())
    return f"<p class='small'>It needs {_text(needs)}.</p>" if needs else ""


def _area(name: str, label: str, value: str, hint: str) -> str:
    return f'<label>{label}<textarea name="{name}" rows="4">{_text(value)}</textarea>{_hint(hint)}</label>'


def _number(name: str, label: str, value: int | None, hint: str, *, least: int) -> str:
    shown = "" if value is None else str(value)
    return f'<label>{label}<input type="number" name="{name}" min="{least}" step="1" value="{shown}">{_hint(hint)}</label>'


def _input(name: str, label: str, value: Any, hint: str, *, data: str = "") -> str:
    shown = "" if value is None else f"{value}"
    kind = f" data-{data}" if data else ""
    return f'<label{kind}>{_text(label)}<input name="{name}" value="{escape(shown)}" maxlength="40">{_hint(hint)}</label>'


def _tick(name: str, label: str, value: bool, hint: str) -> str:
    ticked = " checked" if value else ""
    return f'<label class="tick"><input type="checkbox" name="{name}"{ticked}><span>{label}{_hint(hint)}</span></label>'


def _choice(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{_text(word)}</option>'
        for value, word in options
    )
    return f'<label>{label}<select name="{name}">{listed}</select></label>'


def _hint(hint: str) -> str:
    return f'<small class="hint">{_text(hint)}</small>' if hint else ""


def _text(text: Any) -> str:
    return escape(show_controls(str(text)))
