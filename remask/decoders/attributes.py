"""Attributes: what is asked of a finished text, and what a prefix of it already settles.

A conditional search wants the likeliest text among those that have an attribute (Yoshida, Goyal & Gimpel 2024, arXiv
2311.08817). Of a finished text an attribute is true or false. Of a prefix it is sometimes settled (a repeated phrase
stays repeated), and otherwise a question for a classifier: yes or no, or for lengths how many tokens are still to come,
counted when they are few and binned when they are many, so that one classifier serves every length.
A text is a list of tokens without prompt and end; a text that reaches the budget without an end has not ended.
Shapes: N prefixes, K next tokens, C outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from remask.core.errors import BadInput
from remask.core.table import Table
from remask.decoders.outcomes import Outcomes, Remaining, YesNo

Decode = Callable[[Sequence[int]], Any]
"""A tokenizer: tokens to the text that people read."""
MARGIN = 8  # tokens that show nothing, between those of a string

ATTRIBUTES = Table(
    "attribute",
    {
        "length": "remask.decoders.attributes:Length",
        "ends": "remask.decoders.attributes:Ends",
        "not_empty": "remask.decoders.attributes:NotEmpty",
        "no_repeats": "remask.decoders.attributes:NoRepeats",
        "contains": "remask.decoders.attributes:Contains",
        "avoids": "remask.decoders.attributes:Avoids",
    },
)


class Attribute:
    """What is asked of a finished text. A new one answers a call; the rest has answers that are always right."""

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether a finished text has it; ended: by its end token, and not by the budget."""
        raise NotImplementedError

    @property
    def asks(self) -> str:
        """What a classifier of it was fitted for: two attributes with one answer can share it."""
        return repr(self)

    @property
    def least(self) -> int:
        """Tokens of the shortest text that may have it, its end counted."""
        return 1

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """For each next token: whether all texts that go on with it have the attribute, or none; None = unknown."""
        del text
        return [None] * len(tokens)

    def outcomes(self, longest: int, exact: int) -> Outcomes:
        """What its classifier tells apart; longest: budget of a text, its end counted; exact: see Remaining."""
        del exact
        return YesNo(self, longest)

    def parts(self) -> tuple[Attribute, ...]:
        """Attributes that it is made of, itself first."""
        return (self,)

    @classmethod
    def read(cls, value: str, decode: Decode) -> Attribute:
        """Of what stands behind the name ("" for nothing); BadInput where it wants nothing."""
        del decode
        if value:
            raise BadInput(f"an attribute came with the value '{value}', which it has no use for: leave '=...' out.")
        return cls()


@dataclass(frozen=True)
class Length(Attribute):
    """Exactly so many tokens, and then the end; None for any number."""

    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 0:
            raise BadInput(f"a text of {self.tokens} tokens was asked for: type a length of 0 or more.")

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether it has that length."""
        return ended and self.tokens in (None, len(text))

    @property
    def asks(self) -> str:
        """One classifier serves every length, and `Ends`."""
        return "Length"

    @property
    def least(self) -> int:
        """That length, and the end."""
        return (self.tokens or 0) + 1

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """A text that is too long stays so."""
        return [False if self.tokens is not None and len(text) >= self.tokens else None] * len(tokens)

    def outcomes(self, longest: int, exact: int) -> Outcomes:
        """How many tokens are still to come."""
        return Remaining(self.tokens, longest, exact)

    @classmethod
    def read(cls, value: str, decode: Decode) -> Length:
        """length, or length=N."""
        del decode
        return cls(_number("length", value, 20) if value else None)


@dataclass(frozen=True)
class Ends(Attribute):
    """The text ends before its budget does."""

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether it has ended."""
        return ended

    @property
    def asks(self) -> str:
        """Who knows how much is still to come knows whether anything ends."""
        return Length().asks

    def outcomes(self, longest: int, exact: int) -> Outcomes:
        """How many tokens are still to come."""
        return Length().outcomes(longest, exact)


@dataclass(frozen=True)
class NotEmpty(Attribute):
    """The text has a token."""

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether it has one."""
        return len(text) > 0

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """The first token settles it."""
        return [True] * len(tokens)


@dataclass(frozen=True)
class NoRepeats(Attribute):
    """No so many tokens in a row occur twice."""

    tokens: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadInput(f"repeats of {self.tokens} tokens were to be avoided: type a number from 1, for example 4.")

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether every n-gram is new."""
        grams = self._grams(text)
        return len(set(grams)) == len(grams)

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """A repeat stays one."""
        grams = self._grams(text)
        seen = set(grams)
        if len(seen) < len(grams):
            return [False] * len(tokens)
        tail = tuple(text[len(text) - self.tokens + 1 :])
        return [False if (*tail, token) in seen else None for token in tokens]

    def _grams(self, text: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(text[at : at + self.tokens]) for at in range(len(text) - self.tokens + 1)]

    @classmethod
    def read(cls, value: str, decode: Decode) -> NoRepeats:
        """no_repeats, or no_repeats=N."""
        del decode
        return cls(_number("no_repeats", value, 4)) if value else cls()


