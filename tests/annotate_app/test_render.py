"""Hostile text becomes text: whatever a model writes, only the allow-list is left."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate_app.formulas import ATTRIBUTES as OF_FORMULAS
from annotate_app.formulas import ELEMENTS
from annotate_app.render import MARKDOWN_LIMIT, SHOWN_LIMIT, TAGS, is_cut, render_markdown, render_prompt
from storage.records import Message

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=http://evil.example/a.png onerror=alert(1)>",
    "![tracked](http://evil.example/a.png)",
    "![tracked][1]\n\n[1]: http://evil.example/a.png",
    "<div style='position:fixed;inset:0'>cover</div>",
    "<b id=va class=button>fake</b>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:x)",
    '<a href="http://x" onclick="alert(1)" id="va">x</a>',
    "<iframe src=http://evil.example></iframe><form action=http://evil.example><input type=password></form>",
    "<style>*{display:none}</style><link rel=stylesheet href=http://evil.example><base href=http://evil.example>",
    "<svg><script>alert(1)</script></svg><math><mi xlink:href='javascript:1'>x</mi></math>",
    '```" onmouseover="alert(1)\ncode\n```',
    "<video poster=http://evil.example/a.png></video>",
    '<http://ok.example/"onclick=alert(1)>',
    r"$\text{<script>alert(1)</script><img src=x onerror=alert(1)>}$",
    r"$$\href{javascript:alert(1)}{x} \style{position:fixed}{y}$$",
    r"\(\text{<math><mtext><style><img src=x onerror=alert(1)>}\)",
    "\ue0000\ue001 \ue0009999\ue001",
    "<math><annotation-xml encoding='text/html'><img src=x onerror=alert(1)></annotation-xml></math>",
    '```py"onclick="alert(1)\nx\n```',
    "<!-- --!><img src=x onerror=alert(1)> -->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markup_is_shown_not_obeyed(text):
    assert_harmless(render_markdown(text))


@given(
    st.text(
        alphabet=st.sampled_from(list("<>/\"'=&;:`[]()!#*_- \n\tabjscript10onerrhfimgxl\u202e$\\{}^\ue000\ue001")), max_size=200
    )
)
def test_no_text_escapes_the_allow_list(text):
    assert_harmless(render_markdown(text))


def assert_harmless(html):
    for tag, attributes in re.findall(r"</?([a-zA-Z][^\s/>]*)([^>]*)>", html):
        assert tag in TAGS | ELEMENTS
        names = set(re.findall(r'([a-zA-Z-]+)="', attributes))
        assert names <= (OF_FORMULAS if tag in ELEMENTS else {"href", "rel", "target", "start", "data-language"}), html
        for url in re.findall(r'href="([^"]*)"', attributes):
            assert not re.match(r"(?i)\s*(javascript|data|vbscript|file)", url)


def test_what_a_model_may_write_is_kept():
    html = render_markdown("# Title\n\n1. one\n2. *two*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx < 1\n```\n~~old~~")
    for part in (
        "<h1>Title</h1>",
        "<ol>",
        "<em>two</em>",
        "<table>",
        '<pre data-language="python"><code>x &lt; 1\n</code></pre>',
        "<s>old</s>",
    ):
        assert part in html


def test_lines_stay_lines_and_indented_text_stays_text():
    assert render_markdown("one\ntwo") == "<p>one<br>\ntwo</p>"
    assert render_markdown("    once upon a time") == "<p>once upon a time</p>"


def test_links_say_nothing_about_us_and_open_elsewhere():
    assert render_markdown("[x](https://example.org)") == (
        '<p><a href="https://example.org" target="_blank" rel="noopener noreferrer nofollow">x</a></p>'
    )


def test_characters_that_reorder_text_are_written_out():
    assert render_markdown("a\u202eb\u2066c\u0007") == "<p>a[U+202E]b[U+2066]c[U+0007]</p>"


def test_a_single_question_stands_alone_and_a_conversation_names_its_speakers():
    assert render_prompt((Message(role="user", content="Why?"),)) == "<p>Why?</p>"
    turns = (
        Message(role="system", content="Be brief."),
        Message(role="<b>tool</b>", content="x"),
        Message(role="user", content="Why?"),
    )
    html = render_prompt(turns)
    assert html.count('class="turn') == 3
    assert "Instructions to the assistant" in html
    assert "&lt;b&gt;tool&lt;/b&gt;" in html


def test_formulas_become_mathml_and_prices_do_not():
    html = render_markdown(r"It takes $O(n)$ and costs $5 or $10, in a block: $$\frac{a}{b}$$ or \(x^2\).")
    assert html.count("<math") == 3 and html.count('display="block"') == 1
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in html
    assert "costs $5 or $10" in html


def test_formulas_in_code_and_broken_ones_stay_as_written():
    assert render_markdown("`$x$`") == "<p><code>$x$</code></p>"
    assert "$x_i_j$ and <strong>bold</strong>" in render_markdown("$x_i_j$ and **bold**")


def test_a_text_full_of_formulas_is_converted_in_part_only():
    html = render_markdown("$a+b$ " * 5_000)
    assert 1_000 < html.count("<math") < 5_000


def test_very_long_texts_are_shown_as_they_are_and_cut():
    text = "**word** <b>" * 20_000
    assert len(text) > SHOWN_LIMIT > MARKDOWN_LIMIT and is_cut(text) and not is_cut(text[:SHOWN_LIMIT])
    html = render_markdown(text)
    assert html.startswith("<pre>**word** &lt;b&gt;") and len(html) < 2 * SHOWN_LIMIT
