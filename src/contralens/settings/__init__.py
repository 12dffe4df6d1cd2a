"""The settings of each job, declared once; see `contralens.settings.record`."""
