"""Real text without a download: the docstrings and comments of the installed Python.

The standard library is read with `ast`; nothing is imported or run. The body of a
docstring is the prompt and its summary line the response, a small TL;DR. Held-out
modules are chosen by a hash of their name, so the split is the same on every machine
with the same Python.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.data.records import Demonstration, Document
from rlhf_jax.data.sources import Dataset, hash_fraction
from rlhf_jax.errors import UserError

_SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idle_test",
    "site-packages",
    "test",
    "tests",
}
_HAS_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Corpus(NamedTuple):
    """Text of the standard library, split by module.

    Attributes:
      demonstrations: docstring body to summary line, training modules.
      heldout: the same of held-out modules, none of them seen in training modules.
      documents: docstrings and comments of training modules, for pretraining.
      modules: names of the modules with a pair, (training, held-out).
    """

    demonstrations: Dataset
    heldout: Dataset
    documents: Dataset
    modules: tuple[tuple[str, ...], tuple[str, ...]]


def corpus(
    root: str | Path | None = None,
    *,
    heldout_fraction: float = 0.15,
    min_body_words: int = 8,
    min_summary_words: int = 3,
) -> Corpus:
    """Read the corpus.

    Args:
      root: folder of Python sources; None is the installed standard library.
      heldout_fraction: chance that a module is held out.
      min_body_words: shorter bodies make no pair.
      min_summary_words: shorter summaries make no pair.

    Returns:
      The corpus. Ids are `module:qualname` (`module:#line` for comments), `extra` has
      the `module`, by which held-out statistics are clustered. Text that occurs twice
      is kept once, and a held-out pair that a training module repeats is left out.

    Raises:
      UserError: no pairs under the folder.
    """
    base = Path(root or sysconfig.get_paths()["stdlib"])
    pairs: dict[bool, list[Demonstration]] = {False: [], True: []}
    documents: list[Document] = []
    for module, source in _modules(base):
        held = is_heldout(module, heldout_fraction)
        texts = _docstrings(module, source)
        pairs[held] += _pairs(module, texts, min_body_words, min_summary_words)
        if not held:
            documents += _documents(module, [*texts, *_comments(source)])
    train = _unique(pairs[False], set())
    known: set[object] = {demonstration.prompt for demonstration in train}
    heldout = _unique(pairs[True], known)
    if not train or not heldout:
        raise UserError(f"no documented Python modules on both sides under {base}")
    return Corpus(
        Dataset("pydoc/train", tuple(train)),
        Dataset("pydoc/heldout", tuple(heldout)),
        Dataset("pydoc/documents", tuple(_first_of_each(documents))),
        (_names(train), _names(heldout)),
    )


def is_heldout(module: str, fraction: float) -> bool:
    """Whether a module is held out: a hash of its name below the fraction."""
    return hash_fraction(f"pydoc/{module}") < fraction


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """(summary line, body) of a docstring in the form of PEP 257, else None."""
    summary, blank, body = docstring.strip().partition("\n\n")
    if not blank or "\n" in summary or not body.strip():
        return None
    return summary.strip(), body.strip("\n").rstrip()


def _modules(base: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        if _SKIPPED_FOLDERS & set(parts[:-1]) or parts[0].startswith("_sysconfigdata"):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            with tokenize.open(path) as file:
                yield name, file.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue


def _docstrings(module: str, source: str) -> list[tuple[str, str]]:
    """(id, docstring) of everything documented in a module, in order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found: dict[str, str] = {}
    for name, node in _nodes(tree, ""):
        text = ast.get_docstring(node)
        if text:
            found.setdefault(f"{module}:{name or '__doc__'}", text)
    return list(found.items())


def _nodes(node: ast.AST, name: str) -> Iterator[tuple[str, _Documented]]:
    if isinstance(node, _Documented):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _HAS_STATEMENTS):
            continue  # nothing inside of an expression has a docstring
        inner = getattr(child, "name", "") if isinstance(child, _Documented) else ""
        yield from _nodes(child, f"{name}.{inner}".strip("."))


_STRING_OR_COMMENT = re.compile(
    r"""(?xs)
    "{3} (?: \\. | [^\\] )*? "{3} | '{3} (?: \\. | [^\\] )*? '{3}
    | " (?: \\. | [^"\\\n] )* " | ' (?: \\. | [^'\\\n] )* '
    | \# [^\n]*
    """
)
"""What begins first is what a `#` or a quote belongs to. Python's own tokenizer finds
the same comments in its whole library, in 12 times the time on 3.11."""


def _comments(source: str) -> list[tuple[str, str]]:
    """(`#line`, text) of every block of comment lines."""
    blocks: list[tuple[int, list[str]]] = []
    last, line, seen = -1, 1, 0
    for found in _STRING_OR_COMMENT.finditer(source):
        text = found.group()
        if not text.startswith("#") or text.startswith("#!"):
            continue
        line += source.count("\n", seen, found.start())
        seen = found.start()
        if line != last + 1:
            blocks.append((line, []))
        blocks[-1][1].append(text.lstrip("#").strip())
        last = line
    return [(f"#{line}", "\n".join(text).strip()) for line, text in blocks]


def _pairs(
    module: str, texts: list[tuple[str, str]], min_body: int, min_summary: int
) -> list[Demonstration]:
    pairs = []
    for name, text in texts:
        split = split_docstring(text)
        if split is None:
            continue
        summary, body = split
        if len(body.split()) >= min_body and len(summary.split()) >= min_summary:
            pairs.append(
                Demonstration(
                    id=name, prompt=body, response=summary, extra={"module": module}
                )
            )
    return pairs


def _documents(module: str, texts: list[tuple[str, str]]) -> list[Document]:
    return [
        Document(
            id=name if ":" in name else f"{module}:{name}",
            text=text,
            extra={"module": module},
        )
        for name, text in texts
        if len(text.split()) >= 3
    ]


def _unique(pairs: list[Demonstration], known: set[object]) -> list[Demonstration]:
    kept: dict[object, Demonstration] = {}
    for pair in pairs:
        if pair.prompt not in known:
            kept.setdefault(pair.prompt, pair)
    return list(kept.values())


def _first_of_each(documents: list[Document]) -> list[Document]:
    kept: dict[object, Document] = {}
    for document in documents:
        kept.setdefault(document.text, document)
    return list(kept.values())


def _names(pairs: list[Demonstration]) -> tuple[str, ...]:
    return tuple(sorted({str(pair.extra["module"]) for pair in pairs}))
