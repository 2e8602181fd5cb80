"""Messages in the chat template of a model's tokenizer."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from support.llamas import reference, save_llada

from sedd_cli import load_model
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.inference.chat import chat_layout, rendered
from sedd_cli.inference.layout import Layout
from sedd_cli.inference.template import gap_between

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}bot {% endif %}"
)
END = 32  # the state of <|end|>


@pytest.fixture
def folder(tmp_path):
    folder = save_llada(tmp_path / "m", reference(), text=True)
    write(folder, chat_template=TEMPLATE)
    return folder


def write(folder, **entries):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_a_message_is_rendered_and_its_marks_are_single_tokens(folder):
    layout = chat_layout(load_model(folder), "hi there", 30)
    assert layout.template == gap_between("user hi there<|end|>bot ", "")
    given = [token for token in layout.tokens if token is not None]
    assert given.count(END) == 1
    assert len(given) == len("user hi there") + 1 + len("bot ")
    assert len(layout.tokens) == 30


def test_an_answer_ends_at_its_first_special_token(folder):
    model = load_model(folder)
    layout = chat_layout(model, "hi", 18)
    given = [token for token in layout.tokens if token is not None]
    row = [*given, *model.tokenizer.encode("yes"), END, *model.tokenizer.encode("zz")]
    assert layout.read(row).gaps == ["yes"]
    plain = Layout(layout.template, layout.parts, layout.spaced, layout.tokenizer)
    assert "zz" in plain.read(row).gaps[0]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 1 s"),
        ("{{ 'a' * 8000000000 }}", "refused: rendering it takes more"),
        ("{{ 'ab' * 3000000 }}", "1,048,576 characters"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
        ("{{ raise_exception('no\nway') }}", "fails: no"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
)
def test_a_template_that_has_no_end_is_refused(folder, monkeypatch, template, said):
    monkeypatch.setattr("sedd_cli.inference.chat.RENDER_SECONDS", 1)
    write(folder, chat_template=template)
    with pytest.raises(RequestError, match=said):
        chat_layout(load_model(folder), "hi", 30)


def test_a_process_that_cannot_render_at_all_says_why(folder, monkeypatch):
    from sedd_cli.inference import chat

    monkeypatch.setattr(chat, "_RENDER", chat._RENDER.replace("jinja2.sandbox", "jinja2_of_nobody"))
    write(folder, chat_template="hi")
    with pytest.raises(
        RequestError, match="cannot be rendered: ModuleNotFoundError: No module named 'jinja2_of_nobody'"
    ):
        chat_layout(load_model(folder), "hi", 30)


def test_a_template_that_is_no_text_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(DamageError, match=r"chat_template\.jinja is not a text"):
        chat_layout(load_model(folder), "hi", 30)


def test_chats_are_answered_like_prompts(folder, sedd):
    done = sedd("sample", "--model", folder, "--chat", "hi", "--chat", "who are you?", "--length", 40, "--json")
    assert done.code == 0, done.err
    samples = json.loads(done.out)["samples"]
    assert [one["prompt"] for one in samples] == ["hi", "who are you?"]
    assert all(one["text"].startswith(f"user {one['prompt']}<|end|>bot ") for one in samples)
    both = sedd("sample", "--model", folder, "--chat", "hi", "--prompt", "the")
    assert both.code == 2
    assert "give either chat or prompts" in both.err


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        ("{{ messages", "the chat template of .* fails"),
        ("{{ raise_exception('system first') }}", "fails: system first"),
        ("{{ ''.__class__.__mro__ }}", "fails: access to attribute '__class__'"),
        ([{"name": "tools", "template": TEMPLATE}], "has no chat template"),
    ],
)
def test_a_template_that_is_missing_or_fails_is_refused_in_one_line(folder, template, reason):
    write(folder, chat_template=template)
    with pytest.raises(RequestError, match=reason) as error:
        chat_layout(load_model(folder), "hi", 30)
    assert "\n" not in str(error.value)


def test_a_missing_template_is_one_of_the_tokenizer_named(folder, monkeypatch):
    (folder / "tokenizer_config.json").unlink()
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match=r"the tokenizer tokenizer\.json has no chat template beside it"):
        chat_layout(load_model(folder, tokenizer="tokenizer.json"), "hi", 30)


def test_a_template_may_be_a_file_or_named_default(folder):
    write(folder, chat_template=[{"name": "default", "template": "a{{ messages[0].content }}"}])
    assert chat_layout(load_model(folder), "b", 9).template.texts == ["ab"]
    (folder / "chat_template.jinja").write_text("c{{ messages[0].content }}")
    assert chat_layout(load_model(folder), "b", 9).template.texts == ["cb"]


OFFERED = {
    "the date": ("{{ strftime_now('%Y') }}", f"{datetime.now():%Y}"),
    "break": ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    "continue": ("{% for i in range(4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "013"),
    "the answer's text": (
        "{% for m in messages %}a{% generation %}<{{ m.content }}>{{ eos_token }}{% endgeneration %}b{% endfor %}",
        "a<hi><|end|>b",
    ),
}


@pytest.mark.parametrize("name", OFFERED)
def test_a_template_has_what_transformers_offers(folder, name):
    template, text = OFFERED[name]
    write(folder, chat_template=template)
    assert rendered(folder, "hi") == text
    from transformers import AutoTokenizer

    message = [{"role": "user", "content": "hi"}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(message, tokenize=False)
    assert text == theirs


@pytest.mark.parametrize("escape", ["strftime_now.__globals__.keys()", "strftime_now.__code__.co_code"])
def test_what_is_offered_stays_in_the_sandbox(folder, escape):
    write(folder, chat_template="{% generation %}{{ " + escape + " }}{% endgeneration %}")
    with pytest.raises(RequestError, match="is unsafe"):
        rendered(folder, "hi")


def test_a_message_that_leaves_no_room_is_refused(folder):
    with pytest.raises(RequestError, match="the message takes 10 tokens, of 10 in all"):
        chat_layout(load_model(folder), "", 10)
    with pytest.raises(RequestError, match="answered in one block"):
        load_model(folder).sample(1, 60, chat=("hi",))
