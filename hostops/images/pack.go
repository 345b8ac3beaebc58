package images

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vcn/rolls"
)

// describeScript prints what the manifest wants, in sections.
const describeScript = `set -eu
dpkg-query -W -f '${Package} ${Version}\n'; echo
cat /etc/passwd; echo
cat /etc/group; echo
ls /usr/lib/modules
`

// describe fills in the manifest from the finished tree.
func (b *builder) describe(ctx context.Context) error {
	out, err := b.tree.inside(ctx, step{name: "describe", args: []string{"sh", "-c", describeScript}})
	if err != nil {
		return err
	}
	b.man, err = parseManifest(string(out))
	if err != nil {
		return err
	}
	b.man.Recipe, b.man.Appliance, b.man.Rolls = b.recipe.Digest(), b.recipe.Appliance, b.recipe.Names()
	b.man.Cmdline = cmdline
	return nil
}

func parseManifest(out string) (m rolls.Manifest, err error) {
	parts := strings.SplitN(strings.TrimSpace(out), "\n\n", 4)
	if len(parts) != 4 {
		return m, fmt.Errorf("%w: describe: %d sections of 4", ErrBuild, len(parts))
	}
	m.Packages, m.Users, m.Groups = map[string]string{}, map[string]rolls.ID{}, map[string]int{}
	for _, line := range strings.Split(parts[0], "\n") {
		name, version, _ := strings.Cut(line, " ")
		m.Packages[name] = version
	}
	for _, line := range strings.Split(parts[1], "\n") {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			return m, fmt.Errorf("%w: /etc/passwd: %q", ErrBuild, line)
		}
		var id rolls.ID
		if id.UID, err = strconv.Atoi(f[2]); err == nil {
			id.GID, err = strconv.Atoi(f[3])
		}
		if err != nil {
			return m, fmt.Errorf("%w: /etc/passwd: %q", ErrBuild, line)
		}
		m.Users[f[0]] = id
	}
	for _, line := range strings.Split(parts[2], "\n") {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			return m, fmt.Errorf("%w: /etc/group: %q", ErrBuild, line)
		}
		if m.Groups[f[0]], err = strconv.Atoi(f[2]); err != nil {
			return m, fmt.Errorf("%w: /etc/group: %q", ErrBuild, line)
		}
	}
	kernels := strings.Fields(parts[3])
	if len(kernels) != 1 {
		return m, fmt.Errorf("%w: the image has %d kernels, want one: %s", ErrBuild, len(kernels), strings.Join(kernels, " "))
	}
	m.Kernel = kernels[0]
	return m, nil
}

// bootFiles takes the kernel out of the tree and packs the initrd.
func (b *builder) bootFiles(ctx context.Context) error {
	b.say("packing kernel %s and initrd", b.man.Kernel)
	mods := filepath.Join(b.work, "modules")
	if err := os.Mkdir(mods, 0o755); err != nil {
		return err
	}
	env := []string{"KERNEL=" + b.man.Kernel, "OUT=" + b.out, "MODS=" + mods}
	const lists = `cp "$ROOT/boot/vmlinuz-$KERNEL" "$OUT/kernel"
cd "$ROOT/usr/lib/modules/$KERNEL"; cp modules.dep modules.builtin "$MODS/"`
	if _, err := b.tree.merged(ctx, step{name: "take out the kernel", script: lists, env: env}); err != nil {
		return err
	}
	dep, err := os.ReadFile(filepath.Join(mods, "modules.dep"))
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(mods, "modules.builtin"))
	if err != nil {
		return err
	}
	files, err := initrdFiles(string(dep), string(builtin))
	if err != nil {
		return fmt.Errorf("%w: %v", ErrBuild, err)
	}
	const copyMods = `cd "$ROOT/usr/lib/modules/$KERNEL"; cp --parents "$@" "$MODS/"`
	if _, err := b.tree.merged(ctx, step{name: "take out modules", script: copyMods, args: files, env: env}); err != nil {
		return err
	}
	initrd, err := packInitrd(b.store.cfg.InitPath, mods, files)
	if err != nil {
		return fmt.Errorf("pack initrd: %w", err)
	}
	return writeSynced(filepath.Join(b.out, initrdName), initrd)
}

// mkfsScript makes the root disk. mke2fs reads the tree itself: no loop device,
// no mount of the new file system. The journal is small; resize_inode lets the
// guest grow the file system while it runs. The features are spelled out because
// the host's mke2fs.conf must not decide: without ext_attr mke2fs drops file
// capabilities (ping would need root) and does not say so.
const mkfsScript = `used=$(du -sxm "$ROOT" | cut -f1)
mb=$SIZE_MB
if [ $((used * 4)) -gt $((mb * 3)) ]; then mb=$(((used * 2 / 1024 + 1) * 1024)); fi
features=has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum
mke2fs -q -F -t ext4 -L vcn-root -U "$UUID" -b 4096 -I 256 -J size=16 -m 0 -O "none,$features" \
	-E hash_seed="$UUID" -d "$ROOT" "$OUT/root.img" "${mb}M"
sync "$OUT/root.img" "$OUT/kernel"
`

func (b *builder) rootDisk(ctx context.Context) error {
	b.say("packing the root disk")
	_, err := b.tree.merged(ctx, step{name: "pack the root disk", script: mkfsScript, env: []string{
		"OUT=" + b.out, "UUID=" + digestUUID(b.lock.Digest()),
		"SIZE_MB=" + strconv.FormatInt(b.store.cfg.DiskBytes>>20, 10),
		"MKE2FS_CONFIG=/dev/null",
	}})
	return err
}

// digestUUID makes a UUID (version 8, RFC 9562) of a digest's first half.
func digestUUID(digest string) string {
	b, err := hex.DecodeString(digest[:32])
	if err != nil {
		panic("images: digest " + digest + " is not hex")
	}
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}
