package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// pack makes a tar; owners are the test's own, so that it runs without root.
func pack(t *testing.T, hs ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range hs {
		data := ""
		if h.Typeflag == tar.TypeReg {
			data, h.Linkname = h.Linkname, "" // the content travels in Linkname
			h.Size = int64(len(data))
		}
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, content string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Linkname: content}
}

func openRoot(t *testing.T) (string, *os.Root) {
	t.Helper()
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return dir, r
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func unpack(root *os.Root, r io.Reader) (int, error) {
	u := &unpacker{root: root, seen: map[string]bool{}}
	err := u.untar(r)
	return u.files, err
}

func TestUntarSetsContentModesAndLinks(t *testing.T) {
	dir, r := openRoot(t)
	n, err := unpack(r, bytes.NewReader(pack(t,
		tar.Header{Name: "home/alice/", Typeflag: tar.TypeDir, Mode: 0o700},
		file("home/alice/key", "secret", 0o600),
		file("/etc/x/tool", "run", 0o4755), // parents are made, a leading slash dropped
		tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "x/tool"},
	)))
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	for name, want := range map[string]fs.FileMode{
		"home/alice": fs.ModeDir | 0o700, "home/alice/key": 0o600, "etc/x/tool": 0o755 | fs.ModeSetuid, "etc/x": fs.ModeDir | 0o755,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != want {
			t.Errorf("%s: %v %v, want %v", name, fi.Mode(), err, want)
		}
	}
	if got := read(t, dir, "etc/link"); got != "run" {
		t.Errorf("through the link: %q", got)
	}
}

func TestUntarSetsOwners(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid() // all that can be set without root
	if uid == 0 {
		uid, gid = 2001, 2002
	}
	dir, r := openRoot(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	h := &tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o640, Uid: uid, Gid: gid}
	if err := errors.Join(w.WriteHeader(h), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(r, &buf); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("owner %d:%d, want %d:%d", st.Uid, st.Gid, uid, gid)
	}
}

func TestUntarStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, hs := range map[string][]tar.Header{
		"dots":               {file("../victim", "x", 0o644)},
		"dots inside":        {file("a/../../victim", "x", 0o644)},
		"absolute link dir":  {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, file("d/victim", "x", 0o644)},
		"relative link dir":  {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "../../../../../.." + filepath.Dir(outside)}, file("d/victim", "x", 0o644)},
		"device":             {{Name: "dev", Typeflag: tar.TypeChar}},
		"hard link":          {{Name: "l", Typeflag: tar.TypeLink, Linkname: outside}},
		"link over a folder": {{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d", Typeflag: tar.TypeSymlink, Linkname: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := openRoot(t)
			if _, err := unpack(r, bytes.NewReader(pack(t, hs...))); err == nil {
				t.Error("no error")
			}
			if got := read(t, outside); got != "whole" {
				t.Errorf("a file outside was written: %q", got)
			}
		})
	}
}

