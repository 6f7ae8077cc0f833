"""What `submit` takes: its forms are told apart and converted line by line; what is wrong is named by line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cli.inputs import InputError, Prepared, prepared
from tests.support.paths import EXAMPLES

BATCH_LINE = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'


class Converted:
    """A prepared upload, read to its end."""

    def __init__(self, ready: Prepared) -> None:
        self.format, self.name, self.notes = ready.format, ready.name, ready.notes
        self.content = ready.stream.read()
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in self.content.splitlines()]
        self.sources = [ready.source_line(number) for number in range(1, len(self.lines) + 1)]

    @property
    def prompts(self) -> list[str]:
        return [line["body"]["messages"][0]["content"] for line in self.lines]

    @property
    def ids(self) -> list[str]:
        return [line["custom_id"] for line in self.lines]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def convert(directory: Path, content: str | bytes, name: str = "in", form: str | None = None) -> Converted:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with prepared(str(path), form) as ready:
        return Converted(ready)


def refusal(directory: Path, content: str | bytes, name: str = "in", form: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        convert(directory, content, name, form)
    return caught.value.message


@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_an_openai_batch_file_is_uploaded_byte_for_byte(directory: Path, start: str) -> None:
    content = start + BATCH_LINE + "broken, which the server will say\n"
    path = directory / "batch.jsonl"
    path.write_text(content)
    with prepared(str(path)) as ready:
        assert (ready.format, ready.name, ready.stream.read()) == ("batch", "batch.jsonl", content.encode())
        assert ready.source_line(7) == 7


def test_prompts_and_messages_in_json_lines_keep_ids_parameters_and_routing(directory: Path) -> None:
    records = convert(
        directory,
        '{"prompt":"one","custom_id":"x","max_tokens":9,"temperature":0}\n'
        "\n"
        '{"messages":[{"role":"user","content":"two"}],"custom_id":7,"routing":{"model":"weak"}}\n'
        '{"prompt":"three","model":"strong"}\n',
    )
    assert records.format == "jsonl"
    assert records.lines[0] == {
        "custom_id": "x",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "routebatch-auto",
            "max_tokens": 9,
            "temperature": 0,
            "messages": [{"role": "user", "content": "one"}],
        },
    }
    assert records.lines[1]["custom_id"] == "7"
    assert records.lines[1]["routing"] == {"model": "weak"}
    assert records.lines[2]["body"]["model"] == "strong"
    assert records.ids[2] == "line-4"
    assert records.sources == [1, 3, 4]


def test_keys_that_are_no_chat_parameters_are_ignored_and_said_so(directory: Path) -> None:
    records = convert(directory, '{"prompt":"a","topic":"t"}\n{"prompt":"b","topic":"t","url":"u"}\n')
    assert records.prompts == ["a", "b"]
    assert [note.split(":")[0] for note in records.notes] == ["ignored `topic` in 2 lines", "ignored `url` in 1 lines"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_takes_the_prompt_column_with_quotes_and_line_breaks(directory: Path, delimiter: str) -> None:
    rows = [["topic", " Prompt ", "custom_id"], ["t", '"two\nlines"', "a"], [], ["t", '"a, ""b""; c"', ""]]
    records = convert(directory, "\r\n".join(delimiter.join(row) for row in rows))
    assert records.format == "csv"
    assert records.prompts == ["two\nlines", 'a, "b"; c']
    assert records.ids == ["a", "line-5"]
    assert records.sources == [2, 5]


def test_text_is_a_prompt_a_line_without_blank_ones(directory: Path) -> None:
    records = convert(directory, "first\n\n  \nsécond\r\nlast", "prompts.txt")
    assert records.format == "text"
    assert records.prompts == ["first", "sécond", "last"]
    assert records.ids == ["line-1", "line-4", "line-5"]
    assert records.name == "prompts.jsonl"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a\n\n \nb\n", "p.txt"),
        ('prompt\na\n""\n" "\nb\n', "p.csv"),
        ('{"prompt": "a"}\n\n\n{"prompt": "b"}\n', "p.jsonl"),
    ],
)
def test_blank_lines_are_skipped_and_counted(directory: Path, content: str, name: str) -> None:
    (directory / name).write_text(content)
    with prepared(str(directory / name)) as ready:
        assert ready.notes == ["skipped 2 blank lines: nothing comes back for them"]
        assert list(ready.sources or []) == ([2, 5] if name == "p.csv" else [1, 4])


def test_a_format_that_is_given_is_not_doubted(directory: Path) -> None:
    assert convert(directory, "prompt\nhello\n", form="text").prompts == ["prompt", "hello"]
    assert convert(directory, '{"prompt": "x"}\n', form="text").prompts == ['{"prompt": "x"}']


@pytest.mark.parametrize(
    ("content", "form", "prompts"),
    [(BATCH_LINE, "batch", 0), ('{"prompt":"p"}', "jsonl", 1), ("prompt\np\n", "csv", 1), ("p\nq\n", "text", 2)],
)
def test_stdin_is_told_apart_by_its_first_line(
    monkeypatch: pytest.MonkeyPatch, content: str, form: str, prompts: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    with prepared("-") as ready:
        assert ready.format == form
        assert len([line for line in Converted(ready).lines if line["body"]["messages"]]) == prompts


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        ("", "a.txt", "a.txt is empty"),
        ("\n \n", "a.jsonl", "a.jsonl is empty"),
        ("\ufeff", "a.csv", "a.csv is empty"),
        (b"ok\n\xff\xfe\n", "a.txt", "line 2: byte 0xff is no UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a", "line 1: byte 0x89 is no UTF-8"),
        ("a\0b\n", "a.txt", "line 1: it holds a NUL character"),
        ("topic,text\nx,y\n", "a.csv", "line 1: the header names no column `prompt`: topic,text"),
        ('prompt\n"open\n', "a.csv", "line 2: not CSV"),
        ("prompt,id\na,1,2\n", "a.csv", "line 2: it has 3 cells for 2 columns"),
        ("prompt,id\na,1\n ,2\n", "a.csv", "line 3: the prompt is empty"),
        ("prompt\n", "a.csv", "holds no prompts"),
        ('{"prompt":"a"}\n{"prompt":', "a.jsonl", "line 2: not JSON"),
        ('{"prompt":"a"}\n[1]\n', "a.jsonl", "line 2: not a JSON object"),
        ('{"prompt":"a"}\n{"prompt":NaN}\n', "a.jsonl", "line 2: not JSON: NaN"),
        ('{"prompt":"a"}\n{"prompt":' + "[" * 100_000, "a.jsonl", "line 2: "),
        ('{"prompt":3}\n', "a.jsonl", "line 1: `prompt` must be a string"),
        ('{"prompt":"a","messages":[1]}\n', "a.jsonl", "line 1: it has both"),
        ('{"messages":[]}\n', "a.jsonl", "line 1: `messages` must be a list of at least one"),
        ('{"prompt":"a"}\n{"text":"b"}\n', "a.jsonl", "line 2: it has no `prompt`"),
        ('{"prompt":"a","custom_id":true}\n', "a.jsonl", "line 1: `custom_id` must be a string"),
        ('{"prompt":"\\ud800"}\n', "a.jsonl", "line 1: it holds half of a surrogate pair"),
        ('{"text":"b"}\n', "a.jsonl", "line 1: it has neither `body`"),
        ('[{"prompt":"a"}]\n', "a.json", "line 1: not a JSON object"),
        ("hello\n", "a.jsonl", "line 1: not JSON"),
        ('{"custom_id": broken\n', "stdin", "line 1: not JSON"),
        (b"x" * (16 * 1024 * 1024 + 1), "a.txt", "line 1: it is longer than 16 MiB"),
    ],
)
def test_what_cannot_be_submitted_is_named_by_line_and_reason(
    directory: Path, content: str | bytes, name: str, reason: str
) -> None:
    assert reason in refusal(directory, content, name)


def test_many_bad_lines_are_named_up_to_a_limit(directory: Path) -> None:
    message = refusal(directory, '{"prompt":"good"}\n' + '{"prompt":1}\n' * 50)
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:-1]] == [f"line {n}" for n in range(2, 12)]
    assert message.splitlines()[-1].strip() == "more lines are bad"


@pytest.mark.parametrize(
    ("name", "form"),
    [("problems.jsonl", "batch"), ("prompts.jsonl", "jsonl"), ("messages.jsonl", "jsonl"), ("prompts.csv", "csv")],
)
def test_the_examples_are_taken_for_what_they_are(name: str, form: str) -> None:
    with prepared(str(EXAMPLES / name)) as ready:
        assert ready.format == form
        assert len(Converted(ready).lines) == (600 if form == "batch" else 10)
