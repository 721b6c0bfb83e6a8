"""Experiment files and what the command line sets in them."""

import pytest
from ml_collections import ConfigDict, config_dict

from rlhf_jax.build.configs import loading
from rlhf_jax.errors import UserError


@pytest.fixture
def config():
    return ConfigDict(
        dict(
            count=1,
            rate=0.5,
            on=True,
            name="a",
            names=("a", "b"),
            sizes=(1, 2),
            path=config_dict.placeholder(str),
            limit=config_dict.placeholder(int),
            inner=dict(rate=1.0, deep=dict(names=("x",))),
        )
    ).lock()


SETTINGS = [
    ("count", "7", 7),
    ("count", "-7", -7),
    ("count", "0x10", 16),
    ("rate", "2", 2.0),
    ("rate", "1e-3", 1e-3),
    ("on", "False", False),
    ("on", "no", False),
    ("on", "1", True),
    ("name", "7", "7"),
    ("name", "None", None),
    ("count", "None", None),
    ("rate", "None", None),
    ("names", "None", None),
    ("name", "", ""),
    ("names", "c", ("c",)),
    ("names", "c,d", ("c", "d")),
    ("names", "('c', 'd')", ("c", "d")),
    ("names", "['c']", ("c",)),
    ("names", "", ()),
    ("names", "()", ()),
    ("sizes", "3, 4", (3, 4)),
    ("sizes", "(3,)", (3,)),
    ("path", "a/b", "a/b"),
    ("path", "None", None),
    ("limit", "5", 5),
    ("limit", "None", None),
    ("inner.rate", "3", 3.0),
    ("inner.deep.names", "y,z", ("y", "z")),
]


@pytest.mark.parametrize(("key", "text", "value"), SETTINGS)
def test_a_setting_is_read_as_the_type_of_its_key(config, key, text, value):
    loading.override(config, {key: text})
    found = loading.flat(config)[key]
    assert found == value and type(found) is type(value)


WRONG = [
    ("count", "x", "count=x: not a whole number"),
    ("count", "1.5", "count=1.5: not a whole number"),
    ("rate", "x", "rate=x: not a number"),
    ("on", "2", "on=2: not True or False"),
    ("limit", "x", "limit=x: not a whole number"),
    ("names", "('a'", "names=('a'"),
    ("cuont", "1", "did you mean 'count'"),
    ("deep.names", "1", "did you mean 'inner.deep.names'"),
    ("inner", "1", "inner is a section; set one of its keys"),
    ("inner.rte", "1", "did you mean 'inner.rate'"),
    ("zzzzzz", "1", "is not a key of this experiment"),
    ("", "1", "is not a key of this experiment"),
]


@pytest.mark.parametrize(("key", "text", "said"), WRONG)
def test_a_wrong_setting_is_named(config, key, text, said):
    with pytest.raises(UserError) as error:
        loading.override(config, {key: text})
    assert said in str(error.value)


def test_a_setting_of_none_may_be_unset_again(config):
    loading.override(config, {"path": "a"})
    loading.override(config, {"path": "None"})
    assert config.path is None


FILE = """
from ml_collections import ConfigDict

{extra}

def get_config({parameters}):
    return ConfigDict(dict(variant={value}))
"""


def write(folder, **parts):
    path = folder / "one.py"
    parts = {"extra": "", "parameters": "variant='plain'", "value": "variant", **parts}
    path.write_text(FILE.format(**parts))
    return path


def test_the_variant_goes_to_the_experiment(tmp_path):
    path = write(tmp_path)
    assert loading.load(str(path)).variant == "plain"
    assert loading.load(f"{path}:small").variant == "small"


def test_a_listed_variant_is_taken_and_no_other(tmp_path):
    path = write(tmp_path, extra="VARIANTS = ('small', 'large')")
    assert loading.load(f"{path}:small").variant == "small"
    assert loading.load(str(path)).variant == "plain"
    with pytest.raises(UserError, match="no variant 'smal'; did you mean 'small'"):
        loading.load(f"{path}:smal")


def test_a_file_without_variants_takes_none(tmp_path):
    path = write(tmp_path, parameters="", value="1")
    assert loading.load(str(path)).variant == 1
    with pytest.raises(UserError, match="has no variants"):
        loading.load(f"{path}:small")


def test_a_loaded_config_has_no_room_for_new_keys(tmp_path):
    config = loading.load(str(write(tmp_path)))
    with pytest.raises(AttributeError):
        config.new = 1


def test_a_failure_names_the_line_of_the_file_and_not_of_a_library(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("import json\n\ndef get_config():\n    return json.loads('{')\n")
    with pytest.raises(UserError, match="line 4 of the file fails with JSONDecodeErr"):
        loading.load(str(path))


def test_an_experiment_may_refuse_in_its_own_words(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(
        "from rlhf_jax.errors import UserError\n"
        "def get_config():\n    raise UserError('set model.path')\n"
    )
    with pytest.raises(UserError, match="^set model.path$"):
        loading.load(str(path))
