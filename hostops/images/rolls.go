package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"vcn/rolls"
)

// fileTime is every roll file's modification time: content must not depend on
// when it is built.
var fileTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// rolls copies each roll's files, runs its scripts and sets its units, in the
// recipe's order.
func (b *builder) rolls(ctx context.Context) error {
	for _, r := range b.recipe.Rolls {
		if err := b.roll(ctx, r); err != nil {
			return fmt.Errorf("roll %s: %w", r.ID(), err)
		}
	}
	return nil
}

func (b *builder) roll(ctx context.Context, r *rolls.Roll) error {
	var files []rolls.File
	for _, f := range b.recipe.Files() {
		if f.Roll == r {
			files = append(files, f)
		}
	}
	if len(files) > 0 {
		b.say("roll %s: %d files", r.Name, len(files))
		t, err := filesTar(files)
		if err != nil {
			return err
		}
		// The image's own tar, so that names of owners are the image's.
		args := []string{"tar", "-x", "-p", "-C", "/", "--keep-directory-symlink", "-f", "-"}
		if _, err := b.tree.inside(ctx, step{name: "copy files", args: args, stdin: bytes.NewReader(t)}); err != nil {
			return err
		}
	}
	for _, s := range b.recipe.Scripts() {
		if s.Roll == r {
			if err := b.script(ctx, s); err != nil {
				return err
			}
		}
	}
	for _, u := range []struct {
		verb string
		list []rolls.Entry
	}{{"enable", b.recipe.Enable()}, {"mask", b.recipe.Disable()}} {
		args := []string{"systemctl", "-q", u.verb}
		for _, e := range u.list {
			if e.Roll == r {
				args = append(args, e.Name)
			}
		}
		if len(args) == 3 {
			continue
		}
		if _, err := b.tree.inside(ctx, step{name: u.verb + " units", args: args}); err != nil {
			return err
		}
	}
	return nil
}

// script runs one image-time script, in a directory with all files of its roll.
func (b *builder) script(ctx context.Context, s rolls.Script) error {
	b.say("roll %s: script %s", s.Roll.Name, s.Name)
	t, err := rollTar(s.Roll)
	if err != nil {
		return err
	}
	const run = `set -eu; mkdir -p /run/vcn/roll; cd /run/vcn/roll; tar -x -p -f -; exec "./$1" </dev/null`
	_, err = b.tree.inside(ctx, step{
		name: "script " + s.Name, args: []string{"sh", "-c", run, "sh", s.Name}, stdin: bytes.NewReader(t),
		env: []string{"VCN_APPLIANCE=" + b.recipe.Appliance, "VCN_ROLL=" + s.Roll.ID()},
	})
	return err
}

// filesTar packs files with the names of their owners.
func filesTar(files []rolls.File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// Directories first, so that what is in them finds their mode set.
	slices.SortStableFunc(files, func(a, b rolls.File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range files {
		user, group := f.UserGroup()
		h := &tar.Header{
			Name: strings.TrimPrefix(path.Clean(f.Path), "/"), Mode: int64(f.Perm()), Typeflag: tar.TypeReg,
			Uname: user, Gname: group, ModTime: fileTime, Size: int64(len(f.Content())), Format: tar.FormatGNU,
		}
		if f.Dir {
			h.Typeflag, h.Name, h.Size = tar.TypeDir, h.Name+"/", 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
		if !f.Dir {
			if _, err := w.Write(f.Content()); err != nil {
				return nil, fmt.Errorf("pack %s: %w", f.Path, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// rollTar packs all files of a roll, executable, for its scripts.
func rollTar(r *rolls.Roll) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := make([]string, 0, len(r.Files))
	for n := range r.Files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o755, Typeflag: tar.TypeReg, ModTime: fileTime, Size: int64(len(r.Files[n]))}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", n, err)
		}
		if _, err := w.Write(r.Files[n]); err != nil {
			return nil, fmt.Errorf("pack %s: %w", n, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// stripScript takes out secrets that packages made while installing, what tells
// one image from another without need, and traces of the building. It then looks
// for a private key that it did not know of: better no image than a shared one.
const stripScript = `set -eu
rm -f /etc/ssh/ssh_host_* /etc/munge/munge.key /var/lib/systemd/random-seed /var/lib/dbus/machine-id
rm -f /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
: >/etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/cache/debconf/*-old
rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/cache/ldconfig
rm -f /boot/initrd.img* /etc/resolv.conf /etc/hostname /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
echo '# The sources of packages are the owner'"'"'s choice.' >/etc/apt/sources.list
find /etc/dpkg/dpkg.cfg.d -type f -exec sed -i '/^force-unsafe-io/d' {} +
keys=$(grep -rlsI -e 'PRIVATE KEY-----' /etc /root /home /var/lib || :)
[ -z "$keys" ] || { echo "a package or a roll left a private key in the image: $keys"; exit 1; }
locked=$(awk -F: '$2 != "*" && $2 !~ /^!/ { print $1 }' /etc/shadow)
[ -z "$locked" ] || { echo "accounts with a password in the image: $locked"; exit 1; }
`

func (b *builder) strip(ctx context.Context) error {
	b.say("stripping secrets and traces")
	_, err := b.tree.inside(ctx, step{name: "strip", args: []string{"sh", "-c", stripScript}})
	return err
}
