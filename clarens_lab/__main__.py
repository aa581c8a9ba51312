"""`python -m clarens_lab` is `clarens-lab`."""

from clarens_lab.cli import main

raise SystemExit(main())
