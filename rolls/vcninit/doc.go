// Command vcninit is PID 1 of the tiny initrd: it gives a node its identity
// before systemd starts. It is linked statically and imports nothing of ours.
//
//	kernel ─▶ load /modules in order ─▶ mount /dev/vda (ext4)
//	       ─▶ find the CD-ROM labelled VCNSEED, read seed.tar
//	       ─▶ digest differs from /var/lib/vcn/seed? unpack, merge accounts, stamp
//	       ─▶ addresses from /etc/vcn/net ─▶ switch root ─▶ systemd
//
// # Decisions and trade-offs
//
// A seed is applied once. The stamp holds the digest of the applied tar, so a
// reboot with the same seed leaves alone what the cluster's owner has changed
// since, and a new seed is applied whole. Comparing file by file was rejected:
// it cannot tell the owner's change from an old seed's content.
//
// Accounts are merged, never replaced: the image's packages own system users
// whose numbers differ from image to image. An account of the same name as a
// system account is an error rather than a take-over.
//
// Addresses are set here, by ioctl, at each boot: no network manager runs in
// the guest, which saves about two seconds of boot on an emulated processor.
//
// Everything is read with limits and written below the new root through
// [os.Root], which refuses to follow a link out of it. What fails is said on
// the console with the prefix "vcn-init:", and the node restarts after a pause:
// a node without identity must not come up as somebody else.
package main
