"""graphc: a symbolic graph compiler with static execution."""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").exists() and (_root / "passes").is_dir():
    __path__.append(str(_root))  # a checkout: graphc.passes and graphc.runtime are the folders beside this one
