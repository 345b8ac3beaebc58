//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/targetd"
	"vcn/hostops/openiscsi"
	"vcn/hostops/volume"
	"vcn/test/lab"
)

// The test's own program is also its hand in a machine: put there and called as
// "hand WHAT", it reads one JSON value and does with the drivers what vcnd would.
const handPath = "/srv/hand"

// handWork is what a hand is asked to do.
type handWork struct {
	Socket string `json:",omitempty"` // of the target process

	Volume *hostops.VolumeSpec `json:",omitempty"`
	Dir    string              `json:",omitempty"` // of a store of files
	Group  string              `json:",omitempty"` // or of LVM's

	Export *hostops.Export    `json:",omitempty"`
	Disk   *hostops.ISCSIDisk `json:",omitempty"`
}

const handMax = time.Minute

func init() {
	if len(os.Args) != 3 || os.Args[1] != "hand" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handMax)
	defer cancel()
	answer, err := handDo(ctx, os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func handDo(ctx context.Context, what string) (any, error) {
	var w handWork
	if err := json.NewDecoder(os.Stdin).Decode(&w); err != nil {
		return nil, err
	}
	switch what {
	case "volume":
		return handVolume(ctx, w)
	case "scribble":
		return "", scribble(w.Dir)
	case "attach", "detach":
		d, err := openiscsi.New(openiscsi.Config{Initiator: w.Disk.Initiator})
		if err != nil {
			return nil, err
		}
		if what == "detach" {
			return "", d.Detach(ctx, w.Disk.IQN)
		}
		return d.Attach(ctx, *w.Disk)
	}
	c, err := targetd.Dial(w.Socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	switch what {
	case "publish":
		return "", c.Publish(ctx, *w.Export)
	case "list":
		return c.List(ctx)
	case "engine":
		name, _, err := c.Engine(ctx)
		return name, err
	}
	return nil, fmt.Errorf("hand: %q: what is that", what)
}

func handVolume(ctx context.Context, w handWork) (string, error) {
	const owner = "cluster life host one"
	var vols hostops.Volumes
	var err error
	if w.Group != "" {
		vols, err = volume.NewLVM(ctx, volume.LVMConfig{VolumeGroup: w.Group, Owner: owner})
	} else {
		vols, err = volume.NewFile(volume.FileConfig{Dir: w.Dir, Owner: owner})
	}
	if err != nil {
		return "", err
	}
	v, err := vols.Ensure(ctx, *w.Volume)
	return v.Path, err
}

// tryHand calls the hand in a machine.
func tryHand[T any](ctx context.Context, m *lab.Machine, what string, w handWork) (v T, err error) {
	in, err := json.Marshal(w)
	if err != nil {
		return v, err
	}
	c := m.Command(ctx, handPath, "hand", what)
	c.Stdin = bytes.NewReader(in)
	out, err := c.Output()
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(out, &v)
}

// hand is tryHand, which must succeed.
func hand[T any](t *testing.T, m *lab.Machine, what string, w handWork) T {
	t.Helper()
	v, err := tryHand[T](t.Context(), m, what, w)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// giveHand puts this program into a machine.
func giveHand(t *testing.T, m *lab.Machine) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.PutFile(t.Context(), exe, handPath); err != nil {
		t.Fatal(err)
	}
}

// sh runs a script in a machine; it must succeed.
func sh(t *testing.T, m *lab.Machine, script string) string {
	t.Helper()
	return shIn(t, m, script, nil)
}

func shIn(t *testing.T, m *lab.Machine, script string, in io.Reader) string {
	t.Helper()
	c := m.Command(t.Context(), "sh", "-euc", script)
	c.Stdin = in
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %s: %v: %s", m.Name(), script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// await waits for a condition.
func await(t *testing.T, limit time.Duration, what string, ok func() (bool, error)) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		done, err := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s: %v", limit, what, err)
		}
	}
}
