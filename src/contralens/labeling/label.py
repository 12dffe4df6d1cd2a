"""The main job: images, a target and an encoder in; labels with their evidence out."""

from __future__ import annotations

from contralens.data.runs import Run
from contralens.labeling.check_settings import ready
from contralens.labeling.reserving import reserving
from contralens.labeling.stages import collect, judge, mine, score, write
from contralens.settings.label import Label
from contralens.settings.record import job


@job(Label)
def label(settings: Label) -> Run:
    """Label the neurons of one layer and store the evidence.

    Returns:
        The `Run`: tables of labels, exemplars and neurons, and a manifest that allows each label to be reproduced.

    Raises:
        InputError: an argument is invalid; the message says what, where and what to do.

    >>> run = label("world:1", "world-1/images", "world", "world-1/vocabulary.txt", layer="block3", k=5, scorers="csp")
    >>> len(run.rows("csp")), run.rows("csp")[0]["name"], run.labels.num_rows
    (64, 'block3/0', 64)
    """
    with reserving(settings):
        return write(judge(score(mine(collect(ready(settings))))))
