# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disk Paxos leases on shared storage, in sanlock's on-disk format.

Nothing in this package knows of libvirt, XML, sockets or configuration files.
"""
