"""Errors: one tree; every leaf is the user's to mend, and says how."""

import pytest

from remask.core import errors
from remask.core.errors import MissingExtra, RemaskError, UnknownName, UserError


def descendants(kind):
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in descendants(child))]


def own(kind):
    return [error for error in descendants(kind) if error.__module__ == errors.__name__]


def test_every_leaf_is_the_users_mistake():
    leaves = [error for error in own(RemaskError) if not error.__subclasses__()]
    assert len(leaves) >= 8
    for leaf in leaves:
        assert issubclass(leaf, UserError)
        assert leaf.exit_status == 2


def test_every_error_is_told_of_in_the_tree():
    """The module's docstring draws the tree, and every error explains itself."""
    for error in own(RemaskError):
        assert error.__name__ in errors.__doc__
        assert error.__doc__
    defined = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert defined == {error.__name__ for error in own(RemaskError)}, "an error stands outside the tree"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mdml", "there is no objective named 'mdml'; did you mean 'mdlm'? Known: electra, mdlm."),
        ("zzz", "there is no objective named 'zzz'. Known: electra, mdlm."),
    ],
)
def test_unknown_name(name, says):
    assert str(UnknownName("objective", name, ["mdlm", "electra"])) == says


def test_missing_extra_says_what_to_type():
    assert "pip install 'remask[plot]'" in str(MissingExtra("matplotlib", "plot", "drawing"))
