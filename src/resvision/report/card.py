"""README.md of a run folder: the model card (Mitchell et al. 2019)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from resvision.classifier import Classifier
from resvision.files import write_text

_CARD = """\
# {{ result.model }} on {{ result.data }}

A residual network that tells {{ result.classes | length }} classes apart: {{ result.classes | join(", ") }}.

| measured on the {{ result.split }} split | |
|---|---|
| pictures | {{ "{:,}".format(result.pictures[result.split]) }} |
| accuracy | {{ "%.2f" | format(100 * result.accuracy) }}% (95% interval \
{{ "%.2f" | format(100 * result.accuracy_ci95[0]) }} to {{ "%.2f" | format(100 * result.accuracy_ci95[1]) }}%) |
| negative log-likelihood | {{ "%.4f" | format(result.loss) }} |
| expected calibration error | {{ "%.4f" | format(result.ece) }} |

| class | precision | recall | pictures |
|---|---|---|---|
{% for name, row in result.per_class.items() -%}
| {{ name }} | {{ percent(row.precision) }} | {{ percent(row.recall) }} | {{ row.pictures }} |
{% endfor %}
## Use

    resvision predict {{ quoted(folder) }} PICTURE.jpg

    from resvision import Classifier
    Classifier.load("{{ folder }}").predict("PICTURE.jpg")

## Training

{% if result.pretrained %}Begun with the weights of `{{ result.pretrained }}`, whose licence and limits come along.

{% endif -%}
{{ "{:,}".format(result.pictures.train) }} pictures, {{ result.epochs }} epochs, epoch {{ result.epoch_kept }} kept, \
{{ "%.0f" | format(result.seconds) }} s at {{ "{:,.0f}".format(result.images_per_second) }} pictures/s on \
{{ result.device }}, {{ result.precision }}. The recipe is in `recipe.yaml`; the same recipe and data repeat the run.
{{ "{:,}".format(result.params) }} parameters, {{ "{:,}".format(result.macs) }} multiply-adds a picture.

## Input

Pictures are turned upright (EXIF). The square in the middle, {{ "%g" | format(preprocess.crop) }} of the shorter \
side, is resized ({{ preprocess.interpolation }}, antialiased) to {{ preprocess.size }} x {{ preprocess.size }} px and \
normalised per channel. `model.json` holds the exact values, and every tool that loads this folder applies them.

## Limits

The figures hold for pictures like those of {{ result.data }}. A picture of something else is still given one of the \
classes.
"""


def write(path: Path, result: dict[str, Any], classifier: Classifier, folder: str) -> None:
    """Writes the model card.

    Args:
        path: of the file.
        result: what result.json holds.
        classifier: whose preprocessing is described.
        folder: the run folder as a person would name it.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(_CARD).render(
        result=result, preprocess=classifier.preprocess, folder=folder, percent=_percent, quoted=shlex.quote
    )
    write_text(path, text)


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}%"
