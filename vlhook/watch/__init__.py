# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-watch: tells the keeper what libvirt calls no hook for.

Its own service, because it asks libvirt about guests, which neither the hook
nor the keeper may do, and because it may hang with libvirtd without harm: no
lease depends on it. It sends the keeper the live XML of guests whose disks
changed, at libvirt's events and, for what has no event, every few seconds.

    events.py    the connection to libvirtd, its events, and what to look at when
    guests.py    one guest: its XML to the keeper, and the policy where a disk is refused
    pools.py     where volumes are, in pools whose state file does not tell
"""
