# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhookd, the keeper: the one process of a host that holds its guests' leases."""
