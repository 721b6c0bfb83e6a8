"""The pydoc corpus: what is read, how it is split, and that nothing runs."""

from __future__ import annotations

import io
import sysconfig
import tokenize
from pathlib import Path

import pytest

from rlhf_jax.data import pydoc
from rlhf_jax.errors import UserError

BODY = "This body has quite enough words in it to make up a pair."
MODULE = '''"""Read things from somewhere.

{body} Of module {name}.
"""
#!/not/the/first/line
# A comment that goes
# over two lines.
raise SystemExit("a module that is imported would stop the test")


class Reader:
    """Reads one {name} thing.

    {body}
    It is the {name} one.
    """

    x = 1  # trailing remark about x

    def read(self):
        """Only a summary line here."""

        def inner():
            """Read an inner {name} thing.

            {body} Inner {name}.
            """

    @property
    def size(self):
        """
        A summary on its second line {name}.

        {body} Size {name}.
        """

    @size.setter
    def size(self, value):
        """Set the size, documented again.

        {body} Not read {name}.
        """


def two_lines():
    """A summary that goes over
    two lines makes no pair.

    {body}
    """


def copied():
    """The same text stands in every module.

    {body} Copied.
    """
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("lib")
    for i in range(12):
        folder = root / "package" if i % 2 else root
        folder.mkdir(exist_ok=True)
        name = f"module_{i}"
        (folder / f"{name}.py").write_text(MODULE.format(body=BODY, name=name))
    (root / "package" / "__init__.py").write_text("# Just one comment line here.\n")
    (root / "test").mkdir()
    (root / "test" / "test_x.py").write_text(MODULE.format(body=BODY, name="no"))
    (root / "broken.py").write_text("def f(:\n")
    (root / "binary.py").write_bytes(b"\xff\xfe\x00")
    return root


@pytest.fixture(scope="module")
def corpus(tree):
    return pydoc.corpus(tree, heldout_fraction=0.4)


def test_body_is_the_prompt_and_summary_the_response(corpus):
    found = {record.id: record for record in corpus.demonstrations.records}
    module = corpus.modules[0][0]
    short = module.rpartition(".")[2]
    names = {name.partition(":")[2] for name in found if name.startswith(f"{module}:")}
    assert names - {"copied"} == {
        "__doc__",
        "Reader",
        "Reader.read.inner",
        "Reader.size",
    }
    reader = found[f"{module}:Reader"]
    assert reader.response == f"Reads one {short} thing."
    assert reader.prompt == f"{BODY}\nIt is the {short} one."
    assert reader.extra == {"module": module}
    assert found[f"{module}:Reader.size"].response == (
        f"A summary on its second line {short}."
    )


def test_modules_are_split_and_nothing_held_out_is_seen_in_training(corpus):
    train, held = corpus.modules
    assert train and held and not set(train) & set(held)
    assert all(pydoc.is_heldout(module, 0.4) for module in held)
    assert not any(pydoc.is_heldout(module, 0.4) for module in train)
    prompts = {record.prompt for record in corpus.demonstrations.records}
    assert not prompts & {record.prompt for record in corpus.heldout.records}
    copies = [r for r in corpus.demonstrations.records if r.prompt.endswith("Copied.")]
    assert len(copies) == 1  # text that repeats is kept once, never held out
    modules = {record.extra["module"] for record in corpus.documents.records}
    assert not modules & set(held)


def test_documents_are_docstrings_and_comments(corpus):
    texts = [record.text for record in corpus.documents.records]
    assert len(set(texts)) == len(texts)
    assert "A comment that goes\nover two lines." in texts
    assert "trailing remark about x" in texts
    assert "Only a summary line here." in texts
    assert not any("/not/the/first/line" in text for text in texts)
    ids = [record.id for record in corpus.documents.records]
    assert len(set(ids)) == len(ids)
    comment = next(r for r in corpus.documents.records if r.text.startswith("A comm"))
    assert comment.id == f"{comment.extra['module']}:#6"


def test_the_corpus_is_the_same_every_time(tree, corpus):
    assert pydoc.corpus(tree, heldout_fraction=0.4) == corpus


@pytest.mark.parametrize(
    ("docstring", "parts"),
    [
        ("S.\n\nbody", ("S.", "body")),
        ("\n S. \n\n  a\n\n  b\n", ("S.", "  a\n\n  b")),
        ("S.\nbody", None),
        ("S.\nmore\n\nbody", None),
        ("S.", None),
        ("S.\n\n  ", None),
    ],
)
def test_split_of_a_docstring(docstring, parts):
    assert pydoc.split_docstring(docstring) == parts


def test_the_standard_library_has_pairs():
    found = pydoc.corpus(Path(sysconfig.get_paths()["stdlib"]) / "email")
    assert len(found.demonstrations.records) > 40
    assert len(found.heldout.records) > 0
    ids = {r.id for r in (*found.demonstrations.records, *found.heldout.records)}
    assert "message:Message.get_payload" in ids


def test_a_folder_without_python_is_refused(tmp_path):
    with pytest.raises(UserError, match="no documented Python modules"):
        pydoc.corpus(tmp_path)


def test_comments_are_those_of_pythons_tokenizer():
    """On a part of the library that has quotes in comments and `#` in strings."""
    base = Path(sysconfig.get_paths()["stdlib"])
    checked = 0
    for path in sorted(base.glob("*.py"))[:80] + sorted(base.glob("email/*.py")):
        source = path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        wanted = [
            token.string.lstrip("#").strip()
            for token in tokens
            if token.type == tokenize.COMMENT and not token.string.startswith("#!")
        ]
        found = "\n".join(text for _, text in pydoc._comments(source))
        assert found.split() == "\n".join(wanted).split(), path
        checked += len(wanted)
    assert checked > 1000
    tricky = "s = \"# no\"  # yes\nt = '''\n# no \"'''  # so\n"
    assert pydoc._comments(tricky) == [("#1", "yes"), ("#3", "so")]
