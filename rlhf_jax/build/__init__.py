"""From a config to a run: the only package that reads configs.

`experiment.build` reads all of it, `experiment.run` runs its stages; `kinds` lists the
stages that a config can name.

==============  ====================================================================
`configs`       what experiment files are written with, and how they are read
`tasks`         data and the gold reward
`objective`     how names in a config become rewards, estimators, terms, optimizers
`runs`          what the stages of a run share: folder, models, devices, programs
`stages`        one module for each kind of stage
`plans`         the programs of a stage as shapes, for `plan`
`commands`      check, ablate, reproduce, rm-report, feedback-report, export, ...
==============  ====================================================================
"""
