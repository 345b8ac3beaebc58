package main

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// disk is a node's root in a directory.
type disk struct {
	t    *testing.T
	dir  string
	root *os.Root
}

func newDisk(t *testing.T) *disk {
	dir, r := openRoot(t)
	return &disk{t, dir, r}
}

// boot applies a seed.
func (d *disk) boot(hs ...tar.Header) tally {
	d.t.Helper()
	_, did, err := applySeed(d.root, pack(d.t, hs...))
	if err != nil {
		d.t.Fatal(err)
	}
	return did
}

// edit is somebody's hand.
func (d *disk) edit(name, content string) {
	d.t.Helper()
	p := filepath.Join(d.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
		d.t.Fatal(err)
	}
}

// want checks a file's content; "" means that it is absent.
func (d *disk) want(name, content string) {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if content == "" && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil || string(b) != content {
		d.t.Errorf("%s: %q, %v, want %q", name, b, err, content)
	}
}

// A parked cluster comes back: other addresses, the same keys and accounts.
func TestResumedDiskFollowsItsSeedAndKeepsItsPeoplesWork(t *testing.T) {
	d := newDisk(t)
	d.edit("etc/hosts", "of the image\n")
	d.edit("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
	d.edit("etc/group", "root:x:0:\nsudo:x:27:\n")
	d.edit("etc/shadow", "root:*:19000:0:99999:7:::\n")
	d.edit("etc/gshadow", "root:*::\nsudo:*::\n")
	seed := func(subnet, admins string) []tar.Header {
		return []tar.Header{
			file("etc/exports", "/export/home "+subnet+".0/24(rw)\n", 0o644),
			file("etc/hosts", subnet+".1 frontend\n", 0o644),
			file("etc/slurm/slurm.conf", "SlurmctldHost=frontend\n", 0o644),
			file("etc/ssh/authorized_keys.d/alice", "ssh-ed25519 AAAA\n", 0o644),
			file("etc/ssh/ssh_host_ed25519_key", "key", 0o600),
			file("etc/vcn/accounts", "alice:x:2001:2001:alice:/home/alice:/bin/bash\n", 0o644),
			file("etc/vcn/admins", admins, 0o644),
			file("etc/vcn/net", "52:54:00:01:01:02 "+subnet+".1/24\n", 0o644),
			{Name: "home/alice/", Typeflag: tar.TypeDir, Mode: 0o700},
			file("home/alice/.ssh/id_ed25519", "private", 0o600),
		}
	}
	did := d.boot(seed("10.1.0", "alice\n")...)
	if len(did.saved)+len(did.kept) != 0 {
		t.Errorf("first boot: %+v", did)
	}
	d.want("etc/hosts", "10.1.0.1 frontend\n") // the image's own is no work of anybody
	d.want("etc/hosts.vcn-saved", "")

	// Somebody works on it for a month.
	d.edit("etc/slurm/slurm.conf", "SlurmctldHost=frontend\nMaxJobCount=9\n")
	d.edit("etc/ssh/authorized_keys.d/alice", "ssh-ed25519 AAAA\nssh-ed25519 BBBB\n")
	d.edit("etc/exports", "/export/home 10.1.0.0/24(rw)\n/scratch *(ro)\n")
	d.edit("etc/vcn/net", "nonsense\n")
	d.edit("home/alice/results", "42")
	d.edit("etc/passwd", strings.Replace(read(t, d.dir, "etc/passwd"), "alice:/home/alice:/bin/bash", "Alice:/home/alice:/bin/zsh", 1))
	d.edit("etc/shadow", strings.Replace(read(t, d.dir, "etc/shadow"), "alice:*:", "alice:$y$hash:", 1))
	if err := os.Chmod(filepath.Join(d.dir, "home/alice"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is the same seed again: a reboot
		did = d.boot(seed("10.9.0", "alice\n")...)
		d.want("etc/hosts", "10.9.0.1 frontend\n")
		d.want("etc/hosts.vcn-saved", "") // nobody had changed it
		d.want("etc/vcn/net", "52:54:00:01:01:02 10.9.0.1/24\n")
		d.want("etc/exports", "/export/home 10.9.0.0/24(rw)\n")
		d.want("etc/exports.vcn-saved", "/export/home 10.1.0.0/24(rw)\n/scratch *(ro)\n")
		d.want("etc/slurm/slurm.conf", "SlurmctldHost=frontend\nMaxJobCount=9\n")
		d.want("etc/ssh/authorized_keys.d/alice", "ssh-ed25519 AAAA\nssh-ed25519 BBBB\n")
		d.want("home/alice/results", "42")
		d.want("home/alice/.ssh/id_ed25519", "private")
		if fi, err := os.Stat(filepath.Join(d.dir, "home/alice")); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("the home was closed again: %v, %v", fi.Mode(), err)
		}
		if p := read(t, d.dir, "etc/passwd"); !strings.Contains(p, "alice:x:2001:2001:Alice:/home/alice:/bin/zsh\n") {
			t.Errorf("passwd %q", p)
		}
		if p := read(t, d.dir, "etc/shadow"); !strings.Contains(p, "alice:$y$hash:") {
			t.Errorf("shadow %q", p)
		}
	}
	// A third slot: what was edited and replaced before is edited anew.
	d.edit("etc/exports", "/export/home 10.9.0.0/24(rw)\n/more *(ro)\n")
	did = d.boot(seed("10.7.0", "")...)
	d.want("etc/exports.vcn-saved", "/export/home 10.1.0.0/24(rw)\n/scratch *(ro)\n")
	d.want("etc/exports.vcn-saved-2", "/export/home 10.9.0.0/24(rw)\n/more *(ro)\n")
	if !slices.Contains(did.saved, "etc/exports.vcn-saved-2") || !slices.Contains(did.kept, "etc/slurm/slurm.conf") {
		t.Errorf("%+v", did)
	}
}

func TestSeedsNewWordOnAnEditedFileIsWritten(t *testing.T) {
	d := newDisk(t)
	d.boot(file("etc/slurm/slurm.conf", "nodes 0-1\n", 0o644))
	d.edit("etc/slurm/slurm.conf", "nodes 0-1, mine\n")
	d.boot(file("etc/slurm/slurm.conf", "nodes 0-2\n", 0o644))
	d.want("etc/slurm/slurm.conf", "nodes 0-2\n")
	d.want("etc/slurm/slurm.conf.vcn-saved", "nodes 0-1, mine\n")
	// The record follows what was written, not what was found.
	d.edit("etc/slurm/slurm.conf", "nodes 0-2, mine\n")
	d.boot(file("etc/slurm/slurm.conf", "nodes 0-2\n", 0o644), file("etc/x", "", 0o644))
	d.want("etc/slurm/slurm.conf", "nodes 0-2, mine\n")
}

func TestFileThatWasDeletedStaysDeleted(t *testing.T) {
	d := newDisk(t)
	d.boot(file("etc/a", "a", 0o644), file("etc/b", "b", 0o644))
	if err := os.Remove(filepath.Join(d.dir, "etc/a")); err != nil {
		t.Fatal(err)
	}
	d.boot(file("etc/a", "a", 0o644), file("etc/b", "new", 0o644))
	d.want("etc/a", "")
	d.want("etc/b", "new")
	d.boot(file("etc/a", "new", 0o644), file("etc/b", "new", 0o644))
	d.want("etc/a", "new")
}

// Images made before the record was kept: nothing tells whose work a file is.
func TestDiskWithoutRecordLosesNothing(t *testing.T) {
	d := newDisk(t)
	d.boot(file("etc/hosts", "one\n", 0o644))
	if err := os.RemoveAll(filepath.Join(d.dir, writtenDir)); err != nil {
		t.Fatal(err)
	}
	d.boot(file("etc/hosts", "two\n", 0o644))
	d.want("etc/hosts", "two\n")
	d.want("etc/hosts.vcn-saved", "one\n")
}

func TestWhatTheSeedHasNoMoreIsForgotten(t *testing.T) {
	d := newDisk(t)
	d.boot(file("etc/keys/alice", "a", 0o644), file("etc/keys/bob", "b", 0o644), file("etc/keys/carol", "c", 0o644),
		file("etc/vcn/ready.d/01-x", "x", 0o755), file("home/bob/.ssh/id", "k", 0o600))
	d.edit("etc/keys/carol", "her own")
	d.edit("etc/vcn/ready.d/01-x", "changed")
	did := d.boot(file("etc/keys/alice", "a", 0o644))
	d.want("etc/keys/alice", "a")
	d.want("etc/keys/bob", "")
	d.want("etc/keys/carol", "her own")
	d.want("etc/vcn/ready.d/01-x", "")
	d.want("home/bob/.ssh/id", "k") // nothing of a home is ever removed
	if !slices.Contains(did.kept, "etc/keys/carol") {
		t.Errorf("%+v", did)
	}
	did = d.boot(file("etc/keys/alice", "a2", 0o644))
	if len(did.kept) != 0 {
		t.Errorf("said again: %+v", did)
	}
}

func TestOwnersLinksDoNotKeepANodeFromComingUp(t *testing.T) {
	d := newDisk(t)
	elsewhere := t.TempDir()
	d.boot(file("etc/a", "a", 0o644), tar.Header{Name: "home/alice/", Typeflag: tar.TypeDir, Mode: 0o700}, file("home/alice/f", "f", 0o644))
	if err := errors.Join(os.RemoveAll(filepath.Join(d.dir, "home")), os.Symlink(elsewhere, filepath.Join(d.dir, "home")),
		os.Remove(filepath.Join(d.dir, "etc/a")), os.Symlink("b", filepath.Join(d.dir, "etc/a"))); err != nil {
		t.Fatal(err)
	}
	d.edit("etc/b", "the owner's")
	d.boot(file("etc/a", "new", 0o644), tar.Header{Name: "home/alice/", Typeflag: tar.TypeDir, Mode: 0o700}, file("home/alice/f", "new", 0o644))
	d.want("etc/a", "new")
	d.want("etc/b", "the owner's")
	if left, _ := os.ReadDir(elsewhere); len(left) != 0 {
		t.Errorf("written outside the root: %v", left)
	}
	if to, err := os.Readlink(filepath.Join(d.dir, "etc/a.vcn-saved")); err != nil || to != "b" {
		t.Errorf("the owner's link: %q, %v", to, err)
	}
}

func TestInterruptedApplicationGoesOn(t *testing.T) {
	d := newDisk(t)
	d.boot(file("etc/a", "a1", 0o644), file("etc/b", "b1", 0o644))
	d.edit("etc/b", "mine")
	next := pack(t, file("etc/a", "a2", 0o644), file("etc/b", "b2", 0o644))
	if _, _, err := applySeed(d.root, next[:1100]); err == nil { // etc/a came, etc/b did not
		t.Fatal("half a tar was accepted")
	}
	d.want("etc/a", "a2")
	d.want("etc/b", "mine")
	if _, _, err := applySeed(d.root, next); err != nil {
		t.Fatal(err)
	}
	d.want("etc/a.vcn-saved", "")
	d.want("etc/b", "b2")
	d.want("etc/b.vcn-saved", "mine")
}
