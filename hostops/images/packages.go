package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// resolve fixes the exact packages, brings them into the pool, and makes the
// flat repository that the rest of the build installs from.
func (b *builder) resolve(ctx context.Context) (err error) {
	b.say("resolving packages")
	if b.pool, err = newPool(ctx, filepath.Join(b.store.cfg.CacheDir, "apt"), b.store.cfg.FetchNetns); err != nil {
		return err
	}
	if err := b.pool.update(ctx, func(l string) { b.say("%s", l) }); err != nil {
		return err
	}
	var all []string
	for _, e := range b.recipe.Packages() {
		all = append(all, e.Name)
		if e.Roll == b.recipe.Rolls[0] {
			b.baseNames = append(b.baseNames, e.Name)
		}
	}
	if b.basePackages, err = b.pool.resolve(ctx, b.baseNames); err != nil {
		return err
	}
	full, err := b.pool.resolve(ctx, all)
	if err != nil {
		return err
	}
	// A choice between alternatives may fall differently with more packages, so
	// the lock holds both sets.
	ps := union(full, b.basePackages)
	index, err := b.pool.describe(ctx, ps)
	if err != nil {
		return err
	}
	if err := b.fetch(ctx, all, full, ps); err != nil {
		return err
	}
	init, err := fileDigest(b.store.cfg.InitPath)
	if err != nil {
		return fmt.Errorf("read init program: %w", err)
	}
	b.lock = Lock{Builder: builderVersion, Release: b.release, Recipe: b.recipe.Digest(), Init: init, Packages: ps}
	b.basePackages = pick(ps, b.basePackages)
	return b.repository(index)
}

func (b *builder) fetch(ctx context.Context, names []string, full, all []Package) error {
	say := func(l string) { b.say("%s", l) }
	if err := b.pool.fetch(ctx, names, pick(all, full), say); err != nil {
		return err
	}
	return b.pool.fetch(ctx, b.baseNames, pick(all, b.basePackages), say)
}

// union returns both lists' packages, each once, sorted.
func union(a, b []Package) []Package {
	ps := slices.Concat(a, b)
	sortPackages(ps)
	return slices.CompactFunc(ps, func(x, y Package) bool { return x.Name == y.Name && x.Version == y.Version && x.Arch == y.Arch })
}

// pick returns those of all that are in some, with what all knows of them.
func pick(all, some []Package) []Package {
	var ps []Package
	for _, p := range all {
		if slices.ContainsFunc(some, func(q Package) bool { return q.Name == p.Name && q.Version == p.Version }) {
			ps = append(ps, p)
		}
	}
	return ps
}

func (b *builder) repo() string { return filepath.Join(b.work, "repo") }

// repository makes a flat repository of exactly the lock's packages. Suite and
// Codename are there because mmdebstrap asks for them.
func (b *builder) repository(index string) error {
	dir := b.repo()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, p := range b.lock.Packages {
		if err := os.Link(filepath.Join(b.pool.archives(), p.file()), filepath.Join(dir, p.file())); err != nil {
			return err
		}
	}
	sum := sha256.Sum256([]byte(index))
	release := fmt.Sprintf("Origin: vcn\nSuite: %s\nCodename: %s\nArchitectures: amd64 all\nDate: %s\nSHA256:\n %s %d Packages\n",
		b.release, b.release, time.Now().UTC().Format(time.RFC1123), hex.EncodeToString(sum[:]), len(index))
	if err := os.WriteFile(filepath.Join(dir, "Packages"), []byte(index), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644)
}

// baseScript makes the base tree. Manual pages, locales and documentation stay
// out while dpkg unpacks. The host's apt configuration stays out too.
const baseScript = `set -eu
mount --make-rprivate /
export APT_CONFIG="$CONF"
exec mmdebstrap --mode=root --variant=apt --format=directory --include="$PACKAGES" \
	--aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt=force-unsafe-io \
	"$RELEASE" "$TREE" "deb [trusted=yes] copy:$REPO ./"
`

// baseTree makes the tree of the first roll's packages, or takes it from the
// cache, and lays this build's overlay on it.
func (b *builder) baseTree(ctx context.Context) (err error) {
	dir := filepath.Join(b.store.cfg.CacheDir, basePrefix+baseDigest(b.release, b.basePackages))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := b.makeBase(ctx, dir); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else {
		b.say("base tree is in the cache")
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		return err
	}
	if err := pruneBases(b.store.cfg.CacheDir); err != nil {
		return err
	}
	b.tree, err = newTree(dir, filepath.Join(b.work, "overlay"), b.repo())
	return err
}

func (b *builder) makeBase(ctx context.Context, dir string) error {
	b.say("making the base tree of %d packages", len(b.basePackages))
	names := make([]string, len(b.basePackages))
	for i, p := range b.basePackages {
		names[i] = p.Name
	}
	conf := filepath.Join(b.work, "empty.conf")
	text := fmt.Sprintf("Dir::Etc::parts %q; Dir::Etc::main \"/dev/null\";\n", filepath.Join(b.pool.dir, "empty"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	tmp := filepath.Join(b.work, "base")
	_, err := step{name: "make the base tree", script: baseScript, env: []string{
		"CONF=" + conf, "PACKAGES=" + strings.Join(names, ","), "RELEASE=" + b.release, "TREE=" + tmp, "REPO=" + b.repo(),
	}}.run(ctx)
	if err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// pruneBases keeps the base trees used last.
func pruneBases(cache string) error {
	dirs, err := filepath.Glob(filepath.Join(cache, basePrefix+"*"))
	if err != nil {
		return err
	}
	type used struct {
		dir string
		at  time.Time
	}
	var us []used
	for _, d := range dirs {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		us = append(us, used{d, fi.ModTime()})
	}
	slices.SortFunc(us, func(a, b used) int { return b.at.Compare(a.at) })
	for _, u := range us[min(len(us), baseTreesMax):] {
		if err := os.RemoveAll(u.dir); err != nil {
			return err
		}
	}
	return nil
}

// installScript installs from the repository only. Nothing may start a service
// in here, and apt's own state stays in memory.
const installScript = `set -eu
mkdir -p /run/vcn/lists/partial
echo 'deb [trusted=yes] file:/run/vcn/repo ./' >/run/vcn/sources.list
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
cat >/run/vcn/apt.conf <<'E'
Dir::Etc::sourcelist "/run/vcn/sources.list"; Dir::Etc::sourceparts "-"; Dir::State::lists "/run/vcn/lists";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; Dir::Log "/run/vcn"; Dir::Log::Terminal ""; Dir::Log::History "";
APT::Sandbox::User "root"; APT::Install-Recommends "false"; Acquire::Languages "none"; Dpkg::Use-Pty "0";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
E
export APT_CONFIG=/run/vcn/apt.conf
apt-get -q update
apt-get -q -y install "$@"
rm /usr/sbin/policy-rc.d
`

func (b *builder) install(ctx context.Context) error {
	names := make([]string, 0, len(b.recipe.Packages()))
	for _, e := range b.recipe.Packages() {
		names = append(names, e.Name)
	}
	b.say("installing %d packages", len(b.lock.Packages)-len(b.basePackages))
	_, err := b.tree.inside(ctx, step{name: "install packages", args: append([]string{"sh", "-c", installScript, "sh"}, names...)})
	return blame(err, b.recipe)
}
