"""The list of claims: read from files, chosen by name or suite."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.studies.reproduction import claim as claims
from rlhf_jax.studies.reproduction.claim import Claim


def read(folder: Path) -> list[Claim]:
    """All claims of a folder: `CLAIMS` (or `CLAIM`) of each Python file in it.

    Files whose name begins with an underscore are helpers of the others.

    Raises:
      UserError: no such folder, a file without claims, two claims of one id.
    """
    if not folder.is_dir():
        raise UserError(f"no folder of claims at {folder}")
    paths = sorted(p for p in folder.glob("*.py") if not p.name.startswith("_"))
    return checked([claim for path in paths for claim in _of_file(path)])


def checked(found: Iterable[Claim]) -> list[Claim]:
    """The claims, each checked, no two of one id.

    Raises:
      UserError: see `claim.check`.
    """
    kept: dict[str, Claim] = {}
    for one in found:
        claims.check(one)
        if one.id.lower() in kept:
            raise UserError(f"two claims have the id {one.id!r}: rename one")
        kept[one.id.lower()] = one
    return list(kept.values())


def _of_file(path: Path) -> list[Claim]:
    name = f"_claims_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path} fails with {type(error).__name__}: {error}; mend it, or begin its"
            " name with _"
        ) from error
    one = getattr(module, "CLAIM", None)
    found: list[Claim] = list(getattr(module, "CLAIMS", ()))
    found += [] if one is None else [one]
    if not found or not all(isinstance(claim, Claim) for claim in found):
        raise UserError(
            f"{path} holds no claim: end it with CLAIMS = (Claim(...), ...), or begin "
            "its name with _ if it is a helper"
        )
    return found


def select(
    found: Sequence[Claim], names: Sequence[str] = (), suite: str | None = None
) -> list[Claim]:
    """The claims of these names, or of this suite, or all; in the order of `found`.

    In the suite `release` they have their `further_seeds` too.

    Args:
      found: of the catalog.
      names: ids, or families of these (`R1` is every `R1-...`), upper or lower case;
        empty for all.
      suite: one of `claim.SUITES`; None for any.

    Raises:
      UserError: a name or suite that does not exist, or nothing left.
    """
    wanted = {one.id for name in names for one in _named(found, name)}
    if suite is not None and suite not in claims.SUITES:
        raise UserError(f"suite={suite!r} must be one of {', '.join(claims.SUITES)}")
    kept = [one for one in found if not names or one.id in wanted]
    kept = [one for one in kept if suite is None or suite in one.suites]
    if not kept:
        raise UserError(f"no claim is in suite {suite!r}; `--list` shows all")
    if suite == "release":
        kept = [one._replace(seeds=one.seeds + one.further_seeds) for one in kept]
        kept = [one._replace(further_seeds=()) for one in kept]
    return kept


def _named(found: Sequence[Claim], name: str) -> list[Claim]:
    """The claim of an id, or all of a family."""
    known, asked = {one.id.lower(): one for one in found}, name.lower()
    if asked in known:
        return [known[asked]]
    family = [one for key, one in known.items() if key.startswith(f"{asked}-")]
    if not family:
        near = get_close_matches(asked, known, 1)
        hint = f", did you mean {known[near[0]].id!r}" if near else ""
        have = ", ".join(one.id for one in found) or "none"
        raise UserError(f"no claim {name!r}{hint}; there are {have}")
    return family


def listing(found: Sequence[Claim]) -> str:
    """The claims for a terminal: id, kind, suites, seeds, statement, paper."""
    width = max((len(one.id) for one in found), default=0)
    lines = []
    for one in found:
        seeds = f"{len(one.seeds)} seed" + ("s" if len(one.seeds) > 1 else "")
        seeds += f" (+{len(one.further_seeds)})" if one.further_seeds else ""
        suites = ", ".join(one.suites)
        lines.append(f"{one.id:<{width}}  {one.statement}")
        lines.append(f"{'':<{width}}  {one.kind}; {seeds}; {suites}; {one.paper}")
    return "\n".join(lines)
