# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m vlhook.cli`."""

from . import main

main()
