package cli

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"rsc.io/script"
	"rsc.io/script/scripttest"

	"vcn/api"
)

var updateGolden = flag.Bool("update", false, "rewrite golden parts of scripts, and docs/cli.md")

// TestScripts runs testdata/*.txt. In a script:
//
//	vcnctl ARGS...      runs the command, which must succeed
//	exits N ARGS...     runs the command, which must exit with N
//	golden stdout FILE  compares; with -update rewrites FILE in the script
//	api VERB            sets the fake host up (busy, failboot, cancel), or lists what it
//	                    was asked so far (asked) or last, whole (last)
//	mode FILE           shows a file's permissions
//
// STDIN names a file to read from. HOST and TOKEN are a host's, EXPIRED and
// SMALL other tokens of its, OPERATOR an operator's; OTHERHOST, OTHERTOKEN are another cluster's.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, file)
		})
	}
}

// scripted is the state of one running script.
type scripted struct {
	t       *testing.T
	fake    *fakeAPI
	mask    *strings.Replacer
	archive *txtar.Archive
	changed bool
}

func runScript(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fake, other := newFakeAPI(t, "c1"), newFakeAPI(t, "c2")
	sc := &scripted{t: t, fake: fake, archive: archive}
	dir := t.TempDir()
	env := []string{
		"HOME=" + dir, "USER=alice", "XDG_CONFIG_HOME=" + dir + "/config", "PATH=" + os.Getenv("PATH"),
		"HOST=" + fake.URL, "TOKEN=" + fake.token(api.TokenProject, "t0"), "EXPIRED=" + fake.token(api.TokenProject, "expired"),
		"SMALL=" + fake.token(api.TokenProject, "small"), "JOIN=" + fake.token(api.TokenJoin, "j"),
		"OPERATOR=" + fake.token(api.TokenOperator, "op"),
		"OTHERHOST=" + other.URL, "OTHERTOKEN=" + other.token(api.TokenProject, "t9"), "DEADHOST=https://127.0.0.1:1",
	}
	sc.mask = strings.NewReplacer(fake.URL, "$HOST", other.URL, "$OTHERHOST", dir, "$HOME",
		fake.fingerprint, "FINGERPRINT", fake.fingerprint[:16], "FINGERPRINT", other.fingerprint[:16], "OTHERFINGERPRINT")
	s, err := script.NewState(t.Context(), dir, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ExtractFiles(archive); err != nil {
		t.Fatal(err)
	}
	engine := &script.Engine{Cmds: scripttest.DefaultCmds(), Conds: scripttest.DefaultConds(), Quiet: true}
	delete(engine.Cmds, "skip")
	engine.Cmds["vcnctl"] = sc.command("run vcnctl", func(s *script.State, args []string) (string, string, error) { return sc.run(s, 0, args) })
	engine.Cmds["exits"] = sc.command("run vcnctl and want an exit code", func(s *script.State, args []string) (string, string, error) {
		code, err := strconv.Atoi(args[0])
		if err != nil {
			return "", "", script.ErrUsage
		}
		return sc.run(s, code, args[1:])
	})
	engine.Cmds["golden"] = sc.command("compare output", sc.golden)
	engine.Cmds["api"] = sc.command("set up the fake host", sc.api)
	engine.Cmds["mode"] = sc.command("show a file's mode", func(s *script.State, args []string) (string, string, error) {
		st, err := os.Stat(s.Path(args[0]))
		if err != nil {
			return "", "", err
		}
		return fmt.Sprintf("%o\n", st.Mode().Perm()), "", nil
	})
	scripttest.Run(t, engine, s, file, bytes.NewReader(archive.Comment))
	if sc.changed && !t.Failed() {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (sc *scripted) command(summary string, f func(*script.State, []string) (string, string, error)) script.Cmd {
	return script.Command(script.CmdUsage{Summary: summary, Args: "args..."}, func(s *script.State, args ...string) (script.WaitFunc, error) {
		if len(args) == 0 {
			return nil, script.ErrUsage
		}
		return func(s *script.State) (string, string, error) { return f(s, args) }, nil
	})
}

func (sc *scripted) run(s *script.State, want int, args []string) (string, string, error) {
	var stdout, stderr bytes.Buffer
	getenv := func(name string) string { v, _ := s.LookupEnv(name); return v }
	var stdin io.Reader = strings.NewReader("")
	if name := getenv("STDIN"); name != "" {
		b, err := os.ReadFile(s.Path(name))
		if err != nil {
			return "", "", err
		}
		stdin = bytes.NewReader(b)
	}
	// Paths in arguments are relative to the script's directory.
	args = slices.Clone(args)
	for i := range args {
		if rest, ok := strings.CutPrefix(args[i], "./"); ok {
			args[i] = filepath.Join(s.Getwd(), rest)
		}
	}
	zone := time.UTC
	if getenv("TZ") != "" {
		zone = readerZone(getenv)
	}
	a := &app{stdin: stdin, stdout: &stdout, stderr: &stderr, getenv: getenv, now: func() time.Time { return fakeNow }, zone: zone,
		pollEvery: time.Millisecond, beatEvery: time.Hour, patienceAfter: time.Hour, simulator: echoSimulator}
	if code := a.main(s.Context(), args); code != want {
		return sc.mask.Replace(stdout.String()), sc.mask.Replace(stderr.String()), fmt.Errorf("exit code %d, want %d", code, want)
	}
	return sc.mask.Replace(stdout.String()), sc.mask.Replace(stderr.String()), nil
}

func (sc *scripted) golden(s *script.State, args []string) (string, string, error) {
	if len(args) != 2 {
		return "", "", script.ErrUsage
	}
	got, lastOut, lastErr := s.Stdout(), s.Stdout(), s.Stderr()
	if args[0] == "stderr" {
		got = s.Stderr()
	}
	i := slices.IndexFunc(sc.archive.Files, func(f txtar.File) bool { return f.Name == args[1] })
	switch {
	case *updateGolden && i < 0:
		sc.archive.Files = append(sc.archive.Files, txtar.File{Name: args[1], Data: []byte(got)})
		sc.changed = true
	case *updateGolden && string(sc.archive.Files[i].Data) != got:
		sc.archive.Files[i].Data = []byte(got)
		sc.changed = true
	case *updateGolden:
	case i < 0:
		return lastOut, lastErr, errors.New("no such golden part; run with -update")
	case string(sc.archive.Files[i].Data) != got:
		return lastOut, lastErr, fmt.Errorf("%s is not as in %s:\n%s\nwant:\n%s", args[0], args[1], got, sc.archive.Files[i].Data)
	}
	return lastOut, lastErr, nil
}

func (sc *scripted) api(_ *script.State, args []string) (string, string, error) {
	sc.fake.mu.Lock()
	defer sc.fake.mu.Unlock()
	switch args[0] {
	case "busy":
		sc.fake.busy = 2
	case "failboot":
		sc.fake.failBoot = true
	case "cancel":
		sc.fake.cancel = true
	case "forget": // what was asked so far
		sc.fake.requests = nil
	case "split": // the next offers are of two slots
		sc.fake.calendar.split = true
	case "parks": // it parks what is provisioning
		sc.fake.calendar.parks = true
	case "none": // there are no offers
		sc.fake.calendar.none = true
	case "last": // what was asked last, with its query and body
		return sc.fake.calendar.last + "\n", "", nil
	case "asked":
		return strings.Join(sc.fake.requests, "\n") + "\n", "", nil
	default:
		return "", "", script.ErrUsage
	}
	return "", "", nil
}
