"""From a config to a run: the only package that reads configs.

`experiment.build` reads all of it, `experiment.run` runs its stages. A stage is one
module (`sft`, `label`, `rm`, `ppo`, `table`), `context` what they share, `parts` how
names in a config become rewards, estimators, loss terms and optimizers.
"""
