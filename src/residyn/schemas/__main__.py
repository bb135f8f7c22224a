"""`python -m residyn.schemas FOLDER` writes the schemas as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from residyn.schemas import NAMES
from residyn.schemas.making import made


def main(folder: str) -> None:
    """Write them.

    Args:
        folder: Where to.
    """
    for name in NAMES:
        Path(folder, f"{name}.json").write_text(json.dumps(made(name), ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
