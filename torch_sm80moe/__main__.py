"""`python -m torch_sm80moe` is the command `sm80moe`."""

import sys

from torch_sm80moe.cli import main

sys.exit(main())
