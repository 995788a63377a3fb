"""``python -m fastopt`` is the command ``fastopt``."""

from .cli import main

raise SystemExit(main())
