"""Who may import whom: nothing upwards, sideways only what is listed here."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "rlhf_jax"

LAYERS = [
    {
        *{"types", "metrics", "rng", "errors", "sharding", "stats", "ops", "planning"},
        *{"hosts", "placement", "host_memory"},
    },
    {"rewards", "advantages", "losses", "networks", "data", "worlds", "optimizers"},
    {"rollout"},
    {"algorithms"},
    {"training"},
    {"studies"},
    {"build", "cli", "__main__"},
]
"""Lower may not import higher."""

SIDEWAYS = {
    "sharding": {"errors"},
    "hosts": {"errors"},
    "placement": {"errors", "sharding"},
    "host_memory": {"errors", "placement", "sharding"},
    "stats": {"errors", "metrics", "rng", "types"},
    "ops": {"errors", "placement", "types"},
    "planning": {"errors", "sharding"},
    "cli": {"build"},
    "__main__": {"cli"},
}
"""Imports inside one layer: folder -> what it needs."""

ONLY_IN = {
    "flax": {"networks"},
    "orbax": {"training/checkpoint.py"},
    "ml_collections": {"build", "cli"},
    "transformers": {"data", "networks"},
    "tokenizers": {"data"},
    "safetensors": {"networks"},
    "tensorflow_datasets": {"data"},
    "wandb": {"training"},
    "tensorboardX": {"training"},
    "matplotlib": {"training", "studies", "cli"},
    "tensorflow": set(),
    "torch": set(),
}
"""Third-party module -> folders or files of the package that may import it."""


def imported(source):
    """Dotted names of all imports of a module, also lazy ones inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            if function.endswith(("import_module", "__import__")):
                argument = node.args[0]
                if isinstance(argument, ast.Constant):
                    yield argument.value


def part(name):
    """`losses` for `rlhf_jax/losses/policy.py` and `rlhf_jax.losses.policy`."""
    return name.split("/")[0].removesuffix(".py")


def layer(name):
    for number, members in enumerate(LAYERS):
        if name in members:
            return number
    raise AssertionError(f"{name} is in no layer: add it to LAYERS")


def violations(path, source):
    """What one file of the package (path inside it) imports against the tables."""
    own = part(path)
    for name in imported(source):
        top, *rest = name.split(".")
        if top == "rlhf_jax":
            other = rest[0] if rest else ""
            if own == "__init__" or other in ("", own, "__version__"):
                continue
            if layer(other) > layer(own):
                yield f"{path} imports {name}, which is a higher layer"
            elif layer(other) == layer(own) and other not in SIDEWAYS.get(own, ()):
                yield f"{path} imports {name} sideways"
        elif top in ONLY_IN and not {own, path} & ONLY_IN[top]:
            yield f"{path} imports {top}, which only {sorted(ONLY_IN[top])} may"


FILES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))


@pytest.mark.smoke
def test_the_package_keeps_the_import_table():
    found = [
        v for path in FILES for v in violations(path, (PACKAGE / path).read_text())
    ]
    assert not found, "\n".join(found)


def test_every_folder_has_a_layer():
    assert len(set.union(*LAYERS)) == sum(map(len, LAYERS))
    for path in FILES:
        if part(path) != "__init__":
            layer(part(path))


@pytest.mark.parametrize("folder", ["experiments", "scripts"])
def test_recipes_and_scripts_leave_orbax_and_flax_alone(folder):
    for path in (ROOT / folder).rglob("*.py"):
        if path.name.startswith("tunix_"):  # runs in the environment of that peer
            continue
        tops = {name.split(".")[0] for name in imported(path.read_text())}
        assert not tops & {"orbax", "flax"}, path


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/kl.py", "from rlhf_jax import losses"),
        ("losses/policy.py", "from rlhf_jax.networks import layers"),
        ("losses/policy.py", "def f():\n  from rlhf_jax import data"),
        ("rollout/sampler.py", "import rlhf_jax.training"),
        ("algorithms/ppo.py", "import orbax.checkpoint as ocp"),
        ("training/loop.py", "from orbax import checkpoint"),
        ("training/loop.py", "import importlib\nimportlib.import_module('orbax')"),
        ("algorithms/ppo.py", "from flax import linen as nn"),
        ("rewards/shape.py", "import ml_collections"),
        ("studies/ablation.py", "from rlhf_jax.build import chain"),
    ],
)
def test_a_wrong_import_is_noticed(path, source):
    assert list(violations(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("losses/policy.py", "from rlhf_jax.ops import kl\nimport jax"),
        ("training/checkpoint.py", "from orbax.checkpoint import v1 as ocp"),
        ("networks/layers.py", "from flax import linen as nn"),
        (
            "build/stages/ppo.py",
            "import ml_collections\nfrom rlhf_jax import algorithms",
        ),
    ],
)
def test_a_right_import_passes(path, source):
    assert not list(violations(path, source))
