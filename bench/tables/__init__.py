# SPDX-License-Identifier: LGPL-2.1-or-later
"""One module a table, each with `measure(rounds, full) -> Table`."""
