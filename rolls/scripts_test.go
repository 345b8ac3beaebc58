package rolls

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shell runs scripts of the built-in rolls in a directory of their own, with
// stubs in front of the system's programs.
type shell struct {
	t    *testing.T
	root string // VCN_ROOT
	bin  string
	env  []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	s := &shell{t: t, root: t.TempDir(), bin: t.TempDir()}
	s.env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), "VCN_ROOT="+s.root, "STUB="+s.bin)
	return s
}

// stub puts a program in front of the system's. Its lines see what they were
// called with.
func (s *shell) stub(name, script string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shell) run(stdin []byte, script string, args ...string) (out string, code int) {
	s.t.Helper()
	cmd := exec.Command("sh", append([]string{script}, args...)...)
	cmd.Env, cmd.Stdin = s.env, bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if stderr.Len() > 0 {
		s.t.Logf("%s: %s", filepath.Base(script), &stderr)
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

func (s *shell) write(name, content string) {
	s.t.Helper()
	p := filepath.Join(s.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

// want checks a file's content; "" means that it is absent.
func (s *shell) want(name, content string) {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.root, name))
	if content == "" && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil || string(b) != content {
		s.t.Errorf("%s: %q, %v, want %q", name, b, err, content)
	}
}

// liveTar makes a live part of NAME, CONTENT pairs.
func liveTar(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o640, Size: int64(len(pairs[i+1])), Uid: os.Getuid(), Gid: os.Getgid()}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// live pushes a live part and returns what was said and the exit code.
func (s *shell) live(pairs ...string) (string, int) {
	s.t.Helper()
	b := liveTar(s.t, pairs...)
	sum := sha256.Sum256(b)
	return s.run(b, "builtin/base/live", hex.EncodeToString(sum[:]))
}

const reload = "etc/vcn/reload.d/03-slurm"

func TestLiveWritesWhatIsNewAndReloadsOnce(t *testing.T) {
	s := newShell(t)
	s.write("etc/hosts", "one\n")
	s.write("var/lib/vcn/written/etc/hosts", hexOf("one\n"))
	const counts = "echo reloaded >>$VCN_ROOT/reloads\n"
	for range 3 {
		if out, code := s.live("etc/hosts", "two\n", "etc/new dir/x", "x", reload, counts); out != "" || code != 0 {
			t.Fatalf("%q, %d", out, code)
		}
	}
	s.want("etc/hosts", "two\n")
	s.want("etc/hosts.vcn-saved", "") // it was as vcn had left it
	s.want("etc/new dir/x", "x")
	s.want("reloads", "reloaded\n")
	s.want(reload, "")
	s.want("var/lib/vcn/written/etc/hosts", hexOf("two\n"))
	if fi, err := os.Stat(filepath.Join(s.root, "etc/hosts")); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "etc/*.vcn-new")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if out, code := s.live("etc/hosts", "three\n", reload, counts); out != "" || code != 0 {
		t.Fatalf("%q, %d", out, code)
	}
	s.want("reloads", "reloaded\nreloaded\n")
}

func hexOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:]) + "\n"
}

func TestLiveKeepsWhatTheOwnerEdited(t *testing.T) {
	s := newShell(t)
	conf := "etc/slurm/slurm.conf"
	s.live(conf, "nodes 0\n")
	s.write(conf, "nodes 0, mine\n")
	if out, code := s.live(conf, "nodes 0\n"); out != "" || code != 0 {
		t.Errorf("nothing new: %q, %d", out, code)
	}
	s.want(conf, "nodes 0, mine\n")
	if out, code := s.live(conf, "nodes 0-1\n"); code != 0 || out != "saved /etc/slurm/slurm.conf /etc/slurm/slurm.conf.vcn-saved\n" {
		t.Errorf("%q, %d", out, code)
	}
	s.want(conf, "nodes 0-1\n")
	s.want(conf+".vcn-saved", "nodes 0, mine\n")
	s.write(conf, "nodes 0-1, again\n")
	if out, _ := s.live(conf, "nodes 0-2\n"); !strings.HasSuffix(out, ".vcn-saved-2\n") {
		t.Errorf("%q", out)
	}
	s.want(conf+".vcn-saved", "nodes 0, mine\n")
	s.want(conf+".vcn-saved-2", "nodes 0-1, again\n")
}

