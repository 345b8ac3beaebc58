#!/bin/sh
# Gives each new home what the system gives new homes, and leaves alone what is there.
set -eu
while IFS=: read -r name _ uid gid _ home _; do
	[ -n "$name" ] && [ -d "$home" ] || continue
	for f in /etc/skel/.[!.]*; do
		t=$home/${f##*/}
		[ -e "$t" ] && continue
		cp -r "$f" "$t"
		chown -R "$uid:$gid" "$t"
	done
done </etc/vcn/accounts
