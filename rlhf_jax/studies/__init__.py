"""What people look at after runs: reports, ablations, reproductions.

Modules:
  report: `write(workdirs, out)`, the page of one run or several; `difference`.
  schema: the rows of `samples.jsonl`, the keys of `summary.json`, builders of both.
  summary: `entry`, `paired_difference`, `verdict`, `write`: numbers with errors.
  runs: `read(workdirs)`, runs as data. compare: where configs differ.
  ablation: parts switched off and on over paired seeds, with verdicts.
  reproduction: claims of papers, with verdicts.
"""
