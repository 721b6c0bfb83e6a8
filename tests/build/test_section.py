"""Every key of a config is read or refused, with its type and range."""

import math

import pytest

from rlhf_jax.build.configs.section import Section, nearest
from rlhf_jax.errors import UserError

VALUES = dict(
    count=3,
    rate=0.5,
    on=True,
    name="text",
    names=("a", "b"),
    sizes=[1, 2],
    nothing=None,
    inner=dict(depth=1, deeper=dict(x=1)),
)


@pytest.fixture
def section():
    return Section(VALUES)


def test_values_come_back_as_they_are(section):
    assert section.int("count") == 3
    assert section.float("rate") == 0.5
    assert section.float("count") == 3.0 and isinstance(section.float("count"), float)
    assert section.bool("on") is True
    assert section.str("name") == "text"
    assert section.names("names") == ("a", "b")
    assert section.ints("sizes") == (1, 2)
    assert section.section("inner").int("depth") == 1
    assert section.section("inner").section("deeper").path == "config.inner.deeper"


READERS = ["int", "float", "bool", "str", "names", "ints", "section"]
FITTING = {
    "count": {"int", "float"},
    "rate": {"float"},
    "on": {"bool"},
    "name": {"str"},
    "names": {"names"},
    "sizes": {"ints"},
    "nothing": set(),
    "inner": {"section"},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", VALUES)
def test_each_reader_takes_its_own_type_and_names_any_other(section, key, reader):
    if reader in FITTING[key]:
        getattr(section, reader)(key)
        return
    with pytest.raises(UserError) as error:
        getattr(section, reader)(key)
    assert f"config.{key}=" in str(error.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_key_is_named_with_the_nearest(section, reader):
    with pytest.raises(UserError, match=r"config\.cuont is missing; did you mean 'cou"):
        getattr(section, reader)("cuont")


def test_bounds_are_inclusive(section):
    assert section.int("count", 3, 3) == 3
    assert section.float("rate", 0.5, 0.5) == 0.5
    with pytest.raises(UserError, match=r"config\.count=3 must be at least 4"):
        section.int("count", 4)
    with pytest.raises(UserError, match=r"config\.count=3 must be at most 2"):
        section.int("count", 0, 2)
    with pytest.raises(UserError, match=r"config\.rate=0\.5 must be at most 0\.4"):
        section.float("rate", 0.0, 0.4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(UserError, match="not a finite number"):
        Section(dict(x=value)).float("x")


def test_optional_reads_none_or_the_type(section):
    assert section.optional("nothing", section.int) is None
    assert section.optional("count", section.int) == 3
    with pytest.raises(UserError, match="not a whole number"):
        section.optional("name", section.int)
    with pytest.raises(UserError, match="missing"):
        section.optional("absent", section.int)


def test_a_choice_names_the_nearest_of_the_known(section):
    assert section.choice("name", ("text", "other")) == "text"
    with pytest.raises(UserError, match=r"config\.name='text' .* did you mean 'test'"):
        section.choice("name", ("test", "zzz"))


def read_all(section, *but):
    for key in VALUES:
        if key not in but:
            section.value(key)
    if "inner" not in but:
        inner = section.section("inner")
        inner.int("depth"), inner.section("deeper").int("x")


@pytest.mark.parametrize("key", [key for key in VALUES if key != "inner"])
def test_a_key_that_nothing_read_is_refused(section, key):
    read_all(section, key)
    with pytest.raises(UserError, match=rf"config\.{key} is read by nothing"):
        section.finish()


def test_a_key_that_nothing_read_is_refused_below_too(section):
    read_all(section, "inner")
    section.section("inner").int("depth")
    with pytest.raises(UserError, match=r"config\.inner\.deeper is read by nothing"):
        section.finish()
    section.section("inner").section("deeper")
    with pytest.raises(UserError, match=r"config\.inner\.deeper\.x is read by nothin"):
        section.finish()
    section.section("inner").section("deeper").int("x")
    section.finish()


def test_an_unread_key_names_the_nearest_that_something_reads():
    section = Section(dict(kl_coef=0.1, kl_coeff=0.2))
    section.float("kl_coef")
    with pytest.raises(UserError, match="kl_coeff is read by .* did you mean 'kl_coef"):
        section.finish()


def test_asking_whether_a_key_is_there_reads_nothing(section):
    assert section.has("count") and not section.has("absent")
    assert section.values() == VALUES and section.keys() == list(VALUES)
    with pytest.raises(UserError, match="is read by nothing"):
        section.finish()


def test_keys_may_be_left_on_purpose(section):
    section.leave(list(VALUES))
    section.finish()


def factory(needed, *, given, optional=1):
    return needed, given, optional


def test_keywords_are_those_of_the_factory():
    section = Section(dict(needed=2, optional=3))
    assert section.keywords(factory, given=4) == dict(needed=2, optional=3, given=4)
    section.finish()


def test_keywords_that_the_factory_does_not_take_are_refused():
    with pytest.raises(UserError, match=r"config\.optionl: factory .* 'optional'"):
        Section(dict(needed=2, optionl=3)).keywords(factory, given=4)
    with pytest.raises(UserError, match=r"config\.given: factory takes no such key"):
        Section(dict(needed=2, given=3)).keywords(factory, given=4)
    with pytest.raises(UserError, match=r"config\.needed is missing"):
        Section(dict(optional=2)).keywords(factory, given=4)


def test_nothing_near_lists_what_is_known():
    assert nearest("xyz", ["b", "a"]) == "; known: a, b"
    assert nearest("xyz", []) == ""