@dataclass(frozen=True)
class Contains(Attribute):
    """One of these strings occurs, however its tokens are cut.

    spelled: tokens as what the strings are strings of: text, by a tokenizer's decode (which must only ever add to what
    it has said of a prefix), or the tokens themselves, for models without one.
    """

    strings: tuple[Any, ...]
    spelled: Decode = field(default=tuple, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise BadInput("an attribute came with nothing to look for: name a string with a character in it.")

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether one occurs."""
        return self._occurs(text)

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """What occurs stays."""
        return [True if here else None for here in self._after(text, tokens)]

    def _after(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """For each next token, whether a string occurs once it stands there."""
        if self._occurs(text):
            return [True] * len(tokens)
        tail = list(text[-self._reach :])  # nothing before it can touch a string that the next token completes
        # a tail by itself may be spelled otherwise than at the end of its text (a blank less): what it shows is checked
        return [self._occurs([*tail, token]) and self._occurs([*text, token]) for token in tokens]

    @property
    def _reach(self) -> int:
        """Tokens that a string can lie on: one has a byte of it at least, or shows nothing (MARGIN of those)."""
        return max(len(s.encode()) if isinstance(s, str) else len(s) for s in self.strings) + MARGIN

    def _occurs(self, tokens: Sequence[int]) -> bool:
        whole = self.spelled(tokens)
        return any(_lies(string, whole) for string in self.strings)

    @classmethod
    def read(cls, value: str, decode: Decode) -> Contains:
        """contains=TEXT."""
        if not value:
            raise BadInput("nothing came where a string to look for was wanted: type NAME=TEXT.")
        return cls((value,), decode)


@dataclass(frozen=True)
class Avoids(Contains):
    """None of these strings occurs."""

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether none occurs."""
        return not self._occurs(text)

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """What occurs stays."""
        return [False if here else None for here in self._after(text, tokens)]


@dataclass(frozen=True)
class Judged(Attribute):
    """Whatever a function says of a finished text: judge(tokens, ended). name: of that function, for the record."""

    judge: Callable[[Sequence[int], bool], bool]
    name: str = "judged"

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Its answer."""
        return bool(self.judge(text, ended))

    @property
    def asks(self) -> str:
        """Its name: functions have no stable spelling."""
        return f"Judged {self.name}"


@dataclass(frozen=True)
class All(Attribute):
    """Several attributes at once."""

    attributes: tuple[Attribute, ...]

    def __call__(self, text: Sequence[int], ended: bool) -> bool:
        """Whether it has every one."""
        return all(attribute(text, ended) for attribute in self.attributes)

    @property
    def asks(self) -> str:
        """What its parts ask, with their numbers: this question is yes or no."""
        return " and ".join(repr(part) if part.asks == "Length" else part.asks for part in self.attributes)

    def settled(self, text: Sequence[int], tokens: Sequence[int]) -> list[bool | None]:
        """One that is lost is enough; all must be won."""
        answers = zip(*(attribute.settled(text, tokens) for attribute in self.attributes))
        return [_both(each) for each in answers] if self.attributes else [True] * len(tokens)

    @property
    def least(self) -> int:
        """That of the most demanding part."""
        return max((attribute.least for attribute in self.attributes), default=1)

    def parts(self) -> tuple[Attribute, ...]:
        """Itself, and what it is made of."""
        return (self, *(part for attribute in self.attributes for part in attribute.parts()))


def parse(specs: Iterable[str], decode: Decode) -> Attribute:
    """Attributes as they are typed, NAME or NAME=VALUE; several are meant together.

    Raises UnknownName for a name that ATTRIBUTES has not, BadInput for a value that is none.
    """
    found = []
    for spec in specs:
        name, _, value = spec.partition("=")
        found.append(ATTRIBUTES.load(name).read(value, decode))
    return found[0] if len(found) == 1 else All(tuple(found))


def _both(answers: Sequence[bool | None]) -> bool | None:
    if any(answer is False for answer in answers):
        return False
    return True if all(answers) else None


def _number(name: str, value: str, example: int) -> int:
    if not value.isdecimal():
        raise BadInput(f"{name}={value} came where a whole number was wanted: type {name}={example}, for example.")
    return int(value)


def _lies(string: Any, whole: Any) -> bool:
    """Whether a string lies in another, of characters or of tokens."""
    if isinstance(whole, str):
        return string in whole
    return any(whole[at : at + len(string)] == string for at in range(len(whole) - len(string) + 1))
