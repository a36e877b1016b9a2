# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network of three hosts to look at: `python -m tests.network`. No test, a tool for developers."""
