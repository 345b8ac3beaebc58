# Makes out/{root.img,vmlinuz} and modules/ below $WORK for lab machines of Debian
# $RELEASE with $PACKAGES, from the package sources given as arguments. What it prints is progress.
set -euo pipefail
cd "$WORK"
mkdir out modules
mmdebstrap --quiet --mode=root --variant=required --format=directory --include="$PACKAGES" \
	--aptopt="$WORK/apt.conf" --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' \
	"$RELEASE" tree "$@"
echo "packages are installed; trimming the boot"

# Kernel and modules: one kernel, or the machine would not know which.
set -- tree/boot/vmlinuz-*
[ $# = 1 ] || { echo "want one kernel: $*" >&2; exit 1; }
mv "$1" out/vmlinuz
rm -f tree/boot/initrd* tree/initrd* tree/vmlinuz*
cp -a tree/lib/modules/*/. modules/

# Services that packages start and tests do not want, or want to start themselves:
# targets, libvirtd, initiators' own records, timers, consoles. iscsid's, LVM's and
# device-mapper's sockets stay, as on any host.
off="tgt.service libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirt-guests.service
virtlogd.socket virtlogd-admin.socket virtlockd.socket virtlockd-admin.socket machines.target
open-iscsi.service iscsi.service nftables.service e2scrub_reap.service remote-fs.target
apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer
getty@tty1.service systemd-pstore.service"
for unit in $off; do rm -f tree/etc/systemd/system/*.wants/"$unit"; done
# What only costs time here: each is some 0.1-0.5 s on an emulated processor, and
# lvm2-monitor 2 s: what udev activates is monitored all the same.
never="systemd-modules-load.service systemd-sysctl.service getty.target getty-static.service serial-getty@ttyS0.service console-getty.service systemd-logind.service
systemd-networkd.service systemd-networkd.socket systemd-network-generator.service systemd-resolved.service systemd-timesyncd.service
systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-user-sessions.service
systemd-machine-id-commit.service systemd-firstboot.service systemd-sysusers.service systemd-hwdb-update.service systemd-update-done.service
systemd-journal-flush.service systemd-journal-catalog-update.service systemd-boot-system-token.service systemd-repart.service
systemd-rfkill.service systemd-rfkill.socket systemd-backlight@.service systemd-fsck-root.service systemd-remount-fs.service
systemd-ask-password-console.path systemd-ask-password-wall.path systemd-tmpfiles-clean.timer systemd-initctl.socket
systemd-binfmt.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount
modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service sys-fs-fuse-connections.mount ldconfig.service
lvm2-monitor.service user.slice systemd-quotacheck.service quotaon.service first-boot-complete.target tmp.mount e2scrub@.service"
for unit in $never; do ln -sf /dev/null "tree/etc/systemd/system/$unit"; done
# Coldplug for disks, cards and the like only: buses and processors have their drivers from
# the initrd, and going through all of them costs 3-4 s.
mkdir -p tree/etc/systemd/system/systemd-udev-trigger.service.d
cat >tree/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf <<'EOF'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=misc --subsystem-match=mem --subsystem-match=virtio-ports
EOF
# A generator is a program run before anything else; none has something to do here
# (init mounts the root, fstab is empty).
mkdir -p tree/etc/systemd/system-generators
for g in tree/lib/systemd/system-generators/*; do ln -sf /dev/null "tree/etc/systemd/system-generators/${g##*/}"; done
ln -sf /lib/systemd/system/multi-user.target tree/etc/systemd/system/default.target
mkdir -p tree/etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToSyslog=no\nAudit=no\n' >tree/etc/systemd/journald.conf.d/lab.conf
: >tree/etc/fstab
printf 'nameserver 127.0.0.1\n' >tree/etc/resolv.conf
# Root has no password anywhere; there is nothing to log in with but the agent.
rm -rf tree/var/lib/apt/lists/* tree/var/cache/apt/*.bin tree/var/cache/debconf/*-old tree/usr/share/locale/*
rm -f tree/etc/ssh/ssh_host_* tree/etc/machine-id tree/var/lib/dbus/machine-id
: >tree/etc/machine-id

echo "packing the root, $(du -sxm tree | cut -f1) MB"
# No journal: nothing that is written here outlives its machine.
MKE2FS_CONFIG=/dev/null mke2fs -q -F -t ext4 -L lab-root -b 4096 -I 256 -m 0 \
	-O none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
	-d tree out/root.img 4096M >/dev/null
sync out/root.img out/vmlinuz