func TestUntarReplacesALinkInsteadOfWritingThroughIt(t *testing.T) {
	dir, r := openRoot(t)
	if err := os.WriteFile(filepath.Join(dir, "target"), []byte("whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(r, bytes.NewReader(pack(t, file("f", "new", 0o644)))); err != nil {
		t.Fatal(err)
	}
	if read(t, dir, "target") != "whole" || read(t, dir, "f") != "new" {
		t.Errorf("target %q, f %q", read(t, dir, "target"), read(t, dir, "f"))
	}
}

func TestSeedIsAppliedOncePerContent(t *testing.T) {
	dir, r := openRoot(t)
	first := pack(t, file("etc/hosts", "one", 0o644))
	if changed, _, err := applySeed(r, first); !changed || err != nil {
		t.Fatal(changed, err)
	}
	hosts := filepath.Join(dir, "etc/hosts")
	if err := os.WriteFile(hosts, []byte("the owner's"), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, _, err := applySeed(r, first); changed || err != nil {
		t.Fatal(changed, err)
	}
	if got := read(t, hosts); got != "the owner's" {
		t.Errorf("same seed undid the owner's change: %q", got)
	}
	if changed, _, err := applySeed(r, pack(t, file("etc/hosts", "two", 0o644))); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if got := read(t, hosts); got != "two" {
		t.Errorf("a new seed was not applied: %q", got)
	}
}

func TestBrokenSeedIsNotStamped(t *testing.T) {
	dir, r := openRoot(t)
	b := pack(t, file("etc/hosts", strings.Repeat("x", 5000), 0o644))
	if _, _, err := applySeed(r, b[:2000]); err == nil {
		t.Fatal("half a tar was accepted")
	}
	if _, err := os.Stat(filepath.Join(dir, stampPath)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stamped: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/hosts")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file is there: %v", err)
	}
}

func TestSumMustMatch(t *testing.T) {
	sum := sha256.Sum256([]byte("seed"))
	if err := checkSum([]byte("seed"), hex.EncodeToString(sum[:])+"\n"); err != nil {
		t.Error(err)
	}
	if err := checkSum([]byte("sead"), hex.EncodeToString(sum[:])); err == nil {
		t.Error("wrong digest accepted")
	}
}

func imageTables() tables {
	return tables{
		passwd:  []string{"root:x:0:0:root:/root:/bin/bash", "munge:x:101:101::/nonexistent:/usr/sbin/nologin"},
		group:   []string{"root:x:0:", "munge:x:101:", "sudo:x:27:carol"},
		shadow:  []string{"root:*:19000:0:99999:7:::", "munge:!:19000::::::"},
		gshadow: []string{"root:*::", "sudo:*::carol"},
	}
}

func TestMergeAddsAccountsAndKeepsTheImagesOwn(t *testing.T) {
	as, err := parseAccounts("alice:x:2001:2001:Alice:/home/alice:/bin/bash\n\nbob:x:2002:2002::/home/bob:/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	got := imageTables()
	for range 2 { // twice is as good as once
		if err := got.merge(as, []string{"alice"}); err != nil {
			t.Fatal(err)
		}
	}
	want := imageTables()
	want.passwd = append(want.passwd, "alice:x:2001:2001:Alice:/home/alice:/bin/bash", "bob:x:2002:2002::/home/bob:/bin/sh")
	want.group = append(want.group[:2], "sudo:x:27:carol,alice", "alice:x:2001:", "bob:x:2002:")
	want.shadow = append(want.shadow, "alice:*:19000:0:99999:7:::", "bob:*:19000:0:99999:7:::")
	want.gshadow = append(want.gshadow[:1], "sudo:*::carol,alice", "alice:!::", "bob:!::")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMergeKeepsAPasswordTheOwnerSet(t *testing.T) {
	as, _ := parseAccounts("alice:x:2001:2001::/home/alice:/bin/bash")
	tb := imageTables()
	tb.passwd = append(tb.passwd, "alice:x:2001:2001::/home/alice:/bin/zsh")
	tb.shadow = append(tb.shadow, "alice:$y$hash:20000:0:99999:7:::")
	if err := tb.merge(as, nil); err != nil {
		t.Fatal(err)
	}
	if got := tb.passwd[find(tb.passwd, "alice")]; !strings.HasSuffix(got, "/bin/zsh") {
		t.Errorf("the shell alice chose is gone: %q", got)
	}
	if got := tb.shadow[find(tb.shadow, "alice")]; got != "alice:$y$hash:20000:0:99999:7:::" {
		t.Errorf("shadow %q", got)
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ accounts, admins string }{
		"a system account's name": {"munge:x:2001:2001::/home/m:/bin/sh", ""},
		"a system number":         {"eve:x:0:0::/root:/bin/sh", ""},
		"a group's number":        {"sudo:x:2001:2001::/home/s:/bin/sh", ""},
		"a short line":            {"eve:x:2001:2001", ""},
		"no number":               {"eve:x:many:2001::/home/e:/bin/sh", ""},
	} {
		tb := imageTables()
		as, err := parseAccounts(c.accounts)
		if err == nil {
			err = tb.merge(as, strings.Fields(c.admins))
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	tb := imageTables()
	tb.group = tb.group[:2]
	if err := tb.merge(nil, []string{"alice"}); err == nil {
		t.Error("admins without their group: accepted")
	}
}

func TestMergeAccountsKeepsModes(t *testing.T) {
	dir, r := openRoot(t)
	tb := imageTables()
	for name, f := range map[string]struct {
		lines []string
		mode  fs.FileMode
	}{"passwd": {tb.passwd, 0o644}, "group": {tb.group, 0o644}, "shadow": {tb.shadow, 0o640}, "gshadow": {tb.gshadow, 0o600},
		"vcn/accounts": {[]string{"alice:x:2001:2001::/home/alice:/bin/bash"}, 0o644}, "vcn/admins": {[]string{"alice"}, 0o644}} {
		p := filepath.Join(dir, "etc", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(strings.Join(f.lines, "\n")+"\n"), 0o600), os.Chmod(p, f.mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := mergeAccounts(r); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"passwd": 0o644, "shadow": 0o640, "gshadow": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, "etc", name))
		if err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
		if b := read(t, dir, "etc", name); !strings.Contains(b, "\nalice:") || !strings.HasSuffix(b, "\n") || strings.Contains(b, "\n\n") {
			t.Errorf("%s: %q", name, b)
		}
	}
}

func TestParseNet(t *testing.T) {
	got, err := parseNet("52:54:00:01:01:0A 10.1.0.1/16\n# public\n\n52:54:00:01:01:02 192.168.77.10/24 192.168.77.1\n")
	want := []link{
		{mac: "52:54:00:01:01:0a", addr: netip.MustParsePrefix("10.1.0.1/16")},
		{mac: "52:54:00:01:01:02", addr: netip.MustParsePrefix("192.168.77.10/24"), gateway: netip.MustParseAddr("192.168.77.1")},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{
		"52:54:00:01:01:02", "52:54:00:01:01 10.1.0.1/16", "zz:54:00:01:01:02 10.1.0.1/16", "52:54:00:01:01:02 10.1.0.1",
		"52:54:00:01:01:02 fe80::1/64", "52:54:00:01:01:02 10.1.0.1/16 10.2.0.1", "52:54:00:01:01:02 10.1.0.1/16 10.1.0.2 more",
		"52:54:00:01:01:02 10.1.0.1/16 10.1.0.2\n52:54:00:01:01:03 10.2.0.1/16 10.2.0.2",
		strings.Repeat("52:54:00:01:01:02 10.1.0.1/16\n", netLinksMax+1),
	} {
		if ls, err := parseNet(bad); err == nil {
			t.Errorf("%q: accepted as %v", bad, ls)
		}
	}
}

func TestNetmask(t *testing.T) {
	for bits, want := range map[int]string{0: "0.0.0.0", 1: "128.0.0.0", 16: "255.255.0.0", 23: "255.255.254.0", 32: "255.255.255.255"} {
		if got := netmask(bits).String(); got != want {
			t.Errorf("/%d: %s, want %s", bits, got, want)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	got := parseCmdline("quiet console=ttyS0 a=1 a=2 b=\"x y\" empty=\n")
	want := map[string]string{"quiet": "1", "console": "ttyS0", "a": "2", "b": "x y", "empty": ""}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestVolumeLabel(t *testing.T) {
	disc := make([]byte, 17*2048)
	if _, err := parseVolumeLabel(bytes.NewReader(disc)); err == nil {
		t.Error("a blank disc has a label")
	}
	copy(disc[16*2048:], "\x01CD001\x01")
	copy(disc[16*2048+40:], "VCNSEED                         ")
	if l, err := parseVolumeLabel(bytes.NewReader(disc)); err != nil || l != seedLabel {
		t.Errorf("%q %v", l, err)
	}
	if _, err := parseVolumeLabel(bytes.NewReader(disc[:100])); err == nil {
		t.Error("a short disc has a label")
	}
}

func TestMachineIDIsMadeOnce(t *testing.T) {
	dir, _ := openRoot(t)
	name := filepath.Join(dir, "etc/machine-id")
	if err := errors.Join(os.Mkdir(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := ensureMachineID(dir); err != nil {
		t.Fatal(err)
	}
	first := read(t, name)
	if len(strings.TrimSpace(first)) != 32 {
		t.Fatalf("%q", first)
	}
	if err := ensureMachineID(dir); err != nil {
		t.Fatal(err)
	}
	if read(t, name) != first {
		t.Error("changed by the second boot")
	}
}
