# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook: leases on shared storage that keep a guest's disks to one running guest."""

__version__ = "0.1.0"
