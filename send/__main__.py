"""Run the command line as ``python -m send``."""

from send.cli import main

raise SystemExit(main())
