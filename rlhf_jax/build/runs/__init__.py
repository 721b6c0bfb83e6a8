"""What all stages of a run share: folder, models, devices, programs, processes."""
