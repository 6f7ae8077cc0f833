"""89 cheap features of a prompt's text: length, characters, words, answer options, numbers, word lists.

Made for thousands of prompts a second: a minibatch's characters are classified in one array operation, its words come
from one token pass that TF-IDF shares. The word lists are English and of the kinds of questions that tell models
apart; a prompt in another language simply has none of those words, and all other features hold in any script.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

WORD_LISTS = {
    "mathematics": "equation integer polynomial matrix graph probability group ring field derivative sum product ratio "
    "average velocity mass energy vector linear variance sample set angle triangle function",
    "law": "plaintiff defendant court statute contract liable tort sued jury constitution constitutional law rights "
    "property crime",
    "medicine": "patient old blood symptoms symptom disease physical examination infection drug treatment cells woman "
    "man",
    "morals": "morally moral wrong ethical ethics ordinary",
    "history": "passage excerpt century war empire king information state states government",
    "statement": "statement",
    "negation": "not except least never incorrect false cannot no none neither nor without",
    "code": "python code program algorithm array def print loop list string json output write implement",
    "money": "price market demand supply cost profit tax interest income money dollars pay paid spend spent costs "
    "bought buys sells sold earn earns worth",
    "logic": "logic argument fallacy premise conclusion valid proposition formula translation symbols",
    "rates": "per each every twice half third quarter times percent remaining left total altogether rest double triple "
    "many much",
    "comparison": "more less fewer than most greater higher lower older younger longer taller larger",
    "time": "hour hours minute minutes day days week weeks month months year years daily weekly monday morning night",
    "question": "what which why who where whose",
    "how": "how",
    "actions": "gives give gave takes took lost added adds eats ate makes made uses used needs needed gets got has "
    "have had does did runs",
    "number words": "one two three four five six seven eight nine ten dozen hundred first second",
    "conditions": "if then unless suppose assume assuming given when while but however because therefore",
    "modality": "would should could can may might must will",
    "pronouns": "he she his her they their him them it its you your my",
    "exam": "following true best likely describes statements correct example called known refers term theory",
    "calculation": "calculate find determine compute evaluate solve value approximately",
    "units": "miles mile feet foot inches pounds ounces gallons kg meters cm km degrees speed distance hz mol",
    "combination": "above all both only",
}
# Words that tell problems of many steps from others, whatever else they are counted as.
FINE_LISTS = {
    "fractions": "half third thirds quarter quarters fourth fourths fifth fifths sixth tenth",
    "multiples": "twice double doubled triple tripled thrice times",
    "than": "than",
    "as": "as",
    "if": "if",
    "and": "and",
    "ages": "age old older younger",
    "averages": "average mean",
    "speed": "speed rate mile miles mph",
    "exclusion": "not except without only but however",
}


Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

tokens_of = re.compile(r"\w\w+").findall
_numbers_of = re.compile(r"\d[\d,.]*").findall

COUNTED_CHARACTERS = '?.,%$/\n_()=^+-*":;<{[|\\'
_CHARACTER_NAMES = [f"character {character!r}" for character in COUNTED_CHARACTERS]
_OPTION_NAMES = ["count", "mean length", "longest", "length spread", "numeric share", "overlap"]
_NUMBER_NAMES = ["count", "log count", "largest", "smallest", "decimals", "distinct", "at least 100", "years"]
_DIGIT_NAMES = ["significant digits", "most significant digits", "round"]
_QUANTITY_NAMES = ["count", "a sentence", "range"]
NAMES = (
    "length",
    "words",
    "digits",
    "capitals",
    "non-ASCII",
    "punctuation",
    *_CHARACTER_NAMES,
    "word length",
    "long words",
    "distinct words",
    "words a sentence",
    *(f"options: {name}" for name in _OPTION_NAMES),
    "stem length",
    "ends in a question",
    *(f"numbers: {name}" for name in _NUMBER_NAMES),
    *(f"word list: {name}" for name in WORD_LISTS),
    # Here ended what routers were fitted on before version 2: later ones stand behind, and the old ones go on.
    *(f"words: {name}" for name in FINE_LISTS),
    *(f"numbers: {name}" for name in _DIGIT_NAMES),
    *(f"quantities: {name}" for name in _QUANTITY_NAMES),
)
WIDTHS = (73, len(NAMES))  # how many of them a fitted model may know
OPTIONS = NAMES.index("options: count")

# Classes of characters: other ASCII, digit, capital, small letter, space, non-ASCII, then one a counted character.
_OTHER, _DIGIT, _CAPITAL, _SMALL, _SPACE, _NON_ASCII, _COUNTED = range(7)
_CLASSES = _COUNTED + len(COUNTED_CHARACTERS)


def _class_of(character: str) -> int:
    if character in COUNTED_CHARACTERS:
        return _COUNTED + COUNTED_CHARACTERS.index(character)
    kinds = {_DIGIT: character.isdigit(), _CAPITAL: character.isupper(), _SMALL: character.islower()}
    kinds[_SPACE] = character.isspace()
    return next((kind for kind, is_it in kinds.items() if is_it), _OTHER)


_CLASS_OF = np.array([_class_of(chr(code)) for code in range(128)] + [_NON_ASCII], dtype=np.intp)
_LISTS = [words.split() for words in (*WORD_LISTS.values(), *FINE_LISTS.values())]
_NUMBER_WORDS = list(WORD_LISTS).index("number words")
_WORD_NUMBER = {word: number for number, word in enumerate(sorted(set(chain.from_iterable(_LISTS))))}
_IN_LIST = np.zeros((len(_WORD_NUMBER), len(_LISTS)))  # 1 where a word is in a list: some are in two
for _number, _words in enumerate(_LISTS):
    _IN_LIST[[_WORD_NUMBER[_word] for _word in _words], _number] = 1
# (text before the letter, text after it) of an answer option's line: "A. ", "A) ", "(A) "
_OPTION_FORMS = (("", ". "), ("", ") "), ("(", ") "))
_STARTS_A_NUMBER = frozenset("-$.0123456789")
_recent: deque[tuple[list[str], Matrix]] = deque(maxlen=4)  # minibatches and their features


def tokens(texts: Sequence[str]) -> list[list[str]]:
    """The lower-case words of two characters and more of each text."""
    return [tokens_of(text.lower()) for text in texts]


def features(texts: Sequence[str], words: Sequence[list[str]]) -> Matrix:
    """The features of each text, of shape (texts, 89), in the order of NAMES; `words` are `tokens(texts)`."""
    counts = _character_counts(texts)
    length = counts.sum(1)
    word_counts = np.fromiter(map(len, words), np.float64, len(words))
    marks = counts[:, _COUNTED:]
    shares = counts[:, [_DIGIT, _CAPITAL, _NON_ASCII]] / (length + 1)[:, None]
    punctuation = (marks.sum(1) + counts[:, _OTHER]) / (length + 1)
    sentences = marks[:, :2].sum(1) + 1  # ? and .
    shape, lists = _word_features(words)
    numbers = _numbers(texts)
    quantities = numbers[:, 0] + lists[:, _NUMBER_WORDS]
    head = [np.log1p(length), np.log1p(word_counts), shares, punctuation, np.log1p(marks)]
    tail = [shape, word_counts / sentences, _options(texts), numbers[:, :8], np.log1p(lists), numbers[:, 8:]]
    of_range = numbers[:, 2] - numbers[:, 3]  # of logarithms
    columns = np.column_stack([*head, *tail, np.log1p(quantities), quantities / sentences, of_range])
    columns.flags.writeable = False
    _recent.append((list(texts), columns))
    return columns


def recent_features(texts: Sequence[str]) -> Matrix:
    """`features`, not computed again for a minibatch that was among the last few: of one prompt several things are
    predicted in turn."""
    asked = list(texts)
    for known, matrix in tuple(_recent):
        if known == asked:
            return matrix
    return features(asked, tokens(asked))


def _character_counts(texts: Sequence[str]) -> Matrix:
    n = len(texts)
    lengths = np.fromiter(map(len, texts), np.intp, n)
    # A lone surrogate cannot come out of a validated body, but a router must not fall over a caller's text.
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    cells = _CLASS_OF[np.minimum(codes, 128)]
    cells += np.repeat(np.arange(n) * _CLASSES, lengths)
    return np.bincount(cells, minlength=n * _CLASSES).reshape(n, _CLASSES).astype(np.float64)


def _word_features(words: Sequence[list[str]]) -> tuple[Matrix, Matrix]:
    """Mean length, share of long and of distinct words, shape (n, 3); words of each list, shape (n, lists)."""
    n = len(words)
    count = np.fromiter(map(len, words), np.intp, n)
    flat = list(chain.from_iterable(words))
    owner = np.repeat(np.arange(n), count)
    length = np.fromiter(map(len, flat), np.intp, len(flat))
    number = np.fromiter((_WORD_NUMBER.get(word, -1) for word in flat), np.intp, len(flat))
    listed = number >= 0
    cells = owner[listed] * len(_IN_LIST) + number[listed]
    lists = np.bincount(cells, minlength=n * len(_IN_LIST)).reshape(n, len(_IN_LIST)) @ _IN_LIST
    mean = np.bincount(owner, length, n) / np.maximum(count, 1)
    long = np.bincount(owner, length >= 8, n) / (count + 1)
    distinct = np.fromiter((len(set(of_one)) for of_one in words), np.float64, n) / (count + 1)
    return np.column_stack([mean, long, distinct]), lists


def _options(texts: Sequence[str]) -> Matrix:
    """The eight columns of answer options, stem and closing question mark."""
    rows = np.zeros((len(texts), 8))
    for row, text in zip(rows, texts, strict=True):
        row[6], row[7] = len(text), text.endswith("?")
        for before, after in _OPTION_FORMS:
            start = text.find(f"\n{before}A{after}")
            if start >= 0:
                row[:6] = _option_figures(text[start + 1 :], before, after)
                row[6], row[7] = start, text[:start].endswith("?")
                break
    rows[:, [1, 2, 6]] = np.log1p(rows[:, [1, 2, 6]])
    rows[:, 3] = np.sqrt(rows[:, 3])
    return rows


def _option_figures(text: str, before: str, after: str) -> tuple[float, ...]:
    """Count, mean length, longest, variance of the length, numeric share and overlap of the options."""
    head = len(before) + 1
    width = head + len(after)
    lines = [line for line in text.split("\n") if line[head:width] == after and line.startswith(before)]
    options = [line[width:] for line in lines]
    count = len(options)
    lengths = [len(option) for option in options]
    mean = sum(lengths) / count
    variance = sum((length - mean) ** 2 for length in lengths) / count
    numeric = sum(option[:1] in _STARTS_A_NUMBER for option in options) / count
    word_sets = [set(option.lower().split()) for option in options]
    overlap = 1 - len(set().union(*word_sets)) / (sum(map(len, word_sets)) + 1)
    return count, mean, max(lengths), variance, numeric, overlap


def _numbers(texts: Sequence[str]) -> Matrix:
    """The columns of the numbers in each text, eight and those of their digits; all are parsed at once and reduced a
    text. Round numbers have one digit that is not a zero at an end."""
    n = len(texts)
    numbers_of_texts = [_numbers_of(text) for text in texts]
    count = np.fromiter(map(len, numbers_of_texts), np.intp, n)
    flat = list(chain.from_iterable(numbers_of_texts))
    columns = np.zeros((n, 8 + len(_DIGIT_NAMES)))
    if not flat:
        return columns
    owner = np.repeat(np.arange(n), count)
    value = np.fromiter(map(_parsed, flat), np.float64, len(flat))
    decimal = np.fromiter(("." in number[:-1] for number in flat), np.float64, len(flat))
    columns[:, 0], columns[:, 1] = count, np.log1p(count)
    columns[:, 4] = np.bincount(owner, decimal, n)
    columns[:, 5] = np.log1p([len(set(numbers)) for numbers in numbers_of_texts])
    digits = np.fromiter((len(_significant(number)) for number in flat), np.float64, len(flat))
    having, first = np.unique(owner, return_index=True)
    columns[:, 8] = np.log1p(np.bincount(owner, digits, n))
    columns[having, 9] = np.maximum.reduceat(digits, first)
    columns[:, 10] = np.bincount(owner, digits <= 1, n) / np.maximum(count, 1)
    readable = value >= 0
    value, owner = np.minimum(value[readable], 1e30), owner[readable]
    columns[:, 6] = np.bincount(owner, value >= 100, n)
    columns[:, 7] = np.bincount(owner, (value >= 1000) & (value < 2100) & (value == np.floor(value)), n)
    having, first = np.unique(owner, return_index=True)
    if len(having):
        columns[having, 2] = np.log1p(np.maximum.reduceat(value, first))
        columns[having, 3] = np.log1p(np.minimum.reduceat(value, first))
    return columns


def _parsed(number: str) -> float:
    """The number's value, or -1 for what only looks like one (1.2.3)."""
    try:
        return float(number.replace(",", "").rstrip("."))
    except ValueError:
        return -1.0


def _significant(number: str) -> str:
    return number.replace(",", "").replace(".", "").strip("0")
