"""Published runs of which something is quoted from memory: predicted beside what was published, judged by nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlsysim.tables.predict import predict_table
from mlsysim.validation.anchors.loading import written

FILE = "recalled.toml"


def rows(root: Path) -> list[dict[str, Any]]:
    """The runs of ``FILE`` under ``root``, each with what is predicted of it; none without the file.

    Raises:
        DataError: the file is not TOML, or an entry lacks what it needs.
    """
    entries = written(root / FILE)
    predicted = predict_table(entry["run"] for entry in entries.values())
    return [
        {"id": name, **entry, "metric": entry["run"]["metric"], "predicted": float(answer["predicted"])}
        for (name, entry), answer in zip(entries.items(), predicted, strict=True)
    ]
