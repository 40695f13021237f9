"""Run the command line as ``python -m specdens``."""

from specdens.cli import main

raise SystemExit(main())
