package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vcn/test/lab"
)

const (
	testdata  = "testdata"
	cleanWait = 20 * time.Second
	fetchWait = time.Minute
)

// passed are the variables that a program gets from the host's environment.
var passed = []string{"GODEBUG", "GORACE", "GOTRACEBACK"}

// execute runs a program of the host in the machine.
func execute(ctx context.Context, c *command, args []string) (err error) {
	words, err := c.parse(args, 1)
	if err != nil {
		return err
	}
	m, err := c.open()
	if err != nil {
		return err
	}
	out, err := m.Command(ctx, "mktemp", "-d", "/tmp/exec.XXXXXX").Output()
	if err != nil {
		return err
	}
	dir := strings.TrimSpace(string(out))
	defer func() {
		// Also when ctx has ended: the machine stays.
		ctx, cancel := context.WithTimeout(context.Background(), cleanWait)
		defer cancel()
		if cerr := m.Command(ctx, "rm", "-rf", dir).Run(); cerr != nil {
			fmt.Fprintln(os.Stderr, "vcn-lab: clean up:", cerr)
		}
	}()
	program := filepath.Join(dir, filepath.Base(words[0]))
	if err := m.PutFile(ctx, words[0], program); err != nil {
		return err
	}
	if err := putTestdata(ctx, m, dir); err != nil {
		return err
	}
	flags, results := translate(words[1:], dir)
	err = attached(ctx, m, append([]string{program}, flags...), dir, environment())
	var exit *lab.ExitError
	if err == nil || errors.As(err, &exit) {
		// An interrupted program may have written its results, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWait)
		defer cancel()
		if ferr := fetch(ctx, m, results); ferr != nil {
			err = errors.Join(ferr, err)
		}
	}
	return err
}

func environment() []string {
	env := []string{"TMPDIR=/tmp", "HOME=/root"}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, p := range passed {
			if name == p {
				env = append(env, v)
			}
		}
		// The caches of the host are not there, and the machine's name is of no use.
		if strings.HasPrefix(name, "VCN_") && name != "VCN_CACHE" && name != nameVariable {
			env = append(env, v)
		}
	}
	return env
}

// putTestdata copies the package's testdata: go test runs this in its directory.
func putTestdata(ctx context.Context, m *lab.Machine, dir string) error {
	if fi, err := os.Stat(testdata); err != nil || !fi.IsDir() {
		return nil
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := errors.Join(w.AddFS(os.DirFS(testdata)), w.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", testdata, err)
	}
	to := filepath.Join(dir, testdata)
	if err := m.Command(ctx, "mkdir", to).Run(); err != nil {
		return err
	}
	cmd := m.Command(ctx, "tar", "-x", "-C", to)
	cmd.Stdin = &buf
	_, err := cmd.Output()
	return err
}

// result is a file that the program writes and the host wants.
type result struct{ there, here string }

// written are flags of a test program that name a file it writes.
var written = []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"}

// translate turns what a test program's flags say of the host's files into the
// machine's. Some are the go command's own bookkeeping and left out; without the log
// of what a test has read (testlogfile), the go command keeps no result.
func translate(args []string, dir string) (out []string, results []result) {
	base := "."
	for _, a := range args {
		if v, ok := flagValue(a, "outputdir"); ok {
			base = v
		}
	}
	for i, a := range args {
		if a == "-args" || a == "--" {
			return append(out, args[i:]...), results
		}
		if left(a) {
			continue
		}
		for _, f := range written {
			if v, ok := flagValue(a, f); ok {
				here := v
				if !filepath.IsAbs(here) {
					here = filepath.Join(base, here)
				}
				there := filepath.Join(dir, "out-"+f)
				results = append(results, result{there, here})
				a = "-test." + f + "=" + there
			}
		}
		out = append(out, a)
	}
	return out, results
}

func left(arg string) bool {
	for _, f := range []string{"testlogfile", "gocoverdir", "outputdir", "fuzzcachedir"} {
		if _, ok := flagValue(arg, f); ok {
			return true
		}
	}
	return false
}

func flagValue(arg, flag string) (string, bool) {
	// One dash or two.
	return strings.CutPrefix("-"+strings.TrimLeft(arg, "-"), "-test."+flag+"=")
}

// fetch brings the results; one that was not written is not missed here.
func fetch(ctx context.Context, m *lab.Machine, results []result) error {
	for _, r := range results {
		if m.Command(ctx, "test", "-e", r.there).Run() != nil {
			continue
		}
		f, err := os.Create(r.here)
		if err != nil {
			return err
		}
		if err := errors.Join(m.Get(ctx, r.there, f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
