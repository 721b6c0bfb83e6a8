"""From `config.task` to data: prompts, demonstrations, rankings and the gold reward."""
