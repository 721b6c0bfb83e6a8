"""What a file of human feedback says, says twice, and says against itself."""

from rlhf_jax.studies.feedback_report.measures import Report, measure
from rlhf_jax.studies.feedback_report.text import summary

__all__ = ["Report", "measure", "summary"]
