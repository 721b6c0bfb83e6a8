"""Orders of parts that make no sense: where the score stands among its rewards."""

from __future__ import annotations

from typing import Any

from rlhf_jax.build.configs.section import Section
from rlhf_jax.errors import UserError

KL_LINKS = {
    "kl_penalty": "coef",
    "adaptive_kl_penalty": "init_coef",
    "lagrangian_kl_penalty": "init_coef",
}
"""Links whose coefficient is the section's `kl_coef`."""
_PLACEMENTS = ("score_at_last_token", "score_after_last_token")
_OF_SCORES = (
    "gain_and_bias",
    "length_penalty",
    "missing_eos_penalty",
    "missing_eos_replacement",
    "running_normalization",
)
_OF_EITHER = ("clip", "scale")
"""Links with the keyword `of`: `scores` (the default) or `tokens`."""


def check_rewards(section: Section, names: tuple[str, ...]) -> None:
    """Refuses links that would do nothing where they stand, or one thing twice.

    Raises:
      UserError: no link or two place the score on a token, a link that edits scores
        comes after it, one that edits rewards of tokens before, or two penalize the KL.
    """
    path = f"{section.path}.rewards"
    placed = [index for index, name in enumerate(names) if name in _PLACEMENTS]
    if len(placed) != 1:
        raise UserError(
            f"{path}={names} must name exactly one of"
            f" {', '.join(_PLACEMENTS)}, which puts the score on a token"
        )
    place = names[placed[0]]
    for name in names[placed[0] + 1 :]:
        if name in _OF_SCORES or _edits(section, name) == "scores":
            raise UserError(
                f"{path}: '{name}' edits scores, so it must come before '{place}'"
                f"{_instead(name, 'tokens')}"
            )
    for name in names[: placed[0]]:
        if name == "whiten" or _edits(section, name) == "tokens":
            raise UserError(
                f"{path}: '{name}' edits the rewards of tokens, which are 0 before"
                f" '{place}'; name it after that{_instead(name, 'scores')}"
            )
    twice = [name for name in names if name in KL_LINKS]
    if len(twice) > 1:
        raise UserError(
            f"{path} names {' and '.join(twice)}: kl_coef would be paid twice; keep one"
        )


def _edits(section: Section, name: str) -> str | None:
    if name not in _OF_EITHER:
        return None
    own: Any = section.section(name).values() if section.has(name) else {}
    return str(own.get("of", "scores"))


def _instead(name: str, of: str) -> str:
    return f", or set {name}.of='{of}'" if name in _OF_EITHER else ""