func TestLiveFailsWholeAndIsDoneBySecondTry(t *testing.T) {
	s := newShell(t)
	s.write("ok", "")
	const needs = "[ -e $VCN_ROOT/fixed ] || exit 1\necho reloaded >>$VCN_ROOT/reloads\n"
	if _, code := s.live("etc/hosts", "one\n", reload, needs); code == 0 {
		t.Error("a failed reload is no failure")
	}
	s.want("var/lib/vcn/live", "")
	s.write("fixed", "")
	if _, code := s.live("etc/hosts", "one\n", reload, needs); code != 0 {
		t.Errorf("the second try: %d", code)
	}
	s.want("reloads", "reloaded\n") // though no file changed any more
	// What arrives broken changes nothing.
	b := liveTar(t, "etc/hosts", "two\n")
	if _, code := s.run(b[:600], "builtin/base/live", strings.TrimSpace(hexOf(string(b)))); code == 0 {
		t.Error("half a tar was taken")
	}
	s.want("etc/hosts", "one\n")
	if err := os.Remove(filepath.Join(s.root, "etc/hosts")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.root, "etc/hosts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, code := s.live("etc/hosts", "two\n"); code == 0 {
		t.Error("a directory in the way is no failure")
	}
}

func TestNoticesAreToldOnceAndTakenAway(t *testing.T) {
	s := newShell(t)
	s.stub("wall", `cat >>"$VCN_ROOT/told"; echo >>"$VCN_ROOT/told"`)
	line := func(id, text string) string { return id + " " + base64.StdEncoding.EncodeToString([]byte(text)) + "\n" }
	for range 2 {
		if _, code := s.run([]byte(line("a", "ends at 18:00; \"save\" $HOME\nnow")), "builtin/base/notices", "sync"); code != 0 {
			t.Fatal(code)
		}
	}
	s.want("told", "ends at 18:00; \"save\" $HOME\nnow\n\n")
	s.want("etc/motd.d/vcn", "* ends at 18:00; \"save\" $HOME\nnow\n")
	s.run([]byte(line("a", "first")+line("b", "second")), "builtin/base/notices", "sync")
	s.want("etc/motd.d/vcn", "* first\n* second\n")
	s.run([]byte(line("b", "second")), "builtin/base/notices", "sync")
	s.want("etc/motd.d/vcn", "* second\n")
	s.want("told", "ends at 18:00; \"save\" $HOME\nnow\n\nsecond\n\n")
	s.run(nil, "builtin/base/notices", "sync")
	s.want("etc/motd.d/vcn", "")
	for _, bad := range []string{"../x aGk=\n", "a %%%\n", " \n", ".x aGk=\n"} {
		if _, code := s.run([]byte(bad), "builtin/base/notices", "sync"); code == 0 {
			t.Errorf("%q was taken", bad)
		}
	}
	// Nobody is logged in, or wall is not there: later logins see it all the same.
	s.stub("wall", "exit 1")
	if _, code := s.run([]byte(line("c", "third")), "builtin/base/notices", "sync"); code != 0 {
		t.Error(code)
	}
	s.want("etc/motd.d/vcn", "* third\n")
}

func TestDrainMergesItsHooks(t *testing.T) {
	s := newShell(t)
	hooks := t.TempDir()
	s.env = append(s.env, "VCN_SCHEDULERS="+hooks)
	hook := func(name, script string) {
		if err := os.WriteFile(filepath.Join(hooks, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	drain := func(args ...string) (string, int) {
		return s.run(nil, "builtin/base/drain", append([]string{"sync", "vcn: leaves"}, args...)...)
	}
	if out, code := drain("w-0", "w-1"); out != "w-0 idle no scheduler\nw-1 idle no scheduler\n" || code != 0 {
		t.Errorf("no scheduler: %q, %d", out, code)
	}
	hook("one", `[ "$1 $2" = "sync vcn: leaves" ] || exit 1; shift 2; for w; do echo "$w idle"; done`)
	if out, _ := drain("w-0"); strings.TrimSpace(out) != "w-0 idle" {
		t.Errorf("one: %q", out)
	}
	hook("two", `echo "w-0 busy 17 18"; echo "w-1 idle"; echo "w-2 strange"; echo "w-3 idle"; echo "w-3 idle"`)
	out, code := drain("w-0", "w-1", "w-2", "w-3", "w-4")
	for i, want := range []string{"w-0 busy 17 18", "w-1 idle", "w-2 unknown", "w-3 unknown", "w-4 unknown two does not answer"} {
		if lines := strings.Split(out, "\n"); code != 0 || len(lines) != 6 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("two: %q, %d, want %q", out, code, want)
		}
	}
	hook("two", `echo "w-0 idle"; exit 1`)
	if out, _ := drain("w-0"); !strings.HasPrefix(out, "w-0 unknown") {
		t.Errorf("a hook that fails: %q", out)
	}
	if _, code := drain(); code == 0 {
		t.Error("a hook that could not give back is no failure")
	}
	if _, code := s.run(nil, "builtin/base/drain", "stop"); code != 2 {
		t.Errorf("nonsense: %d", code)
	}
}
