"""What all tests share."""

from __future__ import annotations

import os
import tempfile

# Compiled code from tests stays out of the user's own cache.
os.environ.setdefault("GRAPHC_CACHE_DIR", tempfile.mkdtemp(prefix="graphc-tests-"))
