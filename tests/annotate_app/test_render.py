"""Hostile text becomes text: whatever a model writes, only the allow-list is left."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate_app.render import TAGS, render_markdown, render_prompt
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
    "<!-- --!><img src=x onerror=alert(1)> -->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markup_is_shown_not_obeyed(text):
    assert_harmless(render_markdown(text))


@given(st.text(alphabet=st.sampled_from(list("<>/\"'=&;:`[]()!#*_- \n\tabjscript10onerrhfimgxl\u202e")), max_size=200))
def test_no_text_escapes_the_allow_list(text):
    assert_harmless(render_markdown(text))


def assert_harmless(html):
    for tag, attributes in re.findall(r"</?([a-zA-Z][^\s/>]*)([^>]*)>", html):
        assert tag in TAGS
        names = set(re.findall(r'([a-zA-Z-]+)="', attributes))
        assert names <= {"href", "rel", "target", "start"}, html
        for url in re.findall(r'href="([^"]*)"', attributes):
            assert not re.match(r"(?i)\s*(javascript|data|vbscript|file)", url)


def test_what_a_model_may_write_is_kept():
    html = render_markdown("# Title\n\n1. one\n2. *two*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx < 1\n```\n~~old~~")
    for part in ("<h1>Title</h1>", "<ol>", "<em>two</em>", "<table>", "<pre><code>x &lt; 1\n</code></pre>", "<s>old</s>"):
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
