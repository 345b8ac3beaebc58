// Command vcninit is PID 1 of the tiny initrd: it gives a node its identity
// before systemd starts. It is linked statically and imports nothing of ours.
//
//	kernel ─▶ load /modules in order ─▶ mount /dev/vda (ext4)
//	       ─▶ find the CD-ROM labelled VCNSEED, read seed.tar
//	       ─▶ digest differs from /var/lib/vcn/seed? unpack file by file (below), merge
//	          accounts, stamp
//	       ─▶ addresses from /etc/vcn/net ─▶ switch root ─▶ systemd
//
// # Decisions and trade-offs
//
// A seed is applied once. The stamp holds the digest of the applied tar, so a
// reboot with the same seed leaves alone what the cluster's owner has changed
// since.
//
// A disk that had a seed before may come back with another one: moved to a new
// host, or parked and resumed with other addresses. What identifies the node has
// to follow, and what people made of it has to stay. So the digest of each file as
// vcn last wrote it is kept (/var/lib/vcn/written, which /usr/lib/vcn/live also
// writes): a file that is not as vcn left it was changed by somebody. If the new
// seed says of it what the last one said, it is left alone; if not, it is replaced
// and the changed one kept beside it, as .vcn-saved. Only etc/vcn is always
// written. Directories that are there keep their mode and owner. Files below etc
// that the new seed has no more are removed if nobody changed them. Rejected:
// applying a new seed whole, which undid keys and settings of people; and a list
// of files that belong to the owner, which no two rolls would agree on.
//
// Accounts are merged, never replaced: the image's packages own system users
// whose numbers differ from image to image. An account of the same name as a
// system account is an error rather than a take-over. A user's line in passwd is
// written again only if its numbers differ: shell and name are the user's.
//
// Addresses are set here, by ioctl, at each boot: no network manager runs in
// the guest, which saves about two seconds of boot on an emulated processor.
//
// Everything is read with limits and written below the new root through
// [os.Root], which refuses to follow a link out of it. What fails is said on
// the console with the prefix "vcn-init:", and the node restarts after a pause:
// a node without identity must not come up as somebody else.
package main
