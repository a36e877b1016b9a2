# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking the storage away for real, and measuring what happens then (`vlhook drill`)."""
