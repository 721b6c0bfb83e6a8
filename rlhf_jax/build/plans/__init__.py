"""Every program of an experiment as shapes, compiled for devices that are not here."""
