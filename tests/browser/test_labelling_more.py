"""What a campaign may ask beside a verdict, and what an annotator may do of their own accord, in a real Chromium."""

import re

import pytest

from storage.campaign import Campaign
from storage.records import Message
from tests.browser.axe import assert_accessible
from tests.storage.builders import make_prompt, make_response, make_task

pytestmark = pytest.mark.browser

LOOKS = [("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)]


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


def add_pair(context, name, first, second, *, messages=None, priority=9.0):
    prompt = make_prompt(name)
    if messages:
        from dataclasses import replace

        prompt = replace(prompt, messages=messages)
    context.store.add_prompts([prompt])
    context.store.add_responses([make_response(f"{name}-1", name, text=first), make_response(f"{name}-2", name, text=second)])
    context.store.add_tasks([make_task(f"task-{name}", name, f"{name}-1", f"{name}-2", priority=priority)])


def shown(page):
    page.locator('.page[data-state="pair"]').wait_for()
    return page.locator("#pair").get_attribute("data-lease")


def judged(page, expect, context, press):
    """Press, wait until the next pair is there and all is saved; the judgment."""
    lease = shown(page)
    press()
    expect(page.locator(f'[data-state="pair"] #pair[data-lease="{lease}"]')).to_have_count(0)
    expect(page.locator("#saving")).to_be_empty()
    return context.store.get_judgment(lease)


def test_the_scale_of_seven_by_key_and_mouse(open_page, context, expect):
    context.store.set_campaign(Campaign(ask_strength=True), actor="rosa")
    page = open_page()
    found = [judged(page, expect, context, lambda: page.keyboard.press("2"))]
    found.append(judged(page, expect, context, page.get_by_role("button", name="B slightly").click))
    found.append(judged(page, expect, context, lambda: page.keyboard.press("a")))  # bare: clearly
    assert [(j.verdict, j.strength) for j in found] == [("a", 2), ("b", 1), ("a", 2)]


def test_aspects_tags_and_a_reason_of_some_length_go_with_the_verdict(open_page, context, expect):
    asked = Campaign(aspects=("helpful", "safe"), reason_tags=("too long", "wrong"), min_rationale=12)
    context.store.set_campaign(asked, actor="rosa")
    page = open_page()
    shown(page)
    page.get_by_role("button", name="helpful: A is better").click()
    page.get_by_role("button", name="safe: no difference").click()
    page.get_by_role("button", name="wrong", exact=True).click()
    page.keyboard.press("b")
    expect(page.locator("#toast")).to_contain_text("write 12 more characters")
    assert context.store.count_judgments() == 0
    page.keyboard.type("because of the facts")
    judgment = judged(page, expect, context, lambda: page.keyboard.press("Control+Enter"))  # the verdict waited
    assert (judgment.verdict, judgment.aspects, judgment.reasons) == ("b", {"helpful": 1, "safe": 0}, ("wrong",))
    assert judgment.rationale == "because of the facts"
    assert page.locator("#extras [aria-pressed=true]").count() == 0  # the next pair starts afresh
    tie = judged(page, expect, context, lambda: page.keyboard.press("t"))  # no reason is asked for a tie
    assert (tie.verdict, tie.rationale) == ("tie", None)


def test_the_better_one_is_edited(open_page, context, expect):
    add_pair(context, "edit", "The capital is Lion.", "The capital is Lion.")
    page = open_page()
    shown(page)
    page.keyboard.press("e")
    expect(page.get_by_role("dialog", name="Edit the better response")).to_be_visible()
    page.get_by_role("button", name="Save: A is better").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed")
    page.get_by_role("button", name="B is better").last.click()
    page.get_by_label("How it should read").fill("The capital is Lyon.")
    judgment = judged(page, expect, context, page.get_by_role("button", name="Save: B is better").click)
    assert (judgment.verdict, judgment.edited_text) == ("b", "The capital is Lyon.")


def test_selected_text_is_marked_with_a_note_where_the_writer_wrote_it(open_page, context, expect):
    text = "First a \U0001d4b3. Use **two *nested* words** here, and two words there."
    add_pair(context, "mark", text, text)
    page = open_page()
    shown(page)
    page.keyboard.press("m")
    expect(page.locator("#toast")).to_contain_text("Select some text")
    page.locator("#text-a strong").select_text()
    page.keyboard.press("m")
    expect(page.locator("#toast")).to_contain_text("Marked in A")
    page.get_by_label("Note on the marked text").fill("well put")
    page.keyboard.press("Escape")
    judgment = judged(page, expect, context, lambda: page.keyboard.press("a"))
    [span] = judgment.spans
    assert (span.side, span.note) == ("a", "well put")
    assert text[span.start : span.end] == "two *nested* words"  # characters of the text as written


def test_a_flag_and_a_message_reach_the_researcher(open_page, context, expect):
    page = open_page()
    lease = shown(page)
    page.keyboard.press("f")
    page.get_by_label("What is wrong?").fill("both cite the same hoax, 3 times")  # digits in the field choose nothing
    page.get_by_role("button", name="Personal data").click()
    expect(page.locator("#toast")).to_contain_text("Flagged")
    page.keyboard.press("n")
    page.get_by_label("Your message").fill("Is rudeness an aspect?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("Sent")
    assert shown(page) == lease  # the pair stays open
    flagged, note = (context.store.list_events(kind_prefix=kind)[-1].data for kind in ("pair.flagged", "note.sent"))
    assert (flagged["reason"], flagged["comment"]) == ("personal_data", "both cite the same hoax, 3 times")
    assert (note["text"], note["lease_id"]) == ("Is rudeness an aspect?", lease)


def test_a_past_judgment_is_found_and_corrected(open_page, context, expect):
    page = open_page()
    first = judged(page, expect, context, lambda: page.keyboard.press("a"))
    judged(page, expect, context, lambda: page.keyboard.press("t"))
    page.keyboard.press("h")
    history = page.get_by_role("dialog", name="Your judgments")
    expect(history.locator("#figures")).to_contain_text("2")
    expect(history.locator("summary")).to_have_count(2)
    history.get_by_label("Verdict").select_option("a")
    expect(history.locator("summary")).to_have_count(1)
    history.locator("summary").click()
    history.get_by_role("button", name="B is better").click()
    expect(history.locator("#history-said")).to_contain_text("Corrected: B is better")
    expect(history).to_contain_text("Corrected once")
    [newest] = [j for j in context.store.list_judgments() if j.supersedes == first.id]
    assert newest.verdict == "b" and context.store.count_judgments() == 2
    assert_accessible(page)


def test_long_responses_scroll_together_and_show_what_differs_and_how_they_were_written(open_page, context, expect):
    lines = [f"Line {n} says the same in both." for n in range(80)]
    add_pair(context, "long", "\n\n".join(lines), "\n\n".join([*lines[:5], "Line 5 says *something* else.", *lines[6:]]))
    page = open_page()
    shown(page)
    page.locator("#text-a").evaluate("box => box.scrollTop = 600")
    page.wait_for_timeout(300)
    assert abs(page.locator("#text-b").evaluate("box => box.scrollTop") - 600) < 40
    page.keyboard.press("d")
    marked = page.evaluate(
        "[...CSS.highlights.get('nashloop-differs')].map(r => r.startContainer.data.slice(r.startOffset, r.endOffset))"
    )
    assert sorted(marked) == sorted(["the", "same", "in", "both.", "something", "else."])
    page.keyboard.press("r")
    expect(page.locator("#text-a pre.raw, #text-b pre.raw")).to_have_count(2)
    assert "*something*" in page.locator("#pair").inner_text()
    page.keyboard.press("r")
    assert "*something*" not in page.locator("#pair").inner_text()


def test_a_megabyte_is_readable_to_its_end_and_keeps_nobody_waiting(open_page, context, expect):
    add_pair(context, "huge", "word " * 200_000 + "THE END", "Short.")
    page = open_page()
    shown(page)
    side = "a" if "Short." not in page.locator("#text-a").inner_text() else "b"
    for _ in range(9):  # 200,000 characters are shown at first, and 100,000 more each time
        page.locator(f"#text-{side} .rest").click()
    expect(page.locator(f"#text-{side} .rest")).to_have_count(0)
    assert page.locator(f"#text-{side}").evaluate("box => box.textContent.includes('THE END')")
    judged(page, expect, context, lambda: page.keyboard.press("b"))


def test_a_conversation_is_shown_as_one_with_its_last_turn_in_view(open_page, context, expect):
    turns = [Message(role="user" if k % 2 == 0 else "assistant", content=f"Turn {k}: " + "words " * 40) for k in range(7)]
    add_pair(context, "chat", "Yes.", "No.", messages=tuple(turns))
    page = open_page()
    shown(page)
    expect(page.locator("#text-prompt .turn")).to_have_count(7)
    expect(page.locator("#text-prompt .turn").last).to_be_in_viewport()


def test_twenty_labels_with_the_keyboard_alone_undo_included(open_page, context, expect):
    for n in range(20):
        add_pair(context, f"k{n:02d}", f"One {n}.", f"Two {n}.")
    page = open_page()
    for n in range(20):
        lease = shown(page)
        page.keyboard.press("abtx"[n % 4])
        expect(page.locator(f'[data-state="pair"] #pair[data-lease="{lease}"]')).to_have_count(0)
        if n % 7 == 6:
            ahead = shown(page)
            page.keyboard.press("u")
            expect(page.locator("#pair")).not_to_have_attribute("data-lease", ahead)
            page.keyboard.press("t")
    expect(page.locator("#saving")).to_be_empty()
    expect(page.locator("#stats")).to_contain_text("20 today")
    assert context.store.count_judgments() == 20


def test_six_tabs_of_one_browser_all_stay_alive(open_page, context, expect):
    for n in range(20):
        add_pair(context, f"t{n:02d}", f"One {n}.", f"Two {n}.")
    first = open_page()
    tabs = [first]
    for _ in range(5):
        tab = first.context.new_page()
        tab.goto(open_page.url + "/")
        tabs.append(tab)
    for tab in tabs:
        lease = shown(tab)
        tab.keyboard.press("a")
        expect(tab.locator(f'[data-state="pair"] #pair[data-lease="{lease}"]')).to_have_count(0)
        expect(tab.locator("#saving")).to_be_empty()
    assert context.store.count_judgments() >= 1  # tabs of one person hold the same pairs: the first answer stands
    assert all(tab.locator("#stats").is_visible() for tab in tabs)


def test_the_page_speaks_other_languages(open_page, context, expect):
    page = open_page()
    shown(page)
    context.store.set_campaign(Campaign(language="de"), actor="rosa")
    page.reload()
    shown(page)
    expect(page.get_by_role("button", name="A ist besser")).to_be_visible()
    expect(page.locator("#guidelines-text")).to_contain_text("Worauf")
    page.locator("#language").select_option("es")
    expect(page.get_by_role("button", name=re.compile("A es mejor"))).to_be_visible()
    assert page.locator("#island-host").get_attribute("lang") == "es"


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_every_state_is_accessible(open_page, context, expect, theme, width):
    asked = Campaign(aspects=("helpful", "safe"), reason_tags=("too long", "wrong"), min_rationale=5, ask_strength=width > 1000)
    context.store.set_campaign(asked, actor="rosa")
    add_pair(
        context,
        "rich",
        "See `code`:\n\n```python\nprint('a rather long line of code that will not fit on a phone')\n```",
        "$x^2$ *b*",
    )
    page = open_page(color_scheme=theme, viewport={"width": width, "height": 844})
    shown(page)
    page.wait_for_timeout(400)  # the fade-in
    assert_accessible(page)
    for key, name in (("?", "Keyboard"), ("s", "Why skip"), ("f", "Flag"), ("n", "Write to"), ("e", "Edit")):
        page.keyboard.press(key)
        expect(page.get_by_role("dialog", name=name)).to_be_visible()
        assert_accessible(page)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    if not page.locator("#guidelines").is_visible():
        page.keyboard.press("g")
    assert_accessible(page)
    page.keyboard.press("g")
    for _ in range(4):
        judged(page, expect, context, lambda: page.keyboard.press("x"))
    expect(page.get_by_text("All caught up")).to_be_visible()
    assert_accessible(page)


def add_training(context, num):
    """Gold pairs of which the first response is right."""
    store = context.store
    for n in range(num):
        name = f"gold{n}"
        store.add_prompts([make_prompt(name)])
        store.add_responses([make_response(f"{name}-1", name, text="Right."), make_response(f"{name}-2", name, text="Wrong.")])
        store.add_tasks([make_task(f"task-{name}", name, f"{name}-1", f"{name}-2", purpose="gold", wanted=1000)])
        answer = {"verdict": "a", "explanation": f"Because of {n}."}
        store.append_event(actor="rosa", kind="task.answer", subject=f"task-{name}", data=answer)


def test_a_training_round_is_failed_and_then_passed_before_real_pairs(open_page, context, expect):
    add_training(context, 4)
    context.store.set_campaign(Campaign(pass_mark=1.0, num_training=2), actor="rosa")
    page = open_page()
    expect(page.get_by_role("dialog", name="First a short training")).to_contain_text("2 pairs")
    page.keyboard.press("Enter")
    for n, right in enumerate([True, False, True, True]):
        shown(page)
        expect(page.locator("#training")).to_contain_text(f"pair {n % 2 + 1} of 2")
        good_side = "a" if "Right." in page.locator("#text-a").inner_text() else "b"
        page.keyboard.press(good_side if right else "t")
        told = page.get_by_role("dialog", name="That is right" if right else "Not quite")
        expect(told).to_contain_text("Because of")
        assert "Right." in page.locator(f"#text-{good_side}").inner_text()  # the pair it is about is still there
        if not right:
            expect(told).to_contain_text(f"Expected: {good_side.upper()} is better")
        page.wait_for_timeout(300)  # the next pair fades in behind
        assert_accessible(page)
        page.keyboard.press("Enter")
        if n % 2:
            expect(page.get_by_role("dialog", name="Once more" if n == 1 else "Training passed")).to_be_visible()
            page.keyboard.press("Enter")
    expect(page.locator("#text-prompt")).to_contain_text("Question q")  # a real pair
    expect(page.locator("#training")).to_be_hidden()
    judged(page, expect, context, lambda: page.keyboard.press("a"))
    expect(page.locator("#stats")).to_contain_text("1 today")


def add_ranking(context, name, num, priority=9.0):
    store = context.store
    store.add_prompts([make_prompt(name)])
    store.add_responses([make_response(f"{name}-{k}", name, text=f"Answer number {k}.") for k in range(1, num + 1)])
    more = tuple(f"{name}-{k}" for k in range(3, num + 1))
    store.add_tasks([make_task(f"task-{name}", name, f"{name}-1", f"{name}-2", more_response_ids=more, priority=priority)])


def texts_ranked(context, judgment):
    texts = {response.id: response.text for response in context.store.list_responses()}
    return [sorted(texts[response] for response in group) for group in judgment.ranking]


def test_four_responses_are_ranked_by_keys_with_a_tie_and_undone(open_page, context, expect):
    add_ranking(context, "many", 4)
    page = open_page()
    shown(page)
    text_of = {letter: page.locator(f"#ranked [data-letter={letter}] .text").inner_text() for letter in "abcd"}
    for key in ("c", "a", "=", "d", "b", "Backspace", "b"):
        page.keyboard.press(key)
    expect(page.locator("#announce")).to_have_text("C = A > D > B")
    judgment = judged(page, expect, context, lambda: page.keyboard.press("Enter"))
    assert texts_ranked(context, judgment) == [sorted([text_of["c"], text_of["a"]]), [text_of["d"]], [text_of["b"]]]
    page.keyboard.press("u")
    expect(page.locator("#rank-order .letter")).to_have_count(4)
    again = judged(page, expect, context, lambda: page.keyboard.press("Enter"))
    assert again.supersedes == judgment.id and again.ranking == judgment.ranking


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390), ("light", 320)])
def test_responses_are_ranked_by_dragging_and_the_page_stays_accessible(open_page, context, expect, theme, width):
    add_ranking(context, "drag", 3)
    page = open_page(color_scheme=theme, viewport={"width": width, "height": 844})
    shown(page)
    page.wait_for_timeout(300)
    assert_accessible(page)
    for letter in "abc":
        page.locator(f"#ranked [data-letter={letter}] .rank-place").click()
    chips = page.locator("#rank-order .drag")
    last, first = chips.nth(2).bounding_box(), chips.nth(0).bounding_box()
    page.mouse.move(last["x"] + 10, last["y"] + 10)
    page.mouse.down()
    page.mouse.move(first["x"] + 2, first["y"] + 10, steps=5)
    page.mouse.up()
    expect(page.locator("#announce")).to_have_text("C > A > B")
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text_of = {letter: page.locator(f"#ranked [data-letter={letter}] .text").inner_text() for letter in "abc"}
    judgment = judged(page, expect, context, page.get_by_role("button", name="Submit the order").click)
    assert texts_ranked(context, judgment) == [[text_of["c"]], [text_of["a"]], [text_of["b"]]]
