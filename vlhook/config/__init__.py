# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings: read by `settings` alone, set through `augeas`."""
